//! The status field of a completion (4.6.1) and what it means to a submitter.

use core::fmt;

use spindle_block::{IoError, IoResult};

/// Status without the phase bit: code in bits 7:0, type in bits 10:8, the retry delay in
/// bits 12:11, "do not retry" in bit 14.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Generic command status: the command did what it should.
    pub const SUCCESS: Self = Self(0);
    /// Generic: no such command.
    pub const INVALID_OPCODE: Self = Self(0x01);
    /// Generic: a field of the command makes no sense to the controller.
    pub const INVALID_FIELD: Self = Self(0x02);
    /// Generic: the data could not be moved.
    pub const DATA_TRANSFER: Self = Self(0x04);
    /// Generic: power is about to go.
    pub const POWER_LOSS: Self = Self(0x05);
    /// Generic: aborted as asked.
    pub const ABORT_REQUESTED: Self = Self(0x07);
    /// Generic: aborted since its queue was deleted.
    pub const QUEUE_DELETED: Self = Self(0x08);
    /// Generic: no such namespace, or of another format.
    pub const INVALID_NAMESPACE: Self = Self(0x0b);
    /// Generic: a PRP entry has an offset it must not have.
    pub const PRP_OFFSET: Self = Self(0x13);
    /// Generic: the namespace is write-protected.
    pub const WRITE_PROTECTED: Self = Self(0x20);
    /// Generic: broken off by the controller for reasons of its own.
    pub const INTERRUPTED: Self = Self(0x21);
    /// NVM: beyond the end of the namespace.
    pub const LBA_RANGE: Self = Self(0x80);
    /// NVM: the namespace is full.
    pub const CAPACITY: Self = Self(0x81);
    /// NVM: the namespace is not ready yet.
    pub const NOT_READY: Self = Self(0x82);
    /// NVM: the namespace is being formatted.
    pub const FORMAT_IN_PROGRESS: Self = Self(0x84);
    /// Command specific: no queue with that identifier can be had.
    pub const QUEUE_IDENTIFIER: Self = Self(0x101);
    /// Command specific: no queue of that size can be had.
    pub const QUEUE_SIZE: Self = Self(0x102);
    /// Command specific: write to a read-only range.
    pub const READ_ONLY_RANGE: Self = Self(0x182);
    /// Media: data could not be written.
    pub const WRITE_FAULT: Self = Self(0x280);
    /// Media: data could not be read.
    pub const UNRECOVERED_READ: Self = Self(0x281);
    /// Media: access to the range is denied, for lack of rights.
    pub const ACCESS_DENIED: Self = Self(0x286);

    /// Path: the namespace is lost for good on this path (ANA).
    pub const PERSISTENT_LOSS: Self = Self(0x301);

    /// The bit that says that trying again will not help.
    pub const DO_NOT_RETRY: u16 = 1 << 14;
    const CODE_MASK: u16 = 0x7ff;
    const TYPE_COMMAND: u16 = 1;
    const TYPE_MEDIA: u16 = 2;

    /// Type and code, without the bits about retrying and more information.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & Self::CODE_MASK)
    }

    /// Whether the same command may work if it is given once more: the controller does not say that
    /// it will not, and nothing is wrong with the command itself.
    pub(crate) const fn may_pass(self) -> bool {
        match self.code() {
            Self::ABORT_REQUESTED => true,
            Self::SUCCESS
            | Self::INVALID_OPCODE
            | Self::INVALID_FIELD
            | Self::INVALID_NAMESPACE
            | Self::PRP_OFFSET
            | Self::WRITE_PROTECTED
            | Self::LBA_RANGE
            | Self::CAPACITY
            // What follows may have blocks of another size, for which the memory is not.
            | Self::FORMAT_IN_PROGRESS
            | Self::PERSISTENT_LOSS
            | Self::ACCESS_DENIED => false,
            Self(code) if code >> 8 == Self::TYPE_COMMAND => false,
            _ => self.0 & Self::DO_NOT_RETRY == 0,
        }
    }

    /// Whether it says that data on the medium is bad.
    pub(crate) const fn is_medium(self) -> bool {
        self.code().0 >> 8 == Self::TYPE_MEDIA
    }

    /// CRD: which of the controller's three delays to wait for before another try, from 1; 0 for none.
    pub(crate) const fn delay(self) -> usize {
        (self.0 >> 11 & 3) as usize
    }

    /// The outcome as a submitter sees it.
    pub fn result(self) -> IoResult {
        if self.0 & Self::CODE_MASK == 0 {
            return Ok(());
        }
        Err(self.error())
    }

    #[cold]
    fn error(self) -> IoError {
        match self.code() {
            Self::INVALID_OPCODE => IoError::Unsupported,
            Self::DATA_TRANSFER | Self::PRP_OFFSET => IoError::Transfer,
            Self::POWER_LOSS | Self::ABORT_REQUESTED | Self::QUEUE_DELETED => IoError::Aborted,
            Self::WRITE_PROTECTED | Self::READ_ONLY_RANGE => IoError::ReadOnly,
            Self::LBA_RANGE => IoError::Range,
            Self::CAPACITY => IoError::NoSpace,
            Self::ACCESS_DENIED => IoError::Device(self.0),
            Self(code) if code >> 8 == Self::TYPE_MEDIA => IoError::Medium,
            _ => IoError::Device(self.0),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "status type {} code {:#04x}",
            self.0 >> 8 & 7,
            self.0 & 0xff
        )?;
        if self.0 & Self::DO_NOT_RETRY != 0 {
            f.write_str(", do not retry")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_success_or_an_error_and_hints_do_not_matter() {
        for raw in (0..=u16::MAX).step_by(if cfg!(miri) { 331 } else { 1 }) {
            let status = Status(raw);
            assert_eq!(status.result().is_ok(), raw & 0x7ff == 0);
            if !matches!(status.result(), Err(IoError::Device(_))) {
                assert_eq!(status.result(), Status(raw ^ 0x4000).result());
            }
        }
    }

    #[test]
    fn a_path_that_may_come_back_is_tried_again_and_one_that_is_lost_is_not() {
        // Internal error, inaccessible, in transition, and the host's own.
        for code in [0x300, 0x302, 0x303, 0x360, 0x370] {
            assert!(Status(code).may_pass(), "{code:#x}");
            assert!(!Status(code | Status::DO_NOT_RETRY).may_pass());
        }
        assert!(!Status::PERSISTENT_LOSS.may_pass());
    }

    #[test]
    fn codes_map_to_what_a_submitter_can_act_on() {
        let of = |raw| Status(raw).result().unwrap_err();
        assert_eq!(of(0x4281), IoError::Medium);
        assert_eq!(of(0x4080), IoError::Range);
        assert_eq!(of(0x0081), IoError::NoSpace);
        assert_eq!(of(0x4020), IoError::ReadOnly);
        assert_eq!(of(0x0004), IoError::Transfer);
        assert_eq!(of(0x0008), IoError::Aborted);
        assert_eq!(of(0x4006), IoError::Device(0x4006));
        assert_eq!(of(0x4286), IoError::Device(0x4286));
    }
}
