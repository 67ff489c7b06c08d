//! The memory of a RAM disk, over a death of the kernel.

use std::cell::Cell;

use spindle_block::{Op, RamDisk, RamMemory, Segment};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_testkit::mem::FakeBus;
use spindle_testkit::queue::{command, complete};

fn sector(page: &SharedPages) -> [Segment; 1] {
    let bus = page.bus();
    [Segment::new(bus, 512)]
}

#[test]
fn another_life_finds_each_byte_where_it_was() {
    let bus = FakeBus::new();
    let memory = RamMemory::new((2 << 20) + 1, &bus).unwrap();
    assert_eq!(memory.bytes(), 3 << 20);
    let runs: Vec<_> = memory.runs().collect();
    let blocks = [0, 2047, 2048, 6143];
    let page = bus.alloc(1).unwrap();
    let mut queue = RamDisk::over(memory).queue(4, &bus);
    for (mark, block) in (1..).zip(blocks) {
        page.write_bytes(0, &[mark; 512]);
        let write = complete(&mut queue, &command(Op::Write, block, &sector(&page)));
        assert_eq!(write, Ok(Ok(())));
    }
    drop(queue);
    bus.die();
    let memory = RamMemory::again(&runs, &bus).unwrap();
    assert_eq!(memory.bytes(), 3 << 20);
    assert_eq!(memory.runs().collect::<Vec<_>>(), runs);
    let page = bus.alloc(1).unwrap();
    let mut queue = RamDisk::over(memory).queue(4, &bus);
    for (mark, block) in (1..).zip(blocks) {
        let read = complete(&mut queue, &command(Op::Read, block, &sector(&page)));
        assert_eq!(read, Ok(Ok(())));
        let mut bytes = [0; 512];
        page.read_bytes(0, &mut bytes);
        assert_eq!(bytes, [mark; 512], "block {block}");
    }
}

#[test]
fn memory_that_is_not_all_free_is_left_alone() {
    let bus = FakeBus::new();
    let memory = RamMemory::new(3 << 20, &bus).unwrap();
    let runs: Vec<_> = memory.runs().collect();
    // It is in use.
    assert!(RamMemory::again(&runs, &bus).is_none());
    bus.die();
    let (half, nowhere) = (0x10_0000..0x18_0000, 0x7000_0000..0x7010_0000);
    for wrong in [
        vec![half],
        vec![runs[0].clone(), nowhere],
        vec![runs[0].clone(), runs[0].clone()],
        vec![0..!0xf_ffff, 0..1 << 20],
    ] {
        assert!(RamMemory::again(&wrong, &bus).is_none(), "{wrong:?}");
    }
    assert_eq!(bus.outstanding(), 0);
}

/// Gives out memory from an address downwards, but for a page that is in use.
#[derive(Debug)]
struct Downwards(Cell<u64>);

impl DmaAlloc for Downwards {
    fn alloc(&self, pages: usize) -> Option<SharedPages> {
        let hole = if self.0.get() == 8 << 20 { 4096 } else { 0 };
        self.0.set(self.0.get() - hole - pages as u64 * 4096);
        Some(SharedPages::host(pages, self.0.get()))
    }

    fn free(&self, _: SharedPages) {}
}

#[test]
fn neighbours_that_come_from_the_end_are_one_run() {
    let memory = RamMemory::new(4 << 20, &Downwards(Cell::new(10 << 20))).unwrap();
    let runs: Vec<_> = memory.runs().collect();
    let (below, above) = ((6 << 20) - 4096..(8 << 20) - 4096, 8 << 20..10 << 20);
    assert_eq!(runs, [below, above]);
}

#[test]
fn too_little_memory_is_none() {
    let bus = FakeBus::new();
    bus.set_limit(300);
    assert!(RamMemory::new(2 << 20, &bus).is_none());
    assert_eq!(bus.outstanding(), 0);
    let memory = RamMemory::new(1 << 20, &bus).unwrap();
    memory.give_back(&bus);
    assert_eq!(bus.outstanding(), 0);
}
