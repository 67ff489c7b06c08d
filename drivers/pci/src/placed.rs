//! Functions that an earlier driver in the same domain has switched on: where they and their BARs are, so
//! that the next one finds them without a look at each place of each bus and without sizing.
//!
//! Each access to configuration space is a trip to the device model, a millisecond or more on a busy
//! machine. A scan and two rounds of sizing are a hundred of them, and a check of what is known is two
//! for each function, and one or two for each BAR.

use alloc::vec::Vec;

use spindle_hw::Ports;

use crate::bar::REGISTERS;
use crate::config::{command, register};
use crate::{Address, BarWindow, Bus, Class, Function, MemoryBar};

/// A function that was switched on by [`Bus::enable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedFunction {
    /// Which it is.
    pub function: Function,
    /// Its BARs that are needed, where they were placed.
    pub bars: Vec<MemoryBar>,
}

impl PlacedFunction {
    /// Appends it to `words` for [`PlacedFunction::read_all`]: two for the function, and two for each
    /// BAR.
    fn write(&self, words: &mut Vec<u64>) {
        let Function {
            address,
            vendor,
            device,
            class,
            revision,
            header,
        } = self.function;
        let place = [address.bus(), address.device(), address.function(), header];
        let place = u64::from(u32::from_le_bytes(place));
        let rest = u64::from(revision) | (self.bars.len() as u64) << 8;
        words.push(place | rest << 32);
        let id = u64::from(vendor) | u64::from(device) << 16;
        words.push(id | u64::from(class.0) << 32);
        for bar in &self.bars {
            let flags = u64::from(bar.wide) | u64::from(bar.prefetchable) << 1;
            let shift = u64::from(bar.size.trailing_zeros());
            words.push(bar.address);
            words.push(u64::from(bar.index) | shift << 8 | flags << 16);
        }
    }

    fn read(words: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let (place, id) = (words.next()?, words.next()?);
        let [bus, device, function, header, revision, count, ..] = place.to_le_bytes();
        let bars = (0..count).map(|_| {
            let (address, shape) = (words.next()?, words.next()?);
            let [index, shift, flags, ..] = shape.to_le_bytes();
            let wide = flags & 1 != 0;
            let last = index.checked_add(wide.into())?;
            (last < REGISTERS).then_some(MemoryBar {
                index,
                address,
                size: 1_u64.checked_shl(shift.into())?,
                wide,
                prefetchable: flags & 2 != 0,
            })
        });
        Some(Self {
            bars: bars.collect::<Option<_>>()?,
            function: Function {
                address: Address::new(bus, device, function)?,
                vendor: id as u16,
                device: (id >> 16) as u16,
                class: Class((id >> 32) as u32),
                revision,
                header,
            },
        })
    }

    /// All of `functions` in words, to be kept for the next driver.
    #[must_use]
    pub fn write_all(functions: &[Self]) -> Vec<u64> {
        let mut words = Vec::new();
        functions.iter().for_each(|it| it.write(&mut words));
        words
    }

    /// What [`PlacedFunction::write_all`] has made `words` of; `None` if they are not that.
    #[must_use]
    pub fn read_all(words: &[u64]) -> Option<Vec<Self>> {
        let mut words = words.iter().copied().peekable();
        let mut functions = Vec::new();
        while words.peek().is_some() {
            functions.push(Self::read(&mut words)?);
        }
        Some(functions)
    }
}

/// All functions in the order in which disks are numbered: first those that an earlier driver had, be
/// they there or not, so that what is missing leaves its number free; then those of `found` that it did
/// not have.
#[must_use]
pub fn in_known_order(known: &[PlacedFunction], found: &[Function]) -> Vec<Function> {
    let known: Vec<_> = known.iter().map(|known| known.function).collect();
    let new = found.iter().filter(|found| !known.contains(found));
    known.iter().chain(new).copied().collect()
}

impl<P: Ports> Bus<P> {
    /// Whether each of `known` is there yet, decodes memory, and has its BARs where they were placed,
    /// all of them in the free room of `window`, from which they are taken. Nothing is written. If not,
    /// none of this may be relied on.
    #[must_use]
    pub fn are_as_left(&self, known: &[PlacedFunction], window: &mut BarWindow) -> bool {
        known.iter().all(|known| self.is_as_left(known, window))
    }

    fn is_as_left(&self, known: &PlacedFunction, window: &mut BarWindow) -> bool {
        let at = known.function.address;
        let Function { vendor, device, .. } = known.function;
        let id = u32::from(vendor) | u32::from(device) << 16;
        // The rest of what it is does not change while its BARs stay where they were placed.
        let is_there = self.read32(at, register::ID) == id;
        let decodes = || self.read32(at, register::COMMAND) & command::MEMORY != 0;
        let mut bars = known.bars.iter();
        is_there
            && decodes()
            && bars.all(|bar| {
                self.address_of(at, bar) == bar.address
                    && window.hold(bar.address, bar.size, bar.wide)
            })
    }
}
