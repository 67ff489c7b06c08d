//! NVMe controllers of a domain without PCI: dom0 maps their registers into guest memory, switches
//! bus mastering on, and says where they are by the knob `nvmeN=`.
//!
//! Nothing can be looked up on this route, so that a wrong knob must show here: the frames must be
//! no memory of this domain, and a controller must answer there (frames with nothing behind them
//! read as all ones).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use log::error;
use spindle_block::DiskOptions;
use spindle_config::PlacedController;
use spindle_hw::Mmio;
use xen_pvh_boot::{MapEntry, PAGE};

use super::nvme::NvmeDisk;
use crate::mm::Dma;
use crate::xen::time::CoreClock;

/// Brings up the controllers that the knobs name; gives each with its number, or why it does not
/// work. `map` is the domain's memory map.
pub(super) fn controllers(
    knobs: &[PlacedController],
    map: &[MapEntry],
    dma: Dma,
    clock: &'static CoreClock,
    options: DiskOptions,
) -> Vec<(usize, Result<NvmeDisk, String>)> {
    let mut used = Vec::new();
    let mut disks = Vec::new();
    for knob in knobs {
        let number = usize::from(knob.number);
        let at = format!("frames {:x},{:x}", knob.frame, knob.pages);
        let started = registers(knob, map, &mut used, options.queues)
            .and_then(|registers| NvmeDisk::start(&at, registers, dma, clock, options));
        if let Err(reason) = &started {
            error!("nvme{number}: controller at {at} not usable: {reason}");
        }
        disks.push((number, started));
    }
    disks
}

/// Maps the registers, unless something else is there. `used` are those mapped before.
fn registers(
    knob: &PlacedController,
    map: &[MapEntry],
    used: &mut Vec<Range<u64>>,
    queues: u16,
) -> Result<Mmio, String> {
    let (start, size) = (knob.frame * PAGE, knob.pages * PAGE);
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
    let registers = NvmeDisk::map(start, size, queues)?;
    used.push(range);
    Ok(registers)
}
