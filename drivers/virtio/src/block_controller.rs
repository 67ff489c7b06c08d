//! The control side of a virtio device as every disk has it.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Debug;

use spindle_block::{
    BlockController, BusMaster, DiskEvents, LostController, SpuriousCompletions, Unit, UnitChange,
    Volume,
};
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};

use crate::{BlockQueue, Disk, Error, name};

/// A device with a number, a handle to its notification registers for each queue, and the way to
/// keep it from memory.
#[derive(Debug)]
pub struct VirtioDisk<R, C, M, B> {
    name: String,
    number: usize,
    device: Disk<R, C, M>,
    /// The BAR with the notification registers.
    notify: R,
    share: fn(&R) -> R,
    bus: B,
    /// The last error of a look at its size, which is logged once.
    doubted: Option<Error>,
    lost: bool,
    /// The state of its health has been asked for.
    asked: bool,
    spurious: SpuriousCompletions,
}

impl<R, C, M, B> VirtioDisk<R, C, M, B> {
    /// Names `device` after its number among the virtio disks: `vda`. `share` makes another handle
    /// to the registers in `notify`; `bus` is used once the device is lost.
    pub fn new(
        number: usize,
        device: Disk<R, C, M>,
        notify: R,
        share: fn(&R) -> R,
        bus: B,
    ) -> Self {
        Self {
            name: name(number),
            number,
            device,
            notify,
            share,
            bus,
            doubted: None,
            lost: false,
            asked: false,
            spurious: SpuriousCompletions::default(),
        }
    }
}

impl<R, C, M, B, Q> BlockController<Q> for VirtioDisk<R, C, M, B>
where
    R: NarrowRegisters + Debug,
    C: Clock + Debug,
    M: DmaAlloc + Debug,
    B: BusMaster,
    Q: From<BlockQueue<R>> + TryInto<BlockQueue<R>>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn volumes(&self, disk: usize) -> Vec<Volume> {
        Vec::from([self.device.volume(disk, self.number)])
    }

    fn create_queue(&mut self) -> Result<Q, String> {
        let queue = self.device.create_queue((self.share)(&self.notify));
        queue.map(Q::from).map_err(|error| error.to_string())
    }

    fn attend(&mut self) -> DiskEvents {
        let mut events = DiskEvents::default();
        if self.lost {
            return events;
        }
        if let Err(reason) = self.device.health() {
            self.lost = true;
            events.lost = Some(LostController {
                reason: reason.to_string(),
                disabled: self.bus.disable(),
                again: false,
            });
            return events;
        }
        let before = self.spurious.update(self.device.spurious());
        if before == Some(0) {
            log::warn!("disk {}: a completion for no request: ignored", self.name);
        }
        let news = core::mem::take(&mut self.asked) || before.is_some();
        // A virtio device gives no account of its health: this is what its driver knows.
        events.health = news.then(|| self.spurious.to_string());
        let looked = self.device.resized();
        let doubted = core::mem::replace(&mut self.doubted, looked.err());
        if let (Err(error), None) = (looked, doubted) {
            log::warn!("disk {}: its new size is not taken: {error}", self.name);
        }
        events.changes.extend(looked.ok().flatten().map(|sectors| {
            let unit = Unit(0);
            UnitChange::Resized { unit, sectors }
        }));
        events
    }

    fn ask_health(&mut self) {
        self.asked = true;
    }

    fn shutdown(self: Box<Self>, queues: Vec<Q>) -> Result<(), String> {
        let queues = queues.into_iter().filter_map(|queue| queue.try_into().ok());
        let ended = self.device.shutdown(queues);
        ended.map_err(|error| error.to_string())
    }
}
