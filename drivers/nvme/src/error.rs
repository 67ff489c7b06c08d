//! What can go wrong with a controller as a whole; single commands have `IoError`.

use core::time::Duration;

use spindle_hw::Span;

use crate::Status;

/// Why a controller could not be used, or not any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Registers read as all ones: the device was removed or its memory is not decoded.
    #[error("controller does not answer")]
    Gone,
    /// CSTS.CFS.
    #[error("controller reports a fatal error")]
    Fatal,
    /// An earlier admin command got no answer, so that the admin queue cannot be trusted.
    #[error("controller is out of order since an admin command got no answer")]
    OutOfOrder,
    /// CSTS.RDY is clear though the controller was not disabled, or it has not kept what it was told.
    #[error("controller has been reset, or has lost its power in between")]
    Restarted,
    /// Nothing can be asked of it now, or ever again.
    #[error("controller is being reset or was given up")]
    NotRunning,
    /// A command got no answer, and aborting it did not help.
    #[error("a command of queue {queue} got no answer within {}", Span(*.waited))]
    Hung {
        /// The queue's identifier.
        queue: u16,
        /// How long was waited, the abort included.
        waited: Duration,
    },
    /// It has come up with fewer I/O queues than cores have, whose queues were made before.
    #[error(
        "controller grants {granted} queues, and cores have {needed}; after a restart of this domain \
         only {granted} of them use it"
    )]
    FewerQueues {
        /// How many it grants.
        granted: u16,
        /// How many there must be.
        needed: u16,
    },
    /// What was settled with the controller before a reset does not hold after it.
    #[error("the controller's {0} changed")]
    Changed(&'static str),
    /// CSTS.RDY did not follow CC.EN within CAP.TO.
    #[error("controller did not become ready within {}", Span(*.0))]
    NotReady(Duration),
    /// CSTS.RDY did not go away within CAP.TO.
    #[error("controller did not become idle within {}", Span(*.0))]
    NotDisabled(Duration),
    /// CSTS.SHST did not report the end of the shutdown.
    #[error("controller did not shut down within {}", Span(*.0))]
    NoShutdown(Duration),
    /// Only larger memory pages than ours.
    #[error("controller needs memory pages of at least {} KiB", 1u64 << (.shift - 10))]
    PageSize {
        /// log2 of the smallest page size in bytes.
        shift: u32,
    },
    /// The NVM command set is missing.
    #[error("controller has no NVM command set")]
    CommandSet,
    /// Queue entries are not of the standard size.
    #[error("controller needs other queue entry sizes (SQES {sqes:#x}, CQES {cqes:#x})")]
    EntrySize {
        /// Submission queue entry sizes as identified.
        sqes: u8,
        /// Completion queue entry sizes as identified.
        cqes: u8,
    },
    /// The register block ends before a doorbell that is needed.
    #[error("registers of {have:#x} bytes, {need:#x} are needed")]
    RegistersTooSmall {
        /// Bytes needed.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// An admin command was not answered.
    #[error("admin command {opcode:#04x} got no answer within {}", Span(*.limit))]
    Timeout {
        /// What was asked.
        opcode: u8,
        /// How long was waited.
        limit: Duration,
    },
    /// An answer to an admin command has not come yet; it is not waited for.
    #[error("an admin command is not answered yet")]
    Pending,
    /// An admin command failed.
    #[error("admin command {opcode:#04x} failed: {status}")]
    Command {
        /// What was asked.
        opcode: u8,
        /// What was answered.
        status: Status,
    },
    /// No memory for queues.
    #[error("out of memory for queues")]
    Memory,
    /// All queue pairs that the controller granted are in use.
    #[error("all {granted} queue pairs of the controller are in use")]
    NoQueue {
        /// How many there are.
        granted: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn messages_say_what_a_person_needs() {
        let slow = Error::NotReady(Duration::from_millis(12500));
        assert_eq!(
            slow.to_string(),
            "controller did not become ready within 12.5s"
        );
        assert_eq!(
            Error::PageSize { shift: 16 }.to_string(),
            "controller needs memory pages of at least 64 KiB"
        );
        let failed = Error::Command {
            opcode: 6,
            status: Status(0x4002),
        };
        assert_eq!(
            failed.to_string(),
            "admin command 0x06 failed: status type 0 code 0x02, do not retry"
        );
    }
}
