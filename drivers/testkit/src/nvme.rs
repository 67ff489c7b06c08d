//! An NVMe controller on a [`FakeBus`]: real queue semantics, a volatile write cache that a power
//! cut empties, and faults on demand.
//!
//! It is written from the specification (NVMe 1.4), not from the driver, and keeps a list of
//! everything a driver did that the specification forbids ([`FakeNvme::violations`]). A doorbell
//! makes it run at once, in the core that rang, unless [`Config::manual`] leaves that to
//! [`FakeNvme::run`].

mod admin;
mod dma;
mod execute;
mod host_memory;
mod identify;
mod logs;
mod null;
mod quirks;
mod registers;
mod ring;
mod store;
mod timed;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::mem::FakeBus;
pub use host_memory::HostMemoryConfig;
pub use null::{Doorbells, NullNvme};
pub use quirks::{Quirk, Quirks};
use ring::Queue;
use store::Store;
pub use timed::{Speed, TimedNvme};

/// What the controller is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// The most entries in an I/O queue (CAP.MQES + 1).
    pub entries: u32,
    /// CAP.DSTRD: doorbells are `4 << doorbell_shift` bytes apart.
    pub doorbell_shift: u8,
    /// CAP.TO, in 500 ms units.
    pub timeout: u8,
    /// CAP.MPSMIN: log2 of the smallest page in units of 4 KiB.
    pub page_shift_min: u8,
    /// CAP.CSS bit 0.
    pub nvm_commands: bool,
    /// SQES.
    pub entry_sizes: u8,
    /// MDTS: log2 of the largest transfer in pages; 0 for no limit.
    pub mdts: u8,
    /// VS.
    pub version: u32,
    /// I/O queue pairs there are.
    pub queues: u16,
    /// Whether there is a volatile write cache.
    pub write_cache: bool,
    /// AWUPF, 0's based.
    pub atomic_blocks: u16,
    /// Whether it knows Dataset Management, and within which limits.
    pub discards: Option<DiscardConfig>,
    /// The memory that it asks the host for.
    pub host_memory: Option<HostMemoryConfig>,
    /// Reads of CSTS before a change of CC shows in it.
    pub delay: u32,
    /// CMIC.
    pub cmic: u8,
    /// Whether it knows NSSR (CAP.NSSRS), and what is broken works after it.
    pub subsystem_reset: bool,
    /// Whether commands wait for [`FakeNvme::run`].
    pub manual: bool,
    /// Whether commands that were fetched together complete in another order.
    pub out_of_order: bool,
    /// CRDT1 to CRDT3, in units of 100 ms.
    pub retry_delays: [u16; 3],
    /// What is odd about it.
    pub quirks: Quirks,
    /// The namespaces.
    pub namespaces: Vec<NamespaceConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            entries: 1024,
            doorbell_shift: 0,
            timeout: 25,
            page_shift_min: 0,
            nvm_commands: true,
            entry_sizes: 0x66,
            mdts: 7,
            version: 0x0001_0400,
            queues: 4,
            write_cache: true,
            atomic_blocks: 255,
            discards: Some(DiscardConfig::default()),
            host_memory: None,
            delay: 3,
            cmic: 0,
            subsystem_reset: false,
            manual: false,
            out_of_order: false,
            retry_delays: [0; 3],
            quirks: Quirks::default(),
            namespaces: vec![NamespaceConfig::new(1, 2048, 9)],
        }
    }
}

/// Limits of a Dataset Management command, each 0 for none.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardConfig {
    /// DMRL: ranges.
    pub ranges: u8,
    /// DMRSL: blocks in a range.
    pub range_blocks: u32,
    /// DMSL: blocks in all ranges.
    pub total_blocks: u64,
}

/// What a namespace is like.
#[derive(Clone, Debug)]
pub struct NamespaceConfig {
    /// Namespace identifier.
    pub id: u32,
    /// Blocks.
    pub blocks: u64,
    /// log2 of the block size in bytes.
    pub block_shift: u8,
    /// Bytes of metadata per block.
    pub metadata: u16,
    /// NPWG, if given: blocks, 0's based.
    pub granularity: Option<u16>,
    /// NPDG, if NPWG is given: blocks, 0's based.
    pub discard_granularity: u16,
    /// EUI64, or zeroes.
    pub eui64: [u8; 8],
    /// NGUID, or zeroes.
    pub nguid: [u8; 16],
    /// UUID, or zeroes.
    pub uuid: [u8; 16],
    /// The command set that it is of, by number; reported if it is not 0, the NVM command set.
    pub command_set: u8,
    /// FPI: the percentage of a format that is left, with bit 7.
    pub format_progress: u8,
    /// Whether it is write-protected.
    pub read_only: bool,
    /// Whether data goes nowhere: reads leave memory as it is. For benchmarks.
    pub null: bool,
}

impl NamespaceConfig {
    /// A plain namespace of zeroes.
    #[must_use]
    pub fn new(id: u32, blocks: u64, block_shift: u8) -> Self {
        Self {
            id,
            blocks,
            block_shift,
            metadata: 0,
            granularity: None,
            discard_granularity: 0,
            eui64: [0; 8],
            nguid: [0; 16],
            uuid: [0; 16],
            command_set: 0,
            format_progress: 0,
            read_only: false,
            null: false,
        }
    }

    /// The same without memory behind it.
    #[must_use]
    pub fn null(mut self) -> Self {
        self.null = true;
        self
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// CSTS.RDY stays 0.
    NeverReady,
    /// CSTS.RDY stays 1.
    NeverIdle,
    /// CSTS.CFS appears instead of RDY.
    FatalWhenEnabled,
    /// CSTS.SHST stays 01b.
    NeverShutDown,
    /// The next admin command with this opcode fails with this status.
    FailAdmin(u8, u16),
    /// The next I/O command with this opcode fails with this status.
    FailIo(u8, u16),
    /// The next admin command with this opcode is never answered.
    SwallowAdmin(u8),
    /// The next Identify with this CNS fails with this status.
    FailIdentify(u8, u16),
    /// The next Identify with this CNS is never answered.
    SwallowIdentify(u8),
    /// It has another serial number from now on.
    OtherSerial,
    /// From its next start on it moves two pages at most in a command, and knows no discards.
    Smaller,
    /// From its next start on it takes one range of so many blocks in a discard.
    SmallerDiscards(u32),
    /// From its next reset on no queue may have more than 4 entries.
    Shorter,
    /// From its next reset on it has one I/O queue pair less.
    Fewer,
    /// The next I/O command with this opcode is neither carried out nor answered, unless it is
    /// aborted.
    SwallowIo(u8),
    /// The next I/O command with this opcode is carried out and never answered.
    LoseIo(u8),
    /// No I/O command is carried out or answered.
    Deaf,
    /// Nothing is ever aborted.
    NoAbort,
}

/// Blocks that a command reads, writes or deallocates, as the controller understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Of the command.
    pub opcode: u8,
    /// Namespace identifier.
    pub namespace: u32,
    /// The first of them.
    pub block: u64,
    /// How many.
    pub blocks: u64,
}

/// What goes wrong in an I/O queue, and lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stuck {
    queue: u16,
    cid: u16,
}

/// The controller; clones are the same controller.
#[derive(Clone, Debug)]
pub struct FakeNvme(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bus: Arc<FakeBus>,
    config: Config,
    control: Mutex<registers::Control>,
    /// I/O queue `n` at index `n - 1`.
    queues: Vec<Mutex<Queue>>,
    stores: Vec<Store>,
    faults: Mutex<Vec<Fault>>,
    /// Whether `faults` is worth a look: it is not, on the fast path.
    faulty: AtomicBool,
    /// Memory of the host's that it works with.
    lent: Mutex<host_memory::Lent>,
    /// Commands that were swallowed.
    stuck: Mutex<Vec<Stuck>>,
    /// Answers nothing until it is reset.
    hung: AtomicBool,
    /// Admin commands wait.
    admin_held: AtomicBool,
    /// A command made it fail: CSTS.CFS.
    crashed: AtomicBool,
    /// The limits of [`Fault::Smaller`] are in force.
    smaller: AtomicBool,
    /// The limit of [`Fault::SmallerDiscards`], 0 if it is not in force.
    discard_blocks: AtomicU32,
    /// Those of [`Fault::Shorter`] are.
    shorter: AtomicBool,
    /// Those of [`Fault::Fewer`] are.
    fewer: AtomicBool,
    resets: AtomicU64,
    subsystem_resets: AtomicU64,
    vanished: AtomicBool,
    /// Reads of registers, and writes to those before the doorbells, so far.
    register_accesses: AtomicU64,
    doorbells: AtomicU64,
    commands: AtomicU64,
    strays: AtomicU64,
    violations: Mutex<Vec<String>>,
    /// If they are kept.
    accesses: Mutex<Option<Vec<Access>>>,
}

impl FakeNvme {
    /// A controller that is off.
    #[must_use]
    pub fn new(bus: Arc<FakeBus>, config: Config) -> Self {
        Self(Arc::new(Shared {
            bus,
            control: Mutex::default(),
            queues: (0..config.queues).map(|_| Mutex::default()).collect(),
            stores: config
                .namespaces
                .iter()
                .map(|n| Store::new(n, config.write_cache))
                .collect(),
            config,
            faults: Mutex::default(),
            faulty: AtomicBool::new(false),
            lent: Mutex::default(),
            stuck: Mutex::default(),
            hung: AtomicBool::new(false),
            admin_held: AtomicBool::new(false),
            crashed: AtomicBool::new(false),
            smaller: AtomicBool::new(false),
            discard_blocks: AtomicU32::new(0),
            shorter: AtomicBool::new(false),
            fewer: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            subsystem_resets: AtomicU64::new(0),
            vanished: AtomicBool::new(false),
            register_accesses: AtomicU64::new(0),
            doorbells: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            strays: AtomicU64::new(0),
            violations: Mutex::default(),
            accesses: Mutex::default(),
        }))
    }

    /// Makes something go wrong.
    pub fn arm(&self, fault: Fault) {
        self.0.faults.lock().unwrap().push(fault);
        self.0.faulty.store(true, Ordering::Release);
    }

    /// Pulls the controller out: registers read as all ones, nothing is answered any longer.
    pub fn vanish(&self) {
        self.0.vanished.store(true, Ordering::Release);
    }

    /// Puts it in again after [`FakeNvme::vanish`], as it is after power on.
    pub fn come_back(&self) {
        self.0.power_on(&mut self.0.control.lock().unwrap());
        self.0.vanished.store(false, Ordering::Release);
    }

    /// Repairs what [`FakeNvme::arm`] has broken.
    pub fn repair(&self) {
        self.0.repair();
    }

    /// Makes CSTS.CFS appear.
    pub fn die(&self) {
        self.0.control.lock().unwrap().fatal = true;
    }

    /// Makes everything go unanswered until the next reset.
    pub fn hang(&self) {
        self.0.hung.store(true, Ordering::Release);
    }

    /// Whether the driver has asked for the delays of CRDT in statuses.
    #[must_use]
    pub fn delays_told(&self) -> bool {
        self.0.control.lock().unwrap().delays_told
    }

    /// From now on each admin command waits for [`FakeNvme::run_admin`].
    pub fn hold_admin(&self) {
        self.0.admin_held.store(true, Ordering::Release);
    }

    /// Carries out the next admin command, if there is one.
    pub fn run_admin(&self) {
        self.0.run_admin(&mut self.0.control.lock().unwrap(), 1);
    }

    /// How often the controller has been disabled while it was running.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.0.resets.load(Ordering::Acquire)
    }

    /// How often its subsystem has been reset.
    #[must_use]
    pub fn subsystem_resets(&self) -> u64 {
        self.0.subsystem_resets.load(Ordering::Acquire)
    }

    /// Gives namespace `id` another size, 0 for none at all, and reports it.
    pub fn resize(&self, id: u32, blocks: u64) {
        if let Some(store) = self.0.store(id) {
            store.resize(blocks);
        }
        self.0.control.lock().unwrap().changed.push(id);
        self.raise(0x04_0002);
    }

    /// Sets FPI of namespace `id`, `0x80` with the percentage of a format that is left, and reports
    /// it.
    pub fn format(&self, id: u32, progress: u8) {
        if let Some(store) = self.0.store(id) {
            store.set_format_progress(progress);
        }
        self.0.control.lock().unwrap().changed.push(id);
        self.raise(0x04_0002);
    }

    /// Formats namespace `id` with blocks of another size, and reports it.
    pub fn reformat(&self, id: u32, block_shift: u8) {
        if let Some(store) = self.0.store(id) {
            store.reformat(block_shift);
        }
        self.0.control.lock().unwrap().changed.push(id);
        self.raise(0x04_0002);
    }

    /// Puts another namespace in the place of number `id`, with this NGUID, and reports it.
    pub fn replace(&self, id: u32, nguid: [u8; 16]) {
        if let Some(store) = self.0.store(id) {
            store.replace(nguid);
        }
        self.0.control.lock().unwrap().changed.push(id);
        self.raise(0x04_0002);
    }

    /// The same for one that is known by its UUID, all zeroes if it has none.
    pub fn replace_uuid(&self, id: u32, uuid: [u8; 16]) {
        if let Some(store) = self.0.store(id) {
            store.replace_uuid(uuid);
        }
        self.0.control.lock().unwrap().changed.push(id);
        self.raise(0x04_0002);
    }

    /// Sends an event with this doubleword 0, as soon as the driver asks for one; none that it has
    /// not asked for (Asynchronous Event Configuration).
    pub fn raise(&self, event: u32) {
        let mut control = self.0.control.lock().unwrap();
        let asked_for = match (event & 7, event >> 8 & 0xff) {
            (1, _) => control.event_mask & 0xff != 0,
            (2, 0) => control.event_mask & 1 << 8 != 0,
            // Errors cannot be masked.
            _ => true,
        };
        if !asked_for {
            return;
        }
        control.events.push_back(event);
        control.send_events();
    }

    /// Sets the critical warnings of the SMART log and reports them.
    pub fn warn(&self, critical: u8) {
        self.0.control.lock().unwrap().critical = critical;
        self.raise(0x02_0001);
    }

    /// Carries out what is in the queues, and returns how many commands that were.
    pub fn run(&self) -> usize {
        self.run_at_most(usize::MAX)
    }

    /// As [`FakeNvme::run`], but of each queue no more than `most` commands.
    pub fn run_at_most(&self, most: usize) -> usize {
        let queues = self.0.queues.iter();
        (1..)
            .zip(queues)
            .map(|(id, queue)| self.0.run_io(id, &mut queue.lock().unwrap(), most))
            .sum()
    }

    /// Carries out at most `most` commands of I/O queue `queue`, and returns how many that were.
    pub fn run_queue(&self, queue: u16, most: usize) -> usize {
        let found = self.0.queues.get(usize::from(queue) - 1);
        found.map_or(0, |found| {
            self.0.run_io(queue, &mut found.lock().unwrap(), most)
        })
    }

    /// Commands in I/O queue `queue` that have not been taken.
    #[must_use]
    pub fn waiting(&self, queue: u16) -> u32 {
        let found = self.0.queues.get(usize::from(queue) - 1);
        found.map_or(0, |found| {
            let queue = found.lock().unwrap();
            queue.ring.as_ref().map_or(0, ring::Ring::waiting)
        })
    }

    /// Commands whose data was to go to, or come from, an address without memory: a page that was
    /// unmapped, say.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.0.strays.load(Ordering::Relaxed)
    }

    /// Hands over the blocks of all commands carried out since the last call, swallowed ones not
    /// among them. The first call gives none: it makes the controller keep them.
    #[must_use]
    pub fn take_accesses(&self) -> Vec<Access> {
        let mut kept = self.0.accesses.lock().unwrap();
        kept.replace(Vec::new()).unwrap_or_default()
    }

    /// Posts a completion that nobody asked for on I/O queue `queue`.
    pub fn post(&self, queue: u16, cid: u16, status: u16) {
        let mut queue = self.0.queues[usize::from(queue) - 1].lock().unwrap();
        if let Some(ring) = queue.ring.as_mut() {
            ring.post(cid, status, 0);
        }
    }

    /// Everything written and not flushed is lost.
    pub fn power_cut(&self) {
        self.0.stores.iter().for_each(Store::power_cut);
    }

    /// Puts `bytes` on the medium of a namespace that has that size, from the first block on.
    pub fn fill(&self, namespace: u32, bytes: &[u8]) {
        if let Some(store) = self.0.store(namespace) {
            store.fill(bytes);
        }
    }

    /// What a host finds in the namespace after the last power cut.
    #[must_use]
    pub fn contents(&self, namespace: u32) -> Vec<u8> {
        self.0
            .store(namespace)
            .map_or_else(Vec::new, Store::contents)
    }

    /// Reads of registers, and writes to those before the doorbells, so far.
    #[must_use]
    pub fn register_accesses(&self) -> u64 {
        self.0.register_accesses.load(Ordering::Relaxed)
    }

    /// Writes to the submission doorbells of I/O queues so far.
    #[must_use]
    pub fn doorbells(&self) -> u64 {
        self.0.doorbells.load(Ordering::Relaxed)
    }

    /// I/O commands carried out so far.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.0.commands.load(Ordering::Relaxed)
    }

    /// Bytes in each piece of the host's memory that it works with.
    #[must_use]
    pub fn lent(&self) -> Vec<usize> {
        self.0.lent_bytes()
    }

    /// What the driver did that the specification forbids.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.0.violations.lock().unwrap().clone()
    }
}

impl Shared {
    fn store(&self, namespace: u32) -> Option<&Store> {
        self.stores.iter().find(|store| store.id == namespace)
    }

    /// MDTS now.
    fn mdts(&self) -> u8 {
        if self.smaller.load(Ordering::Acquire) {
            1
        } else {
            self.config.mdts
        }
    }

    /// Limits of discards now.
    fn discards(&self) -> Option<DiscardConfig> {
        let smaller = self.smaller.load(Ordering::Acquire);
        let limits = self.config.discards.filter(|_| !smaller)?;
        Some(match self.discard_blocks.load(Ordering::Acquire) {
            0 => limits,
            range_blocks => DiscardConfig {
                ranges: 1,
                range_blocks,
                ..limits
            },
        })
    }

    /// The most entries in a queue now.
    fn entries(&self) -> u32 {
        match self.shorter.load(Ordering::Acquire) {
            true => self.config.entries.min(4),
            false => self.config.entries,
        }
    }

    /// I/O queue pairs that it grants now.
    fn granted(&self) -> u16 {
        let fewer = u16::from(self.fewer.load(Ordering::Acquire));
        self.config.queues.saturating_sub(fewer).max(1)
    }

    /// It starts: what it allows in a command may be something else from now on.
    fn renew_limits(&self) {
        self.smaller
            .store(self.has(Fault::Smaller), Ordering::Release);
        let faults = self.faults.lock().unwrap();
        let blocks = faults.iter().find_map(|fault| match fault {
            Fault::SmallerDiscards(blocks) => Some(*blocks),
            _ => None,
        });
        self.discard_blocks
            .store(blocks.unwrap_or(0), Ordering::Release);
    }

    /// It was reset: what it allows in queues may be something else from now on.
    fn renew_queues(&self) {
        let (shorter, fewer) = (self.has(Fault::Shorter), self.has(Fault::Fewer));
        self.shorter.store(shorter, Ordering::Release);
        self.fewer.store(fewer, Ordering::Release);
    }

    fn repair(&self) {
        self.faults.lock().unwrap().clear();
        self.faulty.store(false, Ordering::Release);
    }

    /// Notes a breach of the specification.
    fn violation(&self, what: impl Into<String>) {
        self.violations.lock().unwrap().push(what.into());
    }

    /// Whether a fault of the lasting kind is armed.
    fn has(&self, fault: Fault) -> bool {
        self.faulty.load(Ordering::Acquire) && self.faults.lock().unwrap().contains(&fault)
    }

    /// Takes a fault that happens once.
    fn once<T>(&self, pick: impl Fn(Fault) -> Option<T>) -> Option<T> {
        if !self.faulty.load(Ordering::Acquire) {
            return None;
        }
        let mut faults = self.faults.lock().unwrap();
        let (index, picked) = faults
            .iter()
            .enumerate()
            .find_map(|(index, fault)| pick(*fault).map(|picked| (index, picked)))?;
        faults.remove(index);
        self.faulty.store(!faults.is_empty(), Ordering::Release);
        Some(picked)
    }
}
