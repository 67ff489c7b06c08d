//! Namespaces that do not stay what they were, and how those who use them are kept from what comes
//! after. For the control core.
//!
//! A number may name another namespace from one moment to the next, with other data and even other
//! blocks. What was made for the old one must not reach the new one. So a namespace that is replaced,
//! formatted or gone is removed first: nothing of it that is in flight is submitted again, the kernel
//! has those who use it stop ([`Controller::closed`]), and each queue marks what they have left in
//! flight. Only then the number is looked at again, and offered for what it names now.

use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, Registers};

use crate::{Attention, Controller, Error, NamespaceError};

/// A namespace that is no longer what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has another size.
    Resized {
        /// Namespace identifier.
        id: u32,
        /// The new size in sectors of 512 bytes.
        sectors: u64,
    },
    /// Those who use it must not do so any longer, for whatever is under that number now is not what
    /// they know. [`Controller::closed`] says when they have stopped.
    Removed {
        /// Namespace identifier.
        id: u32,
        /// Why.
        reason: Removal,
    },
    /// There is one more that can be served, perhaps under the number of one that was removed.
    Added(u32),
}

/// Why a namespace must not be used any longer by those who have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Removal {
    /// The controller has it no longer.
    #[error("the controller has it no longer")]
    Gone,
    /// It cannot be served as it is now.
    #[error("{0}")]
    Unfit(NamespaceError),
    /// Its identifiers (EUI-64, NGUID or UUID) are others.
    #[error("another namespace has its number now")]
    Replaced,
    /// It was formatted; log2 of the new size of its blocks in bytes.
    #[error("it was formatted with blocks of {} bytes", 1u64 << (.0 & 63))]
    Formatted(u8),
    /// Another controller answers in the place of the one that it was behind.
    #[error("another disk is in the place of its controller")]
    OtherDisk,
}

/// A namespace that was removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    id: u32,
    /// Those who used it submit nothing more.
    closed: bool,
}

/// A look at all namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rescan {
    No,
    Wanted,
    /// Its commands are under way.
    Begun,
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Has all namespaces be looked at again: a controller without events, or of which one was lost,
    /// does not say what has changed.
    pub fn rescan(&mut self) {
        if self.is_running() && self.rescan == Rescan::No {
            self.rescan = Rescan::Wanted;
        }
    }

    /// Does so.
    pub(crate) fn look_at_all(&mut self, attention: &mut Attention) -> Result<(), Error> {
        let busy = self.event.is_some() || !self.looking.is_empty();
        if self.rescan == Rescan::No || self.rescan == Rescan::Wanted && busy {
            return Ok(());
        }
        self.rescan = Rescan::Begun;
        match self.in_series(|this| this.refresh_all(&mut attention.changes)) {
            Err(Error::Pending) => Ok(()),
            result => {
                self.rescan = Rescan::No;
                result
            }
        }
    }

    /// Removes a namespace that is known.
    pub(crate) fn remove(&mut self, id: u32, reason: Removal, changes: &mut Vec<Change>) {
        self.namespaces.retain(|namespace| namespace.id != id);
        if let Some(place) = self.table.place(id) {
            for pair in self.pairs.iter().flatten() {
                pair.link.tell_gone(place);
            }
        }
        self.leaving.push(Leaving { id, closed: false });
        changes.push(Change::Removed { id, reason });
    }

    /// Whether `id` is removed, and something of it may still be under way.
    pub(crate) fn is_leaving(&self, id: u32) -> bool {
        self.leaving.iter().any(|leaving| leaving.id == id)
    }

    /// Whether there are namespaces that were removed and may still be submitted to.
    pub(crate) fn awaits_closing(&self) -> bool {
        self.leaving.iter().any(|leaving| !leaving.closed)
    }

    /// Says that those who used the namespaces that [`Change::Removed`] has reported so far submit
    /// nothing more to them. Not before may others get what is under these numbers now; a controller
    /// that was reset, or has come back, works again only then.
    pub fn closed(&mut self) {
        for leaving in self.leaving.iter_mut().filter(|leaving| !leaving.closed) {
            leaving.closed = true;
            let Some(place) = self.table.place(leaving.id) else {
                continue;
            };
            for pair in self.pairs.iter().flatten().filter(|pair| pair.is_held()) {
                pair.link.tell_closed(place);
            }
        }
    }

    /// Looks whether the queues have marked all that is left of namespaces that were removed; true as
    /// long as that is not so.
    pub(crate) fn let_leave(&mut self) -> bool {
        let pairs = || self.pairs.iter().flatten().filter(|pair| pair.is_held());
        let is_closing = |id| {
            let place = self.table.place(id);
            place.is_some_and(|place| pairs().any(|pair| pair.link.is_closing(place)))
        };
        let left = |it: &Leaving| it.closed && !is_closing(it.id);
        let (left, still): (Vec<_>, Vec<_>) = self.leaving.iter().copied().partition(left);
        if left.is_empty() {
            return !still.is_empty();
        }
        for leaving in &left {
            self.table.remove(leaving.id);
        }
        self.leaving = still;
        let left = left.iter().map(|leaving| leaving.id);
        let new: Vec<u32> = left.filter(|id| !self.unsure.contains(id)).collect();
        self.unsure.extend(new);
        self.unsure_since = None;
        !self.leaving.is_empty()
    }
}
