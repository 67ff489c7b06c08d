//! Cores watch each other: each counts its turns and looks at the next one's count. One that has not
//! turned for long while the one that watches it has is taken to hang, which ends this life. There
//! is no timer in this: the only core of a domain is not watched.

use core::fmt;
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use spindle_kept::death::DeathCause;

use super::layout::CORES;
use crate::arch::cpu;

/// How long a core may take for a turn. The longest sleep takes 4 s; the longest that another domain
/// has been seen to keep a processor is above this on an emulated machine only.
const LIMIT_NS: u64 = 20_000_000_000;
/// What counts of the time between two looks, so that a pause of the domain is no hang.
const STEP_NS: u64 = 5_000_000_000;
const NONE: usize = usize::MAX;

/// A core's turns, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct CoreTurns {
    count: AtomicU64,
    /// Whether the core is in its loop.
    watched: AtomicBool,
}

static TURNS: [CoreTurns; CORES] = [const {
    CoreTurns {
        count: AtomicU64::new(0),
        watched: AtomicBool::new(false),
    }
}; CORES];
/// The core that hangs.
static HANGS: AtomicUsize = AtomicUsize::new(NONE);

/// Notes that `core` is alive within a long turn.
#[inline]
pub(crate) fn alive(core: usize) {
    if let Some(turns) = TURNS.get(core) {
        // Its own count: no other core writes it.
        turns.count.store(turns.count.load(Relaxed) + 1, Relaxed);
    }
}

/// What this core knows of the one that it watches.
#[derive(Debug)]
pub(crate) struct Watcher {
    core: usize,
    other: usize,
    count: u64,
    looked_ns: u64,
    still_ns: u64,
}

impl Watcher {
    /// Begins to watch, and to be watched, on core `core`.
    pub(crate) fn new(core: usize) -> Self {
        if let Some(turns) = TURNS.get(core) {
            turns.watched.store(true, Release);
        }
        Self {
            core,
            other: NONE,
            count: 0,
            looked_ns: 0,
            still_ns: 0,
        }
    }

    /// Counts a turn of this core, and looks at the other.
    #[inline]
    pub(crate) fn turn(&mut self, now_ns: u64) {
        alive(self.core);
        if now_ns.saturating_sub(self.looked_ns) >= STEP_NS / 10 {
            self.look(now_ns);
        }
    }

    #[cold]
    fn look(&mut self, now_ns: u64) {
        let since = now_ns.saturating_sub(self.looked_ns).min(STEP_NS);
        self.looked_ns = now_ns;
        let others = (1..CORES).map(|step| (self.core + step) % CORES);
        let watched = |core: &usize| TURNS[*core].watched.load(Acquire);
        let Some(other) = others.into_iter().find(watched) else {
            return;
        };
        let count = TURNS[other].count.load(Relaxed);
        if (other, count) != (self.other, self.count) {
            (self.other, self.count, self.still_ns) = (other, count, 0);
            return;
        }
        self.still_ns += since;
        if self.still_ns >= LIMIT_NS {
            self.still_ns = 0;
            HANGS.store(other, Release);
            let message = format_args!(
                "HANG of core {other}: no turn in {} s\n",
                LIMIT_NS / 1_000_000_000
            );
            hang(message);
        }
    }
}

/// Ends this life, if another one may follow: a domain that might go on is not ended for a guess.
fn hang(message: fmt::Arguments<'_>) {
    if super::may_follow().is_ok() {
        let frame = cpu::frame_pointer();
        crate::panic::die(
            DeathCause::HANG,
            message,
            (hang as fn(fmt::Arguments<'_>)) as usize as u64,
            frame,
        )
    }
    log::error!("{message}");
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(turns) = TURNS.get(self.core) {
            turns.watched.store(false, Release);
        }
    }
}

/// Whether this core, which is being stopped, is why.
pub(super) fn hangs(core: usize) -> bool {
    HANGS.load(Acquire) == core
}
