//! The control side of a RAM disk.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use spindle_hw::BusMemory;

use crate::{BlockController, RamDisk, RamQueue, Volume};

/// Commands that one core can have on a RAM disk at once.
const DEPTH: usize = 256;

/// A RAM disk with a name, which has as many queues as there are cores.
#[derive(Debug)]
pub struct RamController<B> {
    name: String,
    disk: RamDisk,
    bus: B,
    life: u64,
}

impl<B> RamController<B> {
    /// A RAM disk, with what it holds, whose queues reach their submitters' memory through `bus`.
    pub const fn new(name: String, disk: RamDisk, bus: B) -> Self {
        Self {
            name,
            disk,
            bus,
            life: 1,
        }
    }

    /// Says in which life of the kernel the disk was made, 1 for the first. What the disk of this name
    /// held in earlier ones is lost, so that it is described as another one.
    #[must_use]
    pub fn made_in(self, life: u64) -> Self {
        Self { life, ..self }
    }
}

impl<B, Q> BlockController<Q> for RamController<B>
where
    B: BusMemory + Copy + core::fmt::Debug,
    Q: From<RamQueue<B>>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> u32 {
        0
    }

    fn volumes(&self, disk: usize) -> Vec<Volume> {
        let mut volume = self.disk.volume(&self.name, disk);
        if self.life > 1 {
            let note = format!(", empty since start {}", self.life);
            volume.description.push_str(&note);
        }
        Vec::from([volume])
    }

    fn create_queue(&mut self) -> Result<Q, String> {
        Ok(self.disk.queue(DEPTH, self.bus).into())
    }

    /// Nothing of it outlives the domain.
    fn shutdown(self: Box<Self>, _queues: Vec<Q>) -> Result<(), String> {
        Ok(())
    }
}
