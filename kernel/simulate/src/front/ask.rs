//! What a frontend asks for: requests of all kinds, also such as must be refused.

use spindle_blkif::abi::{Operation, RawSegment};
use spindle_hw::{PAGE_SIZE, SharedPages};
use zerocopy::IntoBytes;

use super::{Around, Front, PAGE_SECTORS, POISON, Page, Request, What};
use crate::volume::{Issued, SECTOR};

/// Segments that fit into a request's slot.
const DIRECT: usize = 11;
/// The most segments in a request; backends offer more.
const MOST: u64 = 48;
/// Pages that a frontend has at most, and one that uses one after the other: more than a backend keeps.
const PAGES: [usize; 2] = [512, 1536];

/// A part of a page: which, and its first and last sector in it.
pub(super) type Piece = (usize, u64, u64);

impl Front {
    /// Writes one request; false if there is none to write.
    pub(super) fn push(&mut self, around: &mut Around<'_>, ring: usize) -> bool {
        let now = around.now;
        let Some(volume) = around.volume.as_deref_mut() else {
            return false;
        };
        let sectors = self.sectors.min(volume.len());
        let unit = self.sector_size / SECTOR as u64;
        if sectors < 128 {
            return false;
        }
        if self.can_flush && self.chance.one_in(12) {
            let issued = volume.begin_watch(now);
            let id = self.rings[ring].front.push(Operation::FLUSH, 0, &[]);
            self.note(ring, id, Request::without(What::Flush, issued));
            return true;
        }
        // Most of it in a small part, where requests meet.
        let most = if self.chance.one_in(4) { sectors } else { 128 };
        let from = self.chance.within(0..most / unit) * unit;
        if self.can_discard && !self.traits.read_only && self.chance.one_in(24) {
            let count = (self.chance.scale(1..65) * unit).min(sectors - from);
            let issued = volume.begin_discard(from, count, now);
            let id = self.rings[ring].front.push_discard(from, count, false);
            let request = Request {
                from,
                count,
                ..Request::without(What::Discard, issued)
            };
            self.note(ring, id, request);
            return true;
        }
        let write = self.chance.within(0..16) < self.traits.writes;
        // A list takes a page more, which a request of few segments is not worth.
        let indirect = self.indirect > 0 && self.chance.one_in(10);
        let wanted = match indirect {
            true => self.chance.scale(1..MOST.min(self.indirect) + 1),
            false => self.chance.scale(1..DIRECT as u64 + 1),
        };
        let whole = unit == PAGE_SECTORS || self.chance.one_in(2);
        let beyond = self.chance.one_in(48);
        let room = if beyond { u64::MAX } else { sectors - from };
        let (pieces, count) = self.pieces(around.spare, wanted as usize, whole, room);
        if pieces.is_empty() {
            return false;
        }
        // So that it ends behind the volume's last sector, most of it before.
        let end = sectors + unit * self.chance.scale(1..9);
        let from = match beyond && end > count {
            true => (end - count).next_multiple_of(unit),
            false => from,
        };
        // Pages that may not be written to, for a read.
        let denied = !write && !self.traits.persistent && self.chance.one_in(48);
        let barrier = write && !indirect && self.can_barrier && self.chance.one_in(24);
        let forbidden = beyond || write && self.traits.read_only;
        let (what, issued) = match write {
            _ if forbidden => (What::Forbidden, volume.begin_nothing(now)),
            _ if denied => (What::Denied, volume.begin_nothing(now)),
            true => (What::Write, volume.begin_write(from, count, now)),
            false => (What::Read, volume.begin_watch(now)),
        };
        let flush = (barrier && !forbidden).then(|| volume.begin_watch(now));
        let data = write.then_some((issued, from));
        let segments = self.fill(
            around,
            &pieces,
            data,
            write && !self.traits.persistent || denied,
        );
        let operation = match write {
            _ if barrier => Operation::WRITE_BARRIER,
            true => Operation::WRITE,
            false => Operation::READ,
        };
        let mut list = None;
        let id = if indirect {
            let page = self.list(around, &segments);
            list = page;
            let gref = page.and_then(|page| self.pages[page].gref);
            let Some(gref) = gref else {
                return self.give_up(around, what, issued, &pieces, (from, count));
            };
            let count = segments.len() as u16;
            let front = &mut self.rings[ring].front;
            front.push_indirect(operation, from, gref, count)
        } else {
            self.rings[ring].front.push(operation, from, &segments)
        };
        let request = Request {
            what,
            from,
            count,
            pieces,
            list,
            flush,
            issued,
        };
        self.note(ring, id, request);
        true
    }

    /// Up to `wanted` pieces of pages, of `room` sectors at most, and how many sectors they are.
    fn pieces(
        &mut self,
        spare: &mut Vec<SharedPages>,
        wanted: usize,
        whole: bool,
        room: u64,
    ) -> (Vec<Piece>, u64) {
        let (mut pieces, mut count) = (Vec::new(), 0);
        for _ in 0..wanted {
            let (first, last) = if whole {
                (0, PAGE_SECTORS - 1)
            } else {
                let first = self.chance.within(0..PAGE_SECTORS);
                (first, self.chance.within(first..PAGE_SECTORS))
            };
            if count + (last - first + 1) > room {
                break;
            }
            let Some(page) = self.page(spare) else {
                break;
            };
            count += last - first + 1;
            pieces.push((page, first, last));
        }
        (pieces, count)
    }

    /// Fills the pages of a request, if it writes from some sector on, and grants them.
    fn fill(
        &mut self,
        around: &mut Around<'_>,
        pieces: &[Piece],
        data: Option<(Issued, u64)>,
        read_only: bool,
    ) -> Vec<RawSegment> {
        let mut sector = data.map_or(0, |(_, from)| from);
        let mut segments = Vec::with_capacity(pieces.len());
        let domain = self.domain();
        let volume = around.volume.as_deref();
        for &(page, first, last) in pieces {
            let mut bytes = [POISON; PAGE_SIZE];
            if let (Some(volume), Some((issued, _))) = (volume, data) {
                for at in first..=last {
                    let place = at as usize * SECTOR;
                    volume.fill(issued, sector, &mut bytes[place..place + SECTOR]);
                    sector += 1;
                }
            }
            let page = &mut self.pages[page];
            page.memory.write_bytes(0, &bytes);
            let grants = &around.machine.grants;
            let gref = *page
                .gref
                .get_or_insert_with(|| grants.grant(domain, &page.memory, read_only));
            segments.push(RawSegment {
                gref: gref.0,
                first_sect: first as u8,
                last_sect: last as u8,
                pad: 0,
            });
        }
        segments
    }

    /// A page with a list of segments, granted.
    fn list(&mut self, around: &mut Around<'_>, segments: &[RawSegment]) -> Option<usize> {
        let (domain, persistent) = (self.domain(), self.traits.persistent);
        let page = self.page(around.spare)?;
        let Page { memory, gref, .. } = &mut self.pages[page];
        memory.write_bytes(0, segments.as_bytes());
        let grants = &around.machine.grants;
        gref.get_or_insert_with(|| grants.grant(domain, memory, !persistent));
        Some(page)
    }

    /// There is no page for the list of a request, which is not sent then.
    fn give_up(
        &mut self,
        around: &mut Around<'_>,
        what: What,
        issued: Issued,
        pieces: &[Piece],
        range: (u64, u64),
    ) -> bool {
        if let Some(volume) = around.volume.as_deref_mut() {
            match what {
                What::Read => volume.end_read(),
                What::Write => volume.abandon(range, issued, around.now),
                _ => {}
            }
        }
        for &(page, ..) in pieces {
            self.idle.push_back(page);
            let gref = self.pages[page].gref.filter(|_| !self.traits.persistent);
            if let Some(gref) = gref {
                self.pages[page].gref = None;
                around.machine.grants.revoke(self.domain(), gref);
            }
        }
        false
    }

    pub(super) fn note(&mut self, ring: usize, id: u64, request: Request) {
        self.rings[ring].requests.insert(id, request);
    }

    /// A page that no request uses.
    pub(super) fn page(&mut self, spare: &mut Vec<SharedPages>) -> Option<usize> {
        let roams = self.traits.roams;
        let room = self.pages.len() < PAGES[usize::from(roams)];
        let idle = match roams {
            true if room => None,
            true => self.idle.pop_front(),
            false => self.idle.pop_back(),
        };
        idle.or_else(|| {
            room.then(|| {
                let memory = spare.pop().unwrap_or_else(|| SharedPages::host(1, 0));
                self.pages.push(Page { memory, gref: None });
                self.pages.len() - 1
            })
        })
    }
}
