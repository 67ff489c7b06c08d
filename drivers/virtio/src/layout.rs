//! Where a modern virtio device's registers are: vendor-specific PCI capabilities, each naming a
//! part of a BAR (4.1.4).

use core::fmt;

use spindle_hw::Ports;
use spindle_pci::{Address, Bus, Capability, CapabilityId, Function, MemoryBar};

/// virtio's PCI vendor ID (4.1.2).
const VENDOR: u16 = 0x1af4;
/// A block device, and the same of the kind that can also be driven the old way (4.1.2).
const BLOCK: [u16; 2] = [0x1042, 0x1001];

/// Whether a PCI function is a virtio block device, judged by its identity.
#[must_use]
pub fn is_block_device(function: &Function) -> bool {
    function.vendor == VENDOR && BLOCK.contains(&function.device)
}

/// Why a device's registers cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A capability that every modern device has is not there.
    #[error("no modern virtio device: it has no {0} registers")]
    Missing(&'static str),
    /// A capability points outside its BAR, or is misaligned or too short.
    #[error("its {what} registers are said to be at {at}, which cannot be")]
    Implausible {
        /// Which registers.
        what: &'static str,
        /// Where they are said to be.
        at: Region,
    },
    /// Notification addresses are not on 16-bit boundaries (4.1.4.4.1).
    #[error("its notification addresses are {0} bytes apart")]
    Multiplier(u32),
}

/// A part of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Number of the BAR.
    pub bar: u8,
    /// Bytes from the start of the BAR.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bar, offset, len } = self;
        write!(f, "offset {offset:#x} of BAR {bar}, {len:#x} bytes")
    }
}

/// Where the registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Common configuration (4.1.4.3).
    pub common: Region,
    /// Notification addresses (4.1.4.4).
    pub notify: Region,
    /// Bytes between the notification addresses of successive queue offsets.
    pub notify_multiplier: u32,
    /// The block device's own configuration (4.1.4.6).
    pub device: Region,
}

/// Words that say where the registers are.
pub const LAYOUT_WORDS: usize = 4;

/// Bytes of the common configuration that this driver uses.
pub(crate) const COMMON_LEN: u32 = 0x38;

/// `cfg_type` of `struct virtio_pci_cap` (4.1.4).
mod kind {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const DEVICE: u8 = 4;
}

impl Layout {
    /// Reads the capabilities of the function at `at`, whose memory BARs are `bars`. Of several
    /// of a kind the first that can be used counts (4.1.4.1).
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn find<P: Ports>(
        bus: &Bus<P>,
        at: Address,
        bars: &[MemoryBar],
    ) -> Result<Self, LayoutError> {
        let find = |what, wanted, least, alignment| {
            let capabilities = bus.capabilities(at);
            let candidates = capabilities.filter_map(|c| region(bus, at, c, wanted));
            let mut first = None;
            for (found, capability) in candidates {
                if fits(found, bars, least, alignment) {
                    return Ok((found, capability));
                }
                first = first.or(Some(found));
            }
            Err(
                first.map_or(LayoutError::Missing(what), |at| LayoutError::Implausible {
                    what,
                    at,
                }),
            )
        };
        let (common, _) = find("common", kind::COMMON, COMMON_LEN, 4)?;
        let (notify, capability) = find("notification", kind::NOTIFY, 2, 2)?;
        let (device, _) = find("device", kind::DEVICE, 8, 4)?;
        let notify_multiplier = word(bus, at, capability, 16).unwrap_or(0);
        if !notify_multiplier.is_multiple_of(2) {
            return Err(LayoutError::Multiplier(notify_multiplier));
        }
        Ok(Self {
            common,
            notify,
            notify_multiplier,
            device,
        })
    }

    /// In words, for [`Layout::of_words`]: to look through the capabilities costs dozens of accesses to
    /// configuration space.
    #[must_use]
    pub fn words(&self) -> [u64; LAYOUT_WORDS] {
        let place = |region: &Region| u64::from(region.offset) << 32 | u64::from(region.len);
        let bars = [self.common.bar, self.notify.bar, self.device.bar, 0];
        let bars = u64::from(u32::from_le_bytes(bars));
        [
            bars << 32 | u64::from(self.notify_multiplier),
            place(&self.common),
            place(&self.notify),
            place(&self.device),
        ]
    }

    /// What [`Layout::words`] has made `words` of, for the same device with the same memory BARs.
    #[must_use]
    pub fn of_words(words: &[u64; LAYOUT_WORDS]) -> Self {
        let [first, ..] = words;
        let region = |number: usize| Region {
            bar: (first >> (24 + 8 * number)) as u8,
            offset: (words[number] >> 32) as u32,
            len: words[number] as u32,
        };
        Self {
            common: region(1),
            notify: region(2),
            notify_multiplier: *first as u32,
            device: region(3),
        }
    }
}

/// The doubleword `offset` bytes into a capability, if it is in configuration space.
fn word<P: Ports>(bus: &Bus<P>, at: Address, capability: Capability, offset: u8) -> Option<u32> {
    Some(bus.read32(at, capability.offset.checked_add(offset)?))
}

/// What a capability of kind `wanted` points to.
fn region<P: Ports>(
    bus: &Bus<P>,
    at: Address,
    capability: Capability,
    wanted: u8,
) -> Option<(Region, Capability)> {
    if capability.id != CapabilityId::VENDOR {
        return None;
    }
    let [_, _, _, kind] = word(bus, at, capability, 0)?.to_le_bytes();
    if kind != wanted {
        return None;
    }
    let region = Region {
        bar: word(bus, at, capability, 4)? as u8,
        offset: word(bus, at, capability, 8)?,
        len: word(bus, at, capability, 12)?,
    };
    Some((region, capability))
}

fn fits(region: Region, bars: &[MemoryBar], least: u32, alignment: u32) -> bool {
    let end = u64::from(region.offset) + u64::from(region.len);
    let inside = bars
        .iter()
        .any(|bar| bar.index == region.bar && end <= bar.size);
    inside && region.len >= least && region.offset.is_multiple_of(alignment)
}
