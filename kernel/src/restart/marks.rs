//! When this life of the kernel has passed which point of its start: what the pause that guests see is made of.
//!
//! A mark is one store. The first two are from before there is a clock: the life before has noted when it
//! had stopped its cores, and the boot core's counter was read at the first instructions of this one.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use log::info;
use spindle_hw::Clock;

use super::kept;
use super::layout::LEFT_AT;
use crate::xen::time;

/// A point of the start, with the part that ends there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// The life before has stopped its cores.
    Stopped,
    /// This image is in place and runs.
    Entered,
    /// Memory is mapped and split, and there is a clock.
    Clock,
    /// The log and what is shared with Xen is set up, and channels of the life before are closed.
    Console,
    /// xenstored has answered, and the options are known.
    Options,
    /// The functions of PCI are found, and controllers of the life before are stopped.
    Quiet,
    /// The controllers work.
    Controllers,
    /// Partition tables are read.
    Disks,
    /// The ring cores run.
    Cores,
    /// The connections on record are taken up, as far as that needs no xenstore.
    Records,
    /// What the life before had mapped is unmapped.
    Grants,
    /// All connections are taken up, as xenstore has them.
    Settled,
}

/// How many there are.
const COUNT: usize = Mark::Settled as usize + 1;
/// The names of the parts.
const PARTS: [&str; COUNT] = [
    "stop",
    "image",
    "memory",
    "console",
    "xenstore",
    "quiet",
    "controllers",
    "tables",
    "cores",
    "records",
    "grants",
    "rest",
];

static AT: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

/// The point is passed now.
pub(crate) fn pass(mark: Mark) {
    let now = time::clock().map_or(0, Clock::now_ns);
    AT[mark as usize].store(now, Relaxed);
}

/// There is a clock now, and this image was entered when the boot core's counter was at `tsc`.
pub(crate) fn clock_runs(tsc: u64) {
    pass(Mark::Clock);
    let entered = time::before(tsc);
    AT[Mark::Entered as usize].store(entered, Relaxed);
    let left = kept::get().map_or(0, |kept| kept.state.u64_at(LEFT_AT).load(Relaxed));
    AT[Mark::Stopped as usize].store(left, Relaxed);
}

impl kept::KeptCode {
    /// All other cores have stopped.
    pub(super) fn note_leaving(&self) {
        let now = time::clock().map_or(0, Clock::now_ns);
        self.state.u64_at(LEFT_AT).store(now, Relaxed);
    }
}

/// When the last guest was served again: when its connection was taken up from the records, if all were
/// `served` so, or in the end.
pub(super) fn served(served: bool) -> u64 {
    let mark = if served { Mark::Records } else { Mark::Settled };
    AT[mark as usize].load(Relaxed)
}

/// Says how long each part took of a pause that began with the end of the last life, at `end`, or before that
/// with the draining of its cores. It ended when guests were [`served`].
pub(super) fn report(drained: Option<u64>, end: u64, all: bool) {
    let began = drained.unwrap_or(end);
    let drain = drained.map(|_| ("drain", end));
    let passed = AT.iter().map(|at| at.load(Relaxed));
    let mut line = String::new();
    let mut last = began;
    for (part, at) in drain.into_iter().chain(PARTS.into_iter().zip(passed)) {
        let at = at.max(last);
        // A string takes everything.
        let _ = write!(line, ", {part} {}", (at - last) / 1000);
        last = at;
    }
    info!(
        "pause: {} us{line}",
        served(all).saturating_sub(began) / 1000
    );
}
