//! Finding the registers, negotiating, what is made of the configuration, and the end.

mod common;

use common::{Rig, layout};
use spindle_block::{Discard, DiskOptions, DiskQueue, IoError, Op, Segment, SubmitError, Tag};
use spindle_testkit::mem::FakeClock;
use spindle_testkit::pci::{FakeFunction, FakePci};
use spindle_testkit::queue::{command, complete, discard};
use spindle_testkit::virtio::{Config, Fault, feature};
use spindle_virtio::{Disk, Error, Layout, LayoutError, Region};

fn with(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn found(function: FakeFunction) -> Result<Layout, LayoutError> {
    let pci = FakePci::new();
    pci.insert((0, 3, 0), function);
    layout(pci)
}

#[test]
fn registers_are_where_the_first_usable_capability_says() {
    let rig = Rig::new(Config::default());
    let region = |offset, len| Region {
        bar: 4,
        offset,
        len,
    };
    let layout = found(rig.device.function()).unwrap();
    assert_eq!(layout.common, region(0, 0x38));
    assert_eq!(layout.notify, region(0x3000, 0x1000));
    assert_eq!(
        (layout.notify_multiplier, layout.device.offset),
        (4, 0x2000)
    );
    // The first becomes useless: it reaches beyond the BAR.
    let second = found(rig.device.function().with(0x48, u32::MAX)).unwrap();
    assert_eq!(second.common, region(0x800, 0x38));
}

#[test]
fn capabilities_that_cannot_be_are_refused_with_the_reason() {
    let rig = Rig::new(Config::default());
    let bad = |offset, value| found(rig.device.function().with(offset, value)).unwrap_err();
    let implausible = |error, name| {
        assert!(matches!(error, LayoutError::Implausible { what, .. } if what == name));
    };
    implausible(bad(0x64, 9), "device");
    implausible(bad(0x68, 0x3ff1), "device");
    implausible(bad(0x6c, 7), "device");
    implausible(bad(0x78, u32::MAX), "notification");
    assert_eq!(bad(0x80, 3), LayoutError::Multiplier(3));
    assert_eq!(bad(0x34, 0), LayoutError::Missing("common"));
    // A list that runs in circles ends.
    assert_eq!(bad(0x40, 0x0a10_4009), LayoutError::Missing("common"));
    // The last doubleword of configuration space cannot hold a capability.
    let edge = rig
        .device
        .function()
        .with(0x34, 0xfc)
        .with(0xfc, 0x0110_0009);
    assert_eq!(found(edge).unwrap_err(), LayoutError::Missing("common"));
}

#[test]
fn a_device_is_described_by_what_it_says() {
    let rig = Rig::new(Config::default());
    let disk = rig.start().unwrap();
    let volume = disk.volume(3, 1);
    assert_eq!((volume.name.as_str(), volume.disk), ("vdb", 3));
    assert_eq!(volume.aliases, ["virtio-spindle_7"]);
    assert_eq!((volume.sectors, volume.block_shift), (2048, 9));
    assert_eq!(volume.physical_block_shift, 12);
    assert!(volume.write_cache && !volume.read_only);
    let discard = Discard {
        granularity: 4096,
        alignment: 0,
        secure: true,
    };
    assert_eq!(volume.discard, Some(discard));
    assert_eq!(disk.queues(), 2);
    rig.obeyed();
}

#[test]
fn a_plain_old_device_is_described_without_what_it_lacks() {
    let rig = Rig::new(with(|config| {
        config.features = feature::VERSION_1 | feature::ACCESS_PLATFORM | feature::RO;
        config.serial = None;
    }));
    let (disk, mut queue) = rig.running(common::OPTIONS);
    let volume = disk.volume(0, 0);
    assert!(volume.read_only && !volume.write_cache);
    assert_eq!((volume.discard, volume.aliases.len()), (None, 0));
    assert_eq!((volume.physical_block_shift, disk.queues()), (9, 1));
    assert_eq!(disk.serial(), "");
    let refused = |queue: &mut _, command: &_| complete(queue, command).unwrap_err();
    let flush = command(Op::Flush, 0, &[]);
    assert_eq!(refused(&mut queue, &flush), SubmitError::Unsupported);
    let discard = discard(Op::Discard, 0, 8);
    assert_eq!(refused(&mut queue, &discard), SubmitError::Unsupported);
    let memory = rig.memory(1);
    let page = [Segment::new(memory.bus(), 4096)];
    let write = complete(&mut queue, &command(Op::Write, 0, &page)).unwrap();
    assert_eq!(write, Err(IoError::Medium));
    assert_eq!(
        complete(&mut queue, &command(Op::Read, 0, &page)),
        Ok(Ok(()))
    );
    rig.obeyed();
}

#[test]
fn devices_that_cannot_be_served_are_refused_and_left_reset_without_memory() {
    let features = Config::default().features;
    type Change<'a> = &'a dyn Fn(&mut Config);
    let cases: [(Change<'_>, Error); 8] = [
        (&|c| c.features &= !feature::VERSION_1, Error::Legacy),
        (
            &|c| c.features &= !feature::ACCESS_PLATFORM,
            Error::BypassesIommu,
        ),
        (&|c| c.block_size = 2048, Error::BlockSize(2048)),
        (&|c| c.block_size = 0, Error::BlockSize(0)),
        (
            &|c| {
                c.features = features | feature::SIZE_MAX;
                c.size_max = 4095;
            },
            Error::PieceSize(4095),
        ),
        (
            &|c| c.entries = 2,
            Error::QueueSize {
                queue: 0,
                entries: 2,
            },
        ),
        (&|c| c.multiplier = 0x2000, Error::Doorbell(1)),
        (&|c| c.sectors = 0, Error::Memory),
    ];
    for (change, expected) in cases {
        let rig = Rig::new(with(change));
        if expected == Error::Memory {
            rig.bus.set_limit(5);
        }
        assert_eq!(rig.start().unwrap_err(), expected);
        assert_eq!(rig.bus.outstanding(), 0, "{expected}");
        rig.obeyed();
    }
}

#[test]
fn faults_while_it_comes_up_end_it_with_the_reason() {
    let limit = core::time::Duration::from_secs(5);
    let cases = [
        (Fault::Restless, Error::Unsettled),
        (Fault::Swallow(8), Error::Timeout { kind: 8, limit }),
    ];
    for (fault, expected) in cases {
        let rig = Rig::new(Config::default());
        rig.device.arm(fault);
        assert_eq!(rig.start().unwrap_err(), expected);
        assert_eq!(rig.bus.outstanding(), 0);
    }
    let rig = Rig::new(Config::default());
    rig.device.arm(Fault::RefusesFeatures);
    assert!(matches!(rig.start(), Err(Error::FeaturesRefused(_))));
    rig.device.vanish();
    assert_eq!(rig.start().unwrap_err(), Error::Gone);
    // An identity that cannot be given is none.
    let rig = Rig::new(Config::default());
    rig.device.arm(Fault::Fail(8, 1));
    assert_eq!(rig.start().unwrap().serial(), "");
}

#[test]
fn a_device_with_fewer_queues_gives_what_it_has() {
    let rig = Rig::new(Config::default());
    let options = DiskOptions {
        queues: 16,
        depth: 16,
        ..common::OPTIONS
    };
    let mut disk = rig.start_with(options).unwrap();
    let device = || rig.device.clone();
    let mut queues: Vec<_> = (0..4)
        .map(|_| disk.create_queue(device()).unwrap())
        .collect();
    let none = disk.create_queue(device()).unwrap_err();
    assert_eq!(none, Error::NoQueue { have: 4 });
    let memory = rig.memory(4);
    for (number, queue) in queues.iter_mut().enumerate() {
        assert_eq!(usize::from(queue.number()), number);
        let page = [Segment::new(memory.bus() + number as u64 * 4096, 512)];
        let write = command(Op::Write, number as u64, &page);
        assert_eq!(complete(queue, &write), Ok(Ok(())));
    }
    assert_eq!(disk.shutdown(queues), Ok(()));
    assert_eq!(rig.bus.outstanding(), 4, "all but what the test has");
    rig.obeyed();
}

#[test]
fn shutdown_writes_the_cache_out_and_gives_all_memory_back() {
    let rig = Rig::new(Config::default());
    let (disk, mut queue) = rig.running(common::OPTIONS);
    let memory = rig.memory(1);
    let data = common::fill(&memory, 3);
    let pages = common::scattered(&memory);
    assert_eq!(
        complete(&mut queue, &command(Op::Write, 8, &pages)),
        Ok(Ok(()))
    );
    assert_eq!(disk.shutdown([queue]), Ok(()));
    rig.device.power_cut();
    assert_eq!(rig.device.contents()[4096..8192], data);
    assert_eq!(rig.bus.outstanding(), 1);
    rig.obeyed();
}

#[test]
fn shutdown_does_not_wait_for_a_request_that_is_never_answered() {
    let rig = Rig::new(Config::default());
    let (disk, mut queue) = rig.running(common::OPTIONS);
    let memory = rig.memory(1);
    let pages = common::scattered(&memory);
    rig.device.arm(Fault::Swallow(0));
    queue.submit(&command(Op::Read, 0, &pages), Tag(0)).unwrap();
    queue.commit();
    assert_eq!(disk.shutdown([queue]), Ok(()));
    rig.obeyed();
}

#[test]
fn shutdown_of_a_device_that_does_not_play_along_ends_and_keeps_what_may_be_in_use() {
    let rig = Rig::new(Config::default());
    let (disk, queue) = rig.running(common::OPTIONS);
    rig.device.arm(Fault::Fail(4, 1));
    assert_eq!(disk.shutdown([queue]), Err(Error::Flush));
    assert_eq!(rig.bus.outstanding(), 0, "it did reset");

    let (disk, mut queue) = rig.running(common::OPTIONS);
    queue.fail_all(|_, _| {});
    rig.device.arm(Fault::NeverResets);
    let before = rig.bus.outstanding();
    assert!(matches!(disk.shutdown([queue]), Err(Error::NoReset(_))));
    assert_eq!(rig.bus.outstanding(), before);
}

#[test]
fn failures_of_the_whole_device_show() {
    let rig = Rig::new(Config::default());
    let disk = rig.start().unwrap();
    assert_eq!(disk.health(), Ok(()));
    rig.device.die();
    assert_eq!(disk.health(), Err(Error::NeedsReset));
    rig.device.vanish();
    assert_eq!(disk.health(), Err(Error::Gone));
}

#[test]
fn a_new_size_is_seen_once_and_an_impossible_one_is_not_taken() {
    let rig = Rig::new(Config::default());
    let mut disk = rig.start().unwrap();
    assert_eq!(disk.resized(), Ok(None));
    rig.device.resize(4096);
    assert_eq!(disk.resized(), Ok(Some(4096)));
    assert_eq!(disk.resized(), Ok(None));
    rig.device.resize(u64::MAX);
    assert_eq!(disk.resized(), Err(Error::Size(u64::MAX)));
    assert_eq!(disk.volume(0, 0).sectors, 4096);
    rig.device.arm(Fault::Restless);
    assert_eq!(disk.resized(), Err(Error::Unsettled));
    assert_eq!(disk.volume(0, 0).sectors, 4096);
}

#[test]
fn a_size_that_changes_while_it_is_read_is_never_half_of_each() {
    let rig = Rig::new(Config::default());
    let mut disk = rig.start().unwrap();
    rig.device.resize(1 << 32);
    assert_eq!(disk.resized(), Ok(Some(1 << 32)));
    // The lower half of this and the upper half of that would be nothing at all.
    rig.device.arm(Fault::Torn(4096));
    assert_eq!(disk.resized(), Ok(Some(4096)));
    // And here more than either.
    rig.device.arm(Fault::Torn(3 << 40));
    assert_eq!(disk.resized(), Ok(Some(3 << 40)));
    assert_eq!(disk.resized(), Ok(None));
    rig.obeyed();
}

#[test]
fn a_disk_may_shrink_and_vanish_and_come_back() {
    let rig = Rig::new(Config::default());
    let mut disk = rig.start().unwrap();
    for sectors in [1024, 0, 2048] {
        rig.device.resize(sectors);
        assert_eq!(disk.resized(), Ok(Some(sectors)));
        assert_eq!(disk.volume(0, 0).sectors, sectors);
    }
    assert_eq!(disk.health(), Ok(()));
}

#[test]
fn the_size_is_a_whole_number_of_blocks() {
    let rig = Rig::new(with(|config| {
        config.block_size = 4096;
        config.sectors = 2047;
    }));
    let volume = rig.start().unwrap().volume(0, 0);
    assert_eq!((volume.sectors, volume.block_shift), (2040, 12));
    assert_eq!(volume.physical_block_shift, 15);
}

#[test]
fn bring_up_again_after_a_crash_finds_a_device_in_use() {
    let rig = Rig::new(Config::default());
    let (_disk, _queue) = rig.running(common::OPTIONS);
    assert!(rig.start().is_ok());
    rig.obeyed();
    rig.device.arm(Fault::NeverResets);
    assert!(matches!(rig.start(), Err(Error::NoReset(_))));
}

#[test]
fn a_device_that_was_without_power_between_two_drivers_is_left_as_it_is() {
    let rig = Rig::new(Config::default());
    let clock = FakeClock::new(1_000_000);
    let stop = || spindle_virtio::stop(&mut rig.transport(), &clock);
    let again = || {
        let clock = FakeClock::new(1_000_000);
        let mut disk = Disk::new(rig.transport(), clock, &*rig.bus, common::OPTIONS);
        disk.bring_up_again()
    };
    assert_eq!(again(), Err(Error::Restarted), "no driver was there before");
    drop(rig.start().unwrap());
    for _ in 0..3 {
        // However often drivers end before they have brought it up.
        assert_eq!(stop(), Ok(()));
        assert_eq!(stop(), Ok(()));
        assert_eq!(again(), Ok(()));
    }
    rig.device.vanish();
    assert_eq!(stop(), Err(Error::Gone));
    rig.device.come_back();
    for _ in 0..3 {
        assert_eq!(stop(), Ok(()));
        assert_eq!(again(), Err(Error::Restarted));
    }
    drop(rig.start().unwrap());
    assert_eq!(again(), Ok(()));
    rig.obeyed();
}
