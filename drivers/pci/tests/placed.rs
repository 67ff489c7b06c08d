//! What an earlier driver has left on the bus, found again by its notes.

use spindle_pci::{Address, BarWindow, Bus, Class, PlacedFunction, Placement, in_known_order};
use spindle_testkit::pci::{FakeFunction, FakePci};

const NVME: (u8, u8, u8) = (0, 2, 0);
const VIRTIO: (u8, u8, u8) = (0, 31, 3);

fn at((bus, device, function): (u8, u8, u8)) -> Address {
    Address::new(bus, device, function).unwrap()
}

/// A usual domain's window for BARs, in which `other` is taken.
fn window(other: Option<u64>) -> BarWindow {
    let other = other.map(|start| start..start + 4096);
    let claimed = [0..64 << 20, 4 << 30..5 << 30].into_iter().chain(other);
    BarWindow::around(claimed, 1 << 40)
}

fn nvme() -> FakeFunction {
    FakeFunction::device(0x1b36, 0x0010, Class::NVME.0).memory64(0, 0, 0x4000)
}

/// A controller and a device with two BARs, among other things, switched on by a first driver.
fn left() -> (FakePci, Vec<PlacedFunction>) {
    let fake = FakePci::new();
    fake.insert((0, 0, 0), FakeFunction::device(0x8086, 0x1237, 0x06_00_00));
    fake.insert((0, 31, 0), FakeFunction::device(1, 2, 3).multi_function());
    fake.insert(NVME, nvme());
    let virtio = FakeFunction::device(0x1af4, 0x1042, 0x01_80_00);
    fake.insert(VIRTIO, virtio.memory32(1, 0, 0x1000).memory64(4, 0, 0x4000));
    let bus = Bus::new(&fake);
    let mut window = window(None);
    let wanted = bus.scan().into_iter();
    let wanted = wanted.filter(|function| [at(NVME), at(VIRTIO)].contains(&function.address));
    let placed = wanted.map(|function| PlacedFunction {
        bars: bus
            .enable(function.address, Placement::Assign(&mut window))
            .unwrap(),
        function,
    });
    let placed = placed.collect();
    (fake, placed)
}

fn is_as_left(fake: &FakePci, placed: &[PlacedFunction], mut window: BarWindow) -> bool {
    Bus::new(fake).are_as_left(placed, &mut window)
}

#[test]
fn what_is_as_it_was_left_is_found_with_few_accesses_and_nothing_written() {
    let (fake, placed) = left();
    let scanned = fake.accesses();
    let words = PlacedFunction::write_all(&placed);
    assert_eq!(words.len(), 2 * (2 + 3));
    let known = PlacedFunction::read_all(&words).unwrap();
    assert_eq!(known, placed);
    let before = fake.accesses();
    assert!(is_as_left(&fake, &known, window(None)));
    // Of each doubleword its address and its value: identity, command, BARs.
    let took = fake.accesses() - before;
    assert_eq!(took, 2 * (2 + 2 + 5), "{scanned} at first");
    assert!(scanned > 5 * took, "{scanned} at first");
    assert_eq!(fake.unsafe_writes(), 0);
}

#[test]
fn a_window_knows_what_is_there_already() {
    let (fake, placed) = left();
    let mut window = window(None);
    assert!(Bus::new(&fake).are_as_left(&placed, &mut window));
    fake.insert((0, 9, 0), nvme());
    let bus = Bus::new(&fake);
    let bars = bus.enable(at((0, 9, 0)), Placement::Assign(&mut window));
    let new = bars.unwrap()[0].address;
    let mut taken = placed.iter().flat_map(|known| &known.bars);
    assert!(taken.all(|bar| new + 0x4000 <= bar.address || bar.address + bar.size <= new));
}

#[test]
fn any_change_is_seen() {
    let (fake, placed) = left();
    let bus = || Bus::new(&fake);
    let address = placed[0].bars[0].address;
    // Memory or grants are there in this life.
    assert!(!is_as_left(&fake, &placed, window(Some(address + 0x2000))));
    assert!(!is_as_left(&fake, &placed, BarWindow::new(0..address)));
    let mut narrow = placed.clone();
    narrow[0].bars[0].address = 5 << 30;
    narrow[0].bars[0].wide = false;
    assert!(!is_as_left(&fake, &narrow, window(None)));
    assert!(is_as_left(&fake, &placed, window(None)));
    // Switched off.
    bus().disable(at(NVME));
    assert!(!is_as_left(&fake, &placed, window(None)));
    bus().master(at(NVME));
    assert!(is_as_left(&fake, &placed, window(None)));
    // Elsewhere, in either half of the address.
    for register in [0x10, 0x14] {
        let was = fake.config(at(NVME), register);
        bus().write32(at(NVME), register as u8, was ^ 0x0040_0000);
        assert!(!is_as_left(&fake, &placed, window(None)));
        bus().write32(at(NVME), register as u8, was);
    }
    assert!(is_as_left(&fake, &placed, window(None)));
    // Another one, or none.
    let other = FakeFunction::device(0x1b36, 0x0011, Class::NVME.0).memory64(0, address, 0x4000);
    fake.insert(NVME, other.with(4, 6));
    assert!(!is_as_left(&fake, &placed, window(None)));
    assert!(!is_as_left(&FakePci::new(), &placed, window(None)));
}

#[test]
fn words_that_are_something_else_are_none() {
    let (_, placed) = left();
    let words = PlacedFunction::write_all(&placed);
    assert_eq!(PlacedFunction::read_all(&[]), Some(Vec::new()));
    for len in [1, 2, 3, 5, words.len() - 1] {
        assert_eq!(PlacedFunction::read_all(&words[..len]), None, "{len}");
    }
    // A device's number, a BAR's, the upper half of a wide one, and a size.
    for (word, bits) in [(0, 0x2000), (3, 6), (3, 5), (3, 0x4000)] {
        let mut words = words.clone();
        words[word] |= bits;
        assert_eq!(PlacedFunction::read_all(&words), None, "{word}, {bits:#x}");
    }
}

#[test]
fn what_is_missing_leaves_its_number_free() {
    let (fake, placed) = left();
    let known: Vec<_> = placed.iter().map(|known| known.function).collect();
    let all = Bus::new(&fake).scan();
    let ordered = in_known_order(&placed, &all);
    assert_eq!(ordered[..known.len()], known, "they come first");
    assert_eq!(ordered.len(), all.len());
    // Of the first controller there is nothing left, and in the other's place there is another device.
    let mut found: Vec<_> = all.into_iter().filter(|it| it != &known[0]).collect();
    let other = found.iter_mut().find(|it| *it == &known[1]).unwrap();
    other.device += 1;
    let other = *other;
    let ordered = in_known_order(&placed, &found);
    assert_eq!(ordered[..known.len()], known);
    assert_eq!(ordered.len(), known.len() + found.len());
    assert!(
        ordered[known.len()..].contains(&other),
        "it gets a number of its own"
    );
    assert_eq!(in_known_order(&[], &found), found);
}

#[test]
fn every_kind_of_bar_is_noted_as_it_is() {
    let (_, mut placed) = left();
    for (wide, prefetchable) in [(false, false), (false, true), (true, false), (true, true)] {
        let bar = &mut placed[0].bars[0];
        (bar.wide, bar.prefetchable) = (wide, prefetchable);
        let words = PlacedFunction::write_all(&placed);
        assert_eq!(PlacedFunction::read_all(&words).as_ref(), Some(&placed));
    }
}
