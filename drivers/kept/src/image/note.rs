//! The note of an update in kept memory: which one it was, and what it led to.

use spindle_hw::SharedPages;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::checked::{self, checked_len};
use crate::layout::{UPDATE, UPDATE_LEN};

/// Bytes of a version in words.
pub const UPDATE_VERSION_MAX: usize = 96;

/// What an update has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// The new image has not proved itself yet.
    Open,
    /// It serves.
    Done,
    /// The old one serves again.
    Failed,
}

/// The last update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateNote {
    /// The number that it was asked for with.
    pub id: u64,
    /// When the old image stopped to take requests, in ns of the clock that all lives share.
    pub at_ns: u64,
    /// How long it was until an image served again, in ns; as long as that is open, for how long the
    /// old one had drained its cores.
    pub pause_ns: u64,
    /// What it has led to.
    pub outcome: UpdateOutcome,
    /// The image before.
    pub old: heapless::String<UPDATE_VERSION_MAX>,
    /// The image that was to follow.
    pub new: heapless::String<UPDATE_VERSION_MAX>,
}

/// An [`UpdateNote`] in memory, behind its checksum.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NoteRecord {
    id: u64,
    at_ns: u64,
    pause_ns: u64,
    outcome: u32,
    old_len: u16,
    new_len: u16,
    old: [u8; UPDATE_VERSION_MAX],
    new: [u8; UPDATE_VERSION_MAX],
}
const _: () = assert!(checked_len::<NoteRecord>() == UPDATE_LEN);

impl UpdateNote {
    /// Writes it in place of the one before.
    pub(crate) fn write(&self, pages: &SharedPages) {
        let mut record = NoteRecord::new_zeroed();
        (record.id, record.at_ns) = (self.id, self.at_ns);
        record.pause_ns = self.pause_ns;
        record.outcome = self.outcome as u32;
        // Both lengths are bounded by their types.
        record.old_len = self.old.len() as u16;
        record.new_len = self.new.len() as u16;
        record.old[..self.old.len()].copy_from_slice(self.old.as_bytes());
        record.new[..self.new.len()].copy_from_slice(self.new.as_bytes());
        checked::write(pages, UPDATE, &record);
    }

    /// The last one, if there was one and its note checks.
    pub(crate) fn read(pages: &SharedPages) -> Option<Self> {
        let record: NoteRecord = checked::read(pages, UPDATE)?;
        let text = |bytes: &[u8], len: u16| {
            let text = core::str::from_utf8(bytes.get(..len.into())?).ok()?;
            heapless::String::try_from(text).ok()
        };
        Some(Self {
            id: record.id,
            at_ns: record.at_ns,
            pause_ns: record.pause_ns,
            outcome: match record.outcome {
                0 => UpdateOutcome::Open,
                1 => UpdateOutcome::Done,
                _ => UpdateOutcome::Failed,
            },
            old: text(&record.old, record.old_len)?,
            new: text(&record.new, record.new_len)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FIXED_PAGES;
    use proptest::prelude::*;

    #[test]
    fn what_is_read_is_what_was_written() {
        let pages = SharedPages::host(FIXED_PAGES, 0);
        assert_eq!(UpdateNote::read(&pages), None);
        for outcome in [
            UpdateOutcome::Open,
            UpdateOutcome::Done,
            UpdateOutcome::Failed,
        ] {
            let note = UpdateNote {
                id: 7,
                at_ns: 8,
                pause_ns: 9,
                outcome,
                old: heapless::String::try_from("0.1.0 abc").unwrap(),
                new: heapless::String::new(),
            };
            note.write(&pages);
            assert_eq!(UpdateNote::read(&pages), Some(note));
        }
    }

    #[test]
    fn an_update_is_known_to_the_next_life() {
        let pages: &SharedPages =
            std::boxed::Box::leak(std::boxed::Box::new(SharedPages::host(FIXED_PAGES, 0)));
        let note = UpdateNote {
            id: 3,
            at_ns: 8,
            pause_ns: 0,
            outcome: UpdateOutcome::Open,
            old: heapless::String::try_from("1").unwrap(),
            new: heapless::String::try_from("2").unwrap(),
        };
        let first = crate::Kept::open(pages).unwrap();
        assert_eq!(first.update(), None);
        first.note_update(&note);
        let next = crate::Kept::open_again(pages).unwrap();
        assert_eq!(next.update(), Some(note));
    }

    proptest! {
        #[test]
        fn a_damaged_note_is_none(at in 0..UPDATE_LEN, flip in 1_u8..) {
            std::thread_local! {
                // Pages of the host are never freed.
                static PAGES: &'static SharedPages =
                    std::boxed::Box::leak(std::boxed::Box::new(SharedPages::host(FIXED_PAGES, 0)));
            }
            let pages = PAGES.with(|pages| *pages);
            let (old, new) = (heapless::String::new(), heapless::String::new());
            let outcome = UpdateOutcome::Done;
            UpdateNote { id: 1, at_ns: 2, pause_ns: 3, outcome, old, new }.write(pages);
            pages.u8_at(UPDATE + at).fetch_xor(flip, core::sync::atomic::Ordering::SeqCst);
            prop_assert_eq!(UpdateNote::read(pages), None);
        }
    }
}
