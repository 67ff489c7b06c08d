//! Memory that is known by its bus address, and what references to the traits pass on.

extern crate std;

use core::cell::Cell;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::ToString;

use crate::{
    BusMemory, Clock, DmaAlloc, IdentityMap, Mmio, PAGE_SIZE, Registers, SharedPages, Span,
};

const PAGE: u64 = PAGE_SIZE as u64;

/// Pages of the host, whose bus address is the CPU's own, and an accessor to them but for the last.
fn identity(count: usize) -> (SharedPages, IdentityMap) {
    let pages = SharedPages::host(count, 0);
    let base = pages.base().expose_provenance().get() as u64;
    let window = base..base + (count as u64 - 1) * PAGE;
    let windows: &'static [Range<u64>] = Box::leak(Box::new([0..PAGE, window]));
    // SAFETY: the pages are never freed and only reached by atomics and copies. Nothing here uses
    // an address of the first window, which is a decoy.
    let map = unsafe { IdentityMap::new(windows) };
    // SAFETY: as above; these are the same pages by their own address.
    let own = unsafe { SharedPages::from_raw(pages.base(), count, base) };
    (own, map)
}

fn bytes(pages: &SharedPages, offset: usize, len: usize) -> Box<[u8]> {
    let mut out = std::vec![0; len];
    pages.read_bytes(offset, &mut out);
    out.into()
}

#[test]
fn memory_is_copied_by_its_address_wherever_in_a_page_that_is() {
    let (there, map) = identity(4);
    let here = SharedPages::host(3, 0);
    for (number, offset) in (0..4 * PAGE_SIZE).enumerate() {
        there.u8_at(offset).store((number % 251) as u8, Relaxed);
    }
    // Within a page, over a border, up to the end of the window.
    for (at, to, len) in [
        (0, 0, 16),
        (5, 3, 100),
        (4090, 7, 12),
        (100, 1, 2 * PAGE_SIZE),
    ] {
        here.zero(0, here.len());
        assert!(map.copy_from_bus(there.bus() + at as u64, &here, to, len));
        assert_eq!(bytes(&here, to, len), bytes(&there, at, len));
        assert_eq!(here.u8_at(to + len).load(Relaxed), 0);
    }
    let last = 3 * PAGE_SIZE - 8;
    assert!(map.copy_from_bus(there.bus() + last as u64, &here, 0, 8));
    assert_eq!(bytes(&here, 0, 8), bytes(&there, last, 8));

    here.write_bytes(9, b"written there");
    assert!(map.copy_to_bus(&here, 9, there.bus() + 4091, 13));
    assert_eq!(*bytes(&there, 4091, 13), *b"written there");
    assert_eq!(there.u8_at(4090).load(Relaxed), (4090 % 251) as u8);
    assert_eq!(there.u8_at(4104).load(Relaxed), (4104 % 251) as u8);
}

#[test]
fn nothing_beyond_a_window_is_touched() {
    let (there, map) = identity(3);
    let here = SharedPages::host(1, 0);
    here.u64_at(0).store(u64::MAX, Relaxed);
    let end = there.bus() + 2 * PAGE;
    for (bus, len) in [
        (end - 7, 8),
        (end, 8),
        (end, 0x1000),
        (there.bus() - 8, 8),
        (there.bus() - 4, 8),
        (PAGE, 8),
        (u64::MAX - 3, 8),
        (there.bus(), 2 * PAGE_SIZE + 1),
    ] {
        assert!(!map.copy_to_bus(&here, 0, bus, len), "{bus:#x}, {len}");
        assert!(!map.copy_from_bus(bus, &here, 8, len), "{bus:#x}, {len}");
    }
    assert!(bytes(&there, 0, there.len()).iter().all(|&byte| byte == 0));
    assert_eq!(here.u64_at(8).load(Relaxed), 0);
}

#[test]
fn words_are_read_at_multiples_of_their_size_only() {
    let (there, map) = identity(3);
    for word in 0..1024 {
        there.u64_at(8 * word).store(1000 + word as u64, Relaxed);
    }
    let mut words = [0; 4];
    // Over a border, and up to the end of the window.
    for first in [3, 510, 1020] {
        assert!(map.read_words(there.bus() + 8 * first, &mut words));
        assert_eq!(words, [0, 1, 2, 3].map(|word| 1000 + first + word));
    }
    for bus in [
        there.bus() + 4,
        there.bus() + 1,
        there.bus() + 8 * 1021,
        PAGE * 3,
    ] {
        let mut untouched = [7; 4];
        assert!(!map.read_words(bus, &mut untouched), "{bus:#x}");
        assert_eq!(untouched, [7; 4]);
    }
}

#[test]
fn pages_have_a_size_and_an_address() {
    let pages = SharedPages::host(3, 0x5000);
    assert_eq!(
        (pages.len(), pages.bus(), pages.is_empty()),
        (3 * 4096, 0x5000, false)
    );
    let other = pages.alias();
    assert_eq!(
        (other.len(), other.bus(), other.base()),
        (3 * 4096, 0x5000, pages.base())
    );
    assert!(SharedPages::host(0, 0).is_empty());
    pages.u64_at(3 * 4096 - 8).store(1, Relaxed);
    pages.group::<512>(2)[511].store(2, Relaxed);
    assert_eq!(pages.u64s_at::<2>(3 * 4096 - 16)[1].load(Relaxed), 2);
    pages.u16_at(3 * 4096 - 2).store(3, Relaxed);
    assert_eq!(other.u16_at(3 * 4096 - 2).load(Relaxed), 3);
}

#[test]
fn what_reaches_beyond_the_pages_panics_and_does_nothing() {
    let pages = SharedPages::host(1, 0);
    let more = SharedPages::host(2, 0);
    let refused = |what: &str, f: &dyn Fn()| {
        assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "{what}");
    };
    refused("u8", &|| _ = pages.u8_at(4096).load(Relaxed));
    refused("u16", &|| _ = pages.u16_at(4096).load(Relaxed));
    refused("u16, odd", &|| _ = pages.u16_at(1).load(Relaxed));
    refused("u32, odd", &|| _ = pages.u32_at(2).load(Relaxed));
    refused("u64", &|| _ = pages.u64_at(4096).load(Relaxed));
    refused("u64, odd", &|| _ = pages.u64_at(4).load(Relaxed));
    refused("u64s, odd", &|| _ = pages.u64s_at::<1>(4)[0].load(Relaxed));
    refused("u64s", &|| _ = pages.u64s_at::<513>(0)[0].load(Relaxed));
    refused("group", &|| _ = pages.group::<512>(1)[0].load(Relaxed));
    refused("read", &|| pages.read_bytes(4090, &mut [0; 7]));
    refused("write", &|| pages.write_bytes(4096, &[0]));
    refused("zero", &|| pages.zero(4097, 0));
    refused("copy to", &|| pages.copy_from(1, &more, 0, 4096));
    refused("copy from", &|| more.copy_from(0, &pages, 1, 4096));
    pages.read_bytes(4096, &mut []);
    pages.write_bytes(4090, &[0; 6]);
}

/// Hands out one run of pages, and counts what comes back and what is asked.
#[derive(Default)]
struct Counting {
    calls: Cell<u64>,
}

impl DmaAlloc for Counting {
    fn alloc(&self, pages: usize) -> Option<SharedPages> {
        (pages == 2).then(|| SharedPages::host(2, 0x7000))
    }
    fn free(&self, pages: SharedPages) {
        self.calls.set(self.calls.get() + pages.bus());
    }
}

impl BusMemory for Counting {
    fn copy_from_bus(&self, bus: u64, _: &SharedPages, offset: usize, len: usize) -> bool {
        bus == 1 && offset == 2 && len == 3
    }
    fn copy_to_bus(&self, _: &SharedPages, offset: usize, bus: u64, len: usize) -> bool {
        bus == 4 && offset == 5 && len == 6
    }
}

impl Clock for Counting {
    fn now_ns(&self) -> u64 {
        self.calls.get()
    }
    fn relax(&self) {
        self.calls.set(self.calls.get() + 5);
    }
}

/// What is generic over these is handed a reference.
fn through(memory: impl DmaAlloc, bus: impl BusMemory, clock: impl Clock) {
    assert!(memory.alloc(3).is_none());
    let pages = memory.alloc(2).unwrap();
    assert_eq!(pages.bus(), 0x7000);
    assert!(bus.copy_from_bus(1, &pages, 2, 3) && !bus.copy_from_bus(2, &pages, 1, 3));
    assert!(bus.copy_to_bus(&pages, 5, 4, 6) && !bus.copy_to_bus(&pages, 4, 5, 6));
    memory.free(pages);
    assert_eq!(clock.now_ns(), 0x7000);
    clock.relax();
    assert_eq!(clock.now_ns(), 0x7005);
}

#[test]
fn a_reference_does_what_it_refers_to_does() {
    let counting = Counting::default();
    through(&counting, &counting, &counting);
}

#[test]
fn registers_are_shared_and_a_wide_one_has_its_low_half_first() {
    let mut memory = [0u32; 6];
    // SAFETY: `memory` outlives both handles and is not used while they live.
    let mmio = unsafe { Mmio::new(NonNull::new(memory.as_mut_ptr()).unwrap(), 24) };
    assert_eq!((mmio.len(), mmio.is_empty()), (24, false));
    let other = mmio.share();
    mmio.write64(8, 0x0000_000b_0000_000a);
    assert_eq!((other.read32(8), other.read32(12)), (0xa, 0xb));
    assert_eq!((other.read32(4), other.read32(16)), (0, 0));
    other.write32(16, 0x11);
    other.write32(20, 0x1);
    assert_eq!(mmio.read64(16), 0x0000_0001_0000_0011);
    // SAFETY: nothing is reached through it.
    let none = unsafe { Mmio::new(NonNull::dangling(), 0) };
    assert!(none.is_empty());
    assert_eq!(none.read32(0), u32::MAX);
}

#[test]
fn durations_are_written_in_seconds_or_milliseconds() {
    let shown = |millis| Span(Duration::from_millis(millis)).to_string();
    assert_eq!(
        [0, 500, 1000, 12_500, 30_000, 1050, 1001].map(shown),
        ["0ms", "500ms", "1s", "12.5s", "30s", "1.05s", "1.001s"]
    );
}
