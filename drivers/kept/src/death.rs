//! How lives of the kernel ended: a few records, of which each is checked when it is read, and the rule
//! by which a domain that keeps dying is ended.

use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, Release};

use spindle_hw::SharedPages;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::checked::{self, checked_len};
use crate::layout::{DEATHS, DEATHS_LEN, LIFE_AT, SERVED_AT, UPDATES_AT};

/// Bytes of a message that are kept.
pub const MESSAGE_MAX: usize = 256;
/// Return addresses that are kept.
pub const TRACE_MAX: usize = 24;

/// So many deaths within [`WINDOW_NS`] end the domain, unless a life between them has served.
const UNFINISHED_MAX: usize = 5;
/// So many end it whatever was between them: as many as are kept.
const ANY_MAX: usize = PLACES;
/// A minute.
const WINDOW_NS: u64 = 60_000_000_000;

/// Records that there is room for, the oldest of which is overwritten.
const PLACES: usize = 7;
const RECORD: usize = 512;

/// What ended a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct DeathCause(pub u32);

impl DeathCause {
    /// A check of the kernel's own failed, or it ran out of memory.
    pub const PANIC: Self = Self(1);
    /// The processor raised an exception.
    pub const EXCEPTION: Self = Self(2);
    /// A non-maskable interrupt that was asked for, as by `xl trigger DOMAIN nmi`.
    pub const NMI: Self = Self(3);
    /// A core did not turn any more.
    pub const HANG: Self = Self(4);
    /// Another image was to follow: no death, and not counted as one.
    pub const UPDATE: Self = Self(5);
}

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::PANIC => "panic",
            Self::EXCEPTION => "exception",
            Self::NMI => "NMI",
            Self::HANG => "hang",
            Self::UPDATE => "update",
            _ => "unknown cause",
        })
    }
}

/// How one life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// What ended it.
    pub cause: DeathCause,
    /// The core that died.
    pub core: u32,
    /// Nanoseconds from the life's start to its end.
    pub uptime_ns: u64,
    /// The end, on the clock that all lives of a domain share.
    pub at_ns: u64,
    /// The ring that the core was serving: one more than the first page of its journal, 0 for none.
    pub ring: u64,
    /// What the kernel said, cut off where it is longer than what is kept.
    pub message: heapless::String<MESSAGE_MAX>,
    /// Where it was: the return addresses, innermost first.
    pub trace: heapless::Vec<u64, TRACE_MAX>,
}

/// A [`Death`] in memory, behind its checksum.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DeathRecord {
    /// The life that ended, 1 for the first.
    life: u64,
    uptime_ns: u64,
    at_ns: u64,
    ring: u64,
    cause: DeathCause,
    core: u32,
    served: u32,
    message_len: u16,
    trace_len: u16,
    reserved: u64,
    message: [u8; MESSAGE_MAX],
    trace: [u64; TRACE_MAX],
}
const _: () = assert!(checked_len::<DeathRecord>() == RECORD);
const _: () = assert!(PLACES * RECORD == DEATHS_LEN);

impl DeathRecord {
    fn death(&self) -> Option<Death> {
        let message = self.message.get(..self.message_len.into())?;
        let message = core::str::from_utf8(message).ok()?;
        let trace = self.trace.get(..self.trace_len.into())?;
        Some(Death {
            cause: self.cause,
            core: self.core,
            uptime_ns: self.uptime_ns,
            at_ns: self.at_ns,
            ring: self.ring,
            message: heapless::String::try_from(message).ok()?,
            trace: heapless::Vec::from_slice(trace).ok()?,
        })
    }
}

/// The lives of a domain: which one this is, and how those before it ended.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    pages: &'static SharedPages,
}

impl Lives {
    /// The lives noted in `pages`, of which one has begun ([`begin`](crate::layout::begin)).
    pub(crate) const fn new(pages: &'static SharedPages) -> Self {
        Self { pages }
    }

    /// Counts the life before this one, which has just begun, if it ended by an update.
    pub(crate) fn count(&self) {
        if self
            .last()
            .is_some_and(|end| end.cause == DeathCause::UPDATE)
        {
            self.pages.u64_at(UPDATES_AT).fetch_add(1, Relaxed);
        }
    }

    /// How many lives have died: all before this one that did not end by an update.
    #[must_use]
    pub fn deaths(&self) -> u64 {
        let updates = self.pages.u64_at(UPDATES_AT).load(Relaxed);
        self.life().saturating_sub(1).saturating_sub(updates)
    }

    /// Which life this is, 1 for the first.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.pages.u64_at(LIFE_AT).load(Relaxed)
    }

    /// Notes that this life serves: what was to be taken over from the one before is.
    pub fn serves(&self) {
        self.pages.u64_at(SERVED_AT).store(self.life(), Release);
    }

    /// Notes how this life ends. A second note replaces the first.
    pub fn end(&self, death: &Death) {
        let life = self.life();
        let mut record = DeathRecord::new_zeroed();
        record.life = life;
        record.uptime_ns = death.uptime_ns;
        record.at_ns = death.at_ns;
        record.ring = death.ring;
        record.cause = death.cause;
        record.core = death.core;
        record.served = u32::from(self.pages.u64_at(SERVED_AT).load(Relaxed) == life);
        // Both lengths are bounded by their types.
        record.message_len = death.message.len() as u16;
        record.trace_len = death.trace.len() as u16;
        for (to, from) in record.message.iter_mut().zip(death.message.bytes()) {
            *to = from;
        }
        for (to, from) in record.trace.iter_mut().zip(&death.trace) {
            *to = *from;
        }
        checked::write(self.pages, place(life), &record);
    }

    /// How the life before this one ended, if it noted that.
    #[must_use]
    pub fn last(&self) -> Option<Death> {
        self.record(self.life().checked_sub(1)?)?.death()
    }

    /// Whether the next life may begin, once this one's end is noted: not if that is the fifth
    /// within a minute of which none served, or the seventh in any case.
    #[must_use]
    pub fn may_go_on(&self, now_ns: u64) -> bool {
        let life = self.life();
        let recent = (0..PLACES as u64).map_while(|ago| {
            let record = self.record(life.checked_sub(ago)?)?;
            (now_ns.saturating_sub(record.at_ns) < WINDOW_NS).then_some(record)
        });
        let (mut any, mut unfinished, mut served) = (0, 0, false);
        for record in recent {
            served |= record.served != 0;
            if record.cause != DeathCause::UPDATE {
                any += 1;
                unfinished += usize::from(!served);
            }
        }
        any < ANY_MAX && unfinished < UNFINISHED_MAX
    }

    fn record(&self, life: u64) -> Option<DeathRecord> {
        let record: DeathRecord = checked::read(self.pages, place(life))?;
        (life > 0 && record.life == life).then_some(record)
    }
}

fn place(life: u64) -> usize {
    DEATHS + RECORD * (life % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::Kept;
    use crate::layout::FIXED_PAGES;
    use proptest::prelude::*;
    use spindle_hw::PAGE_SIZE;

    const SECOND: u64 = 1_000_000_000;

    fn death(at_ns: u64) -> Death {
        Death {
            cause: DeathCause::PANIC,
            core: 2,
            uptime_ns: 7 * SECOND,
            at_ns,
            ring: 0,
            message: heapless::String::try_from("PANIC on core 2: no").unwrap(),
            trace: heapless::Vec::from_slice(&[0x20_1234, 0x20_5678]).unwrap(),
        }
    }

    fn pages() -> &'static SharedPages {
        Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)))
    }

    fn first(pages: &'static SharedPages) -> Lives {
        Kept::open(pages).unwrap().lives()
    }

    fn again(pages: &'static SharedPages) -> Lives {
        Kept::open_again(pages).unwrap().lives()
    }

    /// Lives that die at these seconds after having served or not; whether the last may go on.
    fn goes_on(deaths: &[(u64, bool)]) -> bool {
        let pages = pages();
        let mut goes_on = true;
        for (index, &(at, serves)) in deaths.iter().enumerate() {
            let lives = if index == 0 {
                first(pages)
            } else {
                again(pages)
            };
            assert_eq!(lives.life(), index as u64 + 1);
            if serves {
                lives.serves();
            }
            lives.end(&death(at * SECOND));
            goes_on = lives.may_go_on(at * SECOND);
        }
        goes_on
    }

    #[test]
    fn the_next_life_reads_how_the_last_one_ended() {
        let pages = pages();
        let lives = first(pages);
        assert_eq!((lives.life(), lives.last()), (1, None));
        lives.end(&death(5));
        let second = again(pages);
        assert_eq!((second.life(), second.last()), (2, Some(death(5))));
        // It ends without a word.
        let third = again(pages);
        assert_eq!((third.life(), third.last()), (3, None));
    }

    #[test]
    fn however_many_lives_end_only_the_place_of_deaths_is_written() {
        let pages = pages();
        let mut lives = first(pages);
        // What lies around it, as each of them leaves it.
        let around = |pages: &SharedPages| {
            let mut bytes = std::vec![0; FIXED_PAGES * PAGE_SIZE];
            pages.read_bytes(0, &mut bytes);
            bytes.drain(DEATHS..DEATHS + DEATHS_LEN);
            bytes
        };
        for life in 1..=3 * PLACES as u64 {
            let before = around(pages);
            lives.end(&death(life * 1_000 * SECOND));
            assert!(around(pages) == before, "life {life}");
            lives = again(pages);
            assert_eq!(lives.last(), Some(death(life * 1_000 * SECOND)));
        }
    }

    #[test]
    fn where_no_life_was_known_none_has_ended() {
        let lives = again(pages());
        assert_eq!((lives.life(), lives.last()), (2, None));
    }

    #[test]
    fn too_many_deaths_end_the_domain() {
        let at = |times: &[u64], serves| -> std::vec::Vec<_> {
            times.iter().map(|time| (*time, serves)).collect()
        };
        assert!(goes_on(&at(&[0, 1, 2, 3], false)));
        assert!(!goes_on(&at(&[0, 1, 2, 3, 4], false)));
        // Not when they are spread out,
        assert!(goes_on(&at(&[0, 1, 2, 3, 61], false)));
        // nor with one between them that has served;
        assert!(goes_on(&[
            (0, false),
            (1, true),
            (2, false),
            (3, false),
            (4, false)
        ]));
        // but that does not help without end.
        assert!(goes_on(&at(&[0, 1, 2, 3, 4, 5], true)));
        assert!(!goes_on(&at(&[0, 1, 2, 3, 4, 5, 6], true)));
        assert!(goes_on(&at(&[0, 10, 20, 30, 40, 50, 60, 70, 80], true)));
    }

    #[test]
    fn updates_are_no_deaths() {
        let pages = pages();
        let mut lives = first(pages);
        for _ in 0..20 {
            lives.end(&Death {
                cause: DeathCause::UPDATE,
                ..death(SECOND)
            });
            assert!(lives.may_go_on(SECOND));
            lives = again(pages);
        }
        assert_eq!(lives.deaths(), 0);
        lives.end(&death(SECOND));
        assert_eq!(again(pages).deaths(), 1);
        // It ends without a word.
        assert_eq!(again(pages).deaths(), 2);
    }

    proptest! {
        #[test]
        fn a_damaged_record_is_none(at in 0..RECORD, flip in 1_u8..) {
            std::thread_local! {
                // Pages of the host are never freed.
                static PAGES: &'static SharedPages = pages();
            }
            let pages = PAGES.with(|pages| *pages);
            pages.zero(0, pages.len());
            first(pages).end(&death(5));
            let mut byte = [0];
            pages.read_bytes(place(1) + at, &mut byte);
            pages.write_bytes(place(1) + at, &[byte[0] ^ flip]);
            prop_assert_eq!(again(pages).last(), None);
        }

        #[test]
        fn any_records_can_be_read(bytes in proptest::collection::vec(any::<u8>(), DEATHS_LEN)) {
            std::thread_local! {
                static PAGES: &'static SharedPages = pages();
            }
            let pages = PAGES.with(|pages| *pages);
            first(pages);
            pages.write_bytes(DEATHS, &bytes);
            let lives = again(pages);
            prop_assert_eq!(lives.last(), None);
            lives.end(&death(5));
            let _ = lives.may_go_on(6);
        }
    }
}
