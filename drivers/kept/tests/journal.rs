//! Journals of real size: what is found in them, and what is refused.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use spindle_hw::SharedPages;
use spindle_kept::Journal;
use spindle_kept::journal::{BadJournal, JournalEntry, JournalMemory, SEGMENTS, Unanswered};

const SLOTS: u32 = 32;

/// Offsets, in bytes.
const VERSION: usize = 8;
const REQUESTS: usize = 12;
const CONSUMED: usize = 16;
const PUBLISHED: usize = 20;
const ORDER: usize = 64;
const ENTRIES: usize = 128;

fn begin(pages: &SharedPages, slots: u32, start: u32) -> Journal {
    Journal::begin(pages.alias(), slots, start).expect("room")
}

fn recover(pages: &SharedPages, slots: u32) -> Result<(Journal, Unanswered, Vec<u16>), BadJournal> {
    let mut places = vec![0; slots as usize];
    let found = Journal::recover(pages.alias(), slots, &mut places);
    let (journal, found) = found.map_err(|(error, _)| error)?;
    places.truncate(found.count() as usize);
    Ok((journal, found, places))
}

/// A request that differs from all others in every word.
fn request(index: u32) -> (JournalEntry, [u64; SEGMENTS]) {
    let word = |n: u64| u64::from(index) << 8 | n;
    let body = std::array::from_fn(|at| word(at as u64));
    let head = JournalEntry {
        index,
        head: !index,
        id: word(100),
        sector: word(101),
        first: body[0],
    };
    (head, body)
}

/// Takes the next request, of so many segments.
fn take(journal: &Journal, consumed: u32, segments: usize) -> u16 {
    let place = journal.place(journal.slot(consumed));
    let (head, body) = request(consumed);
    journal.write(place, &head);
    journal.write_rest(place, &body[1..segments]);
    journal.take(consumed.wrapping_add(1));
    place
}

/// A journal with three requests, of which the last two have no published response.
fn with_two() -> SharedPages {
    let pages = SharedPages::host(1, 0);
    let journal = begin(&pages, SLOTS, 0);
    let first = take(&journal, 0, 1);
    take(&journal, 1, 1);
    take(&journal, 2, 1);
    journal.answer(journal.slot(0), first);
    journal.publish(1);
    pages
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_reason() {
    let (_, found, places) = recover(&with_two(), SLOTS).unwrap();
    assert_eq!(
        (found.consumed, found.published, places),
        (3, 1, vec![1, 2])
    );
    let entry = |place: usize| ENTRIES + 32 * place + 4;
    type Spoil<'a> = &'a dyn Fn(&SharedPages);
    let cases: [(Spoil<'_>, BadJournal); 11] = [
        (
            &|pages| pages.u64_at(0).store(0, Relaxed),
            BadJournal::NoMark,
        ),
        (&|pages| pages.zero(0, 4096), BadJournal::NoMark),
        (
            &|pages| pages.u32_at(VERSION).store(2, Relaxed),
            BadJournal::Version(2),
        ),
        (
            &|pages| pages.u32_at(REQUESTS).store(64, Relaxed),
            BadJournal::Requests {
                found: 64,
                expected: SLOTS,
            },
        ),
        (
            &|pages| pages.u32_at(CONSUMED).store(34, Relaxed),
            BadJournal::Indices {
                consumed: 34,
                published: 1,
            },
        ),
        (
            &|pages| pages.u32_at(PUBLISHED).store(4, Relaxed),
            BadJournal::Indices {
                consumed: 3,
                published: 4,
            },
        ),
        (
            &|pages| pages.u16_at(ORDER + 2 * 5).store(32, Relaxed),
            BadJournal::Place(32),
        ),
        (
            &|pages| pages.u16_at(ORDER + 2 * 5).store(7, Relaxed),
            BadJournal::Twice(7),
        ),
        // Not taken yet.
        (
            &|pages| pages.u32_at(entry(2)).store(3, Relaxed),
            BadJournal::Request { place: 2, index: 3 },
        ),
        (
            &|pages| pages.u32_at(entry(2)).store(3 + (1 << 30), Relaxed),
            BadJournal::Request {
                place: 2,
                index: 3 + (1 << 30),
            },
        ),
        // The same as another.
        (
            &|pages| pages.u32_at(entry(2)).store(1, Relaxed),
            BadJournal::Request { place: 2, index: 1 },
        ),
    ];
    for (at, (spoil, error)) in cases.into_iter().enumerate() {
        let pages = with_two();
        spoil(&pages);
        assert_eq!(recover(&pages, SLOTS).unwrap_err(), error, "case {at}");
    }
    assert_eq!(
        recover(&with_two(), 64).unwrap_err(),
        BadJournal::Short(4096)
    );
    let none = Journal::recover(with_two(), SLOTS, &mut []);
    assert_eq!(
        none.map_err(|(error, _)| error).unwrap_err(),
        BadJournal::NoRoom
    );
    let small = Journal::begin(SharedPages::host(1, 0), 64, 0);
    assert_eq!(
        small.map_err(|(error, _)| error).unwrap_err(),
        BadJournal::Short(4096)
    );
}

#[test]
fn what_was_taken_is_known_up_to_the_last_request() {
    let pages = SharedPages::host(1, 0);
    let journal = begin(&pages, SLOTS, 7);
    assert!(journal.is_taken(7) && !journal.is_taken(8));
    take(&journal, 7, 1);
    assert!(journal.is_taken(8) && !journal.is_taken(7));
}

/// What a caller has too much of goes nowhere: not into the segments of another request.
#[test]
fn segments_beyond_those_of_a_slot_are_not_written() {
    let pages = SharedPages::host(1, 0);
    let journal = begin(&pages, SLOTS, 0);
    let places = [0, 1].map(|number| take(&journal, number, SEGMENTS));
    let read = |place| {
        let mut body = [0; SEGMENTS];
        let head = journal.read(place, &mut body);
        (head, body)
    };
    let [first, second] = places.map(read);
    journal.write_rest(places[0], &[7; 3 * SEGMENTS]);
    let mut body = [7; SEGMENTS];
    body[0] = first.1[0];
    assert_eq!(read(places[0]), (first.0, body));
    assert_eq!(read(places[1]), second);
}

/// Memory that has words and knows no groups of them, as that of models.
#[derive(Debug)]
struct Words(SharedPages);

impl JournalMemory for Words {
    fn size(&self) -> usize {
        self.0.size()
    }

    fn word(&self, offset: usize) -> u64 {
        self.0.word(offset)
    }

    fn set_word(&self, offset: usize, value: u64) {
        self.0.set_word(offset, value);
    }

    fn index(&self, offset: usize) -> u32 {
        self.0.index(offset)
    }

    fn set_index(&self, offset: usize, value: u32) {
        self.0.set_index(offset, value);
    }

    fn place(&self, offset: usize) -> u16 {
        self.0.place(offset)
    }

    fn set_place(&self, offset: usize, place: u16) {
        self.0.set_place(offset, place);
    }
}

/// What is shown with a model holds for pages only if both are used in the same way.
#[test]
fn groups_of_words_are_the_words_one_by_one() {
    let (pages, words) = (SharedPages::host(1, 0), SharedPages::host(1, 0));
    for group in 0..pages.len() / 32 {
        let value = [1, 2, 3, 4].map(|word| (group as u64) << 8 | word);
        pages.set_entry(group, value);
        Words(words.alias()).set_entry(group, value);
        assert_eq!(Words(pages.alias()).entry(group), value);
        assert_eq!(words.entry(group), value);
    }
    let bytes = |pages: &SharedPages| {
        let mut bytes = vec![0; pages.len()];
        pages.read_bytes(0, &mut bytes);
        bytes
    };
    assert!(bytes(&pages) == bytes(&words));
    // As little-endian numbers, one behind the other.
    assert_eq!(bytes(&pages)[32..42], [1, 1, 0, 0, 0, 0, 0, 0, 2, 1]);
}

proptest! {
    /// Whatever order requests are answered in, just those without a published response are found,
    /// with all their words, in the order in which they were taken; and the next life goes on so.
    #[test]
    fn what_has_no_published_response_is_found(
        start in prop_oneof![Just(0u32), Just(u32::MAX - 40), any::<u32>()],
        pages in prop_oneof![Just(1usize), Just(2), Just(16)],
        steps in prop::collection::vec((0u8..5, 1usize..12, any::<prop::sample::Index>()), 1..300),
    ) {
        let memory = SharedPages::host(pages, 0);
        let slots = SLOTS * pages as u32;
        let mut journal = begin(&memory, slots, start);
        let (mut consumed, mut answered, mut published) = (start, start, start);
        // By place: its number, and how many segments it has.
        let mut held: BTreeMap<u16, (u32, usize)> = BTreeMap::new();
        let mut open: Vec<u16> = Vec::new();
        for (step, segments, pick) in steps {
            match step {
                0..=1 => for _ in 0..segments {
                    if consumed.wrapping_sub(published) < slots {
                        let place = take(&journal, consumed, segments);
                        prop_assert_eq!(held.insert(place, (consumed, segments)), None);
                        open.push(place);
                        consumed = consumed.wrapping_add(1);
                    }
                },
                2 if !open.is_empty() => {
                    let place = open.swap_remove(pick.index(open.len()));
                    journal.answer(journal.slot(answered), place);
                    answered = answered.wrapping_add(1);
                }
                3 => {
                    held.retain(|place, _| open.contains(place));
                    published = answered;
                    journal.publish(published);
                }
                4 => {
                    let (next, found, places) = recover(&memory, slots).unwrap();
                    prop_assert_eq!((found.consumed, found.published), (consumed, published));
                    prop_assert_eq!(places.len(), held.len());
                    let mut before = None;
                    for &place in &places {
                        let (index, segments) = held[&place];
                        let age = consumed.wrapping_sub(index);
                        prop_assert!(before.replace(age).is_none_or(|before| before > age));
                        let mut body = [0; SEGMENTS];
                        let (head, words) = request(index);
                        prop_assert_eq!(next.read(place, &mut body), head);
                        prop_assert_eq!(&body[..segments], &words[..segments]);
                    }
                    (journal, open, answered) = (next, places, published);
                }
                _ => {}
            }
        }
    }
}

proptest! {
    /// After stray writes a journal is refused, or names each place once.
    #[test]
    fn stray_writes_are_refused_or_do_no_harm(
        writes in prop::collection::vec((0usize..1024, any::<u32>(), 0u32..4), 1..8),
    ) {
        let pages = with_two();
        for (word, value, kind) in writes {
            // Anything at all, or what could be there.
            let value = if kind == 0 { value } else { value % 40 };
            pages.u32_at(4 * word).store(value, Relaxed);
        }
        if let Ok((journal, found, mut places)) = recover(&pages, SLOTS) {
            prop_assert!(found.count() <= SLOTS);
            for &place in &places {
                journal.read(place, &mut [0; SEGMENTS]);
            }
            // With those that are free: all.
            let free = found.count()..SLOTS;
            let ahead = free.map(|at| found.published.wrapping_add(at));
            places.extend(ahead.map(|index| journal.place(journal.slot(index))));
            places.sort_unstable();
            prop_assert_eq!(places, (0..SLOTS as u16).collect::<Vec<_>>());
        }
    }
}
