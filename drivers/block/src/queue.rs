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

    /// Tells the disk of everything submitted since the last time: at most one doorbell.
    fn commit(&mut self);

    /// Hands every finished command to `done` and returns how many there were.
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize;

    /// Commands taken and not yet handed back.
    fn in_flight(&self) -> usize;

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
