//! Time as the drivers see it: a monotonic count of nanoseconds, handed in from outside.

/// A monotonic clock, for the few places that must wait for a device.
///
/// Protocol code takes `now_ns: u64` as an argument instead.
pub trait Clock {
    /// Nanoseconds since an arbitrary start; never goes backwards.
    fn now_ns(&self) -> u64;

    /// Called once per turn of a waiting loop: a pause or a short sleep. Fakes move time here.
    fn relax(&self);
}

impl<T: Clock + ?Sized> Clock for &T {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }

    fn relax(&self) {
        (**self).relax();
    }
}
