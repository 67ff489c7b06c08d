//! Event channels as the rest of Spindle sees them.

use alloc::boxed::Box;
use core::num::NonZeroU64;

/// The longest that any core sleeps.
const LONGEST_NS: u64 = 10_000_000_000;

/// A local event channel port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

/// When a sleep ends though no event has come: nanoseconds of the clock that sleeps are timed by.
///
/// An event only says that there is something to look at. One that is lost, or a virtual CPU that
/// the hypervisor has woken and does not run, must cost no more than time; so a sleep that nothing
/// but an event ends cannot be expressed. The timer that ends it fires on the very CPU that the
/// sleeper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(NonZeroU64);

impl Deadline {
    /// `until_ns`, but no later than 10 s after `now_ns`.
    #[must_use]
    pub const fn new(now_ns: u64, until_ns: u64) -> Self {
        let latest = now_ns.saturating_add(LONGEST_NS);
        let ns = if until_ns < latest { until_ns } else { latest };
        // Xen takes 0 for no deadline. This one is as long ago.
        match NonZeroU64::new(ns) {
            Some(ns) => Self(ns),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Nanoseconds, never 0.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.0.get()
    }
}

/// Sending events, the one event-channel operation on the data path.
pub trait Notify {
    /// Notifies the other end of `port`.
    fn notify(&self, port: Port);
}

impl<N: Notify + ?Sized> Notify for Box<N> {
    fn notify(&self, port: Port) {
        (**self).notify(port);
    }
}

#[cfg(test)]
mod tests {
    use super::Deadline;

    #[test]
    fn no_sleep_is_without_an_end() {
        assert_eq!(Deadline::new(5, 7).ns(), 7);
        assert_eq!(Deadline::new(5, 3).ns(), 3);
        assert_eq!(Deadline::new(5, u64::MAX).ns(), 10_000_000_005);
        assert_ne!(Deadline::new(0, 0).ns(), 0);
        assert_eq!(Deadline::new(u64::MAX, u64::MAX).ns(), u64::MAX);
    }
}
