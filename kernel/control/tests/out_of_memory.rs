//! Memory runs out at each step of an attach: the device is refused with the reason, nothing of it
//! is left, and once there is memory again its frontend has its disk.

// UNSAFETY: a global allocator that refuses.
#![expect(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

use spindle_blkif::Claims;

use spindle_simulate::world::{Setup, World};

thread_local! {
    /// The allocation that is refused, counted from now on; 0 = none.
    static REFUSED: Cell<u64> = const { Cell::new(0) };
    /// The next allocation of so many bytes is refused as well; 0 = none.
    static SIZE: Cell<usize> = const { Cell::new(0) };
    /// The largest allocation.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Refusing;

// SAFETY: every call goes to the system's allocator unchanged, or fails.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let refused = REFUSED.get();
        REFUSED.set(refused.saturating_sub(1));
        LARGEST.set(LARGEST.get().max(layout.size()));
        if refused == 1 || (SIZE.get() == layout.size() && SIZE.replace(0) != 0) {
            return ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

fn with_large_blocks() -> World {
    World::new(Setup::default(), |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.change(0, |disk| disk.large_blocks = true);
    })
}

/// A frontend that was refused closes, and connects again.
fn connect_again(world: &mut World, guest: usize) {
    for state in [5, 6] {
        world.set_state(guest, state);
        world.pass(500);
    }
    world.set_state(guest, 1);
    world.connect(guest, 2, 1);
    world.write(guest, 0, 3, 7);
    world.verify(guest, 1, 3, 7);
}

#[test]
fn a_ring_for_which_no_block_of_memory_is_left_is_refused() {
    // The first one is for the window's frames. The next ones are all that a ring with parts of
    // blocks has, but for its counters.
    for allocation in 1..=13 {
        let mut world = with_large_blocks();
        let guest = world.attach(5, 51712, "512e:ram0", "w");
        world.until("InitWait", |w| w.state(guest) == 2);
        // The pages and the cache of the first ring, then those of the second.
        world
            .machine
            .after_frames(3, Box::new(move || REFUSED.set(allocation)));
        world.publish(guest, 2, 1);
        world.until("error", |w| w.error(guest).is_some());
        assert_eq!(REFUSED.get(), 0, "no. {allocation} was asked for");
        let error = world.error(guest).unwrap();
        assert!(error.contains("not enough memory"), "{error}");
        assert_eq!(world.machine.left(), [0, 0, 0], "no. {allocation}");
        connect_again(&mut world, guest);
        world.detach(guest);
        world.assert_nothing_left();
        assert_eq!(world.holder("ram0"), "-");
    }
}

#[test]
fn a_disk_for_whose_claims_there_is_no_memory_is_refused_and_free() {
    let mut world = with_large_blocks();
    LARGEST.set(0);
    drop(Claims::new().unwrap());
    SIZE.set(LARGEST.get());
    let guest = world.attach(5, 51712, "512e:ram0", "w");
    world.until("error", |w| w.error(guest).is_some());
    assert_eq!(SIZE.get(), 0, "the claims were asked for");
    let error = world.error(guest).unwrap();
    assert!(error.contains("not enough memory"), "{error}");
    assert_eq!(world.holder("ram0"), "-");
    let next = world.attach(6, 51712, "512e:ram0", "w");
    world.connect(next, 2, 1);
    world.write(next, 0, 3, 7);
    world.verify(next, 1, 3, 7);
    world.detach(next);
    world.destroy(guest);
    world.assert_nothing_left();
}
