//! A virtio device as the control core sees every disk.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{OPTIONS, Queue, Rig, scattered};
use spindle_block::{BlockController, BusMaster, DiskEvents, Op, Unit, UnitChange, Unreachable};
use spindle_testkit::queue::{command, complete, drain};
use spindle_testkit::virtio::{Config, FakeVirtio};
use spindle_virtio::VirtioDisk;

/// Counts how often it was asked to keep the device from memory, and says whether it could.
#[derive(Clone, Debug, Default)]
struct Master(Rc<Cell<u32>>, bool);

impl BusMaster for Master {
    fn place(&self) -> u32 {
        8
    }

    fn disable(&mut self) -> bool {
        self.0.set(self.0.get() + 1);
        self.1
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        Err(Unreachable {
            reason: "not asked for".into(),
            absent: false,
        })
    }

    fn enable(&mut self) {}
}

fn disk(rig: &Rig, bus: Master) -> Box<dyn BlockController<Queue> + '_> {
    let notify = rig.device.clone();
    let device = rig.start().unwrap();
    Box::new(VirtioDisk::new(1, device, notify, FakeVirtio::clone, bus))
}

#[test]
fn it_offers_one_volume_and_a_queue_for_each_core() {
    let rig = Rig::new(Config::default());
    let mut disk = disk(&rig, Master::default());
    assert_eq!((disk.name(), disk.place()), ("vdb", 8));
    let volumes = disk.volumes(4);
    let shown: Vec<_> = volumes.iter().map(|v| (&*v.name, v.disk, v.unit)).collect();
    assert_eq!(shown, [("vdb", 4, Unit(0))]);
    assert!(disk.refused().is_empty());
    let mut queues: Vec<_> = (0..OPTIONS.queues)
        .map(|_| disk.create_queue().unwrap())
        .collect();
    assert!(disk.create_queue().unwrap_err().contains("queues"));
    let memory = rig.memory(1);
    let page = scattered(&memory);
    for queue in &mut queues {
        assert_eq!(complete(queue, &command(Op::Read, 0, &page)), Ok(Ok(())));
    }
    disk.shutdown(queues).unwrap();
    assert_eq!(rig.bus.outstanding(), 1, "only what was read to");
    rig.obeyed();
}

#[test]
fn a_new_size_is_an_event_and_an_impossible_one_is_not() {
    let rig = Rig::new(Config::default());
    let mut disk = disk(&rig, Master::default());
    assert_eq!(disk.attend(), DiskEvents::default(), "nothing has happened");
    rig.device.resize(4096);
    let resized = UnitChange::Resized {
        unit: Unit(0),
        sectors: 4096,
    };
    assert_eq!(disk.attend().changes, [resized]);
    assert_eq!(disk.volumes(0)[0].sectors, 4096);
    rig.device.resize(u64::MAX);
    assert_eq!(disk.attend(), DiskEvents::default());
    assert_eq!(disk.volumes(0)[0].sectors, 4096, "the old one counts on");
    disk.shutdown(Vec::new()).unwrap();
    rig.obeyed();
}

#[test]
fn a_device_that_failed_is_lost_once_and_kept_from_memory_where_that_can_be_done() {
    for can in [false, true] {
        let rig = Rig::new(Config::default());
        let master = Master(Rc::default(), can);
        let mut disk = disk(&rig, master.clone());
        rig.device.die();
        let lost = disk.attend().lost.unwrap();
        assert_eq!(lost.disabled, can);
        assert_eq!(lost.reason, "device reports a fatal error");
        assert_eq!(disk.attend(), DiskEvents::default(), "said once");
        assert_eq!(master.0.get(), 1);
    }
}

#[test]
fn used_entries_for_nothing_are_counted_over_all_queues_and_are_all_of_the_health() {
    let rig = Rig::new(Config::default());
    let mut disk = disk(&rig, Master::default());
    let mut queues: Vec<_> = (0..2).map(|_| disk.create_queue().unwrap()).collect();
    disk.ask_health();
    let health = disk.attend().health;
    assert_eq!(health.as_deref(), Some("spurious_completions=0"));
    assert_eq!(disk.attend(), DiskEvents::default(), "no news");
    for (queue, id) in [(0, 1), (0, u32::MAX), (1, 3)] {
        rig.device.post(queue, id, 0);
    }
    for queue in &mut queues {
        assert_eq!(drain(queue), []);
    }
    let health = disk.attend().health;
    assert_eq!(health.as_deref(), Some("spurious_completions=3"));
    assert_eq!(disk.attend(), DiskEvents::default(), "no news");
    disk.shutdown(queues).unwrap();
}
