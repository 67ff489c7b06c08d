//! Where each guest's volume is on the disk, and what may be there: reckoned here from scratch,
//! so that it can be held against what the backend makes of it.

use std::cell::RefCell;
use std::rc::Rc;

use spindle_block::{
    Budget, Command, Discard, DiskQueue, IoResult, Op, Part, SubmitError, Tag, Unit, Volume,
};
use spindle_testkit::nvme::Access;

use super::shares::Shares;

/// Guests: the first is honest, the others are not.
pub(super) const GUESTS: usize = 3;
/// Sectors before, between and behind the volumes, which are no guest's.
const GAP: u64 = 64;
/// Sectors that a volume may grow to.
pub(super) const ROOM: u64 = 160;
/// What is in the gaps.
const NOTHING: u8 = 0xee;
/// A sector's bytes.
const SECTOR: usize = 512;

/// Sectors of the disk.
pub(super) const SECTORS: u64 = GUESTS as u64 * (GAP + ROOM) + GAP;

/// The first sector of a guest's volume.
fn first(guest: usize) -> u64 {
    GAP + guest as u64 * (GAP + ROOM)
}

/// What a guest fills its memory with, and its volume.
pub(super) fn stamp(guest: usize) -> u8 {
    0xa0 + guest as u8
}

/// What is in a sector of the honest guest's volume: all of them differ.
pub(super) fn honest_sector(sector: u64) -> [u8; SECTOR] {
    let mut bytes = [stamp(0); SECTOR];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// The volumes' sizes.
#[derive(Debug)]
pub(super) struct Layout {
    /// log2 of the disk's block size.
    pub(super) shift: u8,
    /// Sectors of each volume now.
    pub(super) sizes: [u64; GUESTS],
    /// What commands may reach: a request taken before a volume was made smaller may still be
    /// under way.
    pub(super) limits: [u64; GUESTS],
    /// Whose ring is at which place of the core.
    pub(super) owners: Vec<Option<usize>>,
    pub(super) shares: Shares,
}

impl Layout {
    pub(super) fn new(shift: u8, places: usize, depth: usize) -> Self {
        Self {
            shift,
            sizes: [ROOM / 2; GUESTS],
            limits: [ROOM / 2; GUESTS],
            owners: vec![None; places],
            shares: Shares::new(depth),
        }
    }

    pub(super) fn volume(&self, guest: usize) -> Volume {
        Volume {
            name: format!("part{guest}"),
            aliases: Vec::new(),
            disk: 0,
            unit: Unit(1),
            start: first(guest) >> (self.shift - 9),
            sectors: self.sizes[guest],
            block_shift: self.shift,
            physical_block_shift: self.shift,
            read_only: false,
            write_cache: true,
            discard: Some(Discard {
                granularity: 1 << self.shift,
                alignment: 0,
                secure: false,
            }),
            description: String::new(),
            map: None,
        }
    }

    /// Whether so many blocks of the disk are a guest's.
    fn is_inside(&self, guest: usize, block: u64, blocks: u64) -> bool {
        let scale = u128::from(self.shift - 9);
        let from = u128::from(block) << scale;
        let to = (u128::from(block) + u128::from(blocks)) << scale;
        let begin = u128::from(first(guest));
        from >= begin && to <= begin + u128::from(self.limits[guest])
    }

    /// Holds a command of the ring at `place` against that guest's volume.
    fn check_command(&self, place: usize, command: &Command<'_>) {
        let guest = self.owners[place].expect("a command of a ring that there is not");
        let blocks = command.total_blocks();
        assert_ne!(command.unit, Unit::NONE, "guest {guest}: {command:?}");
        assert!(
            command.op == Op::Flush || self.is_inside(guest, command.block, blocks),
            "guest {guest} reaches {} blocks from {}, beyond {:?}",
            blocks,
            command.block,
            self
        );
    }

    /// Holds what the disk carried out against the volumes: it knows of no guests, but none of
    /// them has two volumes.
    pub(super) fn check_access(&self, access: &Access) {
        let inside = |guest| self.is_inside(guest, access.block, access.blocks);
        let owner = (0..GUESTS).find(|&guest| inside(guest));
        assert!(
            access.namespace == 1 && owner.is_some(),
            "{access:?} is in no volume of {self:?}"
        );
        // The honest guest only reads.
        assert!(owner != Some(0) || access.opcode == 2, "{access:?}");
    }

    /// The disk as it is at first.
    pub(super) fn image() -> Vec<u8> {
        let mut image = vec![NOTHING; SECTORS as usize * SECTOR];
        for guest in 0..GUESTS {
            for sector in 0..ROOM {
                let bytes = match guest {
                    0 => honest_sector(sector),
                    _ => [stamp(guest); SECTOR],
                };
                image[(first(guest) + sector) as usize * SECTOR..][..SECTOR]
                    .copy_from_slice(&bytes);
            }
        }
        image
    }

    /// Holds the disk at the end against what may be where: each hostile guest's own data, and the
    /// zeroes of its discards.
    pub(super) fn check_image(contents: &[u8]) {
        let (was, is) = (Self::image(), contents.chunks_exact(SECTOR));
        assert_eq!(contents.len(), was.len());
        for (sector, (was, is)) in (0..).zip(was.chunks_exact(SECTOR).zip(is)) {
            let hostile = |&guest: &usize| (first(guest)..first(guest) + ROOM).contains(&sector);
            match (1..GUESTS).find(hostile) {
                Some(guest) => check_own(guest, is),
                None => assert!(was == is, "sector {sector} of the disk has changed"),
            }
        }
    }
}

/// Whether there is nothing in `bytes` but what this guest may see.
pub(super) fn check_own(guest: usize, bytes: &[u8]) {
    let foreign = bytes.iter().find(|&&b| b != stamp(guest) && b != 0);
    assert_eq!(foreign, None, "guest {guest} has another's data");
}

/// A disk's queue under the eyes of the layout.
pub(super) struct Watched<Q> {
    pub(super) queue: Q,
    pub(super) layout: Rc<RefCell<Layout>>,
}

impl<Q> Watched<Q> {
    fn check(&self, command: &Command<'_>, tag: Tag) {
        self.layout.borrow().check_command(place(tag), command);
    }
}

impl<Q: DiskQueue> Watched<Q> {
    /// The queue has taken so many blocks of a command.
    fn took(&self, tag: Tag, command: &Command<'_>, blocks: u64) {
        let layout = &mut *self.layout.borrow_mut();
        let guest = layout.owners[place(tag)].expect("checked before");
        let moves = !command.segments.is_empty();
        let pages = if moves {
            (blocks << layout.shift).div_ceil(4096)
        } else {
            0
        };
        layout.shares.took(guest, tag, pages);
        if !moves {
            layout.shares.took_single(guest, tag, command.op);
        }
    }
}

/// The place of the ring whose tag it is: its upper half.
fn place(tag: Tag) -> usize {
    (tag.0 >> 16) as usize
}

impl<Q: DiskQueue> DiskQueue for Watched<Q> {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        self.check(command, tag);
        self.queue.submit(command, tag)?;
        self.took(tag, command, command.total_blocks());
        Ok(())
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        self.check(command, tag);
        let part = self.queue.submit_part(command, from, budget, tag)?;
        self.took(tag, command, part.blocks);
        Ok(part)
    }

    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        self.queue.requests(command)
    }

    fn depth(&self) -> usize {
        self.queue.depth()
    }

    fn commit(&mut self) {
        self.queue.commit();
    }

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        self.queue.poll(|tag, result| {
            self.layout.borrow_mut().shares.answered(tag);
            done(tag, result);
        })
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    fn is_stirred(&self) -> bool {
        self.queue.is_stirred()
    }

    fn is_working(&self) -> bool {
        self.queue.is_working()
    }

    fn tick(&mut self, now_ns: u64) {
        self.queue.tick(now_ns);
    }

    fn fail_all(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        self.queue.fail_all(|tag, result| {
            self.layout.borrow_mut().shares.answered(tag);
            done(tag, result);
        });
    }
}
