//! A PCI bus behind ports 0xCF8/0xCFC: configuration headers, BARs that size as real ones do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use spindle_hw::Ports;
use spindle_pci::{Address, CONFIG_ADDRESS, CONFIG_DATA};

/// Offsets and bits of the configuration header, named here a second time so that a slip in the
/// driver does not cancel itself out.
const COMMAND: usize = 0x04;
const HEADER_TYPE: usize = 0x0c;
const BARS: Range<usize> = 0x10..0x28;
const DECODES: u32 = 0b11;

/// A function: 256 bytes of configuration space.
#[derive(Clone, Debug)]
pub struct FakeFunction {
    words: [u32; 64],
    /// Bits of each BAR that a write changes; 0 for a register that is not there.
    writable: [u32; 6],
}

impl FakeFunction {
    /// A device with nothing but an identity; `class` as in [`spindle_pci::Class`].
    #[must_use]
    pub fn device(vendor: u16, device: u16, class: u32) -> Self {
        let mut words = [0; 64];
        words[0] = u32::from(device) << 16 | u32::from(vendor);
        words[2] = class << 8;
        Self {
            words,
            writable: [0; 6],
        }
    }

    /// A bridge to `secondary`.
    #[must_use]
    pub fn bridge(secondary: u8) -> Self {
        let mut bridge = Self::device(0x8086, 0x1234, 0x06_04_00);
        bridge.words[HEADER_TYPE / 4] = 1 << 16;
        bridge.words[0x18 / 4] = u32::from(secondary) << 8;
        bridge
    }

    /// Says that the device has more functions than this one.
    #[must_use]
    pub fn multi_function(mut self) -> Self {
        self.words[HEADER_TYPE / 4] |= 0x80 << 16;
        self
    }

    /// Adds a 64-bit memory BAR of `size` bytes that holds `address`.
    #[must_use]
    pub fn memory64(mut self, index: usize, address: u64, size: u64) -> Self {
        let mask = !(size - 1);
        self.writable[index] = mask as u32;
        self.writable[index + 1] = (mask >> 32) as u32;
        self.words[4 + index] = address as u32 | 0b100;
        self.words[5 + index] = (address >> 32) as u32;
        self
    }

    /// Adds a 32-bit memory BAR of `size` bytes that holds `address`.
    #[must_use]
    pub fn memory32(mut self, index: usize, address: u32, size: u32) -> Self {
        self.writable[index] = !(size - 1);
        self.words[4 + index] = address;
        self
    }

    /// Adds an I/O BAR of `size` ports at `port`.
    #[must_use]
    pub fn io(mut self, index: usize, port: u32, size: u32) -> Self {
        self.writable[index] = !(size - 1);
        self.words[4 + index] = port | 1;
        self
    }

    /// Writes the doubleword at `offset` as the maker of the device would.
    #[must_use]
    pub fn with(mut self, offset: usize, value: u32) -> Self {
        self.words[offset / 4] = value;
        self
    }

    /// The memory that the function decodes, by the device model's rules (QEMU 7.2,
    /// `pci_bar_address`): nothing while decoding is off, no BAR at address 0, and none that ends
    /// where the address space of its register does.
    fn decoded(&self) -> Vec<Range<u64>> {
        const MEMORY: u32 = 0b10;
        let mut ranges = Vec::new();
        let mut index = 0;
        while index < 6 && self.words[COMMAND / 4] & MEMORY != 0 {
            let (low, mut writable) = (self.words[4 + index], u64::from(self.writable[index]));
            let mut address = u64::from(low & !0xf);
            let wide = low & 0b110 == 0b100;
            index += 1;
            if low & 1 != 0 {
                continue;
            }
            let mut last = u64::from(u32::MAX);
            if wide {
                address |= u64::from(self.words[4 + index]) << 32;
                writable |= u64::from(self.writable[index]) << 32;
                last = u64::MAX;
                index += 1;
            }
            let size: u64 = 1 << writable.trailing_zeros().min(63);
            let end = address.checked_add(size).filter(|&end| end <= last);
            if let Some(end) = end
                && writable != 0
                && address != 0
            {
                ranges.push(address..end);
            }
        }
        ranges
    }

    fn write(&mut self, offset: usize, value: u32) {
        let word = &mut self.words[offset / 4];
        if BARS.contains(&offset) {
            let mask = self.writable[(offset - BARS.start) / 4];
            *word = value & mask | *word & !mask;
        } else if offset == COMMAND {
            *word = *word & 0xffff_0000 | value & 0xffff;
        }
    }
}

/// The buses behind one pair of ports.
#[derive(Debug, Default)]
pub struct FakePci {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    functions: BTreeMap<Address, FakeFunction>,
    selected: u32,
    unsafe_writes: usize,
    accesses: usize,
}

impl FakePci {
    /// Buses with nothing on them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `function` at bus, device, function.
    pub fn insert(&self, (bus, device, number): (u8, u8, u8), function: FakeFunction) {
        let at = Address::new(bus, device, number).expect("an address");
        self.state.lock().unwrap().functions.insert(at, function);
    }

    /// The doubleword at `offset` of a function that is there.
    #[must_use]
    pub fn config(&self, at: Address, offset: usize) -> u32 {
        self.state.lock().unwrap().functions[&at].words[offset / 4]
    }

    /// The memory that a function that is there decodes.
    #[must_use]
    pub fn decoded(&self, at: Address) -> Vec<Range<u64>> {
        self.state.lock().unwrap().functions[&at].decoded()
    }

    /// Accesses to the ports so far.
    #[must_use]
    pub fn accesses(&self) -> usize {
        self.state.lock().unwrap().accesses
    }

    /// BAR writes made while the function was decoding.
    #[must_use]
    pub fn unsafe_writes(&self) -> usize {
        self.state.lock().unwrap().unsafe_writes
    }
}

impl State {
    fn target(&mut self) -> Option<(&mut FakeFunction, usize)> {
        let selected = self.selected;
        let at = Address::new(
            (selected >> 16) as u8,
            (selected >> 11) as u8 & 31,
            (selected >> 8) as u8 & 7,
        )?;
        let function = self.functions.get_mut(&at)?;
        (selected >> 31 == 1).then_some((function, (selected & 0xfc) as usize))
    }
}

impl Ports for FakePci {
    fn in8(&self, _port: u16) -> u8 {
        u8::MAX
    }

    fn out8(&self, _port: u16, _value: u8) {}

    fn in32(&self, port: u16) -> u32 {
        let mut state = self.state.lock().unwrap();
        state.accesses += 1;
        match port {
            CONFIG_ADDRESS => state.selected,
            CONFIG_DATA => state
                .target()
                .map_or(u32::MAX, |(function, offset)| function.words[offset / 4]),
            _ => u32::MAX,
        }
    }

    fn out32(&self, port: u16, value: u32) {
        let mut state = self.state.lock().unwrap();
        state.accesses += 1;
        match port {
            CONFIG_ADDRESS => state.selected = value,
            CONFIG_DATA => {
                let Some((function, offset)) = state.target() else {
                    return;
                };
                let exposed = BARS.contains(&offset) && function.words[COMMAND / 4] & DECODES != 0;
                function.write(offset, value);
                state.unsafe_writes += usize::from(exposed);
            }
            _ => {}
        }
    }
}

/// So that a test can look at the bus while a driver has it.
impl Ports for &FakePci {
    fn in8(&self, port: u16) -> u8 {
        (*self).in8(port)
    }

    fn out8(&self, port: u16, value: u8) {
        (*self).out8(port, value);
    }

    fn in32(&self, port: u16) -> u32 {
        (*self).in32(port)
    }

    fn out32(&self, port: u16, value: u32) {
        (*self).out32(port, value);
    }
}
