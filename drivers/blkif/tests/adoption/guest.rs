//! A guest with a ring, that knows what its part of the disk must hold.

use std::collections::BTreeMap;
use std::ops::Range;

use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};
use spindle_testkit::grants::FakeGrants;
use spindle_xen::DomId;

/// Pages of its part of the disk.
pub(crate) const PAGES: usize = 64;
const SECTORS: usize = 8 * PAGES;

/// How its ring is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) domain: DomId,
    pub(crate) ring_pages: usize,
    pub(crate) abi: Abi,
    /// Whether its grants are mapped.
    pub(crate) maps: bool,
    pub(crate) persistent: bool,
    /// Whether its disk has blocks of a page.
    pub(crate) large_blocks: bool,
    /// Which device it is a ring of.
    pub(crate) device: usize,
}

/// A request without a response.
#[derive(Debug)]
struct Asked {
    sectors: Range<usize>,
    /// Its pages, and what is in them when it is done.
    pages: Vec<(usize, Vec<u8>)>,
    /// Where its segments are listed.
    _list: Option<GuestPage>,
}

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) kind: Kind,
    pub(crate) front: Blkfront<'static>,
    /// Where its part of the disk begins, in sectors.
    base: u64,
    disk: Vec<u8>,
    pages: Vec<GuestPage>,
    free: Vec<usize>,
    asked: BTreeMap<u64, Asked>,
    seed: u64,
    /// Events that it knows of.
    events: u64,
    /// It has broken its ring, and may expect nothing.
    hostile: bool,
}

/// What a guest asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Read,
    Write,
    /// Of parts of pages.
    ReadParts,
    WriteParts,
    Barrier,
    Flush,
    Discard,
    /// By a list of segments.
    ReadList,
    WriteList,
}

impl Guest {
    pub(crate) fn new(grants: &'static FakeGrants<'static>, kind: Kind, at: usize) -> Self {
        let front = Blkfront::with_abi(grants, kind.domain, kind.ring_pages, 0, kind.abi);
        let pages: Vec<_> = (0..96).map(|_| front.page(false)).collect();
        Self {
            kind,
            front,
            base: (at * SECTORS) as u64,
            disk: vec![0; SECTORS * 512],
            free: (0..pages.len()).collect(),
            pages,
            asked: BTreeMap::new(),
            seed: at as u64 * 1_000_000,
            events: 0,
            hostile: false,
        }
    }

    /// Requests that it may expect a response to.
    pub(crate) fn outstanding(&self) -> usize {
        if self.hostile {
            0
        } else {
            self.front.outstanding()
        }
    }

    pub(crate) fn is_hostile(&self) -> bool {
        self.hostile
    }

    /// Writes over its ring, from a byte on; it asks for nothing more.
    pub(crate) fn scribble(&mut self, from: usize, bytes: &[u8]) {
        self.hostile = true;
        let ring = self.front.ring();
        for (at, chunk) in (from..ring.len())
            .step_by(bytes.len())
            .zip(std::iter::repeat(bytes))
        {
            ring.write_bytes(at, &chunk[..chunk.len().min(ring.len() - at)]);
        }
    }

    /// Asks for something at a page of its part, of so many pages, unless there is no room or
    /// something else is under way there.
    pub(crate) fn ask(&mut self, what: Ask, page: usize, count: usize) {
        let count = match what {
            Ask::ReadList | Ask::WriteList => count + 11,
            Ask::Flush => 0,
            Ask::Barrier => 1,
            _ => count.min(11),
        };
        let parts = matches!(what, Ask::ReadParts | Ask::WriteParts);
        let mut cut = (0..count).map(|at| match parts {
            true => [(3, 6), (0, 2), (7, 7)][(page + at) % 3],
            false => (0u8, 7u8),
        });
        let cut: Vec<_> = cut.by_ref().collect();
        let length: usize = cut.iter().map(|(a, b)| usize::from(b - a) + 1).sum();
        let first = page * 8 + usize::from(parts) * (page % 8);
        let sectors = first..first + length;
        let mut others = self.asked.values();
        let meets =
            |other: &Asked| other.sectors.start < sectors.end && sectors.start < other.sectors.end;
        if self.hostile
            || self.front.free() == 0
            || sectors.end > SECTORS
            || others.any(meets)
            || self.free.len() < count
        {
            return;
        }
        let sector = self.base + first as u64;
        if matches!(what, Ask::Discard) {
            self.front.push_discard(sector, length as u64, false);
            self.disk[first * 512..sectors.end * 512].fill(0);
            return self.note(sectors, Vec::new(), None);
        }
        let (mut pages, mut segments, mut at) = (Vec::new(), Vec::new(), first * 512);
        let reads = matches!(what, Ask::Read | Ask::ReadParts | Ask::ReadList);
        for (a, b) in cut {
            let number = self.free.pop().unwrap();
            let page = &self.pages[number];
            self.seed += 1;
            fill(&page.memory, self.seed);
            segments.push(page.segment(a, b));
            let mut bytes = contents(page);
            let own = &mut bytes[usize::from(a) * 512..(usize::from(b) + 1) * 512];
            let on_disk = &mut self.disk[at..at + own.len()];
            at += own.len();
            match reads {
                true => own.copy_from_slice(on_disk),
                false => on_disk.copy_from_slice(own),
            }
            pages.push((number, bytes));
        }
        let operation = match what {
            Ask::Barrier => Operation::WRITE_BARRIER,
            Ask::Flush => Operation::FLUSH,
            _ if reads => Operation::READ,
            _ => Operation::WRITE,
        };
        let list = if matches!(what, Ask::ReadList | Ask::WriteList) {
            let list = self.front.list(&segments);
            let count = segments.len() as u16;
            self.front
                .push_indirect(operation, sector, list.gref, count);
            Some(list)
        } else {
            self.front.push(operation, sector, &segments);
            None
        };
        self.note(sectors, pages, list);
    }

    fn note(
        &mut self,
        sectors: Range<usize>,
        pages: Vec<(usize, Vec<u8>)>,
        list: Option<GuestPage>,
    ) {
        // Requests are numbered from 1 on.
        let id = u64::from(self.front.produced());
        let asked = Asked {
            sectors,
            pages,
            _list: list,
        };
        assert!(self.asked.insert(id, asked).is_none());
        self.front.publish();
    }

    /// Looks for responses if there was an event, as long as there are any.
    pub(crate) fn hear(&mut self, events: u64) {
        if core::mem::replace(&mut self.events, events) == events || self.hostile {
            return;
        }
        loop {
            for answer in self.front.answers() {
                assert_eq!(answer.status, RspStatus::OKAY, "{:?}", self.kind);
                let asked = self.asked.remove(&answer.id).unwrap();
                for (number, bytes) in asked.pages {
                    let found = contents(&self.pages[number]);
                    assert!(found == bytes, "memory of {:?}", self.kind);
                    self.free.push(number);
                }
            }
            if !self.front.arm(1) {
                break;
            }
        }
    }
}

fn contents(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}
