//! What a ring keeps whose volume is spread over several runs of blocks ([`Map`]): how much it has with
//! each of its disks, and of which request.
//!
//! A request is cut where the runs end (`pieces`), and each piece goes to the disk that it is on, as the
//! same pages from another offset on. Its tag has the disk beside the request's slot, above all that a
//! slot's number needs: a tag without is that of a request that is not cut, and is found first.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::take;

use spindle_block::{MAX_MAPPED_DISKS, Map, Segment, Tag};

use super::{Session, tag};
use crate::ring::MOST_SLOTS;
use crate::ring_core::Disk;
use crate::room::{NoRoom, filled, room_for};
use crate::scheduler::{Account, Party};

/// log2 of the requests that the largest ring has.
const SHARE_SHIFT: u32 = MOST_SLOTS.ilog2();
const _: () = assert!(MOST_SLOTS.is_power_of_two());
const _: () = assert!((MAX_MAPPED_DISKS + 1) << SHARE_SHIFT <= 1 << u16::BITS);

/// What it has with one disk.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) disk: usize,
    account: Account,
    /// Pages that the disk has, as its scheduler counts.
    load: u32,
    /// Pages that may go to it in this visit.
    credit: u32,
    /// Pages, and what they cost, that went to it since that was last charged.
    sent: u32,
    cost: u32,
    /// Pieces that it has not answered.
    pieces: u32,
}

/// What a disk has of one request.
#[derive(Clone, Copy, Debug, Default)]
struct Pieces {
    count: u16,
    load: u16,
}

/// Where the last piece ended that was cut.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    slot: u16,
    /// Bytes of the chunk before it.
    bytes: u32,
    /// Which piece of memory it is in, and how far.
    at: usize,
    skip: u32,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Spread {
    /// One for each disk, however many parts of it the map leads to.
    shares: Box<[Share]>,
    /// Which share is that of each of [`Map::disks`].
    of_part: Box<[u8]>,
    /// Of each slot, what each share has.
    pieces: Box<[Pieces]>,
    /// The memory of the piece that was cut last, as far as that counts.
    memory: Box<[Segment]>,
    count: usize,
    cursor: Cursor,
    /// Nothing is given to any disk.
    pub(super) paused: bool,
}

impl Spread {
    /// Room for so many requests, of at most so many segments.
    pub(super) fn new(map: &Map, requests: usize, segments: usize) -> Result<Self, NoRoom> {
        let mut shares: Vec<Share> = room_for(map.disks().len())?;
        let mut of_part = room_for(map.disks().len())?;
        for part in map.disks() {
            let known = shares.iter().position(|share| share.disk == part.disk);
            of_part.push(known.unwrap_or(shares.len()) as u8);
            if known.is_none() {
                shares.push(Share {
                    disk: part.disk,
                    account: Account::default(),
                    load: 0,
                    credit: u32::MAX,
                    sent: 0,
                    cost: 0,
                    pieces: 0,
                });
            }
        }
        Ok(Self {
            pieces: filled(Pieces::default(), requests * shares.len())?,
            shares: shares.into(),
            of_part: of_part.into(),
            memory: filled(Segment::default(), segments)?,
            count: 0,
            cursor: Cursor::default(),
            paused: false,
        })
    }

    /// Bytes of that, if the map leads to so many disks; none of a volume without a map.
    pub(super) const fn footprint(requests: usize, segments: usize, disks: usize) -> usize {
        if disks == 0 {
            return 0;
        }
        let share = size_of::<Share>() + size_of::<u8>() + requests * size_of::<Pieces>();
        size_of::<Self>() + disks * share + segments * size_of::<Segment>()
    }

    pub(super) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The share of one of [`Map::disks`].
    pub(super) fn share_of(&self, part: usize) -> usize {
        self.of_part.get(part).copied().unwrap_or(0).into()
    }

    /// The disk of a share, of all that the core has.
    pub(super) fn disk<'a, Q>(
        &self,
        share: usize,
        disks: &'a mut [Disk<Q>],
    ) -> Option<&'a mut Disk<Q>> {
        disks.get_mut(self.shares.get(share)?.disk)
    }

    /// Pages that may go to the disk of a share.
    pub(super) fn credit(&self, share: usize) -> u32 {
        self.shares.get(share).map_or(0, |share| share.credit)
    }

    /// Whether anything went to the disk of a share since that was last charged.
    pub(super) fn has_sent(&self, share: usize) -> bool {
        self.shares.get(share).is_some_and(|share| share.cost > 0)
    }

    fn of(&mut self, slot: u16, share: usize) -> Option<&mut Pieces> {
        let own = self.pieces.chunks_mut(self.shares.len()).nth(slot.into());
        own?.get_mut(share)
    }

    /// A disk was given a piece of the request in `slot`: `load` pages, which count as `cost`.
    pub(super) fn give(&mut self, slot: u16, share: usize, load: u32, cost: u32) {
        if let Some(pieces) = self.of(slot, share) {
            let load = load as u16;
            (pieces.count, pieces.load) = (pieces.count + 1, pieces.load.saturating_add(load));
        }
        if let Some(share) = self.shares.get_mut(share) {
            share.load += load;
            share.credit = share.credit.saturating_sub(cost);
            share.sent += load;
            share.cost += cost;
            share.pieces += 1;
        }
    }

    /// It has answered one; false if it has none of that request. With the last one of a request all
    /// of its pages have been accounted for.
    pub(super) fn take(&mut self, slot: u16, share: usize) -> bool {
        let Some(pieces) = self.of(slot, share).filter(|pieces| pieces.count > 0) else {
            return false;
        };
        let load = pieces.load / pieces.count;
        (pieces.count, pieces.load) = (pieces.count - 1, pieces.load - load);
        if let Some(share) = self.shares.get_mut(share) {
            share.load = share.load.saturating_sub(load.into());
            share.pieces = share.pieces.saturating_sub(1);
        }
        true
    }

    /// Whether this disk has any piece of the request in `slot`.
    pub(super) fn has(&self, slot: usize, disk: usize) -> bool {
        let own = self.pieces.chunks(self.shares.len()).nth(slot);
        let mut own = own.unwrap_or_default().iter().zip(&self.shares);
        own.any(|(pieces, share)| pieces.count > 0 && share.disk == disk)
    }

    fn is_on_any(&self, disks: &[usize]) -> bool {
        self.shares.iter().any(|share| disks.contains(&share.disk))
    }

    /// Cuts out of the memory of the request in `slot` what is for `len` bytes from byte `from` on.
    pub(super) fn cut(&mut self, slot: u16, memory: &[Segment], from: u32, len: u32) {
        let last = self.cursor;
        // Each request begins at 0, so that none goes on where another one was.
        let (mut at, mut skip) = if (last.slot, last.bytes) == (slot, from) {
            (last.at, last.skip)
        } else {
            (0, from)
        };
        while let Some(piece) = memory.get(at)
            && skip >= piece.bytes()
        {
            skip -= piece.bytes();
            at += 1;
        }
        let (mut count, mut left) = (0, len);
        while let (Some(piece), Some(cut)) = (memory.get(at), self.memory.get_mut(count))
            && left > 0
        {
            *cut = Segment::new(
                piece.bus() + u64::from(skip),
                left.min(piece.bytes() - skip),
            );
            left -= cut.bytes();
            skip += cut.bytes();
            count += 1;
            if skip == piece.bytes() {
                (at, skip) = (at + 1, 0);
            }
        }
        debug_assert_eq!(left, 0, "a chunk has memory for all of it");
        self.cursor = Cursor {
            slot,
            bytes: from + len,
            at,
            skip,
        };
        self.count = count;
    }

    /// What was cut last.
    pub(super) fn piece(&self) -> &[Segment] {
        &self.memory[..self.count]
    }
}

/// What the ring core asks of a ring that may be on several disks, each by the number of its share.
impl Session {
    /// How many disks its volume is spread over; 0 without a map.
    pub(crate) fn shares(&self) -> usize {
        self.spread.as_ref().map_or(0, |spread| spread.shares.len())
    }

    /// Gives it a weight, at least 1, with all its disks.
    pub(super) fn set_weight(&mut self, weight: u8) {
        self.account.set_weight(weight);
        for share in self.spread.iter_mut().flat_map(|spread| &mut spread.shares) {
            share.account.set_weight(weight);
        }
    }

    /// The disk of a share, and what that disk's scheduler knows of it.
    pub(crate) fn share_party(&mut self, at: usize) -> Option<(usize, Party<'_>)> {
        let (guest, weight) = (self.tenant, self.tenant_weight);
        let share = self.spread.as_mut()?.shares.get_mut(at)?;
        let party = Party {
            guest,
            own: share.load,
            account: &mut share.account,
            weight,
        };
        Some((share.disk, party))
    }

    /// Lets so many pages go there.
    pub(crate) fn allow_share(&mut self, at: usize, credit: u32) {
        if let Some(share) = self.share_mut(at) {
            share.credit = credit;
        }
    }

    /// Pages that went there since this was last asked, and what they cost.
    pub(crate) fn take_sent_to(&mut self, at: usize) -> (u32, u32) {
        let share = self.share_mut(at);
        share.map_or((0, 0), |share| {
            (take(&mut share.sent), take(&mut share.cost))
        })
    }

    /// Whether anything is there, or could be if there were the credit.
    pub(crate) fn is_active_on(&self, at: usize) -> bool {
        let share = self.share(at);
        share.is_some_and(|share| share.pieces > 0) || self.is_throttled() && self.is_broke_on(at)
    }

    /// Whether nothing may be sent there.
    pub(crate) fn is_broke_on(&self, at: usize) -> bool {
        self.share(at).is_some_and(|share| share.credit == 0)
    }

    /// Whether a disk has anything that is not among these, if it is on any of these.
    pub(crate) fn is_with_others(&self, disks: &[usize]) -> bool {
        self.spread.as_ref().is_some_and(|spread| {
            spread.is_on_any(disks)
                && spread
                    .shares
                    .iter()
                    .any(|share| share.pieces > 0 && !disks.contains(&share.disk))
        })
    }

    /// Gives nothing to any disk if it is on one of these.
    pub(crate) fn pause(&mut self, disks: &[usize]) {
        if let Some(spread) = &mut self.spread {
            spread.paused = spread.is_on_any(disks);
        }
    }

    fn share(&self, at: usize) -> Option<&Share> {
        self.spread.as_ref()?.shares.get(at)
    }

    fn share_mut(&mut self, at: usize) -> Option<&mut Share> {
        self.spread.as_mut()?.shares.get_mut(at)
    }
}

/// The name of a piece of the request in `slot` of ring number `ring`, for the disk of this share.
pub(super) fn piece_tag(ring: u16, slot: u16, share: usize) -> Tag {
    tag(ring, slot | (share as u16 + 1) << SHARE_SHIFT)
}

/// The slot and the share that are in a tag; `None` if it has no share.
pub(super) fn split(tagged: u16) -> Option<(u16, usize)> {
    let share = usize::from(tagged >> SHARE_SHIFT).checked_sub(1)?;
    Some((tagged & ((1 << SHARE_SHIFT) - 1), share))
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use spindle_block::{Run, Stretch, Unit, Volume};

    use super::*;

    /// Over two disks, of which the second has two parts in it.
    fn spread() -> Spread {
        let disk = |disk, unit| Volume {
            name: String::new(),
            aliases: vec![],
            disk,
            unit: Unit(unit),
            start: 0,
            sectors: 64,
            block_shift: 9,
            physical_block_shift: 9,
            read_only: false,
            write_cache: false,
            discard: None,
            description: String::new(),
            map: None,
        };
        let stretch = |volume| Stretch {
            sectors: 8,
            chunk: 0,
            runs: vec![Run { volume, sector: 0 }],
        };
        let volumes = [disk(3, 1), disk(5, 1), disk(5, 2)];
        let stretches: Vec<_> = (0..3).map(stretch).collect();
        let volume = Volume::assembled(String::new(), &stretches, &volumes).unwrap();
        Spread::new(volume.map.as_deref().unwrap(), 4, 11).unwrap()
    }

    #[test]
    fn a_disk_answers_no_more_than_it_was_given() {
        let mut spread = spread();
        assert_eq!([0, 1, 2].map(|part| spread.share_of(part)), [0, 1, 1]);
        spread.give(2, 1, 3, 3);
        spread.give(2, 1, 2, 2);
        assert!(spread.has(2, 5) && !spread.has(2, 3) && !spread.has(1, 5));
        for (slot, share) in [(2, 0), (1, 1), (1, 3), (4, 0), (u16::MAX, 1)] {
            assert!(!spread.take(slot, share), "{slot} {share}");
        }
        assert!(spread.take(2, 1) && spread.take(2, 1) && !spread.take(2, 1));
        assert_eq!((spread.shares()[1].load, spread.shares()[1].pieces), (0, 0));
    }

    #[test]
    fn a_tag_names_a_slot_and_a_share_and_no_slot_alone() {
        for share in [0, MAX_MAPPED_DISKS - 1] {
            for slot in [0, MOST_SLOTS as u16 - 1] {
                let Tag(tag) = piece_tag(7, slot, share);
                assert_eq!((tag >> 16, split(tag as u16)), (7, Some((slot, share))));
                assert!(usize::from(tag as u16) >= MOST_SLOTS);
                assert_eq!(split(slot), None);
            }
        }
    }
}
