//! Whatever is written, however it lies in memory and whatever the device can take: the disk
//! holds what a plain model of it holds.

mod common;

use common::{Rig, contents, fill};
use proptest::prelude::*;
use spindle_block::{Budget, DiskOptions, Op, Segment, SubmitError};
use spindle_testkit::queue::{command, complete, complete_in_parts, discard};
use spindle_testkit::virtio::{Config, feature};

const BLOCKS: u64 = 256;
const PAGES: usize = 16;

#[derive(Clone, Debug)]
enum Step {
    /// Write or read these blocks, in pieces that start at these block-sized places in memory.
    Transfer {
        write: bool,
        block: u64,
        pieces: Vec<(usize, usize)>,
    },
    Discard {
        block: u64,
        blocks: u64,
    },
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Pieces of 512-byte units that stay inside a page: start and length.
    let piece = (0..PAGES * 8, 1..=8usize).prop_map(|(at, len)| (at, len.min(8 - at % 8)));
    let pieces = prop::collection::vec(piece, 1..12);
    let transfer =
        (any::<bool>(), 0..BLOCKS, pieces).prop_map(|(write, block, pieces)| Step::Transfer {
            write,
            block,
            pieces,
        });
    let discard = (0..BLOCKS, 1..BLOCKS).prop_map(|(block, blocks)| Step::Discard {
        block,
        blocks: blocks.min(BLOCKS - block),
    });
    let step = prop_oneof![6 => transfer, 1 => discard, 1 => Just(Step::Flush)];
    prop::collection::vec(step, 1..30)
}

fn devices() -> impl Strategy<Value = Config> {
    (
        any::<bool>(),
        any::<bool>(),
        1..8u32,
        1..64u32,
        any::<bool>(),
        2..7u32,
    )
        .prop_map(
            |(indirect, limited, seg_max, max_discard, out_of_order, entries)| {
                let mut config = Config {
                    sectors: BLOCKS,
                    seg_max,
                    size_max: 4096,
                    max_discard,
                    discard_alignment: 1,
                    out_of_order,
                    entries: 1 << entries,
                    ..Config::default()
                };
                if !indirect {
                    config.features &= !feature::INDIRECT_DESC;
                }
                if limited {
                    config.features |= feature::SIZE_MAX;
                }
                config
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 }))]

    #[test]
    fn the_disk_holds_what_the_model_holds(
        config in devices(),
        steps in steps(),
        // Each command at once, or in parts of so many requests and sectors.
        parts in prop::option::of((1..3usize, 1..64u32)),
    ) {
        let rig = Rig::new(config);
        let options = DiskOptions { queues: 1, depth: 64, ..common::OPTIONS };
        let (disk, mut queue) = rig.running(options);
        let memory = rig.memory(PAGES);
        let mut model = vec![0u8; BLOCKS as usize * 512];
        for (seed, step) in (0..).zip(steps) {
            let mut here = fill(&memory, seed);
            let (mut end, mut segments) = (0, Vec::new());
            let command = match &step {
                Step::Transfer { write, block, pieces } => {
                    segments.extend(pieces.iter().map(|&(at, len)| Segment::new(memory.bus() + at as u64 * 512, len as u32 * 512)));
                    end = block + pieces.iter().map(|p| p.1 as u64).sum::<u64>();
                    let op = if *write { Op::Write } else { Op::Read };
                    command(op, *block, &segments)
                }
                &Step::Discard { block, blocks } => discard(Op::Discard, block, blocks),
                Step::Flush => command(Op::Flush, 0, &[]),
            };
            let result = match parts {
                None => complete(&mut queue, &command),
                Some((commands, sectors)) => {
                    let budget = Budget { commands, bytes: sectors * 512 };
                    complete_in_parts(&mut queue, &command, budget)
                }
            };
            let result = match result {
                Ok(result) => result,
                // More requests than the device has room for, ever.
                Err(SubmitError::Scattered) if parts.is_none() => continue,
                Err(other) => panic!("{step:?}: {other}"),
            };
            if end > BLOCKS {
                prop_assert!(result.is_err());
                // Parts before the end were carried out.
                model = rig.device.contents();
                continue;
            }
            prop_assert_eq!(result, Ok(()));
            match step {
                Step::Transfer { write, block, pieces } => {
                    let mut at = block as usize * 512;
                    for (place, len) in pieces {
                        let (place, len) = (place * 512, len * 512);
                        if write {
                            model[at..at + len].copy_from_slice(&here[place..place + len]);
                        } else {
                            here[place..place + len].copy_from_slice(&model[at..at + len]);
                        }
                        at += len;
                    }
                }
                Step::Discard { block, blocks } => {
                    let (block, blocks) = (block as usize, blocks as usize);
                    model[block * 512..(block + blocks) * 512].fill(0xd1);
                }
                Step::Flush => {}
            }
            prop_assert_eq!(contents(&memory), here);
        }
        prop_assert!(rig.device.contents() == model);
        prop_assert_eq!(disk.shutdown([queue]), Ok(()));
        prop_assert_eq!(rig.bus.outstanding(), PAGES);
        prop_assert_eq!(rig.device.violations(), Vec::<String>::new());
    }
}
