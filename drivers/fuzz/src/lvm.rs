//! LVM metadata with right checksums, so that the rest of the checks is reached, or with any at all.
//!
//! The input is the text of one physical volume's metadata, behind a byte that says how it is put on
//! two disks.

use spindle_lvm::{FoundPv, VolumeChange, assemble, change, find};
use spindle_testkit::lvm::{LvmArea, LvmDisk, LvmImage};

/// Sectors of each disk.
const SECTORS: usize = 1024;
/// Identifiers that the texts of the corpus have.
const UUIDS: [&[u8; 32]; 2] = [
    b"AAAAAAaaaabbbbccccddddeeeeffffff",
    b"BBBBBBaaaabbbbccccddddeeeeffffff",
];

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let Some((&how, text)) = data.split_first() else {
        return;
    };
    // Longer ones have no place on the disk.
    let text = String::from_utf8_lossy(&text[..text.len().min(24 << 10)]).into_owned();
    let found: Vec<FoundPv> = UUIDS
        .iter()
        .enumerate()
        .filter_map(|(number, uuid)| {
            let mut image = LvmImage::new(uuid, SECTORS, &text);
            if how & 1 != 0 {
                image.areas[0].offset = (64 << 10) - 100 * u64::from(how);
            }
            if how & 2 != 0 {
                let area = LvmArea::new(&text.replacen("seqno = 1", "seqno = 2", 1));
                let start = 128 << 10;
                image.areas.push(LvmArea { start, ..area });
            }
            if how & 4 != 0 {
                image.damage = vec![4096 + usize::from(how) * 3 + number];
            }
            find(&mut LvmDisk::new(image.image())).expect("nothing stops it")
        })
        .collect();
    for pv in &found {
        assert!(pv.notes.len() <= 2);
    }
    check(&found);
    change_all(&text);
}

/// Whatever change of a text is made, its maps are as they must be.
fn change_all(text: &str) {
    let (sectors, time) = (100, 1);
    let changes = [
        ("new", VolumeChange::Create { sectors, time }),
        ("web", VolumeChange::Extend { sectors: 500 }),
        ("web", VolumeChange::Remove),
        ("web", VolumeChange::Rename { to: "new".into() }),
    ];
    for (name, what) in changes {
        let Ok((new, _)) = change(text.as_bytes(), name, &what, 7) else {
            continue;
        };
        let new = String::from_utf8(new).expect("what was text is text");
        let image = |uuid| LvmImage::new(uuid, SECTORS, new.trim_end_matches('\0')).image();
        let found =
            UUIDS.map(|uuid| find(&mut LvmDisk::new(image(uuid))).expect("nothing stops it"));
        check(&found.into_iter().flatten().collect::<Vec<_>>());
    }
}

fn check(found: &[FoundPv]) {
    let mut taken: Vec<(usize, u64, u64)> = Vec::new();
    let all: Vec<_> = found.iter().collect();
    for assembled in assemble(&all) {
        let group = &assembled.group;
        assert_eq!(assembled.places.len(), group.physical.len());
        for volume in &group.logical {
            assert_eq!(volume.refused.is_some(), volume.segments.is_empty());
            assert!(group.refused.is_none() || volume.refused.is_some());
            let mut sectors = 0_u64;
            for segment in &volume.segments {
                let count = segment.areas.len() as u64;
                assert!(segment.sectors > 0 && segment.sectors.is_multiple_of(count));
                assert_eq!(segment.stripe == 0, count == 1);
                let share = segment.sectors / count;
                assert!(count == 1 || share.is_multiple_of(segment.stripe));
                sectors += segment.sectors;
                for area in &segment.areas {
                    let place = assembled.places[area.pv].expect("it is there");
                    let end = area.first + share;
                    assert!(end <= found[place].sectors, "beyond the disk");
                    let mut reserved = found[place].reserved.iter();
                    assert!(reserved.all(|own| own.end <= area.first || end <= own.start));
                    taken.push((place, area.first, end));
                }
            }
            assert_eq!(volume.sectors(), sectors);
        }
    }
    taken.sort_unstable();
    let apart = |pair: &[(usize, u64, u64)]| pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1;
    assert!(taken.windows(2).all(apart), "shared sectors");
}
