//! Block requests on the wire (5.2.6), each in a small area of its own beside the data.

use core::sync::atomic::Ordering;

use spindle_block::{IoError, IoResult};
use spindle_hw::SharedPages;

/// Request types.
pub(crate) mod kind {
    pub(crate) const IN: u32 = 0;
    pub(crate) const OUT: u32 = 1;
    pub(crate) const FLUSH: u32 = 4;
    pub(crate) const GET_ID: u32 = 8;
    pub(crate) const DISCARD: u32 = 11;
    pub(crate) const WRITE_ZEROES: u32 = 13;
    pub(crate) const SECURE_ERASE: u32 = 14;
    /// Flag of a range: WRITE_ZEROES may give the blocks up.
    pub(crate) const UNMAP: u32 = 1;
}

/// Bytes of a request's header: type, reserved, sector.
pub(crate) const HEADER_LEN: u32 = 16;
/// Bytes of a range of DISCARD, WRITE_ZEROES and SECURE_ERASE: sector, number of sectors, flags.
pub(crate) const RANGE_LEN: u32 = 16;
/// Bytes that GET_ID gives.
pub(crate) const ID_LEN: usize = 20;
/// Bytes kept for each request.
pub(crate) const AREA_LEN: usize = 64;

const RANGE: usize = 16;
const STATUS: usize = 32;
const ID: usize = 36;
const _: () = assert!(ID + ID_LEN <= AREA_LEN);

/// No status: what stands there until the device writes one.
const PENDING: u8 = 0xff;

/// What the device reads and writes beside the data, one area for each request in flight.
#[derive(Debug)]
pub(crate) struct Areas(pub(crate) SharedPages);

impl Areas {
    fn at(slot: u16, part: usize) -> usize {
        usize::from(slot) * AREA_LEN + part
    }

    fn bus(&self, slot: u16, part: usize) -> u64 {
        self.0.bus() + Self::at(slot, part) as u64
    }

    /// Writes the header of a request and takes its old status away.
    #[inline]
    pub(crate) fn head(&self, slot: u16, kind: u32, sector: u64) {
        let [header, place] = self.0.u64s_at(Self::at(slot, 0));
        header.store(kind.into(), Ordering::Relaxed);
        place.store(sector, Ordering::Relaxed);
        self.0
            .u8_at(Self::at(slot, STATUS))
            .store(PENDING, Ordering::Relaxed);
    }

    /// Writes the range of a request.
    pub(crate) fn range(&self, slot: u16, sector: u64, sectors: u32, flags: u32) {
        let [place, extent] = self.0.u64s_at(Self::at(slot, RANGE));
        place.store(sector, Ordering::Relaxed);
        extent.store(
            u64::from(sectors) | u64::from(flags) << 32,
            Ordering::Relaxed,
        );
    }

    /// Bus address of the header.
    #[inline]
    pub(crate) fn header_bus(&self, slot: u16) -> u64 {
        self.bus(slot, 0)
    }

    /// Bus address of the range.
    pub(crate) fn range_bus(&self, slot: u16) -> u64 {
        self.bus(slot, RANGE)
    }

    /// Bus address of the status byte.
    #[inline]
    pub(crate) fn status_bus(&self, slot: u16) -> u64 {
        self.bus(slot, STATUS)
    }

    /// Bus address of the place for an identity.
    pub(crate) fn id_bus(&self, slot: u16) -> u64 {
        self.bus(slot, ID)
    }

    /// How a request ended, by its status byte alone: the length in the used ring says nothing
    /// that can be relied on. `None` if the device has written no status, so that it may not be done
    /// with the request's memory, whatever it says in the used ring.
    #[inline]
    pub(crate) fn outcome(&self, slot: u16) -> Option<IoResult> {
        let status = self.0.u8_at(Self::at(slot, STATUS));
        match status.load(Ordering::Relaxed) {
            0 => Some(Ok(())),
            1 => Some(Err(IoError::Medium)),
            2 => Some(Err(IoError::Unsupported)),
            PENDING => None,
            other => Some(Err(IoError::Device(other.into()))),
        }
    }

    /// The identity that GET_ID left.
    pub(crate) fn id(&self, slot: u16) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        self.0.read_bytes(Self::at(slot, ID), &mut id);
        id
    }
}
