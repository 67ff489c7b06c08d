//! The control side of a virtio device as every disk has it.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Debug};

use spindle_block::{
    BlockController, BusMaster, DiskEvents, SpuriousCompletions, Unit, UnitChange, Volume,
};
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};

use crate::revival::{Identity, Phase};
use crate::{BlockQueue, Disk, Error, name};

/// A device with a number, a handle to its notification registers for each queue, and the way to
/// keep it from memory.
pub struct VirtioDisk<R, C, M, B> {
    name: String,
    number: usize,
    pub(crate) device: Disk<R, C, M>,
    /// The BAR with the notification registers.
    notify: R,
    share: fn(&R) -> R,
    pub(crate) bus: B,
    /// The last error of a look at its size, which is logged once.
    pub(crate) doubted: Option<Error>,
    pub(crate) phase: Phase,
    /// Why it did not start, until that has been reported.
    failure: Option<Error>,
    /// The disk that was lost, until it is known to be back or to be another one.
    pub(crate) known: Option<Identity>,
    /// The device did not answer at some time since it was lost.
    pub(crate) away: bool,
    /// Another disk is in its place, which has not been reported: until it is, all outside goes by the
    /// name of the one that was lost.
    pub(crate) replaced: bool,
    /// The state of its health has been asked for.
    asked: bool,
    spurious: SpuriousCompletions,
}

impl<R, C, M, B> VirtioDisk<R, C, M, B> {
    /// A device that did not start, for `reason`: it counts as lost, and is brought up later.
    #[must_use]
    pub fn not_started(mut self, reason: Error) -> Self {
        self.failure = Some(reason);
        self
    }

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
            phase: Phase::Working,
            failure: None,
            known: None,
            away: false,
            replaced: false,
            asked: false,
            spurious: SpuriousCompletions::default(),
        }
    }
}

/// Its name alone: the code that would format all that is in it takes KiB of the image.
impl<R, C, M, B> Debug for VirtioDisk<R, C, M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VirtioDisk").field(&self.name).finish()
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
        let running = self.device.is_running();
        let volume = running.then(|| self.device.volume(disk, self.number));
        volume.into_iter().collect()
    }

    fn place(&self) -> u32 {
        self.bus.place()
    }

    fn refused(&self) -> Vec<(String, String)> {
        let refused = self
            .failure
            .map(|error| (self.name.clone(), error.to_string()));
        refused.into_iter().collect()
    }

    fn create_queue(&mut self) -> Result<Q, String> {
        let queue = self.device.create_queue((self.share)(&self.notify));
        queue.map(Q::from).map_err(|error| error.to_string())
    }

    fn attend(&mut self) -> DiskEvents {
        let mut events = DiskEvents::default();
        let attended = match (self.failure.take(), self.phase) {
            (Some(reason), _) => Err(reason),
            (None, Phase::Working) => self.look(&mut events),
            (None, Phase::Lost) => Ok(()),
            (None, Phase::Reviving) => self.revive(&mut events),
            (None, Phase::Closing { closed }) => self.device.health().map(|()| {
                if closed {
                    self.arrive(&mut events);
                }
            }),
        };
        if let Err(reason) = attended {
            self.lose(reason, &mut events);
        }
        events
    }

    fn closed(&mut self) {
        if let Phase::Closing { closed } = &mut self.phase {
            *closed = true;
        }
    }

    fn probe_again(&mut self) -> Result<(), String> {
        self.begin_revival()
    }

    fn number(&self) -> usize {
        self.number
    }

    fn name_of(&self, number: usize) -> String {
        name(number)
    }

    fn rename(&mut self, number: usize) {
        self.name = name(number);
        self.number = number;
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

impl<R, C, M, B> VirtioDisk<R, C, M, B>
where
    R: NarrowRegisters,
    C: Clock,
    M: DmaAlloc,
{
    /// Looks whether a device that works still does, and whether anything about it has changed.
    fn look(&mut self, events: &mut DiskEvents) -> Result<(), Error> {
        self.device.health()?;
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
        Ok(())
    }
}
