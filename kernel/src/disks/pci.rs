//! The PCI functions of the domain: found once, and switched on for whichever driver knows them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::error;
use spindle_block::{BusMaster, Unreachable};
use spindle_hw::{Mmio, X86Ports};
use spindle_pci::{
    Address, BarWindow, Bus, Function, MemoryBar, PciError, PlacedFunction, Placement,
};

use xen_pvh_boot::MapEntry;

use crate::mm::{self, Memory};
use crate::{restart, xen};

/// Above this there are RAM and grants, up to [`Memory::end`].
const FOUR_GIB: u64 = 4 << 30;

/// All functions, and where their registers go.
#[derive(Debug)]
pub(super) struct Pci {
    pub(super) bus: Rc<Bus<X86Ports>>,
    functions: Vec<Function>,
    window: BarWindow,
    /// Those that are switched on.
    placed: Vec<PlacedFunction>,
    /// One was left out.
    lacks_one: bool,
}

impl Pci {
    /// Looks for what the last life has left, or else at every bus. `map` is the domain's memory map.
    pub(super) fn scan(map: &[MapEntry], memory: &Memory) -> Self {
        let bus = Bus::new(crate::log::ports());
        let claimed = map.iter().map(|e| e.start..e.start.saturating_add(e.size));
        let high = FOUR_GIB..memory.end;
        // Nothing ran before the first life in a domain: what the registers hold there is the host's.
        let window = BarWindow::around(claimed.chain([high]), mm::address_limit());
        let mut held = window.clone();
        let left = left_by_last_life().filter(|left| bus.are_as_left(left, &mut held));
        let (placed, window) = match left {
            Some(left) => (left, held),
            None => (Vec::new(), window),
        };
        let functions = match placed.is_empty() {
            true => bus.scan(),
            false => placed.iter().map(|left| left.function).collect(),
        };
        // The next life must miss none: where it is not known which this one uses, it looks itself.
        note(&placed);
        Self {
            functions,
            bus: Rc::new(bus),
            window,
            placed,
            lacks_one: false,
        }
    }

    /// Has the next life find those of `functions` that are switched on, if all that are `wanted` are;
    /// a life that misses one looks at every bus.
    pub(super) fn note_for_next_life(&self, wanted: impl Fn(&Function) -> bool) {
        let wanted = self.functions.iter().filter(|function| wanted(function));
        let placed = wanted.map(|function| self.placed(function).cloned());
        let placed = placed.collect::<Option<Vec<_>>>();
        note(&placed.filter(|_| !self.lacks_one).unwrap_or_default());
    }

    fn placed(&self, function: &Function) -> Option<&PlacedFunction> {
        let mut placed = self.placed.iter();
        placed.find(|placed| placed.function == *function)
    }

    /// The functions that are of the type asked for.
    pub(super) fn find(&self, is_one: impl Fn(&Function) -> bool) -> Vec<Function> {
        self.functions.iter().copied().filter(is_one).collect()
    }

    /// Switches a function off, and leaves it out from now on.
    pub(super) fn forget(&mut self, address: Address) {
        self.switch_off(address);
        self.lacks_one = true;
        self.functions
            .retain(|function| function.address != address);
    }

    fn switch_off(&mut self, address: Address) {
        self.bus.disable(address);
        self.placed
            .retain(|placed| placed.function.address != address);
    }

    /// Passes on what was `started` of a function that is a `what`; one that does not work is
    /// switched off.
    pub(super) fn check<T>(
        &mut self,
        what: &str,
        function: &Function,
        started: Result<T, String>,
    ) -> Result<T, String> {
        if let Err(reason) = &started {
            self.switch_off(function.address);
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

    /// Switches a function on, if it is not; gives where those memory BARs are that are `needed`, for
    /// which it is always asked with the same answer.
    pub(super) fn enable(
        &mut self,
        function: &Function,
        needed: impl Fn(u8) -> bool,
    ) -> Result<Vec<MemoryBar>, PciError> {
        if let Some(placed) = self.placed(function) {
            return Ok(placed.bars.clone());
        }
        let placement = if xen::is_present() {
            Placement::Assign(&mut self.window)
        } else {
            Placement::Keep
        };
        let bars = self.bus.enable_only(function.address, placement, needed)?;
        self.placed.push(PlacedFunction {
            function: *function,
            bars: bars.clone(),
        });
        Ok(bars)
    }
}

/// The functions that the last life has noted, if it has. A life of another version, or one that has
/// ended before, may have used others.
fn left_by_last_life() -> Option<Vec<PlacedFunction>> {
    let note = restart::functions().filter(|_| xen::is_present())?.read()?;
    let (&life, words) = note.split_first()?;
    let last = restart::memory()?.life().checked_sub(1);
    let is_last = restart::is_again() && last == Some(life);
    PlacedFunction::read_all(words).filter(|_| is_last)
}

/// Notes that these, and no others, are what this life may use; takes the note back if there are none,
/// or too many for it.
fn note(placed: &[PlacedFunction]) {
    let (Some(note), Some(memory)) = (restart::functions(), restart::memory()) else {
        return;
    };
    note.clear();
    if !placed.is_empty() {
        let life = core::iter::once(memory.life());
        let words = life.chain(PlacedFunction::write_all(placed));
        note.write(&words.collect::<Vec<_>>());
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
    fn place(&self) -> u32 {
        self.address.number().into()
    }

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
