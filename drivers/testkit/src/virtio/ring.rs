//! A split virtqueue seen from the device (2.7).

use crate::mem::FakeBus;

/// What the driver said of a queue, and how far the device has come.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Entries; 0 as long as the driver has not said.
    pub(super) size: u16,
    pub(super) enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    /// Entries of the available ring taken.
    taken: u16,
    /// Entries written to the used ring.
    used: u16,
}

/// A piece of memory in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bus: u64,
    pub(super) len: u32,
    /// Whether the device is to write to it.
    pub(super) write: bool,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

impl Queue {
    /// A write to a register of the queue; gives what is wrong with it.
    pub(super) fn set(&mut self, offset: usize, value: u32, entries: u16) -> Option<String> {
        let half = |address: &mut u64, high: bool| {
            let shift = if high { 32 } else { 0 };
            *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
        };
        if self.enabled {
            return Some(format!("wrote {offset:#x} of a queue in use"));
        }
        match offset {
            0x18 => {
                self.size = value as u16;
                let fits = self.size.is_power_of_two() && self.size <= entries;
                return (!fits).then(|| format!("queue of {value} entries"));
            }
            0x1c => {
                let aligned = self.descriptors % 16 + self.driver % 2 + self.device % 4 == 0;
                if value != 1 || self.size == 0 || !aligned || self.descriptors == 0 {
                    return Some(format!("enabled {self:?}"));
                }
                self.enabled = true;
            }
            0x20 | 0x24 => half(&mut self.descriptors, offset == 0x24),
            0x28 | 0x2c => half(&mut self.driver, offset == 0x2c),
            0x30 | 0x34 => half(&mut self.device, offset == 0x34),
            _ => return Some(format!("wrote {value:#x} at {offset:#x}")),
        }
        None
    }

    /// Whether there is a request to take.
    pub(super) fn is_waiting(&self, bus: &FakeBus) -> bool {
        self.enabled && read16(bus, self.driver + 2) != self.taken
    }

    /// The next request's first descriptor.
    pub(super) fn take(&mut self, bus: &FakeBus) -> Option<u16> {
        if !self.is_waiting(bus) {
            return None;
        }
        let entry = u64::from(self.taken % self.size);
        self.taken = self.taken.wrapping_add(1);
        Some(read16(bus, self.driver + 4 + entry * 2))
    }

    /// The pieces of the request that begins with descriptor `head`.
    pub(super) fn pieces(
        &self,
        bus: &FakeBus,
        head: u16,
        indirect: bool,
    ) -> Result<Vec<Piece>, String> {
        let (mut table, mut entries, mut index) = (self.descriptors, u32::from(self.size), head);
        let (mut pieces, mut inside) = (Vec::new(), false);
        loop {
            if u32::from(index) >= entries || pieces.len() > usize::from(self.size) {
                return Err(format!("descriptor {index} of {entries}"));
            }
            let mut raw = [0; 16];
            if !bus.read(table + u64::from(index) * 16, &mut raw) {
                return Err(format!("no descriptors at {table:#x}"));
            }
            let [address, rest] = [0, 8]
                .map(|at| u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes")));
            let (len, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            if flags & INDIRECT != 0 {
                if !indirect || inside || flags & (NEXT | WRITE) != 0 || len == 0 || len % 16 != 0 {
                    return Err(format!("indirect descriptor of {len} bytes, flags {flags}"));
                }
                (table, entries, index, inside) = (address, len / 16, 0, true);
                if entries > self.size.into() {
                    return Err(format!("request of {entries} descriptors"));
                }
                continue;
            }
            let write = flags & WRITE != 0;
            let last: Option<&Piece> = pieces.last();
            if len == 0 || !write && last.is_some_and(|piece| piece.write) {
                return Err(format!(
                    "piece of {len} bytes, flags {flags}, after {last:?}"
                ));
            }
            pieces.push(Piece {
                bus: address,
                len,
                write,
            });
            if flags & NEXT == 0 {
                return Ok(pieces);
            }
            index = next;
        }
    }

    /// Puts an entry into the used ring.
    pub(super) fn post(&mut self, bus: &FakeBus, id: u32, len: u32) {
        if !self.enabled {
            return;
        }
        let at = self.device + 4 + u64::from(self.used % self.size) * 8;
        bus.at(at, 8, |pages, offset| {
            use std::sync::atomic::Ordering::Relaxed;
            pages.u32_at(offset).store(id, Relaxed);
            pages.u32_at(offset + 4).store(len, Relaxed);
        });
        self.skip(bus, 1);
    }

    /// Moves the index of the used ring on.
    pub(super) fn skip(&mut self, bus: &FakeBus, entries: u16) {
        use std::sync::atomic::Ordering::Release;
        self.used = self.used.wrapping_add(entries);
        bus.at(self.device + 2, 2, |pages, offset| {
            pages.u16_at(offset).store(self.used, Release);
        });
    }

    pub(super) fn want_notifications(&self, bus: &FakeBus, wanted: bool) {
        use std::sync::atomic::Ordering::Release;
        bus.at(self.device, 2, |pages, offset| {
            pages.u16_at(offset).store(u16::from(!wanted), Release);
        });
    }
}

fn read16(bus: &FakeBus, at: u64) -> u16 {
    use std::sync::atomic::Ordering::Acquire;
    let word = bus.at(at, 2, |pages, offset| pages.u16_at(offset).load(Acquire));
    word.unwrap_or_default()
}
