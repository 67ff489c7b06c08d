//! What a ring has to report to its core's flight recorder: what is rare, and of what a guest can cause as
//! often as it likes no more than one event a second, so that it does not push out those of others.

use spindle_kept::Recorder;
use spindle_status::trace::{TraceEvent, kind};
use spindle_xen::DomId;

use super::Session;
use crate::abi::Operation;

/// How far apart events are that a guest can cause at will.
const APART_NS: u64 = 1_000_000_000;

/// Where a ring records its events.
#[derive(Debug)]
pub(super) struct Notes {
    recorder: Recorder,
    guest: DomId,
    device: u32,
    /// When a request that was refused or failed was recorded last, and how many were not since.
    failed_ns: Option<u64>,
    left_out: u64,
    /// When its limits held the ring back last.
    held_ns: Option<u64>,
}

impl Notes {
    pub(super) const fn new(guest: DomId) -> Self {
        Self {
            recorder: Recorder::nowhere(),
            guest,
            device: 0,
            failed_ns: None,
            left_out: 0,
            held_ns: None,
        }
    }

    fn record(&self, at_ns: u64, kind: u8, operation: Operation, values: [u64; 2]) {
        let event = TraceEvent {
            at_ns,
            kind,
            operation: operation.0,
            guest: self.guest.0,
            device: self.device,
            values,
        };
        self.recorder.note(event.words());
    }
}

/// Whether something is more than so long ago, or has never been.
fn is_over(before: Option<u64>, now_ns: u64) -> bool {
    before.is_none_or(|before| now_ns.saturating_sub(before) >= APART_NS)
}

impl Session {
    /// Its device has this number among those of its guest, for [`spindle_status::trace`].
    pub fn set_device(&mut self, device: u32) {
        self.notes.device = device;
    }

    /// Its core records events there.
    pub(crate) fn record_in(&mut self, recorder: Recorder) {
        self.notes.recorder = recorder;
    }

    /// Records what has happened to it at this time.
    #[cold]
    pub(crate) fn note_event(&self, at_ns: u64, kind: u8, value: u64) {
        self.notes.record(at_ns, kind, Operation(0), [value, 0]);
    }

    /// A request, in the slot `index`, is answered with an error.
    #[cold]
    pub(super) fn note_error(&mut self, index: u16, kind: u8, operation: Operation) {
        let sector = self.slots.get(usize::from(index));
        let sector = sector.map_or(0, |slot| slot.raw.sector);
        let (now_ns, notes) = (self.now_ns, &mut self.notes);
        if is_over(notes.failed_ns, now_ns) {
            let left_out = core::mem::take(&mut notes.left_out);
            notes.failed_ns = Some(now_ns);
            notes.record(now_ns, kind, operation, [sector, left_out]);
        } else {
            notes.left_out += 1;
        }
    }

    /// Its limits hold it back.
    pub(super) fn note_held_back(&mut self) {
        let (now_ns, notes) = (self.now_ns, &mut self.notes);
        if is_over(notes.held_ns, now_ns) {
            notes.record(now_ns, kind::HELD_BACK, Operation(0), [0; 2]);
        }
        notes.held_ns = Some(now_ns);
    }
}
