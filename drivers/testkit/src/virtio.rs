//! A virtio block device on a [`FakeBus`]: the registers of the modern PCI interface, split
//! virtqueues, a volatile write cache that a power cut empties, and faults on demand.
//!
//! It is written from the specification (virtio 1.2), not from the driver, and keeps a list of
//! everything a driver did that the specification forbids ([`FakeVirtio::violations`]). A
//! notification makes it run at once, in the core that gave it, unless [`FakeVirtio::hold`] leaves
//! that to [`FakeVirtio::run`].

mod execute;
mod registers;
mod ring;

use std::sync::{Arc, Mutex};

use crate::medium::Medium;
use crate::mem::FakeBus;
use crate::pci::FakeFunction;
use registers::Control;
use ring::Queue;

/// Feature bits (5.2.3, 6), named here a second time so that a slip in the driver does not cancel
/// itself out.
pub mod feature {
    /// `size_max` is given.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` is given.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is given.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// There is a cache, and a request to write it out.
    pub const FLUSH: u64 = 1 << 9;
    /// The topology is given.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// `num_queues` is given.
    pub const MQ: u64 = 1 << 12;
    /// DISCARD is known.
    pub const DISCARD: u64 = 1 << 13;
    /// WRITE_ZEROES is known.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// SECURE_ERASE is known.
    pub const SECURE_ERASE: u64 = 1 << 16;
    /// Descriptors may be indirect.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses are those of the platform's IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// What the device is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Features offered.
    pub features: u64,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// `blk_size`.
    pub block_size: u32,
    /// `physical_block_exp`.
    pub physical_exponent: u8,
    /// `size_max`.
    pub size_max: u32,
    /// `seg_max`.
    pub seg_max: u32,
    /// `num_queues`.
    pub queues: u16,
    /// The most entries in a queue.
    pub entries: u16,
    /// `max_discard_sectors`, which also counts for WRITE_ZEROES and SECURE_ERASE.
    pub max_discard: u32,
    /// `discard_sector_alignment`.
    pub discard_alignment: u32,
    /// What GET_ID gives, if it is known at all.
    pub serial: Option<&'static str>,
    /// Reads of the status before a reset shows in it.
    pub delay: u32,
    /// Bytes between notification addresses.
    pub multiplier: u32,
    /// Whether requests that were taken together complete in another order.
    pub out_of_order: bool,
}

impl Default for Config {
    fn default() -> Self {
        use feature::*;
        Self {
            features: SEG_MAX
                | BLK_SIZE
                | FLUSH
                | TOPOLOGY
                | MQ
                | DISCARD
                | WRITE_ZEROES
                | SECURE_ERASE
                | INDIRECT_DESC
                | VERSION_1
                | ACCESS_PLATFORM,
            sectors: 2048,
            block_size: 512,
            physical_exponent: 3,
            size_max: 0,
            seg_max: 62,
            queues: 4,
            entries: 64,
            max_discard: 256,
            discard_alignment: 8,
            serial: Some("spindle 7"),
            delay: 2,
            multiplier: 4,
            out_of_order: false,
        }
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The status stays what it was when the driver resets the device.
    NeverResets,
    /// FEATURES_OK does not stay.
    RefusesFeatures,
    /// The configuration changes with every read of its generation.
    Restless,
    /// The disk gets this size, in sectors, when the lower half of the old one has been read.
    Torn(u64),
    /// The next request of this type ends with this status.
    Fail(u32, u8),
    /// The next request of this type is never answered.
    Swallow(u32),
}

/// The device; clones are the same device.
#[derive(Clone, Debug)]
pub struct FakeVirtio(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bus: Arc<FakeBus>,
    config: Mutex<Arc<Config>>,
    control: Mutex<Control>,
    queues: Vec<Mutex<Queue>>,
    disk: Mutex<Medium>,
    faults: Mutex<Vec<Fault>>,
    violations: Mutex<Vec<String>>,
}

impl FakeVirtio {
    /// A device that is off.
    #[must_use]
    pub fn new(bus: Arc<FakeBus>, config: Config) -> Self {
        Self(Arc::new(Shared {
            bus,
            control: Mutex::new(Control::new(config.sectors)),
            queues: (0..config.queues).map(|_| Mutex::default()).collect(),
            disk: Mutex::new(Medium::new(config.sectors as usize * 512)),
            config: Mutex::new(config.into()),
            faults: Mutex::default(),
            violations: Mutex::default(),
        }))
    }

    /// The PCI function with the device's registers in BAR 4.
    #[must_use]
    pub fn function(&self) -> FakeFunction {
        registers::function(&self.0.config())
    }

    /// Makes something go wrong.
    pub fn arm(&self, fault: Fault) {
        self.0.faults.lock().unwrap().push(fault);
    }

    /// Takes a fault away.
    pub fn repair(&self, fault: Fault) {
        self.0
            .faults
            .lock()
            .unwrap()
            .retain(|other| *other != fault);
    }

    /// Pulls the device out: registers read as all ones, nothing is answered any longer.
    pub fn vanish(&self) {
        self.0.control.lock().unwrap().vanished = true;
    }

    /// Whether it was pulled out.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.0.control.lock().unwrap().vanished
    }

    /// Puts it in again after [`FakeVirtio::vanish`], as it is after power on: what was written and not
    /// flushed is lost.
    pub fn come_back(&self) {
        self.power_cut();
        self.0.control.lock().unwrap().power_on();
        self.0.forget_queues();
    }

    /// Puts another one in its place, which is empty. It has as many queues as the first one at most.
    pub fn come_back_as(&self, config: Config) {
        assert!(usize::from(config.queues) <= self.0.queues.len());
        *self.0.disk.lock().unwrap() = Medium::new(config.sectors as usize * 512);
        self.0.control.lock().unwrap().sectors = config.sectors;
        *self.0.config.lock().unwrap() = config.into();
        self.come_back();
    }

    /// Makes DEVICE_NEEDS_RESET appear.
    pub fn die(&self) {
        self.0.control.lock().unwrap().broken = true;
    }

    /// Makes the disk larger (or says so: what is beyond the first size cannot be reached).
    pub fn resize(&self, sectors: u64) {
        self.0.control.lock().unwrap().resize(sectors);
    }

    /// From now on requests wait for [`FakeVirtio::run`].
    pub fn hold(&self) {
        self.0.control.lock().unwrap().held = true;
    }

    /// Ends [`FakeVirtio::hold`]: a notification makes it run at once again.
    pub fn release(&self) {
        self.0.control.lock().unwrap().held = false;
    }

    /// Carries out what is in the queues, and returns how many requests that were.
    pub fn run(&self) -> usize {
        let queues = 0..self.0.queues.len();
        queues.map(|n| self.0.run(n, usize::MAX)).sum()
    }

    /// Carries out at most `most` requests of queue `queue`, and returns how many that were.
    pub fn run_queue(&self, queue: u16, most: usize) -> usize {
        self.0.run(queue.into(), most)
    }

    /// Whether the driver may use queues, and the device works.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.0.control.lock().unwrap().live()
    }

    /// Whether there are requests in queue `queue` that the device would take.
    #[must_use]
    pub fn is_waiting(&self, queue: u16) -> bool {
        self.is_live() && self.has_new(queue)
    }

    /// Whether there are requests in queue `queue` that the device has not taken, working or not.
    #[must_use]
    pub fn has_new(&self, queue: u16) -> bool {
        let queue = self.0.queues[usize::from(queue)].lock().unwrap();
        queue.is_waiting(&self.0.bus)
    }

    /// Puts an entry that nobody asked for into the used ring of queue `queue`.
    pub fn post(&self, queue: u16, id: u32, len: u32) {
        let mut queue = self.0.queues[usize::from(queue)].lock().unwrap();
        queue.post(&self.0.bus, id, len);
    }

    /// Moves the index of the used ring of queue `queue` on, without entries.
    pub fn skip(&self, queue: u16, entries: u16) {
        let mut queue = self.0.queues[usize::from(queue)].lock().unwrap();
        queue.skip(&self.0.bus, entries);
    }

    /// Sets whether the device wants to be notified of new requests in queue `queue`.
    pub fn want_notifications(&self, queue: u16, wanted: bool) {
        let queue = self.0.queues[usize::from(queue)].lock().unwrap();
        queue.want_notifications(&self.0.bus, wanted);
    }

    /// Everything written and not flushed is lost.
    pub fn power_cut(&self) {
        self.0.disk.lock().unwrap().power_cut();
    }

    /// Puts `bytes` on the disk, from the first sector on.
    pub fn fill(&self, bytes: &[u8]) {
        self.0.disk.lock().unwrap().fill(bytes);
    }

    /// What is on the disk, cache included.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.0.disk.lock().unwrap().bytes().to_vec()
    }

    /// Notifications so far.
    #[must_use]
    pub fn notifications(&self) -> u64 {
        self.0.control.lock().unwrap().notifications
    }

    /// The type of each request carried out so far.
    #[must_use]
    pub fn requests(&self) -> Vec<u32> {
        self.0.control.lock().unwrap().requests.clone()
    }

    /// What the driver did that the specification forbids.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.0.violations.lock().unwrap().clone()
    }
}

impl Shared {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap())
    }

    /// The driver has set no queue up.
    fn forget_queues(&self) {
        for queue in &self.queues {
            *queue.lock().unwrap() = Queue::default();
        }
    }

    /// Notes a breach of the specification.
    fn violation(&self, what: impl Into<String>) {
        self.violations.lock().unwrap().push(what.into());
    }

    /// Whether a fault of the lasting kind is armed.
    fn has(&self, fault: Fault) -> bool {
        self.faults.lock().unwrap().contains(&fault)
    }

    /// Takes a fault that happens once.
    fn once<T>(&self, pick: impl Fn(Fault) -> Option<T>) -> Option<T> {
        let mut faults = self.faults.lock().unwrap();
        let found = faults
            .iter()
            .enumerate()
            .find_map(|(index, fault)| Some((index, pick(*fault)?)));
        let (index, picked) = found?;
        faults.remove(index);
        Some(picked)
    }
}
