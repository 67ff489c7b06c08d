//! The queue of a disk that one core owns: submit, commit, poll.

use crate::{Command, Tag};

/// Why a command was not taken. Nothing of it has been or will be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No room now, or the disk is being reset; poll, then try again.
    #[error("queue full")]
    Full,
    /// The disk cannot be given these pieces of memory as they lie (a block would be torn between
    /// two of them); copy them to consecutive memory first.
    #[error("memory pieces do not fit the disk's blocks")]
    Scattered,
    /// The disk does not know such commands.
    #[error("not supported")]
    Unsupported,
    /// The disk has stopped for good.
    #[error("disk is gone")]
    Gone,
}

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The medium could not be read or written.
    #[error("medium error")]
    Medium,
    /// Beyond the end of the disk.
    #[error("address out of range")]
    Range,
    /// The disk does not know this command.
    #[error("not supported")]
    Unsupported,
    /// The disk or this part of it is write-protected.
    #[error("write-protected")]
    ReadOnly,
    /// Out of room: a thinly provisioned disk.
    #[error("no space left on disk")]
    NoSpace,
    /// The memory could not be reached.
    #[error("transfer failed")]
    Transfer,
    /// Given up because of a reset or a shutdown.
    #[error("aborted")]
    Aborted,
    /// Anything else; the controller's own status code.
    #[error("device error, status {0:#x}")]
    Device(u16),
}

/// The outcome of a command.
pub type IoResult = Result<(), IoError>;

/// How much [`DiskQueue::submit_part`] may take of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests to the disk, at least 1.
    pub commands: usize,
    /// Bytes: no further request is added once they are reached, and none is larger, but for a page.
    pub bytes: u32,
}

/// What [`DiskQueue::submit_part`] took of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Blocks of the command, from where the part began; with those, of a command without memory,
    /// that are left out for good.
    pub blocks: u64,
    /// Requests to the disk that it became.
    pub commands: usize,
}

/// A disk's submission and completion queue, owned by one core.
///
/// Nothing here allocates, locks or logs.
pub trait DiskQueue {
    /// Takes a command; the disk does not hear of it before [`DiskQueue::commit`].
    ///
    /// A command larger than the disk takes at once is split here; `tag` comes back once, when
    /// all parts are done.
    ///
    /// # Errors
    /// See [`SubmitError`]; the command was then not taken, not even in part.
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError>;

    /// Takes what comes `from` blocks after the beginning of a command, as far as the budget and
    /// the free places allow, at least one request to the disk. `tag` comes back once for the part.
    ///
    /// A command of many requests thus needs no more than one free place at a time. A queue that
    /// makes one request of every command takes it whole.
    ///
    /// # Errors
    /// As [`DiskQueue::submit`]. What [`DiskQueue::requests`] has passed is not
    /// [`SubmitError::Scattered`] in any part.
    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        let _ = budget;
        debug_assert_eq!(from, 0, "nothing is left of a command taken whole");
        self.submit(command, tag)?;
        Ok(Part {
            blocks: command.total_blocks(),
            commands: 1,
        })
    }

    /// How many requests to the disk a command takes: what it costs the disk, beside its bytes.
    ///
    /// # Errors
    /// [`SubmitError::Scattered`], as [`DiskQueue::submit`].
    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        let _ = command;
        Ok(1)
    }

    /// Requests to the disk that can be in flight at once; more than anybody has, if unknown.
    fn depth(&self) -> usize {
        usize::MAX
    }

    /// Tells the disk of everything submitted since the last time: at most one doorbell.
    fn commit(&mut self);

    /// Hands commands that have succeeded to `done`, as far as that is known at once, and returns how
    /// many there were. All others are left to [`DiskQueue::poll`], which must come next. A queue that has
    /// no short way for them hands over none.
    #[inline(always)]
    fn poll_successes(&mut self, done: impl FnMut(Tag)) -> usize {
        let _ = done;
        0
    }

    /// Hands every finished command to `done` and returns how many there were.
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize;

    /// Commands taken and not yet handed back.
    fn in_flight(&self) -> usize;

    /// Whether [`DiskQueue::poll`] might find anything now. As long as it would not, a core that has
    /// nothing else to do need not poll. A queue that cannot say so at the price of a look is always
    /// polled.
    #[inline]
    fn is_stirred(&self) -> bool {
        true
    }

    /// Whether it is the polls that carry a command on, and not a disk: the core then takes turns
    /// without a rest until that is done.
    #[inline]
    fn is_working(&self) -> bool {
        false
    }

    /// Tells the queue the time, in nanoseconds, for it to look after what is due: a command that
    /// takes too long, a disk that is being reset. A core calls it at every turn, also with
    /// nothing in flight.
    #[inline]
    fn tick(&mut self, now_ns: u64) {
        let _ = now_ns;
    }

    /// Gives the disk up: hands every command in flight to `done` as failed, and takes none from
    /// now on. Memory of those commands may still be written to until the disk is switched off.
    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult));
}
