//! Functions that are odd, broken, or at the edges of what there can be.

use spindle_hw::Ports;
use spindle_pci::{
    Address, BarWindow, Bus, CONFIG_ADDRESS, CONFIG_DATA, Class, MemoryBar, PciError, Placement,
};
use spindle_testkit::pci::{FakeFunction, FakePci};

/// BAR 0 in configuration space, and the doubleword behind BAR 5.
const BAR0: u32 = 0x10;
const BEHIND_BARS: usize = 0x28;

fn device() -> FakeFunction {
    FakeFunction::device(0x1b36, 0x0010, Class::NVME.0)
}

fn at(bus: u8, device: u8, function: u8) -> Address {
    Address::new(bus, device, function).unwrap()
}

/// Places all BARs of a device.
fn place(function: FakeFunction) -> Result<Vec<MemoryBar>, PciError> {
    let mut window = BarWindow::HVM;
    place_in(&mut window, function)
}

fn place_in(window: &mut BarWindow, function: FakeFunction) -> Result<Vec<MemoryBar>, PciError> {
    let fake = FakePci::new();
    fake.insert((0, 1, 0), function);
    Bus::new(fake).enable(at(0, 1, 0), Placement::Assign(window))
}

#[test]
fn addresses_reach_from_the_first_function_to_the_last() {
    for (bus, device, function) in [(0, 0, 0), (255, 31, 7), (1, 31, 0), (1, 0, 7)] {
        let at = at(bus, device, function);
        assert_eq!(
            (at.bus(), at.device(), at.function()),
            (bus, device, function)
        );
    }
    assert_eq!(Address::new(0, 32, 7), None);
    assert_eq!(Address::new(0, 31, 8), None);
    assert_eq!(Address::new(0, 255, 255), None);
}

#[test]
fn the_last_function_of_a_device_is_found_and_bridges_that_are_not_the_first_lead_on() {
    let fake = FakePci::new();
    let first = FakeFunction::device(0x8086, 0x1237, 0x06_00_00);
    fake.insert((0, 0, 0), first.multi_function());
    fake.insert((0, 0, 5), FakeFunction::bridge(9));
    fake.insert((0, 0, 7), device());
    fake.insert((9, 31, 0), device());
    let found = Bus::new(fake).scan();
    let places: Vec<_> = found.iter().map(|f| (f.address, f.header)).collect();
    let expected = [
        (at(0, 0, 0), 0),
        (at(0, 0, 5), 1),
        (at(0, 0, 7), 0),
        (at(9, 31, 0), 0),
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_device_that_is_held_in_reset_is_not_there() {
    let fake = FakePci::new();
    fake.insert((0, 1, 0), FakeFunction::device(0, 0x0010, Class::NVME.0));
    fake.insert(
        (0, 2, 0),
        FakeFunction::device(0xffff, 0x0010, Class::NVME.0),
    );
    assert_eq!(Bus::new(fake).scan(), []);
}

#[test]
fn a_function_tells_its_revision() {
    let fake = FakePci::new();
    fake.insert((0, 1, 0), device().with(0x08, 0x0108_02a7));
    let found = Bus::new(fake).scan();
    assert_eq!((found[0].class, found[0].revision), (Class::NVME, 0xa7));
}

#[test]
fn the_smallest_bar_has_16_bytes_and_flags_are_told() {
    let bars = place(
        device()
            .memory32(0, 0, 16)
            .memory32(1, 0b1000, 0x1000)
            .memory64(2, 0b1000, 0x1000),
    );
    let bars: Vec<_> = bars
        .unwrap()
        .iter()
        .map(|b| (b.size, b.prefetchable))
        .collect();
    assert_eq!(bars, [(16, false), (0x1000, true), (0x1000, true)]);
}

#[test]
fn what_stands_behind_the_bars_is_none() {
    // Of a CardBus function it points to more about it.
    let function = device()
        .memory32(0, 0, 0x1000)
        .with(BEHIND_BARS, 0xffff_f000);
    assert_eq!(place(function).unwrap().len(), 1);
    // A register of 64 bits at the end has no second half.
    let function = device().memory32(5, 0, 0x1000).with(0x24, 0b100);
    let refused = place(function.with(BEHIND_BARS, 0xffff_fff0));
    let expected = PciError::BadSize {
        at: at(0, 1, 0),
        index: 5,
        mask: 0xffff_ffff_ffff_f000,
    };
    assert_eq!(refused, Err(expected));
}

#[test]
fn a_size_that_is_no_power_of_two_is_refused() {
    for (function, mask) in [
        (device().memory32(0, 0, 0x3000), 0xffff_ffff_ffff_d000),
        // Nothing but the flags.
        (device().with(0x10, 0b100), 0),
    ] {
        let expected = PciError::BadSize {
            at: at(0, 1, 0),
            index: 0,
            mask,
        };
        assert_eq!(place(function), Err(expected));
    }
}

/// Buses on which bit 31 of every BAR 0 is set whatever is written.
struct Stuck {
    fake: FakePci,
}

impl Ports for Stuck {
    fn in8(&self, port: u16) -> u8 {
        self.fake.in8(port)
    }
    fn out8(&self, port: u16, value: u8) {
        self.fake.out8(port, value);
    }
    fn in32(&self, port: u16) -> u32 {
        let is_bar = port == CONFIG_DATA && self.fake.in32(CONFIG_ADDRESS) & 0xfc == BAR0;
        self.fake.in32(port) | u32::from(is_bar) << 31
    }
    fn out32(&self, port: u16, value: u32) {
        self.fake.out32(port, value);
    }
}

#[test]
fn a_register_that_does_not_take_its_address_is_reported() {
    for function in [
        device().memory32(0, 0, 0x1000),
        device().memory64(0, 0, 0x1000),
    ] {
        let fake = FakePci::new();
        fake.insert((0, 1, 0), function);
        let bus = Bus::new(Stuck { fake });
        let mut window = BarWindow::new(0x1000_0000..0x1001_0000);
        let refused = bus.enable(at(0, 1, 0), Placement::Assign(&mut window));
        let expected = PciError::NotTaken {
            at: at(0, 1, 0),
            index: 0,
            wrote: 0x1000_0000,
            read: 0x9000_0000,
        };
        assert_eq!(refused, Err(expected));
    }
}

#[test]
fn what_is_claimed_where_bars_usually_are_does_not_end_the_memory_below() {
    // The usual place is full; the room below begins behind RAM and the 256 MiB after it.
    let ram = 0..0x4000_0000u64;
    let mut window = BarWindow::around([ram, 0xf000_0000..0xfc00_0000], 1 << 36);
    let bars = place_in(&mut window, device().memory32(0, 0, 0x1000)).unwrap();
    assert_eq!(bars[0].address, 0x5000_0000);
}
