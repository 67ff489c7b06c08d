//! Time as the drivers see it: a monotonic count of nanoseconds, handed in from outside; and how
//! a duration is written.

use core::fmt;
use core::time::Duration;

/// A monotonic clock, for the few places that must wait for a device.
///
/// Protocol code takes `now_ns: u64` as an argument instead.
pub trait Clock {
    /// Nanoseconds since an arbitrary start; never goes backwards.
    fn now_ns(&self) -> u64;

    /// Called once per turn of a waiting loop: a pause or a short sleep. Fakes move time here.
    fn relax(&self);
}

/// Writes a duration in seconds or, below one, in milliseconds: `30s`, `12.5s`, `500ms`.
///
/// It takes a fraction of the code that the `Debug` of [`Duration`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (0, millis) => write!(f, "{millis}ms"),
            (seconds, 0) => write!(f, "{seconds}s"),
            (seconds, mut fraction) => {
                let mut digits = 3;
                while fraction % 10 == 0 {
                    fraction /= 10;
                    digits -= 1;
                }
                write!(f, "{seconds}.{fraction:0digits$}s")
            }
        }
    }
}

impl<T: Clock + ?Sized> Clock for &T {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }

    fn relax(&self) {
        (**self).relax();
    }
}
