//! The clock: Xen's system time, or a calibrated time stamp counter where there is no Xen.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Once;
use spindle_hw::{Clock, Ports};
use spindle_xen::clock::TimeInfo;

use super::shared::SharedInfo;
use crate::arch::cpu;
use crate::restart;

/// Where time comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// Xen's parameters for one vCPU, which only that vCPU may use.
    Xen {
        /// Where they are.
        shared: &'static SharedInfo,
        /// Whose.
        vcpu: usize,
    },
    /// A counter of known frequency.
    Tsc(TimeInfo),
}

/// A monotonic clock for one core. Under Xen it shows system time, which deadlines for
/// [`super::sched::poll`] are given in.
#[derive(Debug)]
pub(crate) struct CoreClock {
    source: Source,
    /// The last time shown: parameters that Xen adjusts may step back by a few nanoseconds.
    last: AtomicU64,
}

static BOOT_CORE: Once<CoreClock> = Once::new();
static STARTED_NS: AtomicU64 = AtomicU64::new(0);

/// Starts the boot core's clock.
pub(super) fn start(source: Source) {
    let clock = BOOT_CORE.call_once(|| CoreClock::new(source));
    STARTED_NS.store(clock.now_ns(), Relaxed);
}

/// The boot core's clock, once it runs.
pub(crate) fn clock() -> Option<&'static CoreClock> {
    BOOT_CORE.get()
}

/// Nanoseconds since the clock was started, 0 before; for time stamps, from any core.
pub(crate) fn uptime_ns() -> u64 {
    clock().map_or(0, |c| c.now_ns().saturating_sub(STARTED_NS.load(Relaxed)))
}

/// System time when the boot core's counter was at `tsc`, before there was a clock.
pub(crate) fn before(tsc: u64) -> u64 {
    let Some(clock) = clock() else { return 0 };
    let ticks = cpu::tsc().saturating_sub(tsc);
    let span = match clock.source {
        Source::Xen { shared, vcpu } => shared.span_ns(vcpu, ticks).unwrap_or(0),
        Source::Tsc(info) => info.ns_at(info.tsc.wrapping_add(ticks)) - info.system_ns,
    };
    clock.now_ns().saturating_sub(span)
}

/// Seconds since 1970 by dom0's clock, for people to read; 0 where they are not known.
pub(crate) fn unix_s() -> u64 {
    let Some(clock) = clock() else { return 0 };
    let Source::Xen { shared, .. } = clock.source else {
        return 0;
    };
    let booted = shared.booted_s();
    booted.map_or(0, |booted| booted + clock.now_ns() / 1_000_000_000)
}

impl CoreClock {
    /// A clock on `source`.
    pub(crate) const fn new(source: Source) -> Self {
        Self {
            source,
            last: AtomicU64::new(0),
        }
    }
}

impl Clock for CoreClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        /// Xen changes the parameters in far less time than this many looks take.
        const LOOKS: usize = 1000;
        let now = match self.source {
            Source::Xen { shared, vcpu } => {
                (0..LOOKS).find_map(|_| shared.now_ns(vcpu)).unwrap_or(0)
            }
            Source::Tsc(info) => info.ns_at(cpu::tsc()),
        };
        now.max(self.last.fetch_max(now, Relaxed))
    }

    #[inline]
    fn relax(&self) {
        // A wait that is bounded is no hang.
        if let Source::Xen { vcpu, .. } = self.source {
            restart::alive(vcpu);
        }
        core::hint::spin_loop();
    }
}

impl Source {
    /// The counter, with its frequency measured against the interval timer (channel 2, which the
    /// speaker port gates) for 10 ms.
    pub(super) fn calibrated() -> Self {
        const PIT_HZ: u64 = 1_193_182;
        const TICKS: u64 = PIT_HZ / 100;
        const SPEAKER: u16 = 0x61;
        const CHANNEL_2: u16 = 0x42;
        const COMMAND: u16 = 0x43;
        /// Channel 2, low then high byte, one-shot, binary.
        const ONE_SHOT: u8 = 0xb0;
        const GATE: u8 = 1;
        const OUTPUT: u8 = 1 << 5;
        /// Far more reads of the port than 10 ms have room for: a machine without a timer.
        const LOOKS: u32 = 10_000_000;

        let ports = crate::log::ports();
        ports.out8(SPEAKER, ports.in8(SPEAKER) & !3 | GATE);
        ports.out8(COMMAND, ONE_SHOT);
        ports.out8(CHANNEL_2, TICKS as u8);
        ports.out8(CHANNEL_2, (TICKS >> 8) as u8);
        let start = cpu::tsc();
        let mut looks = 0;
        while ports.in8(SPEAKER) & OUTPUT == 0 && looks < LOOKS {
            looks += 1;
        }
        let end = cpu::tsc();
        let hz = (end - start).saturating_mul(PIT_HZ) / TICKS;
        Self::Tsc(TimeInfo::from_frequency(end, hz))
    }
}
