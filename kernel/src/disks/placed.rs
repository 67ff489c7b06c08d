//! NVMe controllers of a domain without PCI: dom0 maps their registers into guest memory, switches
//! bus mastering on, and says where they are by the option `nvmeN=`.
//!
//! Nothing can be looked up on this route, so that a wrong option must show here: the frames must be
//! no memory of this domain, and a controller must answer there (frames with nothing behind them
//! read as all ones).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use log::error;
use spindle_config::PlacedController;
use spindle_hw::Mmio;
use xen_pvh_boot::{MapEntry, PAGE};

use super::nvme;
use super::probe::Probe;

/// Brings up the controllers that the options name.
pub(super) fn probe(probe: &mut Probe<'_>) {
    let mut used = Vec::new();
    for placed in &probe.config.placed_controllers {
        let name = nvme::name(placed.number.into());
        let at = format!("frames {:x},{:x}", placed.frame, placed.pages);
        let started = registers(placed, probe.map, &mut used, probe.options.queues)
            .and_then(|registers| nvme::start(probe, placed.number.into(), &at, registers, None));
        if let Err(reason) = &started {
            error!("{name}: controller at {at} not usable: {reason}");
        }
        probe.note(name, started);
    }
}

/// Maps the registers, unless something else is there. `used` are those mapped before.
pub(super) fn registers(
    placed: &PlacedController,
    map: &[MapEntry],
    used: &mut Vec<Range<u64>>,
    queues: u16,
) -> Result<Mmio, String> {
    let (start, size) = (placed.frame * PAGE, placed.pages * PAGE);
    let range = start..start + size;
    let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
    if let Some(entry) = map
        .iter()
        .find(|e| meets(&(e.start..e.start.saturating_add(e.size))))
    {
        let (name, first) = (entry.kind.name(), entry.start);
        return Err(format!("the memory map has {name} there, at {first:#x}"));
    }
    if used.iter().any(meets) {
        return Err("another controller's registers are there".into());
    }
    // Refuses the grant window and the pages shared with Xen, which are mapped already.
    let registers = nvme::map(start, size, queues)?;
    used.push(range);
    Ok(registers)
}
