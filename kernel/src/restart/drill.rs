//! Deaths on purpose, with the option `drill=on`: `c`, as by `xl sysrq DOMAIN c`, and `WORD` or `WORD
//! CORE` in the node `data/spindle/crash`, where WORD is `panic`, `exception`, `hang` or `heap`.

use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use log::warn;

use super::layout::CORES;
use crate::arch::cpu;

const NOTHING: u8 = 0;
const PANIC: u8 = 1;
const EXCEPTION: u8 = 2;
const HANG: u8 = 3;
const HEAP: u8 = 4;

/// What each core is to die of at its next turn.
static ORDERS: [AtomicU8; CORES] = [const { AtomicU8::new(NOTHING) }; CORES];

/// Has a core die as `order` says.
pub(crate) fn order(order: &[u8]) {
    let text = core::str::from_utf8(order).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let kind = match words.next() {
        Some("c" | "panic") => PANIC,
        Some("exception") => EXCEPTION,
        Some("hang") => HANG,
        Some("heap") => HEAP,
        _ => NOTHING,
    };
    let core = words.next().map_or(Some(0), |core| core.parse().ok());
    let place = core.and_then(|core: usize| ORDERS.get(core));
    match place.filter(|_| kind != NOTHING) {
        Some(place) => place.store(kind, Relaxed),
        None => warn!("no such drill: {:?}", order.escape_ascii()),
    }
}

/// Dies on this core, if it was ordered to.
#[inline]
pub(crate) fn obey(core: usize) {
    if let Some(order) = ORDERS.get(core)
        && order.load(Relaxed) != NOTHING
    {
        die(order.load(Relaxed));
    }
}

#[cold]
fn die(order: u8) {
    match order {
        EXCEPTION => cpu::undefined_instruction(),
        HANG => loop {
            spin_loop();
        },
        HEAP => {
            let size = crate::mm::heap_free();
            black_box(alloc::vec::Vec::<u8>::with_capacity(size + 1));
        }
        _ => {}
    }
    panic!("a drill")
}
