//! Who may have which logical volumes beside whom, and beside disks and partitions, against a table in
//! which each volume is the set of its blocks.

use std::collections::BTreeSet;

use proptest::prelude::*;
use spindle_block::{
    Access, LogicalVolumes, MayGrow, Redescribed, Run, Stretch, TargetError, Targets, Unit, Volume,
};
use spindle_status::targets::TargetMode;

/// Two disks of 100 blocks; the first has two partitions. Logical volumes are on the second partition of
/// the first disk, on the second disk, and on both.
const DISKS: usize = 2;
const PARTS: [(usize, u64, u64); 2] = [(0, 10, 20), (0, 30, 60)];
/// A name, and runs on the second partition (0) and the second disk (1): first block and blocks.
type Logical = (&'static str, &'static [(usize, u64, u64)]);
const LOGICAL: [Logical; 4] = [
    ("vg0/a", &[(0, 4, 10)]),
    ("vg0/b", &[(1, 20, 10)]),
    ("vg0/ab", &[(0, 20, 8), (1, 40, 8)]),
    ("vg0/bb", &[(1, 60, 8), (1, 50, 4)]),
];
const USES: [Access; 3] = [Access::Read, Access::Write, Access::SharedWrite];
const HOLDERS: [&str; 3] = ["1/1", "2/1", "3/1"];

fn disk(number: usize) -> Volume {
    Volume {
        name: format!("nvme{number}n1"),
        aliases: Vec::new(),
        disk: number,
        unit: Unit(1),
        start: 0,
        sectors: 100,
        block_shift: 9,
        physical_block_shift: 9,
        read_only: false,
        write_cache: false,
        discard: None,
        description: String::new(),
        map: None,
    }
}

fn partitions(of: usize) -> Vec<Volume> {
    let own = (1..).zip(PARTS).filter(|(_, part)| part.0 == of);
    own.map(|(number, (of, start, sectors))| Volume {
        name: format!("nvme{of}n1p{number}"),
        start,
        sectors,
        ..disk(of)
    })
    .collect()
}

fn logical() -> LogicalVolumes {
    let under = [partitions(0)[1].clone(), disk(1)];
    let build = |(name, runs): &(&str, &[(usize, u64, u64)])| {
        let stretch = |&(volume, sector, sectors): &(usize, u64, u64)| Stretch {
            sectors,
            chunk: 0,
            runs: vec![Run { volume, sector }],
        };
        let stretches: Vec<_> = runs.iter().map(stretch).collect();
        Volume::assembled((*name).into(), &stretches, &under).unwrap()
    };
    LogicalVolumes {
        volumes: LOGICAL.iter().map(build).collect(),
        ..LogicalVolumes::default()
    }
}

/// Those who have a volume are served whatever it becomes.
const FREELY: MayGrow<'static> = &|_, _| Ok(());

fn targets() -> Targets<&'static str> {
    let mut targets = Targets::new((0..DISKS).map(|number| (disk(number), partitions(number))));
    assert!(targets.set_logical(logical(), FREELY).any);
    targets
}

/// Reads the table and the metadata of a disk.
fn look(targets: &mut Targets<&'static str>, number: usize, found: LogicalVolumes) -> Redescribed {
    targets.begin_table(number, Unit(1)).unwrap();
    let mut changed = targets
        .divide(number, Unit(1), partitions(number), FREELY)
        .unwrap();
    changed.add(targets.set_logical(found, FREELY));
    changed
}

/// A volume of the table: what it is, its blocks, and which disks it is on.
struct Row {
    name: String,
    is_disk: bool,
    is_logical: bool,
    blocks: BTreeSet<(usize, u64)>,
}

fn rows() -> Vec<Row> {
    let row = |name: &str, runs: &[(usize, u64, u64)]| Row {
        name: name.into(),
        is_disk: false,
        is_logical: name.contains('/'),
        blocks: runs
            .iter()
            .flat_map(|&(disk, first, count)| (first..first + count).map(move |at| (disk, at)))
            .collect(),
    };
    let mut rows = Vec::new();
    for number in 0..DISKS {
        let whole = row(&disk(number).name, &[(number, 0, 100)]);
        rows.push(Row {
            is_disk: true,
            ..whole
        });
    }
    for (volume, part) in partitions(0).iter().zip(PARTS) {
        rows.push(row(&volume.name, &[part]));
    }
    for (name, runs) in LOGICAL {
        let moved = runs.iter().map(|&(under, first, count)| match under {
            0 => (0, PARTS[1].1 + first, count),
            _ => (1, first, count),
        });
        rows.push(row(name, &moved.collect::<Vec<_>>()));
    }
    rows
}

fn may_share(held: Access, new: Access) -> bool {
    match (held, new) {
        (_, Access::SharedWrite) | (Access::Read, Access::Read) => true,
        (Access::Write | Access::SharedWrite, Access::Read) | (_, Access::Write) => false,
    }
}

proptest! {
    /// Claims, releases, and looks at a disk's table again, in any order.
    #[test]
    fn claims_are_given_exactly_where_the_table_allows_them(
        steps in prop::collection::vec((0usize..8, 0usize..3, 0usize..3, 0u8..6), 0..50),
    ) {
        let rows = rows();
        let mut targets = targets();
        let mut held: Vec<(usize, usize, Access)> = Vec::new();
        // What was given out for writing since it was looked at.
        let mut written: BTreeSet<usize> = BTreeSet::new();
        let mixed = |a: usize, b: usize| !rows[a].blocks.is_disjoint(&rows[b].blocks);
        for (row, usage, holder, what) in steps {
            let (name, usage) = (HOLDERS[holder], USES[usage]);
            if what == 0 {
                targets.release(name);
                held.retain(|it| it.0 != holder);
                continue;
            }
            if what == 1 {
                let number = row % DISKS;
                let alone = |other: usize| {
                    held.iter().any(|it| it.1 == other && it.2 == Access::Write)
                };
                prop_assert_eq!(targets.begin_table(number, Unit(1)).is_err(), alone(number));
                if !alone(number) {
                    let changed = look(&mut targets, number, logical());
                    prop_assert_eq!((changed.grown, changed.kept), (vec![], vec![]));
                    // Who has a partition for writing alone may go on with that.
                    written.retain(|other| !mixed(number, *other) || alone(*other));
                }
                continue;
            }
            let asked = &rows[row];
            let moved = written.iter().any(|&other| {
                let depends = rows[other].is_disk && !asked.is_disk
                    || asked.is_logical && !rows[other].is_logical;
                other != row && depends && mixed(row, other)
            });
            let in_the_way = held.iter().any(|&(by, other, held)| {
                by != holder && mixed(row, other) && !may_share(held, usage)
            });
            let got = targets.claim(&asked.name, usage, name);
            match (moved, in_the_way) {
                (true, _) => prop_assert!(
                    matches!(got, Err(TargetError::Stale { .. } | TargetError::Relocated(_))),
                    "{}: {:?}", asked.name, got
                ),
                (false, true) => prop_assert!(
                    matches!(got, Err(TargetError::InUse { .. })),
                    "{}: {:?}", asked.name, got
                ),
                (false, false) => {
                    prop_assert_eq!(&targets.volume(got.unwrap()).name, &asked.name);
                    held.retain(|it| it.0 != holder);
                    held.push((holder, row, usage));
                    if usage != Access::Read {
                        written.insert(row);
                    }
                }
            }
        }
    }
}

#[test]
fn a_volume_that_is_in_use_stays_as_it_was() {
    let mut targets = targets();
    let id = targets.claim("vg0/a", Access::Write, "1/1").unwrap();
    let before = targets.volume(id).clone();
    let mut new = logical();
    new.volumes.retain(|volume| volume.name != "vg0/bb");
    new.volumes[0].start += 1;
    new.refused.push(("vg0/bb".into(), "it is RAID".into()));
    let changed = targets.set_logical(new, FREELY);
    let why = "it would lie elsewhere";
    assert_eq!(changed.kept, [("vg0/a".into(), why.into())]);
    assert_eq!(targets.volume(id), &before);
    // It is given to no one else, not even to read.
    let shared = targets.claim("vg0/a", Access::SharedWrite, "2/1");
    let (name, reason) = ("vg0/a".into(), why.into());
    assert_eq!(shared.unwrap_err(), TargetError::Kept { name, reason });
    let refused = targets.claim("vg0/bb", Access::Read, "2/1").unwrap_err();
    assert!(refused.to_string().ends_with("it is RAID"), "{refused}");
    targets.release("1/1");
    assert!(targets.set_logical(logical(), FREELY).any);
    targets.claim("vg0/a", Access::Write, "1/1").unwrap();
    targets.claim("vg0/bb", Access::Read, "2/1").unwrap();
    assert_eq!(targets.refusal("vg0/bb"), None);
    targets.release("1/1");
    targets.release("2/1");
    let none = LogicalVolumes::default;
    assert!(targets.set_logical(none(), FREELY).any, "there were some");
    assert!(!targets.set_logical(none(), FREELY).any);
    assert!(targets.claim("vg0/a", Access::Read, "1/1").is_err());
}

/// One more run, on the second disk.
fn grown(name: &str, more: (u64, u64)) -> LogicalVolumes {
    let under = [partitions(0)[1].clone(), disk(1)];
    let mut found = logical();
    let (at, (_, runs)) = (0..)
        .zip(LOGICAL)
        .find(|(_, logical)| logical.0 == name)
        .unwrap();
    let runs = runs.iter().copied().chain([(1, more.0, more.1)]);
    let stretches: Vec<_> = runs
        .map(|(volume, sector, sectors)| Stretch {
            sectors,
            chunk: 0,
            runs: vec![Run { volume, sector }],
        })
        .collect();
    let aliases = found.volumes[at].aliases.clone();
    let volume = Volume::assembled(name.into(), &stretches, &under).unwrap();
    found.volumes[at] = Volume { aliases, ..volume };
    found
}

#[test]
fn a_volume_that_is_in_use_grows_where_no_other_is() {
    for (name, before) in [("vg0/a", 10), ("vg0/b", 10), ("vg0/ab", 16), ("vg0/bb", 12)] {
        let mut targets = targets();
        let id = targets.claim(name, Access::Write, "1/1").unwrap();
        let changed = look(&mut targets, 1, grown(name, (80, 4)));
        assert_eq!((changed.grown, changed.kept), (vec![id], vec![]), "{name}");
        let volume = targets.volume(id);
        assert_eq!(volume.sectors, before + 4);
        assert!(volume.is_on(1));
        // What it has got is its own,
        let other = targets.claim("nvme1n1", Access::Write, "2/1");
        assert!(matches!(other, Err(TargetError::InUse { .. })), "{other:?}");
        // and is not taken from it.
        let changed = look(&mut targets, 1, logical());
        assert_eq!(changed.kept, [(name.into(), "it would be smaller".into())]);
        assert_eq!(targets.volume(id).sectors, before + 4);
        let again = look(&mut targets, 1, grown(name, (80, 4)));
        assert_eq!((again.grown, again.kept), (vec![], vec![]));
        assert!(targets.is_current(targets.volume(id)));
    }
    // Another guest has what it would get, by the name of a volume that is no more.
    let mut targets = targets();
    targets.claim("vg0/b", Access::Write, "2/1").unwrap();
    let id = targets.claim("vg0/a", Access::Write, "1/1").unwrap();
    let mut found = grown("vg0/a", (20, 10));
    found.volumes.retain(|volume| volume.name != "vg0/b");
    let changed = look(&mut targets, 1, found);
    let kept: Vec<_> = changed.kept.iter().map(|(_, why)| &**why).collect();
    let taken = "2/1 has a part of what it would get, as vg0/b";
    assert_eq!(kept, [taken, "it was removed"]);
    assert_eq!(targets.volume(id).sectors, 10);
    // Its new name or a namesake does not do.
    let mut targets = self::targets();
    targets.claim("vg0/b", Access::Write, "2/1").unwrap();
    let mut found = logical();
    found.volumes[1].aliases.push("LVUUID=other".into());
    let changed = look(&mut targets, 1, found);
    assert_eq!(changed.kept[0].1, "another volume has its name now");
}

#[test]
fn what_is_written_while_a_table_is_read_counts() {
    for name in ["nvme0n1", "nvme0n1p2"] {
        let mut targets = targets();
        targets.begin_table(0, Unit(1)).unwrap();
        targets.claim(name, Access::Write, "1/1").unwrap();
        targets.release("1/1");
        targets.divide(0, Unit(1), partitions(0), FREELY).unwrap();
        targets.set_logical(logical(), FREELY);
        let moved = targets.claim("vg0/a", Access::Read, "2/1");
        assert!(
            matches!(moved, Err(TargetError::Relocated(_))),
            "{name}: {moved:?}"
        );
        targets.claim("vg0/b", Access::Read, "2/1").unwrap();
    }
}

#[test]
fn a_volume_goes_with_any_of_its_disks_and_is_lost_with_any_of_them() {
    let mut targets = targets();
    let mode = |targets: &Targets<&str>, name: &str| {
        let id = targets.named(name).unwrap();
        targets.mode(targets.volume(id))
    };
    targets.set_lost(1, "nvme1".into(), "a test".into(), true);
    assert_eq!(
        (mode(&targets, "vg0/ab"), mode(&targets, "vg0/a")),
        (TargetMode::Lost, TargetMode::Write)
    );
    let error = targets.claim("vg0/ab", Access::Read, "1/1").unwrap_err();
    assert!(matches!(error, TargetError::MayChange { .. }), "{error}");
    targets.claim("vg0/a", Access::Read, "1/1").unwrap();
    targets.set_found(1, "nvme1");
    let closed = targets.close(1, Unit(1), "it was formatted");
    let mut names: Vec<_> = closed.iter().map(|(_, name)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["nvme1n1", "vg0/ab", "vg0/b", "vg0/bb"]);
    let error = targets.claim("vg0/ab", Access::Read, "2/1").unwrap_err();
    assert!(error.to_string().ends_with("it was formatted"), "{error}");
    // One that is beyond the end of its disk is not given out.
    let at_end = 30 + 4 + 10;
    for (sectors, fits) in [(at_end - 1, false), (at_end, true)] {
        targets.resize(0, Unit(1), sectors);
        let got = targets.claim("vg0/a", Access::Read, "2/1");
        assert_eq!(got.is_ok(), fits, "{got:?}");
        assert!(fits || got == Err(TargetError::Beyond("vg0/a".into())));
    }
}

#[test]
fn logical_volumes_are_listed_with_the_disk_that_they_begin_on() {
    let mut targets = targets();
    targets.claim("vg0/ab", Access::Write, "5/51712").unwrap();
    let lists: Vec<_> = targets.lists().collect();
    assert_eq!(lists.len(), DISKS);
    let lines: Vec<_> = lists[0].2[0].lines().collect();
    assert_eq!(
        lines[3..],
        ["vg0/a 10 512 w -", "vg0/ab 16 512 w 5/51712:w"]
    );
    let second = &lists[1].2[0];
    assert!(second.contains("vg0/b ") && second.contains("vg0/bb "));
}
