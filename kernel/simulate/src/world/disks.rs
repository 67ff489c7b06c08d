//! The domain's disks: models of NVMe controllers and virtio devices behind the real drivers, and
//! RAM disks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use spindle_block::{
    BlockController, BlockReader, Budget, BusMaster, Command, DiskEvents, DiskOptions, DiskQueue,
    Inspection, IoResult, LostController, Part, RamQueue, Run, Stretch, SubmitError,
    Table as PartitionTable, Tag, Unreachable, Volume, table,
};
use spindle_config::DiskSize;
use spindle_control::{Disks, RamDisks};
use spindle_hw::{DmaAlloc, NarrowRegisters, Registers, Retake, SharedPages};
use spindle_kept::RamRecords;
use spindle_nvme::{Controller, NvmeDisk, QueuePair, Standby};
use spindle_pci::{BarWindow, Bus, Placement};
use spindle_testkit::mem::FakeBus;
use spindle_testkit::nvme::FakeNvme;
use spindle_testkit::pci::FakePci;
use spindle_testkit::virtio::FakeVirtio;
use spindle_virtio::{BlockQueue, Disk as VirtioDevice, Layout, PciTransport, VirtioDisk};

use super::machine::Machine;

/// One core's queue on a disk.
#[derive(Debug, Default)]
pub enum Queue {
    /// A queue pair of an NVMe controller.
    Nvme(QueuePair<FakeNvme>),
    /// A virtqueue of a virtio device.
    Virtio(BlockQueue<FakeVirtio>),
    /// That of a RAM disk.
    Ram(RamQueue<&'static FakeBus>),
    /// The core has none on that disk.
    #[default]
    None,
}

/// Of one type, and back.
macro_rules! convert {
    ($kind:ident, $queue:ty) => {
        impl From<$queue> for Queue {
            fn from(queue: $queue) -> Self {
                Self::$kind(queue)
            }
        }

        impl TryFrom<Queue> for $queue {
            type Error = Queue;

            fn try_from(queue: Queue) -> Result<Self, Queue> {
                match queue {
                    Queue::$kind(queue) => Ok(queue),
                    other => Err(other),
                }
            }
        }
    };
}

convert!(Nvme, QueuePair<FakeNvme>);
convert!(Virtio, BlockQueue<FakeVirtio>);
convert!(Ram, RamQueue<&'static FakeBus>);

/// What is asked of whichever disk it is, and what a core without a queue gets.
macro_rules! on {
    ($queue:expr, $name:ident ($($argument:expr),*), $none:expr) => {
        match $queue {
            Queue::Nvme(queue) => queue.$name($($argument),*),
            Queue::Virtio(queue) => queue.$name($($argument),*),
            Queue::Ram(queue) => queue.$name($($argument),*),
            Queue::None => $none,
        }
    };
}

impl DiskQueue for Queue {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        on!(self, submit(command, tag), Err(SubmitError::Gone))
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        let gone = Err(SubmitError::Gone);
        on!(self, submit_part(command, from, budget, tag), gone)
    }

    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        on!(self, requests(command), Err(SubmitError::Gone))
    }

    fn depth(&self) -> usize {
        on!(self, depth(), 0)
    }

    fn commit(&mut self) {
        on!(self, commit(), ());
    }

    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
        on!(self, poll(done), 0)
    }

    fn in_flight(&self) -> usize {
        on!(self, in_flight(), 0)
    }

    fn is_stirred(&self) -> bool {
        on!(self, is_stirred(), false)
    }

    fn is_working(&self) -> bool {
        on!(self, is_working(), false)
    }

    fn tick(&mut self, now_ns: u64) {
        on!(self, tick(now_ns), ());
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        on!(self, fail_all(done), ());
    }
}

/// A PCI function that can be kept from memory.
#[derive(Debug)]
struct Master {
    place: u32,
    remote: Rc<RefCell<Remote>>,
    controller: Model,
}

/// What is behind a PCI function.
#[derive(Debug)]
enum Model {
    Nvme(FakeNvme),
    Virtio(FakeVirtio),
}

impl Model {
    /// Whether it may write to memory if it masters the bus: by CC (NVMe 1.4, 3.1.5) or
    /// `device_status` (virtio 1.2, 4.1.4.3).
    fn is_enabled(&self) -> bool {
        match self {
            Self::Nvme(model) => model.read32(0x14) & 1 != 0,
            Self::Virtio(model) => model.read8(0x14) != 0,
        }
    }
}

impl BusMaster for Master {
    fn place(&self) -> u32 {
        self.place
    }

    fn disable(&mut self) -> bool {
        let mut remote = self.remote.borrow_mut();
        remote.masters = Some(false);
        !remote.loose
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        self.remote.borrow_mut().masters = Some(false);
        Ok(())
    }

    fn enable(&mut self) {
        let enabled = self.controller.is_enabled();
        assert!(!enabled, "it may still write to memory");
        self.remote.borrow_mut().masters = Some(true);
    }
}

/// What tests do to a disk, and what they see of it.
#[derive(Debug, Default)]
pub struct Remote {
    /// The disk is lost as soon as it is attended to; whether it reaches no memory by then.
    pub lose: Option<bool>,
    /// Whether it masters the bus, once that was changed.
    pub masters: Option<bool>,
    /// Its bus mastering cannot be taken away.
    pub loose: bool,
    /// How often the cores were said to have closed what was removed.
    pub closed: usize,
    /// How often it was probed again.
    pub probed: usize,
    /// It has no more queues than that.
    pub queues: Option<usize>,
    /// Its volumes have blocks of a page.
    pub large_blocks: bool,
    /// The outcome of its shutdown, and how many queues came back.
    pub shutdown: Option<(Result<(), String>, usize)>,
}

/// The disks, by their number.
pub type Remotes = Vec<Rc<RefCell<Remote>>>;

/// A controller, and what tests do to it.
struct Watched {
    inner: Box<dyn BlockController<Queue>>,
    remote: Rc<RefCell<Remote>>,
    given: usize,
}

impl BlockController<Queue> for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn place(&self) -> u32 {
        self.inner.place()
    }

    fn volumes(&self, disk: usize) -> Vec<Volume> {
        let mut volumes = self.inner.volumes(disk);
        if self.remote.borrow().large_blocks {
            volumes
                .iter_mut()
                .for_each(|volume| volume.block_shift = 12);
        }
        volumes
    }

    fn refused(&self) -> Vec<(String, String)> {
        self.inner.refused()
    }

    fn create_queue(&mut self) -> Result<Queue, String> {
        if self.remote.borrow().queues == Some(self.given) {
            return Err("no queue left".into());
        }
        self.given += 1;
        self.inner.create_queue()
    }

    fn attend(&mut self) -> DiskEvents {
        let mut events = self.inner.attend();
        if let Some(disabled) = self.remote.borrow_mut().lose.take() {
            let reason = "lost by a test".into();
            events.lost = Some(LostController {
                reason,
                disabled,
                stopped: disabled,
                again: false,
            });
        }
        events
    }

    fn closed(&mut self) {
        self.remote.borrow_mut().closed += 1;
        self.inner.closed();
    }

    fn rescan(&mut self) {
        self.inner.rescan();
    }

    fn probe_again(&mut self) -> Result<(), String> {
        self.remote.borrow_mut().probed += 1;
        self.inner.probe_again()
    }

    fn number(&self) -> usize {
        self.inner.number()
    }

    fn name_of(&self, number: usize) -> String {
        self.inner.name_of(number)
    }

    fn rename(&mut self, number: usize) {
        self.inner.rename(number);
    }

    fn ask_health(&mut self) {
        self.inner.ask_health();
    }

    fn inspect(&mut self, wanted: Inspection) -> Option<bool> {
        self.inner.inspect(wanted)
    }

    fn stand_by(&mut self, within: Option<Duration>) -> Option<Result<Vec<u64>, &'static str>> {
        self.inner.stand_by(within)
    }

    fn shutdown(self: Box<Self>, queues: Vec<Queue>) -> Result<(), String> {
        let count = queues.iter().filter(|q| !matches!(q, Queue::None));
        let count = count.count();
        let outcome = self.inner.shutdown(queues);
        self.remote.borrow_mut().shutdown = Some((outcome.clone(), count));
        outcome
    }
}

/// A disk, as each life of the kernel finds it.
#[derive(Clone, Debug)]
enum Found {
    Nvme(FakeNvme, usize, DiskOptions),
    Virtio(FakeVirtio, usize, DiskOptions),
    Ram(DiskSize),
}

/// A volume that is spread over several disks: what a description on them makes of these, but for that
/// there is none.
#[derive(Clone, Copy, Debug)]
pub struct SpreadVolume {
    /// Its name.
    pub name: &'static str,
    /// Sectors, sectors in a stripe, and its runs.
    pub stretches: &'static [(u64, u64, &'static [RunOn])],
}

/// On which disk a run begins, and at which sector.
pub type RunOn = (&'static str, u64);

impl SpreadVolume {
    /// Puts it together as soon as all of its disks have been `seen`.
    fn assemble(&self, seen: &[Volume]) -> Option<Volume> {
        let place = |name: &str| seen.iter().position(|disk| disk.name == name);
        let stretches = self.stretches.iter().map(|&(sectors, chunk, runs)| {
            let run = |&(disk, sector): &RunOn| {
                let volume = place(disk)?;
                Some(Run { volume, sector })
            };
            let runs = runs.iter().map(run).collect::<Option<_>>()?;
            Some(Stretch {
                sectors,
                chunk,
                runs,
            })
        });
        let stretches: Option<Vec<_>> = stretches.collect();
        let volume = Volume::assembled(self.name.into(), &stretches?, seen);
        Some(volume.expect("a volume in its place"))
    }
}

/// The disks that a domain has.
pub struct Hardware {
    found: Vec<(Found, Rc<RefCell<Remote>>)>,
    partitions: Option<u64>,
    tables: bool,
    spread: Option<SpreadVolume>,
    /// Where it is on record which memory the RAM disks have.
    ram_records: &'static SharedPages,
    life: u64,
}

/// The disks that a domain is to have.
pub struct Table {
    controllers: Vec<Watched>,
    found: Vec<Found>,
    ram: RamDisks<&'static FakeBus>,
    ram_records: &'static SharedPages,
    /// Which life of the kernel they are for, 1 for the first.
    life: u64,
    /// The controllers that were left enabled for it, with their memory.
    standing: Vec<(Standby, SharedPages)>,
    /// Whether each disk has a partition, of so many blocks from block 8 on.
    pub partitions: Option<u64>,
    /// Whether what stands on the disks of partitions and logical volumes is read, instead.
    pub tables: bool,
    /// A volume on several of them. It must begin on the disk that is added last of these.
    pub spread: Option<SpreadVolume>,
    machine: &'static Machine,
}

impl Table {
    /// No disks yet, in the first life of a kernel.
    pub fn new(machine: &'static Machine, ram_records: &'static SharedPages) -> Self {
        Self::begin(machine, ram_records, 1)
    }

    fn begin(machine: &'static Machine, ram_records: &'static SharedPages, life: u64) -> Self {
        let records = RamRecords::begin(ram_records.alias(), life > 1);
        Self {
            controllers: Vec::new(),
            found: Vec::new(),
            ram: RamDisks::take_up(Some(records), machine.bus, life),
            ram_records,
            life,
            standing: Vec::new(),
            partitions: None,
            tables: false,
            spread: None,
            machine,
        }
    }

    /// The disks that a former life of the kernel had, found anew. `standing` is what that has said of
    /// controllers that it has left enabled.
    pub fn again(machine: &'static Machine, hardware: &Hardware, standing: &[u64]) -> Self {
        let mut table = Self::begin(machine, hardware.ram_records, hardware.life + 1);
        let left = Standby::read_all(standing).into_iter();
        let left = left.filter_map(|left| {
            let (bus, pages) = left.memory();
            Some((left, machine.bus.retake(bus, pages)?))
        });
        table.standing = left.collect();
        (table.partitions, table.spread) = (hardware.partitions, hardware.spread);
        table.tables = hardware.tables;
        let disks = hardware.found.iter();
        let wanted = disks.filter_map(|(found, _)| match found {
            Found::Ram(disk) => Some(*disk),
            _ => None,
        });
        table.ram.keep_only(&wanted.collect::<Vec<_>>());
        for (found, remote) in &hardware.found {
            let Remote { loose, queues, .. } = *remote.borrow();
            let large_blocks = remote.borrow().large_blocks;
            *remote.borrow_mut() = Remote {
                loose,
                queues,
                large_blocks,
                ..Remote::default()
            };
            table.add_found(found.clone(), Rc::clone(remote));
        }
        table
    }

    fn add_found(&mut self, found: Found, remote: Rc<RefCell<Remote>>) {
        self.found.push(found.clone());
        match found {
            Found::Nvme(model, number, options) => {
                self.add_nvme_as(&model, number, options, remote);
            }
            Found::Virtio(model, number, options) => {
                self.add_virtio_as(&model, number, options, remote);
            }
            Found::Ram(disk) => {
                let disk = self.ram.make(disk, self.bus()).unwrap();
                self.add(disk, remote);
            }
        }
    }

    fn bus(&self) -> &'static FakeBus {
        self.machine.bus
    }

    fn add(
        &mut self,
        controller: impl BlockController<Queue> + 'static,
        remote: Rc<RefCell<Remote>>,
    ) {
        self.controllers.push(Watched {
            inner: Box::new(controller),
            remote,
            given: 0,
        });
    }

    /// Where the next controller is plugged in: they are found in the same order in each life.
    fn next_place(&self) -> u32 {
        self.controllers.len() as u32 + 1
    }

    /// Starts an NVMe controller, whose namespaces become `nvme<number>n<id>`.
    pub fn add_nvme(&mut self, model: &FakeNvme, number: usize, options: DiskOptions) {
        self.add_found(Found::Nvme(model.clone(), number, options), Rc::default());
    }

    fn add_nvme_as(
        &mut self,
        model: &FakeNvme,
        number: usize,
        options: DiskOptions,
        remote: Rc<RefCell<Remote>>,
    ) {
        let clock = self.machine.cpu(0);
        let left = self
            .standing
            .iter()
            .position(|(left, _)| left.is_left(model));
        let adopted = left.and_then(|at| {
            let (left, memory) = self.standing.swap_remove(at);
            Controller::adopt(model.clone(), clock, self.bus(), options, &left, memory).ok()
        });
        let start = match self.life > 1 {
            true => Controller::start_again,
            false => Controller::start,
        };
        let controller =
            adopted.map_or_else(|| start(model.clone(), clock, self.bus(), options), Ok);
        let controller = controller.unwrap_or_else(|error| {
            Controller::absent(model.clone(), clock, self.bus(), options, error).unwrap()
        });
        let model = model.clone();
        let bus = Master {
            place: self.next_place(),
            remote: remote.clone(),
            controller: Model::Nvme(model.clone()),
        };
        let disk = NvmeDisk::new(number, controller, model, Clone::clone, bus);
        self.add(disk, remote);
    }

    /// Starts a virtio device, which becomes `vda` or one of the following letters; one that fails at
    /// that is tried again.
    pub fn add_virtio(&mut self, model: &FakeVirtio, number: usize, options: DiskOptions) {
        self.add_found(Found::Virtio(model.clone(), number, options), Rc::default());
    }

    fn add_virtio_as(
        &mut self,
        model: &FakeVirtio,
        number: usize,
        options: DiskOptions,
        remote: Rc<RefCell<Remote>>,
    ) {
        let pci = FakePci::new();
        pci.insert((0, 5, 0), model.function());
        let bus = Bus::new(pci);
        let function = bus.scan()[0];
        let mut window = BarWindow::HVM;
        let placement = Placement::Assign(&mut window);
        let bars = bus.enable(function.address, placement).unwrap();
        let layout = Layout::find(&bus, function.address, &bars).unwrap();
        let mut transport = PciTransport::new(layout, |_| Ok::<_, ()>(model.clone())).unwrap();
        let clock = self.machine.cpu(0);
        if self.life > 1 {
            // One that does not stop does not start either.
            let _ = spindle_virtio::stop(&mut transport, &clock);
        }
        let mut device = VirtioDevice::new(transport, clock, self.bus(), options);
        let started = match self.life > 1 {
            true => device.bring_up_again(),
            false => device.bring_up(),
        };
        let model = model.clone();
        let bus = Master {
            place: self.next_place(),
            remote: remote.clone(),
            controller: Model::Virtio(model.clone()),
        };
        let mut disk = VirtioDisk::new(number, device, model, Clone::clone, bus);
        if let Err(reason) = started {
            disk = disk.not_started(reason);
        }
        self.add(disk, remote);
    }

    /// Makes RAM disk `ram0` or one of those after it.
    pub fn add_ram(&mut self, name: &str, bytes: u64) {
        let number = name.strip_prefix("ram").unwrap().parse().unwrap();
        self.add_found(Found::Ram(DiskSize { number, bytes }), Rc::default());
    }

    /// Changes what the disk with this number is like.
    pub fn change(&mut self, disk: usize, change: impl FnOnce(&mut Remote)) {
        change(&mut self.controllers[disk].remote.borrow_mut());
    }

    /// The disks as control gets them, and as tests do.
    pub fn finish(self) -> (Disks<Queue>, Remotes, Hardware) {
        let remotes = self.controllers.iter().map(|c| Rc::clone(&c.remote));
        let remotes: Remotes = remotes.collect();
        let hardware = Hardware {
            found: self.found.into_iter().zip(remotes.clone()).collect(),
            partitions: self.partitions,
            tables: self.tables,
            spread: self.spread,
            ram_records: self.ram_records,
            life: self.life,
        };
        let boxed = |controller| Box::new(controller) as Box<dyn BlockController<Queue>>;
        let controllers = self.controllers.into_iter().map(boxed).collect();
        let (blocks, tables, spread) = (self.partitions, self.tables, self.spread);
        let (clock, memory): (_, &FakeBus) = (self.machine.cpu(0), self.machine.bus);
        let (mut seen, mut made) = (Vec::new(), false);
        let read = move |disk: &Volume, queue: &mut Queue| {
            assert!(!matches!(queue, Queue::None));
            if tables {
                let reader = BlockReader::new(queue, disk, clock, memory, 1_000_000_000);
                return table(disk, &mut reader.unwrap()).unwrap();
            }
            let partition = blocks.map(|blocks| Volume {
                name: format!("{}p1", disk.name),
                start: 8,
                sectors: blocks * disk.sectors_per_block(),
                ..disk.clone()
            });
            seen.push(disk.clone());
            let spread = spread.filter(|_| !made);
            let spread = spread.and_then(|spread| spread.assemble(&seen));
            made |= spread.is_some();
            PartitionTable {
                partitions: partition.into_iter().chain(spread).collect(),
                ..PartitionTable::default()
            }
        };
        let partitions = (blocks.is_some() || tables || spread.is_some()).then_some(read);
        let mut disks = Disks::new(controllers, Vec::new(), partitions);
        let bus = self.machine.bus;
        disks.read_tables(Box::new(|| bus.alloc(1)));
        (disks, remotes, hardware)
    }
}
