//! Since when requests of a ring with limits have been seen to wait for them.
//!
//! A request has no time of its own before it is taken. So what the ring held is noted at each look at it:
//! up to which request, and when. What came while the ring was held back, and not looked at, is noted with
//! the next look.

/// Looks that are kept apart.
const MARKS: usize = 16;

/// What the ring held at a look.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// The requests before this number.
    end: u32,
    at_ns: u64,
}

/// The looks at which there were requests that have not been taken.
#[derive(Debug, Default)]
pub(super) struct Seen {
    marks: [Mark; MARKS],
    /// How many count, the oldest first.
    len: usize,
}

impl Seen {
    /// The ring holds the requests before number `end` now, of which those from `from` on have not been
    /// taken.
    pub(super) fn look(&mut self, from: u32, end: u32, now_ns: u64) {
        let known = self.last().map_or(from, |mark| mark.end);
        if end.wrapping_sub(from) <= known.wrapping_sub(from) {
            return;
        }
        let at = self.len.min(MARKS - 1);
        if let Some(mark) = self.marks.get_mut(at) {
            // Without room for another it counts as seen at the look before.
            let at_ns = if self.len < MARKS { now_ns } else { mark.at_ns };
            *mark = Mark { end, at_ns };
        }
        self.len = at + 1;
    }

    /// The requests from number `from` to before `end` are taken now: says how long how many of them have
    /// been seen to wait.
    pub(super) fn take(
        &mut self,
        from: u32,
        end: u32,
        now_ns: u64,
        mut each: impl FnMut(u64, u32),
    ) {
        let count = end.wrapping_sub(from);
        let (mut done, mut over) = (0, 0);
        for mark in &self.marks[..self.len] {
            let upto = mark.end.wrapping_sub(from);
            let some = upto.min(count).saturating_sub(done);
            if some > 0 {
                each(now_ns.saturating_sub(mark.at_ns), some);
                done += some;
            }
            over += usize::from(upto <= count);
        }
        self.len -= over;
        if self.len > 0 {
            self.marks.copy_within(over..over + self.len, 0);
        }
    }

    /// Whether no request that was seen is still to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn last(&self) -> Option<&Mark> {
        self.marks[..self.len].last()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    fn taken(seen: &mut Seen, from: u32, end: u32, now_ns: u64) -> Vec<(u64, u32)> {
        let mut all = vec![];
        seen.take(from, end, now_ns, |wait, count| all.push((wait, count)));
        all
    }

    #[test]
    fn each_request_waits_from_the_first_look_that_saw_it() {
        let mut seen = Seen::default();
        // Numbers wrap.
        let start = u32::MAX - 2;
        let at = |n: u32| start.wrapping_add(n);
        seen.look(start, at(4), 100);
        seen.look(start, at(4), 150);
        assert_eq!(taken(&mut seen, start, at(1), 150), [(50, 1)]);
        seen.look(at(1), at(6), 200);
        assert_eq!(taken(&mut seen, at(1), at(5), 300), [(200, 3), (100, 1)]);
        assert_eq!(taken(&mut seen, at(5), at(6), 310), [(110, 1)]);
        seen.look(at(6), at(7), 400);
        assert_eq!(taken(&mut seen, at(6), at(7), 400), [(0, 1)]);
        assert_eq!(seen.len, 0);
    }

    #[test]
    fn more_looks_than_are_kept_apart_count_as_the_last_of_them() {
        let mut seen = Seen::default();
        for look in 1..=20 {
            seen.look(0, look, u64::from(look));
        }
        let all = taken(&mut seen, 0, 20, 20);
        assert_eq!(all.len(), MARKS);
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u32>(), 20);
        assert_eq!((all[0], all[MARKS - 1]), ((19, 1), (4, 5)));
    }
}
