//! The PCI functions of the domain: found once, and switched on for whichever driver knows them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::error;
use spindle_hw::{Mmio, X86Ports};
use spindle_pci::{Bus, Function, MemoryBar, PciError, Placement, Window};

use xen_pvh_boot::MapEntry;

use crate::mm::{self, Memory};
use crate::xen;

/// Above this there are RAM and grants, up to [`Memory::end`].
const FOUR_GIB: u64 = 4 << 30;

/// All functions, and where their registers go.
#[derive(Debug)]
pub(super) struct Pci {
    pub(super) bus: Bus<X86Ports>,
    pub(super) functions: Vec<Function>,
    window: Window,
}

impl Pci {
    /// Looks at every bus. `map` is the domain's memory map.
    pub(super) fn scan(map: &[MapEntry], memory: &Memory) -> Self {
        let bus = Bus::new(crate::log::ports());
        let claimed = map.iter().map(|e| e.start..e.start.saturating_add(e.size));
        let high = FOUR_GIB..memory.end;
        Self {
            functions: bus.scan(),
            bus,
            // Nothing ran before us in a domain: what the registers hold there is the host's.
            window: Window::around(claimed.chain([high]), mm::address_limit()),
        }
    }

    /// Has `start` bring up every function that is a `what`. One that does not work is switched
    /// off; it keeps its place, so that those after it keep their numbers.
    pub(super) fn start_all<T>(
        &mut self,
        what: &str,
        is_one: impl Fn(&Function) -> bool,
        start: impl Fn(&mut Self, &Function) -> Result<T, String>,
    ) -> Vec<Result<T, String>> {
        let mut started = Vec::new();
        for function in self.functions.clone().iter().filter(|f| is_one(f)) {
            let disk = start(self, function);
            if let Err(reason) = &disk {
                self.disable(function);
                error!("pci {}: {what} not usable: {reason}", function.address);
            }
            started.push(disk);
        }
        started
    }

    /// Switches a function on; gives where those memory BARs are that are `needed`.
    pub(super) fn enable(
        &mut self,
        function: &Function,
        needed: impl Fn(u8) -> bool,
    ) -> Result<Vec<MemoryBar>, PciError> {
        let placement = if xen::is_present() {
            Placement::Assign(&mut self.window)
        } else {
            Placement::Keep
        };
        self.bus.enable_only(function.address, placement, needed)
    }

    /// Switches a function off again.
    pub(super) fn disable(&self, function: &Function) {
        self.bus.disable(function.address);
    }
}

/// Memory BAR `index` of those that are switched on.
pub(super) fn find(bars: &[MemoryBar], index: u8) -> Result<&MemoryBar, String> {
    let bar = bars.iter().find(|bar| bar.index == index);
    bar.ok_or_else(|| alloc::format!("it has no memory BAR {index}"))
}

/// The registers behind memory BAR `index`, mapped.
pub(super) fn registers(bars: &[MemoryBar], index: u8) -> Result<Mmio, String> {
    let bar = find(bars, index)?;
    let len = usize::try_from(bar.size).map_err(|error| error.to_string())?;
    mm::registers(bar.address, len).map_err(|error| error.to_string())
}
