//! Idle policies side by side, in virtual time: one guest that has one request under way at a time, one
//! disk, one core, and what the core does while it waits for either.
//!
//! Of Spindle it is the product's own [`Pacer`] and [`Wait`] that decide; the others are what the field
//! does: polling always, interrupts, polling after half of the mean (Linux' hybrid polling of
//! io_uring), and interrupts with polling after work (as Linux' NAPI does for networks). Modelled of the
//! machine are how late a core wakes ([`Host`]), and the time of a turn. A sleep itself costs no processor
//! time here; how many there are is counted.
//!
//! [`Pacer`]: spindle_blkif::pacer::Pacer
//! [`Wait`]: spindle_blkif::wait::Wait

mod policy;
mod times;

pub use policy::{Always, Found, Hybrid, Idle, Interrupts, Napi, Policy, Spindle};
use times::Random;
pub use times::Times;

/// What a turn of the core takes, in nanoseconds.
const TURN_NS: u64 = 150;
/// So many requests do not count, with which a policy learns.
const WARM_UP: usize = 500;

/// How late a core wakes, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// After an event or an interrupt.
    pub event_ns: u64,
    /// After the time of a timer.
    pub timer_ns: u64,
    /// No timer ends sooner after it was set: Xen's `timer_slop`.
    pub slop_ns: u64,
}

/// What a policy came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// From the guest's request to its answer, in nanoseconds: the mean, and what 99 of 100 stay within.
    pub mean_ns: u64,
    /// See `mean_ns`.
    pub p99_ns: u64,
    /// The core's time awake for each request, in nanoseconds.
    pub cpu_ns: u64,
    /// How often it slept for each request.
    pub sleeps: f64,
}

/// A guest's request under way.
#[derive(Clone, Copy, Debug)]
enum Guest {
    /// It sends one at this time.
    Thinks(u64),
    /// It sent one then, and the disk is done with it at the second time.
    Waits(u64, u64),
}

impl Guest {
    /// When there is work for the core.
    fn next(self) -> u64 {
        match self {
            Self::Thinks(until) | Self::Waits(_, until) => until,
        }
    }
}

/// Plays `requests` requests of a guest that thinks for `think` between two, on a disk that takes `disk`.
pub fn play(
    host: Host,
    disk: Times,
    think: Times,
    policy: &mut dyn Policy,
    requests: usize,
) -> Outcome {
    let mut random = Random::new();
    let (mut now, mut cpu, mut sleeps) = (0, 0, 0);
    let (mut write, mut guest) = (false, Guest::Thinks(0));
    let mut latencies = Vec::with_capacity(requests);
    let (mut from, mut answered) = ((0, 0), 0);
    while latencies.len() < requests {
        let work = guest.next() <= now;
        let found = match guest {
            _ if !work => Found::Nothing,
            Guest::Thinks(_) => Found::Request { write },
            Guest::Waits(..) => Found::End,
        };
        policy.turn(now, found);
        (now, cpu) = (now + TURN_NS, cpu + TURN_NS);
        if work {
            guest = match guest {
                Guest::Thinks(since) => Guest::Waits(since, now + disk.draw(&mut random, write)),
                Guest::Waits(since, _) => {
                    answered += 1;
                    if answered > WARM_UP {
                        latencies.push(now - since);
                    } else {
                        from = (cpu, sleeps);
                    }
                    write = !write;
                    Guest::Thinks(now + think.draw(&mut random, write))
                }
            };
            continue;
        }
        let waits = matches!(guest, Guest::Waits(..));
        let next = guest.next();
        match policy.idle(now, waits) {
            Idle::Poll { until } => {
                // Whole turns, of which the last finds something, or is the last.
                let turns = next.min(until).saturating_sub(now) / TURN_NS;
                (now, cpu) = (now + turns * TURN_NS, cpu + turns * TURN_NS);
            }
            // It looks once more when it has asked for events.
            Idle::Sleep { .. } if next <= now => {}
            Idle::Sleep { until, interrupts } => {
                sleeps += 1;
                let timer = until.map(|until| until.max(now + host.slop_ns) + host.timer_ns);
                let event = (interrupts || !waits).then_some(next + host.event_ns);
                let wakes = timer.into_iter().chain(event).min();
                now = wakes.expect("something will wake the core");
            }
        }
    }
    latencies.sort_unstable();
    let each = |all: u64| all / requests as u64;
    Outcome {
        mean_ns: each(latencies.iter().sum()),
        p99_ns: latencies[requests * 99 / 100],
        cpu_ns: each(cpu - from.0),
        sleeps: f64::from(sleeps - from.1) / requests as f64,
    }
}
