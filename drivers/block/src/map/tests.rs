//! Maps against an oracle that places each block by itself.

use alloc::vec;

use proptest::prelude::*;

use super::*;

/// Disks of 4,096 blocks; those of odd numbers are partitions that begin at block 40 of the disk before.
fn backing(shift: u8) -> Vec<Volume> {
    let volume = |number: usize| Volume {
        name: alloc::format!("nvme{number}n1"),
        aliases: Vec::new(),
        disk: number / 2 * 3,
        unit: Unit(1 + number as u32 % 2),
        start: number as u64 % 2 * 40,
        sectors: 4096 << (shift - 9),
        block_shift: shift,
        physical_block_shift: 12,
        read_only: false,
        write_cache: number == 2,
        discard: None,
        description: String::new(),
        map: None,
    };
    (0..4).map(volume).collect()
}

/// Where each block is, in the order of the volume: which backing volume, and the sector there.
fn oracle(stretches: &[Stretch], per_block: u64) -> Vec<(usize, u64)> {
    let mut blocks = vec![];
    for stretch in stretches {
        let runs = stretch.runs.len() as u64;
        for sector in (0..stretch.sectors).step_by(per_block as usize) {
            let (run, at) = if runs == 1 {
                (0, sector)
            } else {
                let chunk = sector / stretch.chunk;
                let at = chunk / runs * stretch.chunk + sector % stretch.chunk;
                (chunk % runs, at)
            };
            let run = stretch.runs[run as usize];
            blocks.push((run.volume, run.sector + at));
        }
    }
    blocks
}

/// Runs that do not meet: each begins where the last one on its volume has ended, after a gap.
fn stretches(per_block: u64) -> impl Strategy<Value = Vec<Stretch>> {
    let one = (1usize..5, 1u64..9, 1u64..6, 0usize..4, 0u64..3);
    prop::collection::vec(one, 1..7).prop_map(move |all| {
        let mut used = [0; 4];
        let stretch = |(runs, chunk, rows, first, gap): (usize, u64, u64, usize, u64)| {
            let share = chunk * rows * per_block;
            let run = |at: usize| {
                let volume = (first + at) % 4;
                let sector = used[volume] + gap * per_block;
                used[volume] = sector + share;
                Run { volume, sector }
            };
            Stretch {
                runs: (0..runs).map(run).collect(),
                sectors: share * runs as u64,
                chunk: chunk * per_block,
            }
        };
        all.into_iter().map(stretch).collect()
    })
}

proptest! {
    /// Every block is where the oracle has it, and the blocks up to the border follow it there.
    #[test]
    fn every_block_is_in_its_place(
        (shift, stretches) in prop_oneof![Just(9u8), Just(12)]
            .prop_flat_map(|shift| (Just(shift), stretches(1 << (shift - 9)))),
    ) {
        let (backing, per_block) = (backing(shift), 1 << (shift - 9));
        let volume = Volume::assembled("vg/lv".into(), &stretches, &backing).unwrap();
        let expected: Vec<_> = oracle(&stretches, per_block)
            .into_iter()
            .map(|(at, sector)| {
                let volume = &backing[at];
                (volume.disk, volume.unit, volume.start + sector / per_block)
            })
            .collect();
        prop_assert_eq!(volume.sectors, expected.len() as u64 * per_block);
        let Some(map) = &volume.map else {
            for (block, place) in expected.iter().enumerate() {
                prop_assert_eq!((volume.disk, volume.unit, volume.start + block as u64), *place);
            }
            return Ok(());
        };
        for (block, _) in expected.iter().enumerate() {
            let place = map.locate(block as u64).unwrap();
            prop_assert!(place.blocks > 0);
            for ahead in 0..place.blocks {
                let disk = map.disks()[place.part].disk;
                let there = (disk, place.unit, place.block + ahead);
                prop_assert_eq!(expected.get(block + ahead as usize), Some(&there));
            }
        }
        prop_assert_eq!(map.locate(expected.len() as u64), None);
        prop_assert_eq!(map.locate(u64::MAX), None);
        let mut all: Vec<_> = map
            .runs()
            .flat_map(|(disk, first, blocks)| {
                (first..first + blocks).map(|block| (disk.disk, disk.unit, block))
            })
            .collect();
        // What is gathered of a part of it is that part, and in no more pieces than it has runs.
        let count = expected.len() as u64;
        for (first, blocks) in [(0, count), (count / 3, count / 2), (count - 1, 1), (0, 1)] {
            for share in [1, 2] {
                let (mut gathered, mut pieces) = (vec![], 0);
                while let Some(place) = map.gather(first, blocks, gathered.len() as u64) {
                    prop_assert!(place.blocks > 0);
                    let disk = map.disks()[place.part].disk;
                    // Some of it, as a disk may take less than all.
                    let end = place.block + place.blocks.div_ceil(share);
                    gathered.extend((place.block..end).map(|block| (disk, place.unit, block)));
                    pieces += 1;
                }
                prop_assert!(share > 1 || pieces <= map.runs().count());
                let mut wanted = expected[first as usize..(first + blocks) as usize].to_vec();
                gathered.sort_unstable();
                wanted.sort_unstable();
                prop_assert_eq!(gathered, wanted);
            }
        }
        prop_assert_eq!(map.gather(count, 1, 0), None);
        prop_assert_eq!(map.gather(u64::MAX, 1, 0), None);
        let mut expected = expected;
        all.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(all, expected);
    }
}

fn linear(volume: usize, sector: u64, sectors: u64) -> Stretch {
    Stretch {
        sectors,
        chunk: 0,
        runs: vec![Run { volume, sector }],
    }
}

#[test]
fn runs_that_follow_each_other_are_one_and_need_no_map() {
    let stretches = [linear(1, 8, 16), linear(1, 24, 8)];
    let volume = Volume::assembled("lv".into(), &stretches, &backing(9)).unwrap();
    assert_eq!((volume.map, volume.start, volume.sectors), (None, 48, 24));
    let apart = [linear(1, 8, 16), linear(1, 25, 8)];
    let volume = Volume::assembled("lv".into(), &apart, &backing(9)).unwrap();
    assert_eq!(volume.map.unwrap().disks().len(), 1);
}

#[test]
fn a_volume_is_what_any_of_its_disks_is() {
    let mut disks = backing(9);
    disks[0].discard = Some(Discard {
        granularity: 512,
        alignment: 0,
        secure: true,
    });
    disks[3].read_only = true;
    let over = |volumes: &[usize]| {
        let stretches: Vec<_> = volumes.iter().map(|&at| linear(at, 0, 8)).collect();
        let volume = Volume::assembled("lv".into(), &stretches, &disks).unwrap();
        let can = volume.discard.is_some();
        (volume.write_cache, volume.read_only, can)
    };
    assert_eq!(over(&[0]), (false, false, true));
    assert_eq!(over(&[0, 1]), (false, false, false));
    assert_eq!(over(&[0, 2]), (true, false, false));
    assert_eq!(over(&[0, 3]), (false, true, false));
}

#[test]
fn what_makes_no_volume_is_refused_with_the_reason() {
    let disks = backing(12);
    let refused = |stretches: &[Stretch]| Volume::assembled("lv".into(), stretches, &disks).err();
    let striped = |sectors, chunk| Stretch {
        sectors,
        chunk,
        runs: [0, 1].map(|volume| Run { volume, sector: 0 }).into(),
    };
    let end = disks[0].sectors;
    let none = Stretch {
        runs: vec![],
        ..linear(0, 0, 8)
    };
    assert_eq!(refused(&[]), Some(MapError::Empty));
    assert_eq!(refused(&[none]), Some(MapError::Empty));
    assert_eq!(refused(&[linear(0, 0, 0)]), Some(MapError::Empty));
    assert_eq!(refused(&[linear(4, 0, 8)]), Some(MapError::Nowhere));
    assert_eq!(refused(&[linear(0, end - 8, 16)]), Some(MapError::Beyond));
    assert_eq!(
        refused(&[linear(0, u64::MAX - 7, 8)]),
        Some(MapError::Beyond)
    );
    assert_eq!(refused(&[linear(0, 4, 8)]), Some(MapError::Uneven));
    assert_eq!(refused(&[linear(0, 0, 12)]), Some(MapError::Uneven));
    assert_eq!(refused(&[striped(64, 0)]), Some(MapError::Uneven));
    assert_eq!(refused(&[striped(64, 12)]), Some(MapError::Uneven));
    assert_eq!(refused(&[striped(72, 8)]), Some(MapError::Uneven));
    assert_eq!(refused(&[striped(64, u64::MAX)]), Some(MapError::Uneven));
    let twice = [linear(0, 0, 16), linear(1, 0, 8), linear(0, 8, 8)];
    assert_eq!(refused(&twice), Some(MapError::Overlap));
    let many = vec![linear(0, 0, 8); MAX_RUNS + 1];
    assert_eq!(refused(&many), Some(MapError::Pieces));
    let disk = |disk| Volume {
        disk,
        ..disks[0].clone()
    };
    let many: Vec<_> = (0..=MAX_MAPPED_DISKS).map(disk).collect();
    let one_each = |count| {
        let stretches: Vec<_> = (0..count).map(|volume| linear(volume, 0, 8)).collect();
        Volume::assembled("lv".into(), &stretches, &many).err()
    };
    assert_eq!(one_each(MAX_MAPPED_DISKS), None);
    assert_eq!(one_each(MAX_MAPPED_DISKS + 1), Some(MapError::Disks));
    let mut mixed = disks.clone();
    mixed[1].block_shift = 9;
    let stretches = [linear(0, 0, 8), linear(1, 0, 8)];
    let refused = Volume::assembled("lv".into(), &stretches, &mixed).err();
    assert_eq!(refused, Some(MapError::BlockSizes));
}
