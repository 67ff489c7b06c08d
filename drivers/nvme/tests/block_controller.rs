//! An NVMe controller as the control core sees every disk.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{OPTIONS, Queue, Rig, command};
use spindle_block::{BlockController, BusMaster, DiskEvents, Op, Unit, UnitChange, Unreachable};
use spindle_nvme::NvmeDisk;
use spindle_testkit::nvme::{Config, FakeNvme, NamespaceConfig};
use spindle_testkit::queue::{complete, drain, pages};

/// Counts how often it was asked to keep the controller from memory.
#[derive(Clone, Debug, Default)]
struct Master(Rc<Cell<u32>>);

impl BusMaster for Master {
    fn place(&self) -> u32 {
        8
    }

    fn disable(&mut self) -> bool {
        self.0.set(self.0.get() + 1);
        true
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        Ok(())
    }

    fn enable(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn config() -> Config {
    let mut metadata = NamespaceConfig::new(7, 64, 9);
    metadata.metadata = 8;
    Config {
        namespaces: vec![
            NamespaceConfig::new(1, 2048, 9),
            NamespaceConfig::new(2, 256, 12),
            metadata,
            // One that is not there yet.
            NamespaceConfig::new(9, 0, 9),
        ],
        ..Config::default()
    }
}

fn disk(rig: &Rig, bus: Option<Master>) -> Box<dyn BlockController<Queue> + '_> {
    let controller = rig.start().unwrap();
    let registers = rig.disk.clone();
    Box::new(NvmeDisk::new(
        3,
        controller,
        registers,
        FakeNvme::clone,
        bus,
    ))
}

#[test]
fn it_offers_its_namespaces_and_a_queue_for_each_core() {
    let rig = Rig::new(config());
    let mut disk = disk(&rig, Some(Master::default()));
    assert_eq!((disk.name(), disk.place()), ("nvme3", 8));
    let volumes = disk.volumes(5);
    let shown: Vec<_> = volumes.iter().map(|v| (&*v.name, v.disk, v.unit)).collect();
    assert_eq!(
        shown,
        [("nvme3n1", 5, Unit(1)), ("nvme3n2", 5, Unit(2))],
        "by number, for the caller's disk"
    );
    let refused = disk.refused();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, "nvme3n7");
    assert!(refused[0].1.contains("metadata"), "{}", refused[0].1);

    let mut queues: Vec<_> = (0..OPTIONS.queues)
        .map(|_| disk.create_queue().unwrap())
        .collect();
    assert!(disk.create_queue().unwrap_err().contains("queue"));
    let memory = rig.memory(1);
    let segments = pages(&memory);
    for queue in &mut queues {
        let read = command(Op::Read, 2, 12, 0, &segments);
        assert_eq!(complete(queue, &read), Ok(Ok(())));
    }
    let mine = rig.bus.outstanding();
    disk.shutdown(queues).unwrap();
    assert!(rig.bus.outstanding() < mine && rig.bus.outstanding() == 1);
    rig.obeyed();
}

#[test]
fn changes_and_health_are_events() {
    let rig = Rig::new(config());
    let mut disk = disk(&rig, None);
    assert_eq!(disk.attend(), DiskEvents::default(), "nothing has happened");
    rig.disk.resize(2, 512);
    let resized = UnitChange::Resized {
        unit: Unit(2),
        sectors: 4096,
    };
    assert_eq!(disk.attend().changes, [resized]);
    rig.disk.resize(1, 0);
    let removed = UnitChange::Removed {
        unit: Unit(1),
        reason: String::from("the controller has it no longer"),
    };
    assert_eq!(disk.attend().changes, [removed]);
    rig.disk.resize(9, 64);
    assert_eq!(disk.attend().changes, [UnitChange::Added(Unit(9))]);
    disk.ask_health();
    let health = disk.attend().health.unwrap();
    assert!(health.starts_with("warnings=none "), "{health}");
    assert_eq!(disk.attend().health, None, "once for each question");
    disk.shutdown(Vec::new()).unwrap();
    rig.obeyed();
}

#[test]
fn a_controller_that_went_away_is_lost_once_and_kept_from_memory_where_that_can_be_done() {
    for master in [None, Some(Master::default())] {
        let rig = Rig::new(config());
        let mut disk = disk(&rig, master.clone());
        let queue = disk.create_queue().unwrap();
        rig.disk.vanish();
        let lost = disk.attend().lost.unwrap();
        assert_eq!(lost.disabled, master.is_some());
        assert!(!lost.reason.is_empty());
        assert_eq!(disk.attend().lost, None, "said once");
        let times = master.map_or(1, |master| master.0.get());
        assert_eq!(times, 1);
        assert!(disk.shutdown(vec![queue]).is_err());
    }
}

#[test]
fn completions_for_nothing_are_counted_over_all_queues_and_are_part_of_the_health() {
    let rig = Rig::new(config());
    let mut disk = disk(&rig, None);
    let mut queues: Vec<_> = (0..2).map(|_| disk.create_queue().unwrap()).collect();
    assert_eq!(disk.attend(), DiskEvents::default());
    for (queue, times) in [(1, 3), (2, 2)] {
        for cid in 0..times {
            rig.disk.post(queue, cid, 0);
        }
    }
    for queue in &mut queues {
        assert_eq!(drain(queue), []);
    }
    let health = disk.attend().health;
    let expected = "resets=0 aborts=0 spurious_completions=5";
    assert_eq!(health.as_deref(), Some(expected));
    assert_eq!(disk.attend().health, None, "no news");
    disk.ask_health();
    let health = disk.attend().health.unwrap();
    assert!(health.starts_with("warnings=none "), "{health}");
    assert!(health.ends_with(expected), "{health}");
    disk.shutdown(queues).unwrap();
}

#[test]
fn resets_are_part_of_the_health_and_reported_as_they_come() {
    let rig = Rig::new(config());
    let mut disk = disk(&rig, None);
    assert_eq!(disk.attend(), DiskEvents::default());
    rig.disk.die();
    let health = disk.attend().health;
    let expected = "resets=1 aborts=0 spurious_completions=0";
    assert_eq!(health.as_deref(), Some(expected));
    assert_eq!(disk.attend().health, None, "no news");
}

/// How a controller in the place of another one gets names of its own.
#[test]
fn its_number_is_in_its_name_and_in_those_of_its_namespaces() {
    let rig = Rig::new(config());
    let mut disk = disk(&rig, None);
    assert_eq!((disk.number(), disk.name()), (3, "nvme3"));
    assert_eq!(disk.name_of(12), "nvme12");
    disk.rename(12);
    assert_eq!((disk.number(), disk.name()), (12, "nvme12"));
    let volumes = disk.volumes(0);
    let names: Vec<_> = volumes.iter().map(|volume| &*volume.name).collect();
    assert_eq!(names, ["nvme12n1", "nvme12n2"]);
    disk.shutdown(Vec::new()).unwrap();
}
