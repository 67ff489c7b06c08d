//! Who may have which blocks beside whom, against a table written down here: each volume is the
//! set of its blocks, and nothing of what decides in the code under test is used to judge it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use spindle_block::{Access, TargetError, Targets, Unit, Volume};

/// A volume: its name, disk, unit, blocks, and whether it is write-protected. A disk comes before
/// its partitions.
type Row = (&'static str, usize, u32, std::ops::Range<u64>, bool);

/// Two namespaces of one controller, another disk with the same numbers, and two RAM disks of
/// which one is write-protected; the namespaces are cut alike.
const ROWS: [Row; 9] = [
    ("nvme0n1", 0, 1, 0..100, false),
    ("nvme0n1p1", 0, 1, 10..30, false),
    ("nvme0n1p2", 0, 1, 30..100, false),
    ("nvme0n2", 0, 2, 0..100, false),
    ("nvme0n2p1", 0, 2, 10..30, false),
    ("nvme1n1", 1, 1, 0..100, false),
    ("nvme1n1p1", 1, 1, 20..40, false),
    ("ram0", 2, 1, 0..100, false),
    ("ram1", 3, 1, 0..100, true),
];

/// The disk's name of each: what comes before `p`.
fn disk_of(name: &str) -> &str {
    name.split_once('p').map_or(name, |(disk, _)| disk)
}

/// Its blocks, which no other disk has.
fn blocks(row: &Row) -> BTreeSet<(&str, u64)> {
    row.3.clone().map(|block| (disk_of(row.0), block)).collect()
}

fn volume(row: &Row) -> Volume {
    Volume {
        name: row.0.to_string(),
        aliases: Vec::new(),
        disk: row.1,
        unit: Unit(row.2),
        start: row.3.start,
        sectors: row.3.end - row.3.start,
        block_shift: 9,
        physical_block_shift: 9,
        read_only: row.4,
        write_cache: false,
        discard: None,
        description: String::new(),
        map: None,
    }
}

fn targets() -> Targets<&'static str> {
    let disks = ROWS.iter().filter(|row| disk_of(row.0) == row.0);
    Targets::new(disks.map(|disk| {
        let parts = ROWS
            .iter()
            .filter(|row| row.0 != disk.0 && disk_of(row.0) == disk.0);
        (volume(disk), parts.map(volume).collect())
    }))
}

const USES: [Access; 3] = [Access::Read, Access::Write, Access::SharedWrite];

/// Whether one who asks for `new` may have a block that another has for `held`.
fn may_share(held: Access, new: Access) -> bool {
    match (held, new) {
        (_, Access::SharedWrite) | (Access::Read, Access::Read) => true,
        (Access::Write | Access::SharedWrite, Access::Read) | (_, Access::Write) => false,
    }
}

/// Every pair of volumes and uses, in both orders.
#[test]
#[cfg_attr(miri, ignore = "too many pairs to interpret")]
fn two_holders_get_what_the_table_says_and_no_less() {
    for first in &ROWS {
        for second in &ROWS {
            for held in USES {
                for new in USES {
                    let mut targets = targets();
                    if targets.claim(first.0, held, "1/51712").is_err() {
                        assert!(first.4 && held != Access::Read, "{first:?} {held:?}");
                        continue;
                    }
                    let what = format!("{} {held:?}, then {} {new:?}", first.0, second.0);
                    let result = targets
                        .claim(second.0, new, "2/51712")
                        .map(|claimed| targets.volume(claimed).name.clone());
                    let apart = blocks(first).is_disjoint(&blocks(second));
                    // Whoever writes a whole disk may have moved its partitions.
                    let moved =
                        held != Access::Read && first.0 == disk_of(second.0) && second.0 != first.0;
                    if second.4 && new != Access::Read {
                        let why = TargetError::ReadOnly(second.0.to_string());
                        assert_eq!(result, Err(why), "{what}");
                    } else if moved {
                        assert!(matches!(result, Err(TargetError::Stale { .. })), "{what}");
                    } else if apart || may_share(held, new) {
                        assert_eq!(result.as_deref(), Ok(second.0), "{what}");
                    } else {
                        assert!(
                            matches!(&result, Err(TargetError::InUse { holder, .. }) if holder == "1/51712"),
                            "{what}: {result:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn partitions_of_a_disk_that_a_guest_could_write_are_refused_from_then_on() {
    for usage in USES {
        let mut targets = targets();
        targets.claim("nvme0n1", usage, "1/51712").unwrap();
        targets.release("1/51712");
        for part in ["nvme0n1p1", "nvme0n1p2"] {
            for new in USES {
                let result = targets.claim(part, new, "2/51712").map(|_| ());
                let expected = match usage {
                    Access::Read => Ok(()),
                    Access::Write | Access::SharedWrite => Err(TargetError::Stale {
                        name: part.to_string(),
                        disk: "nvme0n1".to_string(),
                    }),
                };
                assert_eq!(result, expected, "{usage:?} {part} {new:?}");
            }
        }
        // Those of others are where they were.
        targets
            .claim("nvme0n2p1", Access::Write, "3/51712")
            .unwrap();
        targets
            .claim("nvme1n1p1", Access::Write, "4/51712")
            .unwrap();
    }
}

const HOLDERS: [&str; 5] = ["1/1", "2/1", "3/1", "4/1", "5/1"];

/// One who holds a volume, and for what.
#[derive(Clone, Debug)]
struct Held {
    holder: u8,
    row: usize,
    usage: Access,
}

proptest! {
    /// Any order of claims and releases by five holders: exactly what the table allows is given.
    #[test]
    fn claims_are_given_exactly_where_the_table_allows_them(
        steps in prop::collection::vec((0..ROWS.len(), 0usize..3, 0u8..5, 0u8..4), 0..60),
    ) {
        let mut targets = targets();
        let mut all: Vec<Held> = Vec::new();
        let mut written = BTreeSet::new();
        for (row, usage, holder, release) in steps {
            let (name, usage) = (HOLDERS[usize::from(holder)], USES[usage]);
            if release == 0 {
                targets.release(name);
                all.retain(|held| held.holder != holder);
                continue;
            }
            let asked = &ROWS[row];
            let disk = disk_of(asked.0);
            let protected = asked.4 && usage != Access::Read;
            let moved = asked.0 != disk && written.contains(disk);
            let in_the_way = all.iter().any(|held| {
                held.holder != holder
                    && !blocks(&ROWS[held.row]).is_disjoint(&blocks(asked))
                    && !may_share(held.usage, usage)
            });
            let given = targets.claim(asked.0, usage, name).is_ok();
            prop_assert_eq!(given, !protected && !moved && !in_the_way, "{} {:?}", asked.0, usage);
            if given {
                // What the holder had before is released.
                all.retain(|held| held.holder != holder);
                all.push(Held { holder, row, usage });
                if usage != Access::Read && asked.0 == disk {
                    written.insert(disk);
                }
            }
        }
    }
}
