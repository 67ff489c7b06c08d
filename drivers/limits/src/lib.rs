//! IoLimits and weights of devices and groups of devices: how they are written, and the token buckets
//! that hold devices to them.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `settings` | [`IoLimits`]: what an administrator sets, in words |
//! | `meter` | [`Meters`]: the token buckets of a device or group, which all its rings draw from |
//! | `allowance` | [`Allowance`]: what one ring has drawn and may use without asking again |
//!
//! A ring draws what half a millisecond is worth and uses it up alone, so that cores meet at a bucket
//! once for each draw and not for each request. What a ring does not ask for, the others of its device
//! or group can have at once.
//!
//! ```
//! use std::sync::Arc;
//! use spindle_limits::{Allowance, IoLimits, Meters, Usage};
//!
//! let mut limits = IoLimits::default();
//! limits.set_all("iops=2000:weight=4").unwrap();
//! let meters = Arc::new(Meters::new(&limits, 0));
//! let mut ring = Allowance::new([meters], Usage::default());
//! // At first the ring may make up for 10 ms in which it did nothing.
//! assert_eq!(ring.pages(0, Usage::default), 1);
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod allowance;
mod meter;
mod settings;

pub use allowance::Allowance;
pub use meter::{Meters, SLICE_NS, Usage};
pub use settings::{BadLimit, DEFAULT_WEIGHT, IoLimits, MAX_WEIGHT, RateKind};
