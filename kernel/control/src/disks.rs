//! The disks as control sees them.

use alloc::string::String;
use alloc::vec::Vec;

use spindle_block::Targets;

/// All disks, by the number that [`spindle_block::Volume::disk`] gives.
pub trait DiskTable {
    /// One core's queue on a disk.
    type Queue;

    /// The volumes that guests can be given, and which device has which.
    fn targets(&self) -> &Targets;

    /// The same, to claim and to release.
    fn targets_mut(&mut self) -> &mut Targets;

    /// The text of `data/spindle/disks`: a line for each disk.
    fn list(&self) -> String;

    /// Whether a disk has failed for good.
    fn is_lost(&self, disk: usize) -> bool;

    /// Handles what the disks have reported since the last call.
    fn attend(&mut self) -> Care;

    /// Asks the disks for their health logs; [`DiskTable::attend`] has the answers when they come.
    fn ask_health(&mut self);

    /// Writes out the caches and switches the controllers off. `queues` are those that each core
    /// has given back, by disk; of a core that hangs there are none.
    fn shutdown(self, queues: Vec<Vec<Self::Queue>>);
}

/// What control has to do for the disks.
#[derive(Clone, Debug, Default)]
pub struct Care {
    /// Every core must poll its disks.
    pub wake: bool,
    /// A disk is being reset: attend again within a millisecond.
    pub soon: bool,
    /// Disks on which every command fails from now on.
    pub lost: Vec<usize>,
    /// The same, of disks that may still write to memory.
    pub loose: Vec<usize>,
    /// Whole disks of another size: name, and sectors of 512 bytes.
    pub resized: Vec<(String, u64)>,
    /// Health logs: paths in xenstore, and the text of each.
    pub health: Vec<(String, String)>,
}
