//! Scanning and enabling against a fake bus.

use std::slice;

use spindle_pci::{Address, BarWindow, Bus, CapabilityId, Class, Function, PciError, Placement};
use spindle_testkit::pci::{FakeFunction, FakePci};

fn at(bus: u8, device: u8, function: u8) -> Address {
    Address::new(bus, device, function).unwrap()
}

fn nvme() -> FakeFunction {
    FakeFunction::device(0x1b36, 0x0010, Class::NVME.0).memory64(0, 0xfebf_8000, 0x4000)
}

#[test]
fn a_scan_finds_functions_bridges_and_what_is_behind_them_once() {
    let fake = FakePci::new();
    fake.insert((0, 0, 0), FakeFunction::device(0x8086, 0x1237, 0x06_00_00));
    fake.insert(
        (0, 1, 0),
        FakeFunction::device(0x8086, 0x7000, 0x06_01_00).multi_function(),
    );
    fake.insert((0, 1, 3), FakeFunction::device(0x8086, 0x7113, 0x06_80_00));
    fake.insert((0, 2, 0), nvme());
    fake.insert((0, 2, 1), nvme());
    fake.insert((0, 3, 0), FakeFunction::bridge(5));
    fake.insert((5, 0, 0), nvme());
    fake.insert((5, 1, 0), FakeFunction::bridge(5));
    fake.insert((5, 2, 0), FakeFunction::bridge(0));
    let found = Bus::new(&fake).scan();
    let places: Vec<_> = found.iter().map(|f| f.address).collect();
    assert_eq!(
        places,
        [
            at(0, 0, 0),
            at(0, 1, 0),
            at(0, 1, 3),
            at(0, 2, 0),
            at(0, 3, 0),
            at(5, 0, 0),
            at(5, 1, 0),
            at(5, 2, 0)
        ],
        "function 1 of a device that does not claim to have one is not looked at"
    );
    assert_eq!(found[5].class, Class::NVME);
    assert_eq!((found[5].vendor, found[5].device), (0x1b36, 0x0010));
}

#[test]
fn bars_are_sized_and_assigned_whatever_they_held() {
    let fake = FakePci::new();
    let function = nvme()
        .memory32(2, 0xfebf_c000, 0x1000)
        .io(3, 0xc000, 0x20)
        .memory64(4, 0x38_0000_0000, 0x10000)
        .with(0x04, 0x0010_0007);
    fake.insert((0, 5, 0), function);
    let bus = Bus::new(&fake);
    let mut window = BarWindow::HVM;
    let bars = bus
        .enable(at(0, 5, 0), Placement::Assign(&mut window))
        .unwrap();
    let places: Vec<_> = bars
        .iter()
        .map(|b| (b.index, b.address, b.size, b.wide))
        .collect();
    assert_eq!(
        places,
        [
            (0, 0xf000_0000, 0x4000, true),
            (2, 0xf000_4000, 0x1000, false),
            (4, 0xf001_0000, 0x10000, true)
        ]
    );
    let config = |offset| fake.config(at(0, 5, 0), offset);
    assert_eq!(config(0x10), 0xf000_0004);
    assert_eq!(config(0x14), 0);
    assert_eq!(config(0x1c), 0xc001, "the I/O BAR is left alone");
    assert_eq!(config(0x24), 0, "the host's upper half is gone");
    assert_eq!(config(0x04) & 0xffff, 0x406);
    assert_eq!(fake.unsafe_writes(), 0, "no BAR moved while decoding");
    bus.disable(at(0, 5, 0));
    assert_eq!(fake.config(at(0, 5, 0), 0x04) & 0xffff, 0x400);
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a container with 64 MiB of RAM has: the GiB above 4 GiB is where grants go.
fn room() -> BarWindow {
    BarWindow::around([MIB..64 * MIB, 4 * GIB..5 * GIB], 1 << 40)
}

/// Controller memory buffers (BAR 2) and persistent memory (BAR 4) of any size.
#[test]
fn bars_that_a_driver_does_not_need_are_not_placed_and_decode_nothing() {
    for size in [128 * MIB, GIB, 64 * GIB, 1 << 62] {
        let fake = FakePci::new();
        let buffer = nvme().memory64(2, size, size);
        fake.insert((0, 5, 0), buffer.memory32(4, 0xc000_0000, 1 << 30));
        let (bus, here) = (Bus::new(&fake), at(0, 5, 0));
        let mut window = BarWindow::HVM;
        let all = bus.enable(here, Placement::Assign(&mut window));
        assert!(
            matches!(all, Err(PciError::NoRoom { index: 2, .. })),
            "{all:?}"
        );
        assert_eq!(fake.decoded(here), [], "switched off");
        let mut window = BarWindow::HVM;
        let placement = Placement::Assign(&mut window);
        let bars = bus.enable_only(here, placement, |bar| bar == 0).unwrap();
        assert_eq!(bars.len(), 1);
        let registers = 0xf000_0000..0xf000_4000;
        assert_eq!(fake.decoded(here), slice::from_ref(&registers), "{size:#x}");
        assert_eq!(fake.config(here, 0x04) & 0xffff, 0x406);
        assert_eq!(fake.unsafe_writes(), 0);
    }
}

/// Registers in front of a buffer in the same BAR.
#[test]
fn a_large_bar_is_placed_where_its_register_reaches_and_nothing_else_is() {
    let wide = |size| nvme().memory64(0, size, size);
    let device = FakeFunction::device(0x1b36, 0x0010, Class::NVME.0);
    let narrow = |size| device.clone().memory32(0, 0x8000_0000, size);
    for (function, size, places) in [
        (narrow(128 << 20), 128 * MIB, [0xf000_0000, 384 * MIB]),
        (narrow(1 << 30), GIB, [GIB, 2 * GIB]),
        (wide(128 * MIB), 128 * MIB, [0xf000_0000, 5 * GIB]),
        (wide(GIB), GIB, [5 * GIB, 6 * GIB]),
        (wide(64 * GIB), 64 * GIB, [64 * GIB, 128 * GIB]),
    ] {
        let fake = FakePci::new();
        let bus = Bus::new(&fake);
        let mut window = room();
        for (device, place) in (5..).zip(places) {
            fake.insert((0, device, 0), function.clone());
            let here = at(0, device, 0);
            let placement = Placement::Assign(&mut window);
            let bars = bus.enable_only(here, placement, |bar| bar == 0).unwrap();
            assert_eq!((bars[0].address, bars[0].size), (place, size));
            let whole = place..place + size;
            assert_eq!(fake.decoded(here), slice::from_ref(&whole));
        }
    }
    let fake = FakePci::new();
    fake.insert((0, 5, 0), narrow(1 << 31));
    let mut window = room();
    let refused = Bus::new(&fake).enable(at(0, 5, 0), Placement::Assign(&mut window));
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("0x80000000 bytes of the 32-bit BAR 0"),
        "{text}"
    );
}

/// Each access is a trip to the device model, which takes most of the time until Spindle serves.
#[test]
fn looking_around_and_switching_a_disk_on_takes_few_accesses() {
    let fake = FakePci::new();
    // What a Xen HVM container has: host bridge, ISA bridge with IDE and power management, the
    // platform device, and a disk.
    fake.insert((0, 0, 0), FakeFunction::device(0x8086, 0x1237, 0x06_00_00));
    let isa = FakeFunction::device(0x8086, 0x7000, 0x06_01_00).multi_function();
    fake.insert((0, 1, 0), isa);
    fake.insert((0, 1, 1), FakeFunction::device(0x8086, 0x7010, 0x01_01_80));
    fake.insert((0, 1, 3), FakeFunction::device(0x8086, 0x7113, 0x06_80_00));
    fake.insert((0, 2, 0), nvme());
    fake.insert((0, 3, 0), FakeFunction::device(0x5853, 0x0001, 0xff_80_00));
    let bus = Bus::new(&fake);
    assert_eq!(bus.scan().len(), 6);
    // Two for each of 28 empty places and of 5 functions that are not there; six for each
    // function 0, four for the two others.
    let scan = fake.accesses();
    assert_eq!(scan, 2 * 28 + 2 * 5 + 6 * 4 + 4 * 2);
    let mut window = BarWindow::HVM;
    bus.enable(at(0, 2, 0), Placement::Assign(&mut window))
        .unwrap();
    assert!(fake.accesses() - scan <= 36, "{}", fake.accesses() - scan);
}

#[test]
fn assigned_addresses_are_kept_when_asked_and_missing_ones_reported() {
    let fake = FakePci::new();
    fake.insert((0, 5, 0), nvme());
    fake.insert((0, 6, 0), nvme().memory64(0, 0, 0x4000));
    let bus = Bus::new(&fake);
    let bars = bus.enable(at(0, 5, 0), Placement::Keep).unwrap();
    assert_eq!((bars[0].address, bars[0].size), (0xfebf_8000, 0x4000));
    // One above 4 GiB has its upper half in the second register.
    fake.insert((0, 7, 0), nvme().memory64(0, 0x38_7654_8000, 0x4000));
    let above = bus.enable(at(0, 7, 0), Placement::Keep).unwrap();
    assert_eq!((above[0].address, above[0].size), (0x38_7654_8000, 0x4000));
    let whole = 0x38_7654_8000..0x38_7654_c000;
    assert_eq!(fake.decoded(at(0, 7, 0)), slice::from_ref(&whole));
    assert_eq!(
        bus.enable(at(0, 6, 0), Placement::Keep),
        Err(PciError::Unassigned {
            at: at(0, 6, 0),
            index: 0
        })
    );
}

#[test]
fn what_cannot_be_enabled_stays_off_and_says_why() {
    let fake = FakePci::new();
    fake.insert((0, 1, 0), FakeFunction::bridge(1));
    fake.insert((0, 3, 0), nvme());
    let mut wide_at_the_end = FakeFunction::device(1, 1, 0);
    wide_at_the_end = wide_at_the_end.memory32(5, 0, 0x1000).with(0x24, 0b100);
    fake.insert((0, 4, 0), wide_at_the_end);
    let bus = Bus::new(&fake);
    let mut tiny = BarWindow::new(0xf000_0000..0xf000_1000);
    let mut enable = |device| bus.enable(at(0, device, 0), Placement::Assign(&mut tiny));
    assert!(matches!(
        enable(1),
        Err(PciError::NotADevice { header: 1, .. })
    ));
    assert!(matches!(
        enable(3),
        Err(PciError::NoRoom { size: 0x4000, .. })
    ));
    assert!(matches!(enable(4), Err(PciError::BadSize { index: 5, .. })));
    assert_eq!(enable(9), Err(PciError::Absent(at(0, 9, 0))));
    assert_eq!(fake.config(at(0, 3, 0), 4) & 7, 0);
}

#[test]
fn capabilities_are_walked_and_a_circular_list_ends() {
    let fake = FakePci::new();
    let listed = nvme().with(0x04, 1 << 20);
    fake.insert(
        (0, 1, 0),
        listed
            .clone()
            .with(0x34, 0x40)
            .with(0x40, 0x8011)
            .with(0x80, 0x0010),
    );
    fake.insert((0, 2, 0), listed.with(0x34, 0x40).with(0x40, 0x4011));
    fake.insert((0, 3, 0), nvme().with(0x34, 0x40).with(0x40, 0x4011));
    let bus = Bus::new(&fake);
    let list: Vec<_> = bus
        .capabilities(at(0, 1, 0))
        .map(|c| (c.id, c.offset))
        .collect();
    assert_eq!(
        list,
        [(CapabilityId::MSI_X, 0x40), (CapabilityId::EXPRESS, 0x80)]
    );
    assert_eq!(bus.capabilities(at(0, 2, 0)).count(), 48);
    assert_eq!(bus.capabilities(at(0, 3, 0)).count(), 0);
    assert_eq!(bus.capabilities(at(0, 9, 0)).count(), 0);
}

fn is_nvme(function: &Function) -> bool {
    function.class == Class::NVME
}

#[test]
fn a_function_that_lost_its_power_gets_its_place_back_and_another_one_does_not() {
    let fake = FakePci::new();
    fake.insert((0, 4, 0), nvme());
    let bus = Bus::new(&fake);
    let place = at(0, 4, 0);
    let mut window = BarWindow::around([], 1 << 36);
    let bars = bus
        .enable_only(place, Placement::Assign(&mut window), |bar| bar == 0)
        .unwrap();
    let config = |offset| bus.read32(place, offset);
    let before = (config(0x10), config(0x14));
    // As after power on, or another disk of the same kind.
    fake.insert((0, 4, 0), nvme());
    assert_ne!((config(0x10), config(0x14)), before);
    bus.restore(place, is_nvme, &bars).unwrap();
    assert_eq!((config(0x10), config(0x14)), before);
    // Memory is decoded, and the bus is not mastered before its driver says so.
    assert_eq!(config(4) & 0b110, 0b010);
    bus.master(place);
    assert_eq!(config(4) & 0b110, 0b110);
    let larger = FakeFunction::device(0x1b36, 0x0010, Class::NVME.0).memory64(0, 0, 0x10_0000);
    let other = FakeFunction::device(0x8086, 0x1237, 0x02_00_00).memory64(0, 0, 0x4000);
    for function in [larger, other] {
        fake.insert((0, 4, 0), function);
        assert_eq!(
            bus.restore(place, is_nvme, &bars),
            Err(PciError::Absent(place))
        );
        assert_eq!(config(4) & 0b110, 0);
    }
}
