//! What the next life of the kernel finds in a journal. It writes nothing.

use super::{Journal, JournalLayout, JournalMemory, MAGIC, VERSION, layout};

/// Why a journal cannot be used. Its ring is closed; the requests in it are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJournal {
    /// The memory is too small for a ring of so many slots.
    #[error("{0} bytes are too few for the journal of the ring")]
    Short(usize),
    /// There is no journal in it.
    #[error("there is no journal where the ring's should be")]
    NoMark,
    /// It was written by a kernel whose format this one does not know.
    #[error("the journal is of version {0}; known is {VERSION}")]
    Version(u32),
    /// It is that of another ring.
    #[error("the journal is of a ring with {found} slots, not {expected}")]
    Requests {
        /// Slots that the journal is for.
        found: u32,
        /// Slots of the ring.
        expected: u32,
    },
    /// More requests are taken than there are slots, or fewer than none.
    #[error("the journal says that {consumed} requests were taken and {published} answered")]
    Indices {
        /// Requests taken.
        consumed: u32,
        /// Responses published.
        published: u32,
    },
    /// A place that does not exist is free.
    #[error("the journal has {0} for a free place")]
    Place(u16),
    /// A place is free twice.
    #[error("the journal has place {0} twice among the free ones")]
    Twice(u16),
    /// A place has a request that was not taken, or that another place has, too.
    #[error("the journal has request {index} in place {place}, which cannot be")]
    Request {
        /// The place.
        place: u16,
        /// The number of the request.
        index: u32,
    },
    /// The caller's memory for the answer is too small.
    #[error("no room for the requests of the journal")]
    NoRoom,
}

/// What was found: requests that were taken and have no published response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Requests taken off the ring: the number of the next.
    pub consumed: u32,
    /// Responses published: the number of the next. What the ring may hold of later ones does not
    /// count.
    pub published: u32,
}

impl Unanswered {
    /// No request, of a ring that goes on with request number `start`.
    #[must_use]
    pub const fn none(start: u32) -> Self {
        Self {
            consumed: start,
            published: start,
        }
    }

    /// How many requests are to be done again.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.consumed.wrapping_sub(self.published)
    }
}

impl<J: JournalMemory> Journal<J> {
    /// Takes over the journal of a ring of `requests` slots from a life of the kernel that has ended.
    /// The first places of `places`, of which there must be as many as slots, are then those of the
    /// requests to be done again, in the order in which these were taken.
    ///
    /// # Errors
    /// With the memory, if what is in it does not fit together.
    pub fn recover(
        memory: J,
        requests: u32,
        places: &mut [u16],
    ) -> Result<(Self, Unanswered), (BadJournal, J)> {
        let Some(layout) = JournalLayout::of(requests, memory.size()) else {
            return Err((BadJournal::Short(memory.size()), memory));
        };
        let journal = Self { memory, layout };
        match journal.find(places) {
            Ok(found) => Ok((journal, found)),
            Err(error) => Err((error, journal.memory)),
        }
    }

    fn find(&self, places: &mut [u16]) -> Result<Unanswered, BadJournal> {
        let memory = &self.memory;
        if memory.word(layout::MARK) != MAGIC {
            return Err(BadJournal::NoMark);
        }
        let version = memory.index(layout::VERSION);
        if version != VERSION {
            return Err(BadJournal::Version(version));
        }
        let (found, expected) = (memory.index(layout::REQUESTS), self.layout.requests());
        if found != expected {
            return Err(BadJournal::Requests { found, expected });
        }
        let [consumed, published] =
            [layout::CONSUMED, layout::PUBLISHED].map(|at| memory.index(at));
        let unanswered = Unanswered {
            consumed,
            published,
        };
        let count = unanswered.count();
        if count > expected {
            return Err(BadJournal::Indices {
                consumed,
                published,
            });
        }
        let places = places.get_mut(..expected as usize);
        let places = places.ok_or(BadJournal::NoRoom)?;
        self.sort_out(consumed, expected - count, places)?;
        let used = &mut places[..count as usize];
        self.in_order(consumed, used)?;
        Ok(unanswered)
    }

    /// Puts the places in use first, in any order.
    fn sort_out(&self, consumed: u32, free: u32, places: &mut [u16]) -> Result<(), BadJournal> {
        /// No place: there are at most 2^15.
        const FREE: u16 = u16::MAX;
        for (place, number) in places.iter_mut().zip(0..) {
            *place = number;
        }
        for ahead in 0..free {
            let place = self.place(self.slot(consumed.wrapping_add(ahead)));
            let known = places.get_mut(usize::from(place));
            let known = known.ok_or(BadJournal::Place(place))?;
            if *known == FREE {
                return Err(BadJournal::Twice(place));
            }
            *known = FREE;
        }
        let mut used = 0;
        for at in 0..places.len() {
            if places[at] != FREE {
                places[used] = places[at];
                used += 1;
            }
        }
        Ok(())
    }

    /// Sorts places in use by when their requests were taken.
    fn in_order(&self, consumed: u32, used: &mut [u16]) -> Result<(), BadJournal> {
        let index = |place| (self.memory.entry(self.layout.entry(place))[0] >> 32) as u32;
        // How long ago: 1 for the last that was taken.
        let age = |place| consumed.wrapping_sub(index(place));
        // Shell's sort, oldest first: that of `core` is fast at the price of 13 KiB of code.
        let mut gap = used.len() / 2;
        while gap > 0 {
            for end in gap..used.len() {
                let mut at = end;
                while at >= gap && age(used[at - gap]) < age(used[at]) {
                    used.swap(at - gap, at);
                    at -= gap;
                }
            }
            gap /= 2;
        }
        let mut before = None;
        for &place in &*used {
            let age = age(place);
            if age == 0 || age > u32::MAX / 2 || before == Some(age) {
                let index = index(place);
                return Err(BadJournal::Request { place, index });
            }
            before = Some(age);
        }
        Ok(())
    }
}
