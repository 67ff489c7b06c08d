//! What every disk looks like to the rest of Spindle.
//!
//! A disk driver brings a controller up on the control core, where it is a [`BlockController`]: it
//! describes what it found as [`Volume`]s, makes one [`DiskQueue`] per ring core, and reports what
//! happens to the disk. A ring core submits [`Command`]s to its own queue, commits the batch, and
//! polls for what has finished; cores never share a queue.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod controller;
mod logical;
mod map;
mod null;
mod options;
mod partition;
mod queue;
mod ram;
mod ram_controller;
mod ram_memory;
mod read;
mod retry;
mod target;
mod volume;

pub use command::{AllPages, Command, Op, Segment, Tag};
pub use controller::{
    BlockController, BusMaster, ControllerBack, DiskEvents, LostController, SpuriousCompletions,
    UnitChange, Unreachable,
};
pub use logical::{EditAccess, EditStep, LocatedPv, LogicalVolumes, PhysicalVolumes, VolumeEditor};
pub use map::{
    MAX_MAPPED_DISKS, MAX_RUNS, Map, MapError, MappedDisk, NotGrown, Place, Run, Stretch,
};
pub use null::{NullController, NullQueue};
pub use options::DiskOptions;
pub use partition::{Table, TableReader, TableStep, partitions, table};
pub use queue::{Budget, DiskQueue, IoError, IoResult, Part, SubmitError};
pub use ram::{RamDisk, RamQueue};
pub use ram_controller::RamController;
pub use ram_memory::RamMemory;
pub use read::{BlockReader, Blocks, PATIENCE_NS, ReadError};
pub use retry::Retry;
pub use spindle_lvm::VolumeChange;
pub use spindle_status::inspect::{InspectedPage, Inspection, PIECE as INSPECTED_PIECE};
pub use target::{MayGrow, Redescribed, TargetError, Targets, VolumeId};
pub use volume::{Access, Discard, Enclosing, Extent, Unit, Volume};

/// The unit of `sectors` in blkif and of [`Volume::sectors`], whatever the disk's block size.
pub const SECTOR_SIZE: u64 = 512;
