//! Namespaces of all three kinds of blocks, from Identify to the medium: 512 bytes throughout
//! (512n), 512 bytes on a medium of 4,096 (512e), and 4,096 throughout (4Kn).

mod common;

use common::{OPTIONS, Rig, command};
use spindle_block::{Op, Segment};
use spindle_testkit::nvme::{Config, NamespaceConfig};
use spindle_testkit::queue::{complete, pages};

/// NPWG is counted from 0: so many blocks of 512 bytes are 4,096.
const EIGHT_BLOCKS: Option<u16> = Some(7);

fn config(atomic_blocks: u16) -> Config {
    let with = |id, blocks, shift, granularity| NamespaceConfig {
        granularity,
        ..NamespaceConfig::new(id, blocks, shift)
    };
    Config {
        atomic_blocks: atomic_blocks - 1,
        namespaces: vec![
            with(1, 2048, 9, Some(0)),
            with(2, 2048, 9, EIGHT_BLOCKS),
            with(3, 256, 12, Some(0)),
        ],
        ..Config::default()
    }
}

#[test]
fn each_kind_is_shown_as_what_it_is() {
    let rig = Rig::new(config(8));
    let controller = rig.start().unwrap();
    let shown: Vec<_> = controller
        .volumes(0, 0)
        .into_iter()
        .map(|v| {
            (
                v.name,
                v.sectors,
                1 << v.block_shift,
                1 << v.physical_block_shift,
            )
        })
        .collect();
    let expected = [
        ("nvme0n1", 2048, 512, 512),
        ("nvme0n2", 2048, 512, 4096),
        ("nvme0n3", 2048, 4096, 4096),
    ];
    assert_eq!(
        shown,
        expected.map(|(name, s, l, p)| (name.to_string(), s, l, p))
    );
}

/// Whoever writes what is called a physical block relies on it being written whole or not at all.
#[test]
fn no_larger_physical_block_is_shown_than_is_written_whole() {
    for (atomic, physical) in [(1, 512), (2, 1024), (8, 4096), (256, 4096)] {
        let rig = Rig::new(config(atomic));
        let controller = rig.start().unwrap();
        assert_eq!(
            1 << controller.volumes(0, 0)[1].physical_block_shift,
            physical,
            "{atomic}"
        );
    }
}

/// Every sector of two physical blocks is written by itself, and its neighbours stay.
#[test]
fn a_512e_namespace_takes_single_sectors_at_any_place() {
    let rig = Rig::new(config(8));
    let (_controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let bus = pages(&memory)[0].bus();
    let part = |at: u64, len| [Segment::new(bus + at, len)];
    for (turn, order) in [[3u64, 11, 0, 7, 8, 15, 4, 12], [12, 4, 15, 8, 7, 0, 11, 3]]
        .iter()
        .enumerate()
    {
        for &block in order {
            let mut expected = rig.disk.contents(2);
            let byte = 0x10 + 16 * turn as u8 + block as u8;
            // From another place in memory each time, also not at the beginning of a page.
            memory.write_bytes(block as usize % 8 * 512, &[byte; 512]);
            let segments = part(block % 8 * 512, 512);
            let write = command(Op::Write, 2, 9, block, &segments);
            assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
            expected[block as usize * 512..][..512].fill(byte);
            assert!(rig.disk.contents(2) == expected, "block {block}");
            memory.write_bytes(0, &[0; 4096]);
            let segments = part(1024, 512);
            let read = command(Op::Read, 2, 9, block, &segments);
            assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
            let mut bytes = [0; 4096];
            memory.read_bytes(0, &mut bytes);
            assert!(bytes[1024..1536] == [byte; 512] && bytes[..1024] == [0; 1024]);
            assert_eq!(bytes[1536..], [0; 2560]);
        }
    }
    // The other namespaces have nothing of it.
    for id in [1, 3] {
        assert!(rig.disk.contents(id).iter().all(|byte| *byte == 0));
    }
    rig.obeyed();
}
