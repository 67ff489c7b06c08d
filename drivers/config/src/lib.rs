//! Spindle's options.
//!
//! They come as `key=value` words from the kernel command line (a PVH domain) and from the
//! xenstore node [`STORE_PATH`] (any domain), with the same keys in both. The command line is
//! read last and wins. A word that makes no sense is reported and skipped: a typing mistake must
//! not keep a disk from its guests.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod knobs;
mod value;

pub use knobs::{Config, ConfigError, DataPath, DiskSize, PlacedController, PollUs};

/// Where the options are in xenstore, relative to Spindle's own home.
pub const STORE_PATH: &str = spindle_status::path::CONFIG;
