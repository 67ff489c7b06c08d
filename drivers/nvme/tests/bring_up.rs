//! Bring-up, identification and shutdown, and each way they can fail.

mod common;

use std::time::Duration;

use common::{OPTIONS, Queue, Rig};
use spindle_block::DiskOptions;
use spindle_hw::{Clock, Registers};
use spindle_nvme::{Controller, Error, NamespaceError, Status, register_bytes};
use spindle_testkit::nvme::{Config, FakeNvme, Fault, NamespaceConfig, Quirk, Quirks};

fn config() -> Config {
    Config::default()
}

fn start_error(config: Config, fault: Option<Fault>) -> Error {
    let rig = Rig::new(config);
    fault.into_iter().for_each(|fault| rig.disk.arm(fault));
    let error = rig.start().unwrap_err();
    if !matches!(fault, Some(Fault::NeverIdle)) {
        assert_eq!(rig.bus.outstanding(), 0, "memory is given back");
    }
    rig.obeyed();
    error
}

#[test]
fn a_controller_comes_up_is_identified_and_goes_down_without_a_trace() {
    let mut namespaces = vec![
        NamespaceConfig::new(1, 2048, 9),
        NamespaceConfig::new(7, 100, 12),
    ];
    namespaces[0].granularity = Some(7);
    namespaces[1].read_only = true;
    let rig = Rig::new(Config {
        namespaces,
        ..config()
    });
    let mut controller = rig.start().unwrap();
    let identity = controller.identity();
    assert_eq!(identity.model, "Fake NVMe controller");
    assert_eq!(identity.serial, "SPINDLE-0001");
    assert_eq!(identity.firmware, "1.0");
    assert_eq!(identity.version, (1, 4));
    assert_eq!(identity.max_transfer, 512 << 10);
    let volumes = controller.volumes(3, 0);
    assert_eq!(volumes[0].name, "nvme0n1");
    assert_eq!(volumes[0].sectors, 2048);
    assert_eq!(volumes[0].physical_block_shift, 12);
    assert_eq!((volumes[1].name.as_str(), volumes[1].disk), ("nvme0n7", 3));
    assert_eq!((volumes[1].sectors, volumes[1].block_shift), (800, 12));
    assert!(volumes[1].read_only && volumes[1].write_cache);
    assert_eq!(controller.queues(), 2);
    let queues = [
        controller.create_queue(rig.disk.clone()).unwrap(),
        controller.create_queue(rig.disk.clone()).unwrap(),
    ];
    assert_eq!(
        controller.create_queue(rig.disk.clone()).unwrap_err(),
        Error::NoQueue { granted: 2 }
    );
    assert_eq!(controller.attend().lost, None);
    controller.shutdown(queues).unwrap();
    assert_eq!(rig.bus.outstanding(), 0);
    assert_eq!(rig.disk.read32(0x14) & 1, 0, "disabled");
    rig.obeyed();
    // And once more, as after a restart.
    rig.start().unwrap().shutdown(Vec::<Queue>::new()).unwrap();
    rig.obeyed();
}

#[test]
fn a_controller_that_is_still_running_is_taken_over() {
    let rig = Rig::new(config());
    std::mem::forget(rig.start().unwrap());
    rig.start().unwrap();
    rig.obeyed();
}

#[test]
fn a_controller_that_does_not_follow_is_given_up_after_its_own_limit() {
    let limit = Duration::from_millis(12500);
    assert_eq!(
        start_error(config(), Some(Fault::NeverReady)),
        Error::NotReady(limit)
    );
    let slow = Config {
        timeout: 0,
        ..config()
    };
    let limit = Duration::from_millis(500);
    assert_eq!(
        start_error(slow, Some(Fault::NeverReady)),
        Error::NotReady(limit)
    );
    let rig = Rig::new(config());
    std::mem::forget(rig.start().unwrap());
    rig.disk.arm(Fault::NeverIdle);
    assert!(matches!(rig.start(), Err(Error::NotDisabled(_))));
}

/// Whatever the controller says that it may take at most: 12.5 s each time.
#[test]
fn nothing_is_waited_for_that_is_there_already() {
    let rig = Rig::new(config());
    let took = |what: &str| {
        let now = rig.clock.now_ns();
        assert!(now < 1_000_000_000, "{what}: {now} ns since the start");
    };
    let mut controller = rig.start().unwrap();
    took("one that was off");
    let queue = controller.create_queue(rig.disk.clone()).unwrap();
    controller.shutdown([queue]).unwrap();
    took("the shutdown");
    std::mem::forget(rig.start().unwrap());
    took("one that was shut down");
    let controller = rig.start().unwrap();
    took("one that was left running");
    controller.shutdown(Vec::<Queue>::new()).unwrap();
    rig.obeyed();
}

#[test]
fn a_controller_that_cannot_work_says_so() {
    assert_eq!(
        start_error(config(), Some(Fault::FatalWhenEnabled)),
        Error::Fatal
    );
    let pages = Config {
        page_shift_min: 2,
        ..config()
    };
    assert_eq!(start_error(pages, None), Error::PageSize { shift: 14 });
    let no_commands = Config {
        nvm_commands: false,
        ..config()
    };
    assert_eq!(start_error(no_commands, None), Error::CommandSet);
    let large_entries = Config {
        entry_sizes: 0x77,
        ..config()
    };
    assert!(matches!(
        start_error(large_entries, None),
        Error::EntrySize { sqes: 0x77, .. }
    ));
    let rig = Rig::new(config());
    rig.disk.vanish();
    assert_eq!(rig.start().unwrap_err(), Error::Gone);
}

#[test]
fn admin_commands_that_fail_or_are_never_answered_end_the_bring_up() {
    let failed = start_error(config(), Some(Fault::FailAdmin(0x06, 0x4006)));
    let status = Status(0x4006);
    assert_eq!(failed, Error::Command { opcode: 6, status });
    let limit = Duration::from_secs(60);
    assert_eq!(
        start_error(config(), Some(Fault::SwallowAdmin(0x09))),
        Error::Timeout { opcode: 9, limit }
    );
}

#[test]
fn too_little_memory_ends_the_bring_up() {
    let rig = Rig::new(config());
    rig.bus.set_limit(3);
    assert_eq!(rig.start().unwrap_err(), Error::Memory);
    rig.bus.set_limit(6);
    let mut controller = rig.start().unwrap();
    assert_eq!(
        controller.create_queue(rig.disk.clone()).unwrap_err(),
        Error::Memory
    );
    assert_eq!(rig.bus.outstanding(), 4, "only the admin queue is left");
}

#[test]
fn namespaces_that_cannot_be_served_are_left_out_with_the_reason() {
    let mut namespaces = vec![
        NamespaceConfig::new(1, 64, 9),
        NamespaceConfig::new(2, 64, 12),
        NamespaceConfig::new(3, 64, 14),
    ];
    namespaces[1].metadata = 8;
    let rig = Rig::new(Config {
        namespaces,
        ..config()
    });
    let controller = rig.start().unwrap();
    assert_eq!(controller.namespaces().len(), 1);
    assert_eq!(
        controller.refused(),
        [
            (2, NamespaceError::Metadata(8)),
            (3, NamespaceError::BlockSize(14))
        ]
    );
}

#[test]
fn a_namespace_that_cannot_be_identified_leaves_the_others_to_be_served() {
    let rig = Rig::new(Config {
        namespaces: vec![
            NamespaceConfig::new(1, 64, 9),
            NamespaceConfig::new(2, 64, 9),
        ],
        ..config()
    });
    let status = Status::INVALID_FIELD;
    rig.disk.arm(Fault::FailIdentify(0, status.0));
    let controller = rig.start().unwrap();
    let ids: Vec<u32> = controller.namespaces().iter().map(|n| n.id).collect();
    assert_eq!(ids, [2]);
    let refused = [(1, NamespaceError::Unidentified(status))];
    assert_eq!(controller.refused(), refused);
}

#[test]
fn a_controller_of_version_1_0_is_asked_namespace_by_namespace() {
    let rig = Rig::new(Config {
        version: 0x0001_0000,
        namespaces: vec![
            NamespaceConfig::new(2, 64, 9),
            NamespaceConfig::new(5, 64, 9),
        ],
        ..config()
    });
    let controller = rig.start().unwrap();
    let ids: Vec<u32> = controller.namespaces().iter().map(|n| n.id).collect();
    assert_eq!(ids, [2, 5]);
}

/// Some that are of a later version have no list of active namespaces all the same.
#[test]
fn a_controller_that_knows_no_list_of_namespaces_is_asked_namespace_by_namespace() {
    let rig = Rig::new(Config {
        namespaces: [1, 2].map(|id| NamespaceConfig::new(id, 64, 9)).into(),
        ..config()
    });
    rig.disk
        .arm(Fault::FailIdentify(0x02, Status::INVALID_FIELD.0));
    let controller = rig.start().unwrap();
    let volumes = controller.volumes(0, 0);
    let names: Vec<_> = volumes.iter().map(|volume| &*volume.name).collect();
    assert_eq!(names, ["nvme0n1", "nvme0n2"]);
    rig.obeyed();
}

#[test]
fn of_many_namespaces_the_first_are_served() {
    for (version, many) in [(0x0001_0400, 1030), (0x0001_0400, 128), (0x0001_0000, 1030)] {
        let ids = (1..=many).map(|n| n * 3);
        let namespaces = ids.clone().map(|id| NamespaceConfig::new(id, 8, 9));
        let rig = Rig::new(Config {
            version,
            namespaces: namespaces.collect(),
            ..config()
        });
        let controller = rig.start().unwrap();
        let found: Vec<u32> = controller.namespaces().iter().map(|n| n.id).collect();
        // One that cannot list them is asked for each number.
        let first = if version > 0x0001_0000 { 128 } else { 42 };
        assert_eq!(found, ids.take(first).collect::<Vec<_>>());
        rig.obeyed();
    }
}

/// The first bytes of a controller's registers.
#[derive(Debug)]
struct First(FakeNvme, usize);

impl Registers for First {
    fn len(&self) -> usize {
        self.1
    }

    fn read32(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= self.1);
        self.0.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        assert!(offset + 4 <= self.1);
        self.0.write32(offset, value);
    }
}

#[test]
fn no_more_registers_than_announced_are_used() {
    for doorbell_shift in [0, 3] {
        let rig = Rig::new(Config {
            doorbell_shift,
            ..config()
        });
        let bytes = register_bytes(&First(rig.disk.clone(), 0x1000), OPTIONS.queues);
        let registers = |bytes| First(rig.disk.clone(), bytes);
        let mut controller =
            Controller::start(registers(bytes), &rig.clock, &*rig.bus, OPTIONS).unwrap();
        let first = controller.create_queue(registers(bytes)).unwrap();
        let few = controller.create_queue(registers(bytes - 4)).unwrap_err();
        assert!(matches!(few, Error::RegistersTooSmall { .. }), "{few}");
        let second = controller.create_queue(registers(bytes)).unwrap();
        controller.shutdown([first, second]).unwrap();
        rig.obeyed();
    }
}

/// A controller that takes seconds for each admin command.
struct Slow<'a>(&'a Rig, u64);

impl Registers for Slow<'_> {
    fn len(&self) -> usize {
        self.0.disk.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0.disk.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        if offset == 0x1000 {
            self.0.clock.advance(self.1 * 1_000_000_000);
        }
        self.0.disk.write32(offset, value);
    }
}

#[test]
fn a_controller_whose_admin_commands_take_long_is_waited_for() {
    for (namespaces, seconds) in [(1, 9), (1, 50), (128, 1)] {
        let rig = Rig::new(Config {
            namespaces: (1..=namespaces)
                .map(|id| NamespaceConfig::new(id, 8, 9))
                .collect(),
            ..config()
        });
        let slow = Slow(&rig, seconds);
        let controller = Controller::start(slow, &rig.clock, &*rig.bus, OPTIONS).unwrap();
        assert_eq!(controller.namespaces().len(), namespaces as usize);
        rig.obeyed();
    }
}

#[test]
fn a_question_that_cannot_be_answered_just_then_is_put_again() {
    for (times, works) in [(1, true), (5, true), (6, false)] {
        let rig = Rig::new(config());
        for _ in 0..times {
            rig.disk.arm(Fault::FailIdentify(1, 0x06));
        }
        assert_eq!(rig.start().is_ok(), works);
    }
}

#[test]
fn a_controller_of_2_0_says_how_long_it_takes_to_be_ready() {
    for (units, works) in [(20, true), (2, false)] {
        let rig = Rig::new(Config {
            timeout: 1,
            // Milliseconds here.
            delay: 3000,
            quirks: Quirks::from([Quirk::ReadyTimeout(units)]),
            ..config()
        });
        assert_eq!(rig.start().is_ok(), works, "{units} times 500 ms");
    }
}

#[test]
fn zoned_and_other_namespaces_are_refused_with_the_reason() {
    let namespaces = [0, 1, 2, 9, 0].into_iter().zip(1..);
    let with = |(command_set, id)| NamespaceConfig {
        command_set,
        format_progress: if id == 5 { 0x80 | 30 } else { 0 },
        ..NamespaceConfig::new(id, 64, 9)
    };
    let rig = Rig::new(Config {
        namespaces: namespaces.map(with).collect(),
        ..config()
    });
    let controller = rig.start().unwrap();
    let ids: Vec<u32> = controller.namespaces().iter().map(|n| n.id).collect();
    assert_eq!(ids, [1]);
    let reasons: Vec<_> = controller.refused().iter().map(|(_, why)| *why).collect();
    let sets = [1, 2, 9].map(NamespaceError::CommandSet);
    assert_eq!(reasons[..3], sets);
    assert_eq!(reasons[3], NamespaceError::Formatting(30));
    assert_eq!(
        reasons[1].to_string(),
        "it has the zoned command set, whose rules guests do not know"
    );
}

#[test]
fn a_volume_has_the_names_that_its_namespace_was_given() {
    let mut namespaces = vec![NamespaceConfig::new(1, 8, 9), NamespaceConfig::new(2, 8, 9)];
    namespaces[1].eui64 = [0x11; 8];
    namespaces[1].uuid = [0x22; 16];
    for (version, uuid) in [(0x0001_0200, 0), (0x0001_0300, 1)] {
        let rig = Rig::new(Config {
            version,
            namespaces: namespaces.clone(),
            ..config()
        });
        let controller = rig.start().unwrap();
        let volumes = controller.volumes(0, 0);
        assert_eq!(volumes[0].aliases, ["nvme-SPINDLE-0001-n1"]);
        let expected = [
            "nvme-SPINDLE-0001-n2",
            "nvme-eui.1111111111111111",
            "nvme-uuid.22222222-2222-2222-2222-222222222222",
        ];
        assert_eq!(volumes[1].aliases, expected[..2 + uuid]);
        rig.obeyed();
    }
}

#[test]
fn queues_that_are_refused_cost_nothing_and_can_be_tried_again() {
    let rig = Rig::new(config());
    let mut controller = rig.start().unwrap();
    let before = rig.bus.outstanding();
    for opcode in [0x05, 0x01] {
        rig.disk.arm(Fault::FailAdmin(opcode, Status::QUEUE_SIZE.0));
        let error = controller.create_queue(rig.disk.clone()).unwrap_err();
        let status = Status::QUEUE_SIZE;
        assert_eq!(error, Error::Command { opcode, status });
        assert_eq!(rig.bus.outstanding(), before);
    }
    let queue = controller.create_queue(rig.disk.clone()).unwrap();
    assert_eq!(queue.id(), 1);
    controller.delete_queue(queue).unwrap();
    assert_eq!(rig.bus.outstanding(), before);
    assert_eq!(controller.create_queue(rig.disk.clone()).unwrap().id(), 1);
    rig.obeyed();
}

#[test]
fn memory_of_a_queue_that_may_still_be_in_use_is_kept() {
    let rig = Rig::new(config());
    let mut controller = rig.start().unwrap();
    let before = rig.bus.outstanding();
    rig.disk.arm(Fault::SwallowAdmin(0x01));
    let error = controller.create_queue(rig.disk.clone()).unwrap_err();
    assert!(matches!(error, Error::Timeout { opcode: 1, .. }));
    assert!(rig.bus.outstanding() > before);
    assert_eq!(
        controller.create_queue(rig.disk.clone()).unwrap_err(),
        Error::OutOfOrder
    );
}

#[test]
fn the_controller_decides_how_large_and_how_many_queues_are() {
    let rig = Rig::new(Config {
        entries: 6,
        queues: 1,
        doorbell_shift: 3,
        ..config()
    });
    let (controller, queue) = rig.running(DiskOptions {
        queues: 8,
        depth: 300,
        ..OPTIONS
    });
    assert_eq!(controller.queues(), 1);
    assert_eq!(queue.capacity(), 3);
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
}

#[test]
fn a_shutdown_that_does_not_end_is_reported_and_memory_comes_back_all_the_same() {
    let rig = Rig::new(config());
    let (controller, queue) = rig.running(OPTIONS);
    rig.disk.arm(Fault::NeverShutDown);
    assert_eq!(
        controller.shutdown([queue]),
        Err(Error::NoShutdown(Duration::from_secs(5)))
    );
    assert_eq!(rig.bus.outstanding(), 0);
    rig.obeyed();
}

#[test]
fn a_controller_that_is_gone_keeps_its_memory_out_of_use() {
    let rig = Rig::new(config());
    let (mut controller, queue) = rig.running(OPTIONS);
    let before = rig.bus.outstanding();
    rig.disk.vanish();
    let lost = controller.attend().lost.unwrap();
    assert_eq!((lost.reason, lost.disabled), (Error::Gone, false));
    assert_eq!(controller.shutdown([queue]), Err(Error::Gone));
    assert_eq!(rig.bus.outstanding(), before);
}

#[test]
fn a_queue_can_move_to_another_core() {
    fn is_send<T: Send>() {}
    is_send::<Queue>();
}

#[test]
fn a_controller_that_was_without_power_between_two_drivers_is_left_as_it_is() {
    let rig = Rig::new(Config::default());
    let again = || {
        let started = Controller::start_again(rig.disk.clone(), &rig.clock, &*rig.bus, OPTIONS);
        started.map(drop)
    };
    assert_eq!(again(), Err(Error::Restarted), "no driver was there before");
    drop(rig.start().unwrap());
    for _ in 0..3 {
        assert_eq!(spindle_nvme::stop(rig.disk.clone(), &rig.clock), Ok(()));
        assert_eq!(again(), Ok(()));
    }
    rig.disk.vanish();
    rig.disk.come_back();
    for _ in 0..3 {
        assert_eq!(spindle_nvme::stop(rig.disk.clone(), &rig.clock), Ok(()));
        assert_eq!(again(), Err(Error::Restarted));
    }
    drop(rig.start().unwrap());
    assert_eq!(again(), Ok(()));
}
