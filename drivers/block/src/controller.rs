//! The control side of a disk: what the control core asks of a controller, whatever its type.
//!
//! [`crate::DiskQueue`] is the other side, one queue for each ring core. A disk type is complete
//! with one implementation of each; the control core keeps its controllers as trait objects, while
//! queues are dispatched statically.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::{Inspection, Unit, Volume};

/// A disk controller that is running. `Q` is the type that holds a queue of any disk type.
///
/// Everything here may wait for the controller, within limits, and may allocate; none of it is on
/// the data path. Reasons are texts without the controller's name, for the log and for guests.
pub trait BlockController<Q> {
    /// The name that users know the controller by: `nvme0`, `vda`, `ram0`.
    fn name(&self) -> &str;

    /// What it offers, as volumes of the disk that has number `disk` in the caller's table.
    fn volumes(&self, disk: usize) -> Vec<Volume>;

    /// Parts of it that cannot be served: the name that the volume would have, and the reason.
    fn refused(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Makes a queue for one core.
    ///
    /// # Errors
    /// The reason, if the controller has no queue left or does not make one.
    fn create_queue(&mut self) -> Result<Q, String>;

    /// Looks after the controller: late commands, failure, changes. To be called about once a
    /// second, and sooner where [`DiskEvents::soon`] asks for that.
    fn attend(&mut self) -> DiskEvents {
        DiskEvents::default()
    }

    /// Says that nothing more is submitted, by any queue, to the units of which
    /// [`UnitChange::Removed`] has been reported so far. To be called when every core has carried out
    /// what was ordered then; not before may others get what is under these numbers now.
    fn closed(&mut self) {}

    /// Has all units be looked at again; what has changed comes with later calls of
    /// [`BlockController::attend`].
    fn rescan(&mut self) {}

    /// Begins to bring a lost controller up once more; what becomes of it comes with later calls of
    /// [`BlockController::attend`], as [`DiskEvents::back`] or [`DiskEvents::lost`]. To be called when
    /// every core has carried out what was ordered when it was lost.
    ///
    /// # Errors
    /// Why there is no use in trying now.
    fn probe_again(&mut self) -> Result<(), String> {
        Err("a disk of this type does not come back".into())
    }

    /// Where it is plugged in: a number that no other controller has, and that it keeps over a restart of
    /// the kernel in its domain. 0 of one that is plugged in nowhere, such as a RAM disk: what tells it
    /// from others is its name.
    fn place(&self) -> u32;

    /// Its number among those of its kind. Only controllers that report [`ControllerBack::Other`] are
    /// asked for it, and for their names.
    fn number(&self) -> usize {
        0
    }

    /// The name that a controller of its kind has with that number.
    fn name_of(&self, _number: usize) -> String {
        self.name().into()
    }

    /// Gives the controller another number: names of volumes are made of that from now on.
    fn rename(&mut self, _number: usize) {}

    /// Asks for the state of its health, which comes as [`DiskEvents::health`] of a later
    /// [`BlockController::attend`].
    fn ask_health(&mut self) {}

    /// Asks for a page in which it says what it is or how it is; the answer comes as
    /// [`DiskEvents::inspected`]. False if it cannot be asked just now, `None` if there are no such pages.
    fn inspect(&mut self, _wanted: Inspection) -> Option<bool> {
        None
    }

    /// Has the controller end its work within so long a time and stay enabled for the next life of the
    /// kernel; gives what that one must know, in words. Every queue must be empty, and none is used
    /// again. Without a time it is only said whether it could. `None` if controllers of its kind never
    /// do.
    ///
    /// # Errors
    /// Why the next life must reset it. Whatever has been done of it then is undone by that.
    fn stand_by(&mut self, _within: Option<Duration>) -> Option<Result<Vec<u64>, &'static str>> {
        None
    }

    /// Has the controller write out its cache, switches it off, and gives its memory back.
    /// `queues` are all that [`BlockController::create_queue`] made.
    ///
    /// # Errors
    /// The first thing that went wrong; the rest was done nevertheless as far as possible.
    fn shutdown(self: Box<Self>, queues: Vec<Q>) -> Result<(), String>;
}

/// What [`BlockController::attend`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskEvents {
    /// Every core is to take a poll iteration with its queue on this controller, or nothing goes on.
    pub wake: bool,
    /// Attend again within milliseconds rather than in a second.
    pub soon: bool,
    /// Units that are no longer what they were.
    pub changes: Vec<UnitChange>,
    /// The state of its health in words of the form `key=value`, if there is news of it.
    pub health: Option<String>,
    /// What was asked for by [`BlockController::inspect`]: [`spindle_status::inspect::PIECE`] bytes of it at
    /// most; or why there is nothing.
    pub inspected: Option<Result<Vec<u8>, String>>,
    /// The controller has failed; reported once, and once more for each
    /// [`BlockController::probe_again`] that came to nothing.
    pub lost: Option<LostController>,
    /// The controller was lost, and works again.
    pub back: Option<ControllerBack>,
    /// What was answered and is not yet durable may be gone, though the controller goes on with what is
    /// in flight. It answers nothing before the next [`BlockController::attend`].
    pub cache_lost: bool,
}

/// What has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerBack {
    /// The same disk: those who use it go on.
    Same,
    /// Another disk in its place. All units of the old one have been reported as removed.
    Other,
}

/// How many completions have named no command in flight, as far as that has been reported. A disk
/// that posts any is faulty or hostile; they are ignored. It is printed as one word of
/// [`DiskEvents::health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpuriousCompletions(u64);

impl SpuriousCompletions {
    /// Takes the count of now; gives the one before if it was another.
    pub fn update(&mut self, count: u64) -> Option<u64> {
        let before = core::mem::replace(&mut self.0, count);
        (before != count).then_some(before)
    }
}

impl fmt::Display for SpuriousCompletions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spurious_completions={}", self.0)
    }
}

/// A unit that is no longer what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitChange {
    /// It has another size.
    Resized {
        /// Which unit.
        unit: Unit,
        /// The new size in sectors of 512 bytes.
        sectors: u64,
    },
    /// It is gone, or cannot be served any longer as what it was.
    Removed {
        /// Which unit.
        unit: Unit,
        /// Why.
        reason: String,
    },
    /// There is one more, perhaps under the number of one that was removed;
    /// [`BlockController::volumes`] has it.
    Added(Unit),
}

/// A controller that has failed, and works again only if it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostController {
    /// Why.
    pub reason: String,
    /// Whether it reaches no memory any longer. Each core may then call
    /// [`crate::DiskQueue::fail_all`]; otherwise the memory must be taken from it first.
    pub disabled: bool,
    /// Whether it carries out nothing more of what it was given, so that what it has in common with
    /// another controller can be used by that one. One that only reaches no memory may have fetched
    /// data before.
    pub stopped: bool,
    /// It was lost before, and has not come back.
    pub again: bool,
}

/// Why the registers of a controller cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The reason, for people.
    pub reason: String,
    /// Whether nothing answers where it was, or another device: it was pulled out.
    pub absent: bool,
}

/// The way to keep a controller from memory that does not depend on its cooperation.
pub trait BusMaster {
    /// See [`BlockController::place`].
    fn place(&self) -> u32;

    /// Takes the controller's access to memory away; false if that cannot be done.
    fn disable(&mut self) -> bool;

    /// Makes its registers reachable again where they were, without access to memory.
    ///
    /// # Errors
    /// The reason, for example that there is no such controller any longer.
    fn restore(&mut self) -> Result<(), Unreachable>;

    /// Gives it access to memory again, after [`BusMaster::restore`]: it must have stopped whatever
    /// it did before.
    fn enable(&mut self);
}

/// For a controller where there may be no such way.
impl<T: BusMaster> BusMaster for Option<T> {
    fn place(&self) -> u32 {
        self.as_ref().map_or(0, T::place)
    }

    fn disable(&mut self) -> bool {
        self.as_mut().is_some_and(T::disable)
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        self.as_mut().map_or(Ok(()), T::restore)
    }

    fn enable(&mut self) {
        if let Some(bus) = self {
            bus.enable();
        }
    }
}
