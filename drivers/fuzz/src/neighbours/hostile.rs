//! A guest that asks for everything that it can, also beyond its volume, by one or more rings.

use arbitrary::{Arbitrary, Unstructured};
use spindle_blkif::RingId;
use spindle_blkif::abi::{NativeRequest, Operation, RawSegment};
use spindle_hw::SharedPages;
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::FakeGrants;
use spindle_xen::DomId;
use spindle_xen::grant::GrantRef;

use super::layout::{check_own, stamp};

/// Segments of the largest request.
pub(super) const SEGMENTS: usize = 16;
/// Pages of data that a guest has; the last is granted to be read only.
const PAGES: usize = SEGMENTS + 1;

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    operation: Operation,
    indirect: bool,
    segments: u8,
    shape: u8,
    place: u8,
    delta: i8,
}

impl<'a> Arbitrary<'a> for Ask {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut byte = || u8::arbitrary(input);
        let kind = byte()?;
        Ok(Self {
            operation: match kind & 15 {
                0..=5 => Operation::READ,
                6..=10 => Operation::WRITE,
                11 => Operation::FLUSH,
                12 => Operation::WRITE_BARRIER,
                13 | 14 => Operation::DISCARD,
                _ => Operation(kind >> 4),
            },
            indirect: kind & 16 != 0,
            segments: byte()?,
            shape: byte()?,
            place: byte()?,
            delta: byte()?.cast_signed(),
        })
    }
}

/// One of its rings.
pub(super) struct Ring<'g> {
    pub(super) guest: usize,
    pub(super) front: Blkfront<'g>,
    pub(super) id: RingId,
    /// It is to go, as soon as all that was taken is answered.
    pub(super) closing: bool,
    list: SharedPages,
    list_gref: GrantRef,
}

/// Its memory.
pub(super) struct Memory {
    pages: Vec<(SharedPages, GrantRef)>,
}

impl Memory {
    pub(super) fn new(grants: &FakeGrants<'_>, guest: usize) -> Self {
        let domain = DomId(guest as u16 + 1);
        let page = |number| {
            let memory = SharedPages::host(1, 0);
            memory.write_bytes(0, &[stamp(guest); 4096]);
            let gref = grants.grant(domain, &memory, number == PAGES - 1);
            (memory, gref)
        };
        Self {
            pages: (0..PAGES).map(page).collect(),
        }
    }

    /// Whether there is nothing of another guest in it.
    pub(super) fn check(&self, guest: usize) {
        let mut bytes = [0; 4096];
        for (memory, _) in &self.pages {
            memory.read_bytes(0, &mut bytes);
            check_own(guest, &bytes);
        }
    }
}

impl<'g> Ring<'g> {
    pub(super) fn new(guest: usize, front: Blkfront<'g>, id: RingId) -> Self {
        let list = front.page(false);
        Self {
            guest,
            front,
            id,
            closing: false,
            list: list.memory,
            list_gref: list.gref,
        }
    }

    /// Asks so many times, as far as there is room; `size` is what the guest has of its volume.
    pub(super) fn ask(&mut self, ask: &Ask, times: u32, memory: &Memory, size: u64) {
        let most = if ask.indirect { SEGMENTS } else { 11 };
        let count = usize::from(ask.segments) % (most + 1);
        let segments: Vec<_> = (0..count).map(|at| segment(ask, at, memory)).collect();
        let sectors = segments.iter().map(|segment| {
            let last = u64::from(segment.last_sect);
            (last + 1).saturating_sub(segment.first_sect.into())
        });
        let transfer: u64 = sectors.sum();
        let discard = u64::from(ask.shape % 24) * 8;
        let length = match ask.operation {
            Operation::DISCARD => discard,
            _ => transfer,
        };
        // Off by a page or two, or by some sectors.
        let delta = match ask.place & 1 {
            0 => i64::from(ask.delta % 3) * 8,
            _ => i64::from(ask.delta % 17),
        };
        let sector = match ask.place {
            // At the end of the volume, or close to it: where a check that is wrong shows.
            0..=127 => size.saturating_sub(length).wrapping_add_signed(delta),
            128..=247 => (u64::from(ask.place) - 128) * 8 % (size + 16),
            248..=251 => u64::MAX.wrapping_add_signed(delta),
            _ => (1 << 61) + u64::from(ask.place),
        };
        for _ in 0..times.min(self.front.free()) {
            if ask.operation == Operation::DISCARD {
                self.front.push_discard(sector, discard, ask.indirect);
            } else if ask.indirect {
                for (at, segment) in segments.iter().enumerate() {
                    self.list
                        .u64_at(at * 8)
                        .store(word(segment), std::sync::atomic::Ordering::SeqCst);
                }
                self.front
                    .push_indirect(ask.operation, sector, self.list_gref, count as u16);
            } else {
                let mut request = NativeRequest {
                    operation: ask.operation,
                    nr_segments: count as u8,
                    id: u64::from(self.front.produced()) + 1000,
                    sector_number: sector,
                    ..NativeRequest::default()
                };
                request.segments[..count].copy_from_slice(&segments);
                if ask.operation != Operation::INDIRECT {
                    self.front.push_raw(&request);
                }
            }
        }
        self.front.publish();
    }
}

/// A segment as it lies in a list.
fn word(segment: &RawSegment) -> u64 {
    u64::from(segment.gref)
        | u64::from(segment.first_sect) << 32
        | u64::from(segment.last_sect) << 40
}

fn segment(ask: &Ask, at: usize, memory: &Memory) -> RawSegment {
    let shape = usize::from(ask.shape);
    let (first_sect, last_sect) = match shape & 7 {
        // Whole pages, pieces of them, and what is bad.
        0..=3 => (0, 7),
        4 => (at as u8 & 7, 7),
        5 => (1, 1),
        6 => (0, at as u8 & 7),
        _ => (3, if at == 5 { 8 } else { 3 }),
    };
    let page = (shape >> 3) + at;
    let gref = match shape >> 3 {
        // One that was never granted.
        31 => 7777,
        // The page that is read only among them, or not.
        30 => memory.pages[page % PAGES].1.0,
        _ => memory.pages[page % (PAGES - 1)].1.0,
    };
    RawSegment {
        gref,
        first_sect,
        last_sect,
        pad: 0,
    }
}
