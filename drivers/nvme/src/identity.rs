//! Who a controller is and what it can do, as far as others want to know.

use alloc::string::String;
use core::time::Duration;

use spindle_hw::PAGE_SIZE;

use crate::MAX_TRANSFER;
use crate::identify::{IdentifyController, text};

/// Who the controller is and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Model, printable.
    pub model: String,
    /// Serial number, printable.
    pub serial: String,
    /// The name of its subsystem (NQN), printable; empty if it has none.
    pub subsystem: String,
    /// Firmware revision, printable.
    pub firmware: String,
    /// Version of the specification: major and minor.
    pub version: (u16, u8),
    /// The most bytes one NVMe command moves, by what the controller and this driver can.
    pub max_transfer: u32,
    /// Whether its subsystem may have other ports, controllers or functions, which others use (CMIC).
    pub shared: bool,
    /// Whether there is a volatile write cache.
    pub write_cache: bool,
    /// ONCS, the optional commands it knows (5.15.2.2).
    pub optional_commands: u16,
    /// Blocks that it writes whole or not at all when power fails (AWUPF + 1), for namespaces
    /// that say nothing else.
    pub atomic_blocks: u32,
    /// OAES, the optional events it tells of (5.15.2.2).
    pub events: u32,
    /// RTD3E: how long it says a shutdown may take; zero if it does not say.
    pub shutdown_time: Duration,
    /// CRDT1 to CRDT3: how long it may ask for a command not to be tried again, in units of 100 ms.
    pub retry_delays: [u16; 3],
}

/// ONCS bit 2: Dataset Management.
const DATASET_MANAGEMENT: u16 = 1 << 2;

impl Identity {
    /// What Identify Controller says; `version` is the register VS.
    pub(crate) fn new(data: &IdentifyController, version: u32) -> Self {
        // In units of the smallest page, which is 4 KiB here.
        let max_transfer = match data.mdts {
            0 => MAX_TRANSFER,
            mdts => MAX_TRANSFER.min((PAGE_SIZE as u32) << mdts.min(16)),
        };
        Self {
            model: text(&data.model),
            serial: text(&data.serial),
            subsystem: text(&data.subnqn),
            firmware: text(&data.firmware),
            version: ((version >> 16) as u16, (version >> 8) as u8),
            max_transfer,
            shared: data.cmic & 7 != 0,
            write_cache: data.vwc & 1 != 0,
            optional_commands: data.oncs.get(),
            events: data.events.get(),
            atomic_blocks: u32::from(data.awupf.get()) + 1,
            shutdown_time: Duration::from_micros(data.shutdown_us.get().into()),
            retry_delays: data.retry_delays.each_ref().map(|delay| delay.get()),
        }
    }

    /// Whether this is the controller that was known as `other`.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        (&self.serial, &self.model) == (&other.serial, &other.model)
    }

    /// Whether it knows how to discard blocks.
    #[must_use]
    pub fn discards(&self) -> bool {
        self.optional_commands & DATASET_MANAGEMENT != 0
    }
}
