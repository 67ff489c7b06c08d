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
    in_known_order,
};

use xen_pvh_boot::MapEntry;

use crate::mm::{self, Memory};
use crate::restart::NextLife;
use crate::xen;

/// Above this there are RAM and grants, up to [`Memory::end`].
const FOUR_GIB: u64 = 4 << 30;

/// All functions, and where their registers go.
#[derive(Debug)]
pub(super) struct Pci {
    pub(super) bus: Rc<Bus<X86Ports>>,
    /// In the order in which disks are numbered, which is the same in each life.
    functions: Vec<Function>,
    window: BarWindow,
    /// Those that are switched on.
    placed: Vec<PlacedFunction>,
    /// Those that are not used, and why.
    left_out: Vec<(Function, String)>,
    /// The functions are those of the last life, and as it has left them.
    as_left: bool,
}

/// What the last life has noted of the functions with disks.
struct Noted {
    /// They are all that there were, and were used.
    is_complete: bool,
    functions: Vec<PlacedFunction>,
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
        let noted = Noted::read();
        let known = noted.functions;
        let holds = noted.is_complete && !known.is_empty();
        let holds = holds && bus.are_as_left(&known, &mut held);
        // This life may end before it knows more.
        note(holds, &known);
        let mut left_out = Vec::new();
        let (functions, placed, window) = if holds {
            let functions = known.iter().map(|known| known.function).collect();
            (functions, known, held)
        } else {
            let found = bus.scan();
            let functions = in_known_order(&known, &found);
            let gone = functions.iter().filter(|it| !found.contains(it));
            left_out.extend(gone.map(|it| (*it, "it is not there any longer".to_string())));
            (functions, Vec::new(), window)
        };
        Self {
            functions,
            bus: Rc::new(bus),
            window,
            placed,
            left_out,
            as_left: holds,
        }
    }

    /// Whether the functions are those of the last life, and as it has left them.
    pub(super) const fn is_as_left(&self) -> bool {
        self.as_left
    }

    /// Has the next life find those of `functions` that are `wanted`, in the same order. One that is not
    /// used has the next life look at every bus.
    pub(super) fn note_for_next_life(&self, wanted: impl Fn(&Function) -> bool) {
        let wanted = self.functions.iter().filter(|function| wanted(function));
        let known = wanted.map(|function| {
            let placed = self.placed(function).cloned();
            placed.unwrap_or(PlacedFunction {
                function: *function,
                bars: Vec::new(),
            })
        });
        let known: Vec<_> = known.collect();
        note(known.iter().all(|known| !known.bars.is_empty()), &known);
    }

    fn placed(&self, function: &Function) -> Option<&PlacedFunction> {
        let mut placed = self.placed.iter();
        placed.find(|placed| placed.function == *function)
    }

    /// The functions that are of the type asked for.
    pub(super) fn find(&self, is_one: impl Fn(&Function) -> bool) -> Vec<Function> {
        self.functions.iter().copied().filter(is_one).collect()
    }

    /// Switches a function off, and does not use it, for this `reason`.
    pub(super) fn leave_out(&mut self, function: &Function, reason: String) {
        self.switch_off(function.address);
        self.left_out.push((*function, reason));
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
    ///
    /// # Errors
    /// Why it is not used, or cannot be switched on.
    pub(super) fn enable(
        &mut self,
        function: &Function,
        needed: impl Fn(u8) -> bool,
    ) -> Result<Vec<MemoryBar>, String> {
        let mut left_out = self.left_out.iter();
        if let Some((_, reason)) = left_out.find(|(it, _)| it == function) {
            return Err(reason.clone());
        }
        if let Some(placed) = self.placed(function) {
            return Ok(placed.bars.clone());
        }
        let placement = if xen::is_present() {
            Placement::Assign(&mut self.window)
        } else {
            Placement::Keep
        };
        let bars = self.bus.enable_only(function.address, placement, needed);
        let bars = bars.map_err(|error| error.to_string())?;
        self.placed.push(PlacedFunction {
            function: *function,
            bars: bars.clone(),
        });
        Ok(bars)
    }
}

impl Noted {
    /// Reads the note, if there is one.
    fn read() -> Self {
        let words = NextLife::Functions.read().unwrap_or_default();
        let functions = words.get(1..).and_then(PlacedFunction::read_all);
        Self {
            is_complete: words.first() == Some(&1),
            functions: functions.unwrap_or_default(),
        }
    }
}

/// Notes `functions`, in order, and whether this life uses them and no others. There is no note if they
/// are too many for it.
fn note(is_complete: bool, functions: &[PlacedFunction]) {
    let head = core::iter::once(is_complete.into());
    let words = head.chain(PlacedFunction::write_all(functions));
    NextLife::Functions.write(&words.collect::<Vec<_>>());
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
