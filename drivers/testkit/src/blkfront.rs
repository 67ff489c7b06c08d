//! A guest's block frontend, playing through the real shared ring: well-behaved by default,
//! hostile on demand.

use std::collections::BTreeMap;

use spindle_blkif::abi::{
    Abi, DISCARD_SECURE, MAX_SEGMENTS, NativeDiscard, NativeIndirect, NativeRequest,
    NativeResponse, Operation, RING_HEADER, RawSegment, RspStatus, X86_32Request,
};
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_xen::DomId;
use spindle_xen::grant::GrantRef;
use zerocopy::{FromBytes, IntoBytes};

use crate::grants::FakeGrants;

use std::sync::atomic::Ordering::SeqCst;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

/// A page of the guest's memory that it has granted.
#[derive(Debug)]
pub struct GuestPage {
    /// The memory.
    pub memory: SharedPages,
    /// Its reference.
    pub gref: GrantRef,
}

impl GuestPage {
    /// A segment of it, in 512-byte sectors, both inclusive.
    #[must_use]
    pub fn segment(&self, first_sect: u8, last_sect: u8) -> RawSegment {
        RawSegment {
            gref: self.gref.0,
            first_sect,
            last_sect,
            pad: 0,
        }
    }
}

/// A response, checked against its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's number.
    pub id: u64,
    /// The outcome.
    pub status: RspStatus,
}

/// One ring of a frontend.
#[derive(Debug)]
pub struct Blkfront<'g> {
    grants: &'g FakeGrants<'g>,
    dom: DomId,
    abi: Abi,
    ring: SharedPages,
    size: u32,
    req_prod: u32,
    published: u32,
    rsp_cons: u32,
    next_id: u64,
    /// Operation of each request that was not answered, and how often its number is in use.
    pending: BTreeMap<u64, (Operation, usize)>,
}

impl<'g> Blkfront<'g> {
    /// A frontend in `dom` with an empty ring of `pages` pages, on which `start` requests are
    /// taken to have been answered already.
    #[must_use]
    pub fn new(grants: &'g FakeGrants<'g>, dom: DomId, pages: usize, start: u32) -> Self {
        Self::with_abi(grants, dom, pages, start, Abi::Native)
    }

    /// As [`Blkfront::new`], with another layout of the ring.
    #[must_use]
    pub fn with_abi(
        grants: &'g FakeGrants<'g>,
        dom: DomId,
        pages: usize,
        start: u32,
        abi: Abi,
    ) -> Self {
        let ring = SharedPages::host(pages, 0);
        Self::within(grants, dom, ring, start, abi)
    }

    /// The same in pages of zeroes.
    #[must_use]
    pub fn within(
        grants: &'g FakeGrants<'g>,
        dom: DomId,
        ring: SharedPages,
        start: u32,
        abi: Abi,
    ) -> Self {
        for (index, value) in [
            (REQ_PROD, start),
            (RSP_PROD, start),
            (REQ_EVENT, start.wrapping_add(1)),
            (RSP_EVENT, start.wrapping_add(1)),
        ] {
            ring.u32_at(index).store(value, SeqCst);
        }
        let slots = (ring.len() - RING_HEADER) / abi.slot_bytes();
        Self {
            grants,
            dom,
            abi,
            ring,
            size: 1 << slots.ilog2(),
            req_prod: start,
            published: start,
            rsp_cons: start,
            next_id: 1,
            pending: BTreeMap::new(),
        }
    }

    /// The layout of its ring.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// The ring as the backend maps it.
    #[must_use]
    pub fn ring(&self) -> SharedPages {
        self.ring.alias()
    }

    /// Has the ring in `pages` from now on, with what is in it: where the backend has mapped it,
    /// or the guest's own memory again.
    pub fn move_ring(&mut self, pages: SharedPages) {
        assert_eq!(pages.len(), self.ring.len());
        self.ring = pages;
    }

    /// A fresh page, granted.
    #[must_use]
    pub fn page(&self, read_only: bool) -> GuestPage {
        let memory = SharedPages::host(1, 0);
        let gref = self.grants.grant(self.dom, &memory, read_only);
        GuestPage { memory, gref }
    }

    /// Slots that a new request may use.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.size - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Requests without an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.values().map(|&(_, count)| count).sum()
    }

    /// Writes a request into the next slot and returns its number. The backend hears of it at
    /// [`Blkfront::publish`].
    ///
    /// # Panics
    /// If the ring is full or there are more than 11 segments.
    pub fn push(&mut self, operation: Operation, sector: u64, segments: &[RawSegment]) -> u64 {
        let mut request = NativeRequest {
            operation,
            nr_segments: u8::try_from(segments.len()).unwrap(),
            id: self.next_id,
            sector_number: sector,
            ..NativeRequest::default()
        };
        assert!(segments.len() <= MAX_SEGMENTS);
        request.segments[..segments.len()].copy_from_slice(segments);
        self.next_id += 1;
        self.push_raw(&request)
    }

    /// Writes a discard of `sectors` from `sector` on, and returns its number.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn push_discard(&mut self, sector: u64, sectors: u64, secure: bool) -> u64 {
        let discard = NativeDiscard {
            operation: Operation::DISCARD,
            flag: if secure { DISCARD_SECURE } else { 0 },
            id: self.next_id,
            sector_number: sector,
            nr_sectors: sectors,
            ..NativeDiscard::default()
        };
        self.next_id += 1;
        self.push_raw(&in_slot(discard.as_bytes()))
    }

    /// A fresh page, granted, with a list of segments for [`Blkfront::push_indirect`].
    #[must_use]
    pub fn list(&self, segments: &[RawSegment]) -> GuestPage {
        let page = self.page(false);
        page.memory.write_bytes(0, segments.as_bytes());
        page
    }

    /// Writes a request for `count` segments of the list on page `list`, and returns its number.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn push_indirect(&mut self, op: Operation, sector: u64, list: GrantRef, count: u16) -> u64 {
        let mut request = NativeIndirect {
            operation: Operation::INDIRECT,
            indirect_op: op,
            nr_segments: count,
            id: self.next_id,
            sector_number: sector,
            handle: 0xffff,
            ..NativeIndirect::default()
        };
        request.indirect_grefs[0] = list.0;
        self.next_id += 1;
        self.push_raw(&in_slot(request.as_bytes()))
    }

    /// Writes any request at all into the next slot; its number may be one already in use.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn push_raw(&mut self, request: &NativeRequest) -> u64 {
        assert!(self.free() > 0, "no free slot");
        self.overwrite(self.req_prod, request);
        self.req_prod = self.req_prod.wrapping_add(1);
        let pending = self.pending.entry(request.id);
        let entry = pending.or_insert((answered(request), 0));
        entry.1 += 1;
        request.id
    }

    /// Publishes the requests pushed; true if the backend asked to be notified.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.req_prod);
        self.ring.u32_at(REQ_PROD).store(new, SeqCst);
        self.published = new;
        let event = self.ring.u32_at(REQ_EVENT).load(SeqCst);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Consumes all responses.
    ///
    /// # Panics
    /// If the backend answered something that was not asked, or leaked bytes in the padding.
    pub fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let prod = self.ring.u32_at(RSP_PROD).load(SeqCst);
        assert!(
            prod.wrapping_sub(self.rsp_cons) <= self.size,
            "more responses than slots"
        );
        while self.rsp_cons != prod {
            let mut bytes = [0; size_of::<NativeResponse>()];
            // The i386 one ends where the native one's last padding begins.
            let len = match self.abi {
                Abi::Native => bytes.len(),
                Abi::X86_32 => 12,
            };
            self.ring
                .read_bytes(self.slot(self.rsp_cons), &mut bytes[..len]);
            let response = NativeResponse::read_from_bytes(&bytes).unwrap();
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
            assert_eq!((response.pad, response.pad2), (0, 0), "padding leaked");
            let pending = self.pending.get_mut(&response.id);
            let pending = pending.expect("a response to no request");
            assert_eq!(pending.0, response.operation);
            pending.1 -= 1;
            if pending.1 == 0 {
                self.pending.remove(&response.id);
            }
            answers.push(Answer {
                id: response.id,
                status: response.status,
            });
        }
        answers
    }

    /// Asks to be notified of the response `ahead` from now, 1 being the next; true if there are
    /// responses already.
    pub fn arm(&mut self, ahead: u32) -> bool {
        let event = self.rsp_cons.wrapping_add(ahead);
        self.ring.u32_at(RSP_EVENT).store(event, SeqCst);
        self.ring.u32_at(RSP_PROD).load(SeqCst) != self.rsp_cons
    }

    /// Hostile: moves `req_prod` to anything.
    pub fn set_req_prod(&mut self, value: u32) {
        self.ring.u32_at(REQ_PROD).store(value, SeqCst);
    }

    /// Hostile: changes the slot of request number `index` of the ring's life, published or not.
    pub fn overwrite(&mut self, index: u32, request: &NativeRequest) {
        let at = self.slot(index);
        match self.abi {
            Abi::Native => self.ring.write_bytes(at, request.as_bytes()),
            Abi::X86_32 => {
                let request = X86_32Request::from(*request);
                self.ring.write_bytes(at, request.as_bytes());
            }
        }
    }

    /// Requests pushed in the ring's life.
    #[must_use]
    pub fn produced(&self) -> u32 {
        self.req_prod
    }

    fn slot(&self, index: u32) -> usize {
        RING_HEADER + self.abi.slot_bytes() * (index & (self.size - 1)) as usize
    }
}

/// The operation that Linux' frontend expects in the response: of an indirect request the inner
/// one, which lies where others have their number of segments.
#[must_use]
pub fn answered(request: &NativeRequest) -> Operation {
    if request.operation == Operation::INDIRECT {
        Operation(request.nr_segments)
    } else {
        request.operation
    }
}

/// A request of another shape as it lies in a slot.
fn in_slot(bytes: &[u8]) -> NativeRequest {
    let mut slot = NativeRequest::default();
    slot.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    slot
}

/// Fills a page's bytes with a pattern that depends on `seed` and the position.
pub fn fill(page: &SharedPages, seed: u64) {
    let mut bytes = [0; PAGE_SIZE];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 57)) as u8 ^ i as u8;
    }
    page.write_bytes(0, &bytes);
}
