//! Controllers as an earlier life of the kernel has left them: they may still write to memory that it
//! gave them. Before any of that is used again, all of them are stopped.

use alloc::format;
use alloc::string::{String, ToString};

use log::error;
use spindle_pci::Function;
use spindle_virtio::{PciTransport, is_block_device};

use super::probe::Probe;
use super::{nvme, pci, placed, virtio};

/// Stops every controller that there is, but for those that were left enabled on purpose and have nothing to
/// do. One that does not stop is switched off the bus and not used.
///
/// # Panics
/// If one does not stop that dom0 has placed: nothing keeps it from memory then.
pub(super) fn stop_all(probe: &mut Probe<'_>) {
    for function in probe.pci.find(|_| true) {
        let stopped = if nvme::is_controller(&function) {
            stop_nvme(probe, &function)
        } else if is_block_device(&function) {
            stop_virtio(probe, &function)
        } else {
            continue;
        };
        // One that has stopped stays switched on, for its driver.
        if let Err(reason) = stopped {
            let reason = format!("it does not stop: {reason}");
            error!("pci {}: not used, {reason}", function.address);
            probe.pci.leave_out(&function, reason);
        }
    }
    for at in &probe.config.placed_controllers {
        let registers = placed::registers(at, probe.map, &mut alloc::vec::Vec::new(), 1);
        // What cannot be reached was not used before either.
        if let Ok(registers) = registers
            && probe.standing(&registers).is_none()
            && let Err(reason) = spindle_nvme::stop(registers, &probe.clock)
            && reason != spindle_nvme::Error::Gone
        {
            panic!(
                "{}: it does not stop: {reason}",
                nvme::name(at.number.into())
            );
        }
    }
}

fn stop_nvme(probe: &mut Probe<'_>, function: &Function) -> Result<(), String> {
    let (registers, _) = nvme::find(probe, function)?;
    if probe.standing(&registers).is_some() {
        return Ok(());
    }
    spindle_nvme::stop(registers, &probe.clock).map_err(|error| error.to_string())
}

fn stop_virtio(probe: &mut Probe<'_>, function: &Function) -> Result<(), String> {
    let (bars, layout) = virtio::find(probe, function)?;
    let mut transport = PciTransport::new(layout, |bar| pci::registers(&bars, bar))?;
    spindle_virtio::stop(&mut transport, &probe.clock).map_err(|error| error.to_string())
}
