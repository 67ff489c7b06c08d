//! The record of limits that were set while the kernel ran.

use alloc::string::String;

use super::wire::{Reader, Writer};

/// Limits of a device or a group, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRecord {
    /// Whose.
    pub of: String,
    /// Which.
    pub words: String,
}

impl LimitRecord {
    pub(super) fn write(&self, to: &mut Writer) {
        to.text(self.of.as_bytes());
        to.text(self.words.as_bytes());
    }

    /// Reads version 1; `None` if that is not what it is.
    pub(super) fn read_1(from: &mut Reader<'_>) -> Option<Self> {
        let text = |from: &mut Reader<'_>| {
            let text = core::str::from_utf8(from.text()?).ok()?;
            Some(String::from(text))
        };
        let (of, words) = (text(from)?, text(from)?);
        from.is_at_end().then_some(Self { of, words })
    }
}
