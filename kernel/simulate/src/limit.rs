//! When runs must end, by clocks that are no part of them, and how far they have got, for who watches them.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// When a run is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// At a moment of the real clock.
    Real(Instant),
    /// When the process has used so much processor time.
    Cpu(Duration),
}

impl Limit {
    /// Whether that is now, or has been.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Self::Real(at) => Instant::now() >= at,
            Self::Cpu(most) => cpu_time() >= most,
        }
    }
}

/// Ticks of the processor's time in a second, on Linux on this processor (`USER_HZ`).
const TICKS: u64 = 100;

/// The processor time that the process has used, in steps of 10 ms; none where the system does not say.
#[must_use]
pub fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc(5): behind the name in brackets, utime and stime are fields 14 and 15, the state being 3.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Looks at the clock, of all runs.
static LOOKS: AtomicU64 = AtomicU64::new(0);

/// A run goes on.
pub(crate) fn look() {
    LOOKS.fetch_add(1, Relaxed);
}

/// How often runs have looked at a clock, which each does after some thousand steps. It stays the same
/// while a step of the domain does not end.
#[must_use]
pub fn looks() -> u64 {
    LOOKS.load(Relaxed)
}
