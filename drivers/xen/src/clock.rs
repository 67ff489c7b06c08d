//! Xen's clock: how a time stamp counter becomes nanoseconds (`public/xen.h`,
//! `struct vcpu_time_info`).

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::fence;

use spindle_hw::SharedPages;

/// Bytes of a `struct vcpu_time_info`.
pub const TIME_INFO_SIZE: usize = 32;

/// What a `struct vcpu_time_info` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeInfo {
    /// The counter's value when the rest was written.
    pub tsc: u64,
    /// Nanoseconds of system time then.
    pub system_ns: u64,
    /// Nanoseconds per tick, in units of 2^-32, after the shift.
    pub multiplier: u32,
    /// Shift that is applied to ticks first: left if positive.
    pub shift: i8,
}

impl TimeInfo {
    /// The parameters of a counter that runs at `hz` ticks per second and stands at `tsc` at
    /// time 0. Frequencies below 1 MHz are taken for 1 MHz.
    #[must_use]
    pub fn from_frequency(tsc: u64, hz: u64) -> Self {
        let hz = u128::from(hz.max(1_000_000));
        // The largest shift at which the multiplier fits has the most precision.
        let (mut shift, mut ratio) = (0i8, (1_000_000_000u128 << 32) / hz);
        while ratio > u128::from(u32::MAX) {
            ratio >>= 1;
            shift += 1;
        }
        while ratio < 1 << 31 && shift > -31 {
            shift -= 1;
            ratio = (1_000_000_000u128 << (32 + u32::from(shift.unsigned_abs()))) / hz;
        }
        Self {
            tsc,
            system_ns: 0,
            multiplier: u32::try_from(ratio).unwrap_or(u32::MAX),
            shift,
        }
    }

    /// System time by the structure at byte `offset`, in nanoseconds, or `None` while Xen is
    /// writing it. The counter is read in between, so that both come from the same processor.
    ///
    /// # Panics
    /// If `offset` is misaligned or the structure is not inside `pages`.
    #[inline]
    #[must_use]
    pub fn now_ns(pages: &SharedPages, offset: usize, tsc: impl FnOnce() -> u64) -> Option<u64> {
        let version = pages.u32_at(offset).load(Acquire);
        let scale = pages.u64_at(offset + 24).load(Relaxed);
        let info = Self {
            tsc: pages.u64_at(offset + 8).load(Relaxed),
            system_ns: pages.u64_at(offset + 16).load(Relaxed),
            multiplier: scale as u32,
            shift: (scale >> 32) as i8,
        };
        let now = info.ns_at(tsc());
        fence(Acquire);
        let unchanged = pages.u32_at(offset).load(Relaxed) == version;
        (unchanged && version.is_multiple_of(2)).then_some(now)
    }

    /// Nanoseconds of system time when the counter stands at `tsc`.
    ///
    /// A counter that stands a little behind (another core's) gives the time of the stamp. The
    /// stamp may be from before the counter was set to 0, as it is in a new domain: differences
    /// wrap around.
    #[must_use]
    pub fn ns_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc).cast_signed();
        let ticks = u128::from(u64::try_from(ticks).unwrap_or(0));
        let by = u32::from(self.shift.unsigned_abs()).min(63);
        let ticks = if self.shift < 0 {
            ticks >> by
        } else {
            ticks << by
        };
        let ns = ticks.saturating_mul(u128::from(self.multiplier)) >> 32;
        self.system_ns
            .saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn xens_own_figures_are_understood() {
        // A 2 GHz counter as Xen describes it: half a nanosecond per tick.
        let info = TimeInfo {
            tsc: 1000,
            system_ns: 7,
            multiplier: 1 << 31,
            shift: 0,
        };
        assert_eq!(info.ns_at(1000), 7);
        assert_eq!(info.ns_at(3000), 1007);
        assert_eq!(info.ns_at(999), 7);
        let slow = TimeInfo {
            multiplier: 1 << 31,
            shift: 2,
            ..info
        };
        assert_eq!(slow.ns_at(1010), 27);
        let fast = TimeInfo {
            multiplier: 1 << 31,
            shift: -2,
            ..info
        };
        assert_eq!(fast.ns_at(1080), 17);
    }

    #[test]
    fn a_stamp_from_before_the_counter_was_reset_counts() {
        let info = TimeInfo {
            tsc: 0u64.wrapping_sub(1000),
            system_ns: 7,
            multiplier: 1 << 31,
            shift: 0,
        };
        assert_eq!(info.ns_at(1000), 1007);
    }

    proptest! {
        #[test]
        fn a_second_of_ticks_is_a_second(hz in 1_000_000u64..20_000_000_000, start in any::<u32>()) {
            let info = TimeInfo::from_frequency(u64::from(start), hz);
            let ns = info.ns_at(u64::from(start) + hz);
            prop_assert!(ns.abs_diff(SECOND) <= 1000, "{ns} at {hz} Hz");
        }

        #[test]
        fn any_figures_are_taken_without_a_panic_and_time_goes_forward(
            tsc in any::<u64>(), system_ns in any::<u64>(), multiplier in any::<u32>(),
            shift in any::<i8>(), a in 0..u64::MAX / 2, b in 0..u64::MAX / 2,
        ) {
            let info = TimeInfo { tsc, system_ns, multiplier, shift };
            let at = |ticks| info.ns_at(tsc.wrapping_add(ticks));
            prop_assert!(at(a.min(b)) <= at(a.max(b)));
            prop_assert!(at(0) == system_ns && info.ns_at(tsc.wrapping_sub(1)) == system_ns);
        }
    }
}
