//! A hostile partition table: with right checksums, so that the rest of
//! the checks is reached, or with any bytes at all.

use arbitrary::{Arbitrary, Unstructured};
use spindle_block::{Access, Discard, Targets, Unit, Volume, partitions};
use spindle_testkit::gpt::Gpt;
use spindle_testkit::gpt::gpt_disk_types::{GptHeader, LbaLe, U32Le};
use spindle_testkit::image::Image;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    large_blocks: bool,
    blocks: u8,
    partitions: Vec<(u8, Place, Place, u8)>,
    primary: Vec<Field>,
    backup: Vec<Field>,
    kinds: [u8; 4],
    sealed: bool,
    granularity: u16,
    noise: Vec<(u16, &'a [u8])>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Near(u8),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Field {
    Mine(Place),
    Alternate(Place),
    First(Place),
    Last(Place),
    Entries(Place),
    Count(u32),
    EntrySize(u32),
    HeaderSize(u32),
}

fn lba(place: Place) -> LbaLe {
    LbaLe::from_u64(match place {
        Place::Near(block) => block.into(),
        Place::Any(block) => block,
    })
}

fn change(header: &mut GptHeader, field: &Field) {
    match *field {
        Field::Mine(place) => header.my_lba = lba(place),
        Field::Alternate(place) => header.alternate_lba = lba(place),
        Field::First(place) => header.first_usable_lba = lba(place),
        Field::Last(place) => header.last_usable_lba = lba(place),
        Field::Entries(place) => header.partition_entry_lba = lba(place),
        Field::Count(count) => header.number_of_partition_entries = U32Le::from_u32(count),
        Field::EntrySize(size) => header.size_of_partition_entry = U32Le::from_u32(size),
        Field::HeaderSize(size) => header.header_size = U32Le::from_u32(size),
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let shift = if input.large_blocks { 12 } else { 9 };
    let blocks = u64::from(input.blocks).max(80);
    let mut gpt = Gpt::new(shift, blocks);
    for &(number, first, last, name) in &input.partitions {
        let (first, last) = (lba(first).to_u64(), lba(last).to_u64());
        let name = char::from(name % 128).to_string();
        gpt = gpt.with(number % 128 + 1, first, last, &name);
    }
    for (header, fields) in [
        (&mut gpt.primary, &input.primary),
        (&mut gpt.backup, &input.backup),
    ] {
        fields.iter().for_each(|field| change(header, field));
    }
    if input.sealed {
        gpt = gpt.sealed();
    } else {
        for (record, kind) in gpt.record.partitions.iter_mut().zip(input.kinds) {
            record.os_indicator = kind;
        }
    }
    let mut bytes = gpt.image();
    for (at, noise) in input.noise {
        let room = bytes.get_mut(usize::from(at)..).unwrap_or_default();
        room.iter_mut()
            .zip(noise)
            .for_each(|(to, from)| *to = *from);
    }
    let block_shift = shift;
    check(Image { bytes, block_shift }, input.granularity);
}

/// What must hold of the partitions of a disk, whatever is on it.
pub(crate) fn check(mut image: Image, granularity: u16) {
    let disk = Volume {
        name: "vda".into(),
        aliases: vec!["virtio-0".into()],
        disk: 0,
        unit: Unit(0),
        start: 0,
        sectors: (image.bytes.len() / 512) as u64,
        block_shift: image.block_shift,
        physical_block_shift: image.block_shift,
        read_only: false,
        write_cache: false,
        discard: Some(Discard {
            granularity: granularity.into(),
            alignment: 0,
            secure: false,
        }),
        description: String::new(),
        map: None,
    };
    let found = partitions(&disk, &mut image).expect("within the disk");
    assert!(found.notes.len() <= 7 && found.notes.iter().all(|note| note.len() < 200));
    let end = |volume: &Volume| volume.start + volume.sectors / volume.sectors_per_block();
    for (i, one) in found.partitions.iter().enumerate() {
        assert!(one.sectors > 0 && one.start >= 1 && end(one) <= end(&disk));
        assert_eq!(one.locate(0, one.sectors), Some(one.start));
        for other in &found.partitions[..i] {
            assert!(one.start >= end(other) || other.start >= end(one));
            assert_ne!(one.name, other.name);
        }
    }
    let names: Vec<_> = found.partitions.iter().map(|p| p.name.clone()).collect();
    let mut targets = Targets::new([(disk, found.partitions)]);
    for (number, name) in names.iter().enumerate() {
        let claimed = targets.claim(name, Access::Write, number).unwrap();
        assert_eq!(&targets.volume(claimed).name, name);
    }
    assert_eq!(
        targets.claim("vda", Access::Write, usize::MAX).is_ok(),
        names.is_empty()
    );
    let mut pages = targets.lists().flat_map(|(.., pages)| pages);
    assert!(pages.all(|page| page.len() <= 1792));
}
