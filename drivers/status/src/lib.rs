//! The operator's contract: what Spindle publishes in xenstore, and what it is asked there.
//!
//! Every path is in [`path`], every line is a type that is written by `Display` and read by `parse`, and
//! every counter is described once, in [`stats`]. The kernel writes through this crate; `spindlectl`, the
//! benchmark and the rig's checks read through it.
//!
//! Both sides may be of different versions. A reader skips words and lines that it does not know, and
//! takes 0 for a counter that is missing. A writer may therefore add words to a line, but neither
//! rename nor reorder what is there.
//!
//! ```
//! use spindle_status::stats::DeviceLine;
//!
//! let line = DeviceLine::parse("rings=2 rd_req=100 lat_us=32:99,64:1 new_word=1");
//! assert_eq!((line.rings, line.counters.reads), (2, 100));
//! // 99 % of the requests took less than 64 units of 1,024 ns.
//! assert_eq!(line.counters.latency.bound(0.99), Some(64));
//! ```
//!
//! Texts for people (what a counter means, what a node holds) are in tables of their own, which the
//! kernel does not refer to, so that they are not in its image.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod counter;
pub mod inspect;
pub mod lives;
pub mod orders;
pub mod path;
pub mod statistic;
pub mod stats;
pub mod targets;
pub mod trace;
pub mod words;
