//! The PCI functions of the domain: found once, and switched on for whichever driver knows them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::error;
use spindle_block::{BusMaster, Unreachable};
use spindle_hw::{Mmio, X86Ports};
use spindle_pci::{Address, Bus, Function, MemoryBar, PciError, Placement, Window};

use xen_pvh_boot::MapEntry;

use crate::mm::{self, Memory};
use crate::xen;

/// Above this there are RAM and grants, up to [`Memory::end`].
const FOUR_GIB: u64 = 4 << 30;

/// All functions, and where their registers go.
#[derive(Debug)]
pub(super) struct Pci {
    pub(super) bus: Rc<Bus<X86Ports>>,
    functions: Vec<Function>,
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
            bus: Rc::new(bus),
            // Nothing ran before us in a domain: what the registers hold there is the host's.
            window: Window::around(claimed.chain([high]), mm::address_limit()),
        }
    }

    /// The functions that are of the type asked for.
    pub(super) fn find(&self, is_one: impl Fn(&Function) -> bool) -> Vec<Function> {
        self.functions.iter().copied().filter(is_one).collect()
    }

    /// Leaves a function out from now on.
    pub(super) fn forget(&mut self, address: Address) {
        self.functions
            .retain(|function| function.address != address);
    }

    /// Passes on what was `started` of a function that is a `what`; one that does not work is
    /// switched off.
    pub(super) fn check<T>(
        &self,
        what: &str,
        function: &Function,
        started: Result<T, String>,
    ) -> Result<T, String> {
        if let Err(reason) = &started {
            self.bus.disable(function.address);
            error!("pci {}: {what} not usable: {reason}", function.address);
        }
        started
    }

    /// The bus mastering of a function, for its driver, which needs the memory BARs `bars`, and drives
    /// what may take its place if `is_one` says so.
    pub(super) fn master(
        &self,
        function: &Function,
        bars: &[MemoryBar],
        is_one: fn(&Function) -> bool,
    ) -> PciMaster {
        PciMaster {
            bus: Rc::clone(&self.bus),
            address: function.address,
            is_one,
            bars: bars.into(),
        }
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
}

/// The bus mastering of one function.
#[derive(Debug)]
pub(super) struct PciMaster {
    pub(super) bus: Rc<Bus<X86Ports>>,
    pub(super) address: Address,
    is_one: fn(&Function) -> bool,
    pub(super) bars: Box<[MemoryBar]>,
}

impl BusMaster for PciMaster {
    fn disable(&mut self) -> bool {
        self.bus.disable(self.address);
        true
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        let restored = self.bus.restore(self.address, self.is_one, &self.bars);
        restored.map_err(|error| Unreachable {
            reason: error.to_string(),
            absent: matches!(error, PciError::Absent(_)),
        })
    }

    fn enable(&mut self) {
        self.bus.master(self.address);
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
