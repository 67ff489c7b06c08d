//! The domain's disks: models of NVMe controllers and virtio devices behind the real drivers, and
//! RAM disks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use spindle_block::{
    Budget, Command, DiskOptions, DiskQueue, IoResult, Part, RamDisk, RamQueue, SubmitError, Tag,
    Targets, Unit, Volume,
};
use spindle_control::{Care, DiskTable};
use spindle_nvme::{Change, Controller, QueuePair};
use spindle_pci::{Bus, Placement, Window};
use spindle_testkit::mem::FakeBus;
use spindle_testkit::nvme::FakeNvme;
use spindle_testkit::pci::FakePci;
use spindle_testkit::virtio::FakeVirtio;
use spindle_virtio::{BlockQueue, Disk as VirtioDisk, Layout, PciTransport};

use super::machine::{Cpu, Machine};

/// One core's queue on a disk.
#[derive(Debug)]
pub(crate) enum Queue {
    Nvme(QueuePair<FakeNvme>),
    Virtio(BlockQueue<FakeVirtio>),
    Ram(RamQueue<&'static FakeBus>),
    None,
}

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

enum Disk {
    Nvme(Box<Controller<FakeNvme, Cpu, &'static FakeBus>>, FakeNvme),
    Virtio(
        Box<VirtioDisk<FakeVirtio, Cpu, &'static FakeBus>>,
        FakeVirtio,
    ),
    Ram(RamDisk),
}

/// What tests do to the disks, and what they see of them.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// What attending to the disks gives besides, next time.
    pub(crate) care: Care,
    /// What is done whenever it was asked whether a disk is lost.
    pub(crate) after_lost: Option<fn()>,
    /// Outcomes of the shutdowns, in the order of the disks, and how many queues each got back.
    pub(crate) shutdowns: Vec<(Result<(), String>, usize)>,
    /// How often the disks were asked for their health logs.
    pub(crate) health_asked: usize,
}

pub(crate) struct Table {
    disks: Vec<Disk>,
    targets: Targets,
    lost: Vec<usize>,
    /// Disks that give no queue to cores from this one on.
    pub(crate) queues: BTreeMap<usize, usize>,
    given: usize,
    machine: &'static Machine,
    pub(crate) remote: Rc<RefCell<Remote>>,
}

impl Table {
    pub(crate) fn new(machine: &'static Machine) -> Self {
        Self {
            disks: Vec::new(),
            targets: Targets::default(),
            lost: Vec::new(),
            queues: BTreeMap::new(),
            given: 0,
            machine,
            remote: Rc::default(),
        }
    }

    fn bus(&self) -> &'static FakeBus {
        self.machine.bus
    }

    fn volumes(&self) -> Vec<Volume> {
        self.targets.volumes().to_vec()
    }

    fn add(&mut self, disk: Disk, volumes: Vec<Volume>) {
        self.disks.push(disk);
        let all = self.volumes().into_iter().chain(volumes);
        self.targets = Targets::new(all.map(|volume| (volume, Vec::new())));
    }

    /// Starts an NVMe controller, whose namespaces become `nvme<number>n<id>`.
    pub(crate) fn add_nvme(&mut self, model: &FakeNvme, number: usize, options: DiskOptions) {
        let clock = self.machine.cpu(0);
        let controller = Controller::start(model.clone(), clock, self.bus(), options).unwrap();
        let volumes = controller.volumes(self.disks.len(), number);
        self.add(Disk::Nvme(Box::new(controller), model.clone()), volumes);
    }

    /// Starts a virtio device, which becomes `vda` or one of the following letters.
    pub(crate) fn add_virtio(&mut self, model: &FakeVirtio, number: usize, options: DiskOptions) {
        let pci = FakePci::new();
        pci.insert((0, 5, 0), model.function());
        let bus = Bus::new(pci);
        let function = bus.scan()[0];
        let mut window = Window::HVM;
        let placement = Placement::Assign(&mut window);
        let bars = bus.enable(function.address, placement).unwrap();
        let layout = Layout::find(&bus, function.address, &bars).unwrap();
        let transport = PciTransport::new(layout, |_| Ok::<_, ()>(model.clone())).unwrap();
        let clock = self.machine.cpu(0);
        let disk = VirtioDisk::start(transport, clock, self.bus(), options).unwrap();
        let volume = disk.volume(self.disks.len(), number);
        self.add(Disk::Virtio(Box::new(disk), model.clone()), vec![volume]);
    }

    /// Makes a RAM disk.
    pub(crate) fn add_ram(&mut self, name: &str, bytes: u64) {
        let ram = RamDisk::new(bytes, &self.bus()).unwrap();
        let volume = ram.volume(name, self.disks.len());
        self.add(Disk::Ram(ram), vec![volume]);
    }

    /// Changes a volume as if its disk had been like that.
    pub(crate) fn describe(&mut self, name: &str, change: impl Fn(&mut Volume)) {
        let mut volumes = self.volumes();
        volumes
            .iter_mut()
            .filter(|v| v.name == name)
            .for_each(change);
        self.targets = Targets::new(volumes.into_iter().map(|volume| (volume, Vec::new())));
    }

    /// A queue on every disk, for the next core.
    pub(crate) fn queues_for_core(&mut self) -> Vec<Queue> {
        let bus = self.bus();
        let core = self.given;
        self.given += 1;
        let limits = &self.queues;
        let queue = |(index, disk): (usize, &mut Disk)| {
            if limits.get(&index).is_some_and(|limit| core >= *limit) {
                return Queue::None;
            }
            match disk {
                Disk::Nvme(disk, model) => match disk.create_queue(model.clone()) {
                    Ok(queue) => Queue::Nvme(queue),
                    Err(_) => Queue::None,
                },
                Disk::Virtio(disk, model) => match disk.create_queue(model.clone()) {
                    Ok(queue) => Queue::Virtio(queue),
                    Err(_) => Queue::None,
                },
                Disk::Ram(ram) => Queue::Ram(ram.queue(64, bus)),
            }
        };
        self.disks.iter_mut().enumerate().map(queue).collect()
    }

    /// The name of all of `unit`, with its size.
    fn sized(&self, disk: usize, unit: u32, sectors: u64) -> Option<(String, u64)> {
        let mut volumes = self.targets.volumes().iter();
        let volume = volumes.find(|v| (v.disk, v.unit) == (disk, Unit(unit)))?;
        Some((volume.name.clone(), sectors))
    }
}

impl DiskTable for Table {
    type Queue = Queue;

    fn targets(&self) -> &Targets {
        &self.targets
    }

    fn targets_mut(&mut self) -> &mut Targets {
        &mut self.targets
    }

    fn list(&self) -> String {
        let names = self.targets.disks().map(|volume| volume.name.as_str());
        names.collect::<Vec<_>>().join("\n")
    }

    fn is_lost(&self, disk: usize) -> bool {
        let lost = self.lost.contains(&disk);
        if let Some(after) = self.remote.borrow().after_lost {
            after();
        }
        lost
    }

    fn attend(&mut self) -> Care {
        let mut care = std::mem::take(&mut self.remote.borrow_mut().care);
        self.lost.extend(care.lost.iter().chain(&care.loose));
        for index in 0..self.disks.len() {
            match &mut self.disks[index] {
                Disk::Nvme(controller, _) => {
                    let attention = controller.attend();
                    care.wake |= attention.wake;
                    care.soon |= attention.soon;
                    for change in attention.changes {
                        if let Change::Resized { id, sectors } = change {
                            care.resized.extend(self.sized(index, id, sectors));
                        }
                    }
                    // Its PCI function keeps it from memory, whatever it has said.
                    if attention.lost.is_some() {
                        self.lost.push(index);
                        care.lost.push(index);
                    }
                }
                Disk::Virtio(disk, _) if !self.lost.contains(&index) => {
                    if disk.health().is_err() {
                        self.lost.push(index);
                        care.lost.push(index);
                    } else if let Ok(Some(sectors)) = disk.resized() {
                        care.resized.extend(self.sized(index, 0, sectors));
                    }
                }
                Disk::Virtio(..) | Disk::Ram(_) => {}
            }
        }
        care
    }

    fn ask_health(&mut self) {
        self.remote.borrow_mut().health_asked += 1;
    }

    fn shutdown(self, queues: Vec<Vec<Queue>>) {
        let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
        for disk in self.disks {
            let of_disk: Vec<Queue> = queues.iter_mut().filter_map(Iterator::next).collect();
            let count = of_disk.iter().filter(|q| !matches!(q, Queue::None)).count();
            let outcome = match disk {
                Disk::Nvme(controller, _) => {
                    let pairs = of_disk.into_iter().filter_map(|queue| match queue {
                        Queue::Nvme(pair) => Some(pair),
                        _ => None,
                    });
                    controller.shutdown(pairs).map_err(|e| e.to_string())
                }
                Disk::Virtio(disk, _) => {
                    let queues = of_disk.into_iter().filter_map(|queue| match queue {
                        Queue::Virtio(queue) => Some(queue),
                        _ => None,
                    });
                    disk.shutdown(queues).map_err(|e| e.to_string())
                }
                Disk::Ram(_) => Ok(()),
            };
            self.remote.borrow_mut().shutdowns.push((outcome, count));
        }
    }
}
