//! What a volume's sectors may hold, by what guests have written and how that was answered: the judge
//! of every read.
//!
//! Each write has a number, which stands in every sector that it fills, with the volume and the
//! sector's own place: one that comes from elsewhere differs from one that is old.

use std::collections::BTreeSet;

/// Bytes in a sector.
pub(crate) const SECTOR: usize = 512;
/// What is there before anything is written, and what discards may leave, by the byte that fills it.
const FILLS: [u8; 3] = [0, 0xd1, 0x5e];
/// Numbers of writes begin here; those below stand for [`FILLS`].
const FIRST: u32 = 16;

/// A value that a sector may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    number: u32,
    /// What put it there.
    by: u32,
    issued: u64,
    /// When the request was answered.
    answered: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    now: Vec<Candidate>,
    /// Values that it had until some time, in its order, as long as a request is under way that may have
    /// met them.
    past: Vec<(u32, u64)>,
    /// What may be on the medium.
    durable: Vec<u32>,
    /// What a loss of the cache may have brought back, which is not known to the guest yet.
    returned: Vec<u32>,
    /// It was written by a guest that breaks the rules.
    unknown: bool,
}

/// A volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    tag: u8,
    sectors: Vec<Sector>,
    next: u32,
    /// Sectors of which the medium may hold something else than the cache.
    dirty: BTreeSet<usize>,
    /// Reads and flushes under way.
    watching: usize,
    /// Sectors that have a past.
    aged: Vec<usize>,
    /// When the cache was lost last.
    lost_at: u64,
}

/// A request that the volume is to judge when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    number: u32,
    at: u64,
}

impl Issued {
    /// When it was issued.
    pub(crate) fn at(self) -> u64 {
        self.at
    }
}

impl Volume {
    /// A volume of so many sectors, all zero.
    pub(crate) fn new(tag: u8, sectors: usize) -> Self {
        let zero = Candidate {
            number: 0,
            by: 0,
            issued: 0,
            answered: Some(0),
        };
        let sector = Sector {
            now: vec![zero],
            durable: vec![0],
            ..Sector::default()
        };
        Self {
            tag,
            sectors: vec![sector; sectors],
            next: FIRST,
            dirty: BTreeSet::new(),
            watching: 0,
            aged: Vec::new(),
            lost_at: 0,
        }
    }

    /// Sectors in it.
    pub(crate) fn len(&self) -> u64 {
        self.sectors.len() as u64
    }

    fn issue(&mut self, now: u64) -> Issued {
        self.next += 1;
        Issued {
            number: self.next - 1,
            at: now,
        }
    }

    /// A write that is never to happen, or a request without sectors.
    pub(crate) fn begin_nothing(&mut self, now: u64) -> Issued {
        self.issue(now)
    }

    /// What a sector of a write holds.
    pub(crate) fn fill(&self, write: Issued, sector: u64, bytes: &mut [u8]) {
        let word = self.word(write.number, sector);
        for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&mixed(word, index).to_le_bytes());
        }
    }

    fn word(&self, number: u32, sector: u64) -> u64 {
        u64::from(self.tag) << 56 | sector << 32 | u64::from(number)
    }

    /// A write begins.
    pub(crate) fn begin_write(&mut self, from: u64, count: u64, now: u64) -> Issued {
        let write = self.issue(now);
        self.begin(from, count, write, &[write.number]);
        write
    }

    /// A discard begins: the sectors keep what they have, or get what a disk puts there.
    pub(crate) fn begin_discard(&mut self, from: u64, count: u64, now: u64) -> Issued {
        let discard = self.issue(now);
        self.begin(from, count, discard, &[0, 1, 2]);
        discard
    }

    fn begin(&mut self, from: u64, count: u64, by: Issued, numbers: &[u32]) {
        for at in from as usize..(from + count) as usize {
            let sector = &mut self.sectors[at];
            for &number in numbers {
                sector.now.push(Candidate {
                    number,
                    by: by.number,
                    issued: by.at,
                    answered: None,
                });
                if !sector.durable.contains(&number) {
                    sector.durable.push(number);
                }
            }
            self.dirty.insert(at);
        }
    }

    /// A write or a discard was answered.
    pub(crate) fn end_change(
        &mut self,
        (from, count): (u64, u64),
        by: Issued,
        took_effect: bool,
        now: u64,
    ) {
        let keep_past = self.watching > 0;
        let range = from as usize..(from + count) as usize;
        for (at, sector) in range.clone().zip(&mut self.sectors[range]) {
            if took_effect {
                sector.unknown = false;
                if by.at > self.lost_at {
                    // A read that is under way may have seen it.
                    for number in sector.returned.drain(..).filter(|_| keep_past) {
                        self.aged.push(at);
                        sector.past.push((number, now));
                    }
                }
                let Sector {
                    now: kept, past, ..
                } = sector;
                kept.retain(|value| {
                    let keeps = value.by == by.number || value.answered.is_none_or(|at| at > by.at);
                    if !keeps && keep_past {
                        self.aged.push(at);
                        past.push((value.number, now));
                    }
                    keeps
                });
            }
            for value in &mut sector.now {
                if value.by == by.number {
                    value.answered = Some(now);
                }
            }
        }
    }

    /// A read or a flush begins.
    pub(crate) fn begin_watch(&mut self, now: u64) -> Issued {
        self.watching += 1;
        self.issue(now)
    }

    fn end_watch(&mut self) {
        self.watching -= 1;
        if self.watching == 0 {
            for at in self.aged.drain(..) {
                self.sectors[at].past.clear();
            }
        }
    }

    /// A read was answered with an error, or its answer will never come.
    pub(crate) fn end_read(&mut self) {
        self.end_watch();
    }

    /// Judges one sector of a read that was answered.
    pub(crate) fn judge(
        &mut self,
        read: Issued,
        at: u64,
        bytes: &[u8],
        now: u64,
    ) -> Result<(), String> {
        let unknown = self.sectors[at as usize].unknown;
        if unknown {
            return Ok(());
        }
        let number = self.decode(at, bytes)?;
        let sector = &mut self.sectors[at as usize];
        let found = sector.now.iter().find(|value| value.number == number);
        let was = || had_since(&sector.past, read.at).any(|value| value == number);
        if found.is_none() && !was() && !sector.returned.contains(&number) {
            return Err(format!(
                "sector {at} of volume {} holds write {number}, which it cannot: {sector:?}",
                self.tag
            ));
        }
        let settled = |value: &Candidate| value.answered.is_some_and(|at| at <= read.at);
        if let Some(&found) = found
            && sector.now.iter().all(settled)
        {
            // What it is now is known.
            let Sector {
                now: kept, past, ..
            } = sector;
            kept.retain(|value| {
                if *value != found && value.number != number {
                    self.aged.push(at as usize);
                    past.push((value.number, now));
                }
                *value == found
            });
        }
        Ok(())
    }

    /// The number of the write that a sector comes from.
    fn decode(&self, at: u64, bytes: &[u8]) -> Result<u32, String> {
        let is_it = |fill: &u8| bytes[0] == *fill && is_filled(bytes, *fill);
        if let Some(fill) = FILLS.iter().position(is_it) {
            return Ok(fill as u32);
        }
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let (first, second) = (word(&bytes[..8]), word(&bytes[8..16]));
        // Without an early end, for many words at once.
        let mut differs = 0;
        for (index, bytes) in bytes.chunks_exact(8).enumerate() {
            differs |= mixed(first, index) ^ word(bytes);
        }
        if differs != 0 {
            return Err(format!(
                "sector {at} of volume {} holds no sector that was ever written, but {first:#x}, {second:#x}...",
                self.tag
            ));
        }
        let word = first;
        let number = word as u32;
        if word != self.word(number, at) || number >= self.next || number < FIRST {
            return Err(format!(
                "sector {at} of volume {} holds write {number} to sector {} of volume {}",
                self.tag,
                word >> 32 & 0xff_ffff,
                word >> 56
            ));
        }
        Ok(number)
    }

    /// A flush was answered.
    pub(crate) fn end_flush(&mut self, flush: Issued, ok: bool, now: u64) {
        if ok {
            for &at in &self.dirty {
                let sector = &mut self.sectors[at];
                let since = &mut sector.durable;
                since.clear();
                since.extend(sector.now.iter().map(|value| value.number));
                since.extend(had_since(&sector.past, flush.at));
                if since.len() > 1 {
                    since.sort_unstable();
                    since.dedup();
                }
                sector.returned.retain(|number| since.contains(number));
            }
            let sectors = &self.sectors;
            self.dirty.retain(|&at| sectors[at].durable.len() > 1);
        } else {
            self.admit_losses(now);
        }
        self.end_watch();
    }

    /// Whoever wrote here knows, or will never ask, that it may be lost.
    pub(crate) fn admit_losses(&mut self, now: u64) {
        for &at in &self.dirty {
            let sector = &mut self.sectors[at];
            for number in std::mem::take(&mut sector.returned) {
                sector.now.push(settled(number, now));
            }
        }
    }

    /// The disk has lost its cache. `owed` is whether a guest must learn of that by a failed flush.
    pub(crate) fn lose_cache(&mut self, owed: bool, now: u64) {
        self.lost_at = now;
        for &at in &self.dirty {
            let sector = &mut self.sectors[at];
            // Also what it may hold by now: a read that is under way may tell that it did not before.
            for &number in &sector.durable {
                if !owed {
                    sector.now.push(settled(number, now));
                } else if !sector.returned.contains(&number) {
                    sector.returned.push(number);
                }
            }
        }
    }

    /// A guest that breaks the rules has the volume.
    pub(crate) fn forget(&mut self) {
        self.sectors
            .iter_mut()
            .for_each(|sector| sector.unknown = true);
    }

    /// A change whose answer will never come is over: it has happened or it has not.
    pub(crate) fn abandon(&mut self, range: (u64, u64), by: Issued, now: u64) {
        self.end_change(range, by, false, now);
    }
}

/// What a sector had at some time after `at`, and has no longer.
fn had_since(past: &[(u32, u64)], at: u64) -> impl Iterator<Item = u32> {
    let since = past.iter().rev().take_while(move |(_, until)| *until > at);
    since.map(|(number, _)| *number)
}

/// Whether all bytes are the same, looked at many at once.
pub(crate) fn is_filled(bytes: &[u8], with: u8) -> bool {
    bytes.iter().fold(0, |differs, byte| differs | byte ^ with) == 0
}

fn settled(number: u32, now: u64) -> Candidate {
    Candidate {
        number,
        by: 0,
        issued: now,
        answered: Some(now),
    }
}

/// Word `index` of a sector whose first is `word`.
fn mixed(word: u64, index: usize) -> u64 {
    word.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(volume: &mut Volume, write: Issued, issued: u64, now: u64) -> Result<(), String> {
        let mut bytes = [0; SECTOR];
        volume.fill(write, 3, &mut bytes);
        let read = volume.begin_watch(issued);
        let judged = volume.judge(read, 3, &bytes, now);
        volume.end_read();
        judged
    }

    #[test]
    fn after_an_answer_only_the_new_value_counts() {
        let mut volume = Volume::new(1, 8);
        let old = volume.begin_write(3, 1, 10);
        volume.end_change((3, 1), old, true, 20);
        let new = volume.begin_write(3, 1, 30);
        let mut before = volume.clone();
        volume.end_change((3, 1), new, true, 40);
        assert!(read(&mut volume, new, 50, 60).is_ok());
        assert!(read(&mut volume, old, 50, 60).is_err());
        // As long as it is under way, either.
        assert!(read(&mut before, old, 35, 36).is_ok());
        assert!(read(&mut before, new, 35, 36).is_ok());
    }

    #[test]
    fn of_two_writes_that_overlap_either_may_stay_and_then_it_does() {
        let mut volume = Volume::new(1, 8);
        let [one, other] = [10, 20].map(|at| volume.begin_write(3, 1, at));
        volume.end_change((3, 1), one, true, 30);
        volume.end_change((3, 1), other, true, 40);
        assert!(read(&mut volume, one, 50, 60).is_ok());
        assert!(read(&mut volume, one, 70, 80).is_ok());
        assert!(read(&mut volume, other, 90, 91).is_err());
    }

    #[test]
    fn what_was_flushed_stays_and_a_loss_is_owed_until_a_flush_fails() {
        let mut volume = Volume::new(1, 8);
        let old = volume.begin_write(3, 1, 10);
        volume.end_change((3, 1), old, true, 20);
        let flush = volume.begin_watch(21);
        volume.end_flush(flush, true, 22);
        let new = volume.begin_write(3, 1, 30);
        volume.end_change((3, 1), new, true, 40);
        volume.lose_cache(true, 50);
        assert!(read(&mut volume, old, 60, 61).is_ok());
        assert!(read(&mut volume, new, 60, 61).is_ok());
        let mut failed = volume.clone();
        for (volume, ok) in [(&mut volume, true), (&mut failed, false)] {
            let flush = volume.begin_watch(70);
            volume.end_flush(flush, ok, 80);
        }
        assert!(read(&mut volume, old, 90, 91).is_err());
        assert!(read(&mut failed, old, 90, 91).is_ok());
    }

    #[test]
    fn a_sector_of_another_place_or_volume_is_known() {
        let mut volume = Volume::new(1, 8);
        let other = Volume::new(2, 8);
        let write = volume.begin_write(2, 3, 10);
        volume.end_change((2, 3), write, true, 20);
        let mut bytes = [0; SECTOR];
        for (from, at) in [(&volume.clone(), 2), (&other, 3)] {
            from.fill(write, at, &mut bytes);
            let read = volume.begin_watch(30);
            assert!(volume.judge(read, 3, &bytes, 40).is_err());
            volume.end_read();
        }
        bytes.fill(0xa5);
        assert!(volume.decode(3, &bytes).is_err());
    }
}
