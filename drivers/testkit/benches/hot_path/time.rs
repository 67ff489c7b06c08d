//! Nanoseconds and cycles of turns.

// UNSAFETY: reads the time stamp counter.
#![expect(unsafe_code)]

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::lane::{Lane, measured_turn};

/// What an I/O took: the median and the worst of the samples.
pub(crate) struct Spent {
    pub(crate) ns: f64,
    pub(crate) ns_worst: f64,
    pub(crate) cycles: f64,
}

const SAMPLES: usize = 15;
const SAMPLE: Duration = Duration::from_millis(10);

fn stamp() -> u64 {
    // SAFETY: every x86_64 processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Cycles of the counter in a nanosecond.
fn frequency() -> f64 {
    let (start, from) = (Instant::now(), stamp());
    while start.elapsed() < 2 * SAMPLE {}
    let cycles = stamp() - from;
    cycles as f64 / start.elapsed().as_nanos() as f64
}

pub(crate) fn measure(case: Case) -> Spent {
    let mut lanes: Vec<Lane> = (0..case.cores).map(|_| Lane::new(case)).collect();
    // What it costs to look at the counter twice, which every visit is charged with.
    let overhead = (0..1000).map(|_| {
        let from = stamp();
        stamp() - from
    });
    let overhead = overhead.min().unwrap_or(0);
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let (mut cycles, mut requests) = (0, 0);
            let start = Instant::now();
            while start.elapsed() < SAMPLE {
                for lane in &mut lanes {
                    lane.turn(|worker, now_ns| {
                        let from = stamp();
                        measured_turn(worker, now_ns);
                        cycles += (stamp() - from).saturating_sub(overhead);
                    });
                    requests += u64::from(case.requests());
                }
            }
            cycles as f64 / requests as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let (cycles, worst) = (samples[SAMPLES / 2], samples[SAMPLES - 1]);
    let frequency = frequency();
    Spent {
        ns: cycles / frequency,
        ns_worst: worst / frequency,
        cycles,
    }
}
