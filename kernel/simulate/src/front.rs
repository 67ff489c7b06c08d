//! A guest's disk as its own kernel sees it: the frontend's steps in xenstore, its rings, its memory,
//! its requests, and what it holds against the backend.

use std::collections::BTreeMap;

use spindle_blkif::abi::{Abi, Operation, RawSegment, RspStatus};
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::xenstored::{Vbd, Xenstored};
use spindle_xen::DomId;
use spindle_xen::grant::GrantRef;

use crate::chance::Chance;
use crate::trace;
use crate::volume::{Issued, SECTOR, Volume};
use crate::world::machine::Machine;

/// What the memory for a read is filled with before it.
const POISON: u8 = 0xa5;
const PAGE_SECTORS: u64 = (PAGE_SIZE / SECTOR) as u64;

/// Where a frontend is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no such device.
    Absent,
    /// The toolstack has made it; the frontend waits for the backend's features.
    Waiting,
    /// Its rings are published.
    Published,
    /// Requests come and go.
    Running,
    /// No new requests; those under way are waited for.
    Closing(Then),
    /// The frontend has closed, and waits for the backend.
    Closed(Then),
    /// Its guest was destroyed, or the toolstack has taken the device away by force.
    Dead,
}

/// What follows when a frontend has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The device goes.
    Leave,
    /// It connects again.
    Return,
}

/// What a frontend is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) abi: Abi,
    pub(crate) persistent: bool,
    pub(crate) read_only: bool,
    rings: usize,
    order: u32,
    /// Mean time between bursts of requests, in ns.
    pub(crate) think_ns: u64,
    /// Requests in a burst at most.
    burst: u64,
    /// Of 16 requests.
    writes: u64,
}

impl Traits {
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        Self {
            abi: chance.pick(&[Abi::Native, Abi::Native, Abi::X86_32]),
            persistent: chance.one_in(2),
            read_only: chance.one_in(12),
            rings: 1 + chance.index(4),
            order: chance.pick(&[0, 0, 1, 2, 3]),
            // Most are idle most of the time, some are busy.
            think_ns: match chance.one_in(16) {
                true => chance.scale(1_000_000..500_000_000),
                false => chance.scale(500_000_000..64_000_000_000),
            },
            burst: chance.scale(1..33),
            writes: chance.within(1..15),
        }
    }
}

#[derive(Debug)]
struct Page {
    memory: SharedPages,
    gref: Option<GrantRef>,
    busy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Write,
    Flush,
    Discard,
    /// One that must fail.
    Forbidden,
}

#[derive(Debug)]
struct Request {
    what: What,
    from: u64,
    count: u64,
    /// Page, first and last sector in it.
    pieces: Vec<(usize, u64, u64)>,
    issued: Issued,
}

struct Ring {
    front: Blkfront<'static>,
    refs: Vec<u32>,
    port: u32,
    requests: BTreeMap<u64, Request>,
}

/// How often requests ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Requests answered.
    pub answered: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Sectors compared with what they may hold.
    pub judged: u64,
    /// Requests whose answer never came because their guest went away.
    pub abandoned: u64,
    /// Connections made.
    pub connected: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.judged += other.judged;
        self.abandoned += other.abandoned;
        self.connected += other.connected;
    }
}

/// What a frontend's steps need of everything else.
pub(crate) struct Around<'a> {
    pub(crate) machine: &'static Machine,
    pub(crate) store: &'a mut Xenstored,
    pub(crate) poked: &'a mut bool,
    pub(crate) volume: Option<&'a mut Volume>,
    pub(crate) spare: &'a mut Vec<SharedPages>,
    pub(crate) tally: &'a mut Tally,
    pub(crate) now: u64,
    /// Whether something has happened that requests may fail for.
    pub(crate) may_fail: bool,
}

/// A frontend.
pub(crate) struct Front {
    pub(crate) number: usize,
    pub(crate) vbd: Vbd,
    state_path: String,
    pub(crate) phase: Phase,
    /// When it acts next by itself.
    pub(crate) next: u64,
    /// When what it waits for is overdue.
    pub(crate) patience: u64,
    pub(crate) traits: Traits,
    /// The number of the volume that it has.
    pub(crate) volume: Option<usize>,
    pub(crate) since: u64,
    /// It has broken the rules of its ring: it is not answered any longer.
    pub(crate) broken: bool,
    rings: Vec<Ring>,
    pages: Vec<Page>,
    sector_size: u64,
    sectors: u64,
    can_flush: bool,
    can_discard: bool,
    next_port: u32,
    pub(crate) chance: Chance,
    /// The backend's state when xenstored's changes were last looked at.
    pub(crate) seen: u32,
}

impl Front {
    pub(crate) fn new(number: usize, vbd: Vbd, mut chance: Chance, now: u64) -> Self {
        Self {
            number,
            vbd,
            state_path: vbd.back("state"),
            phase: Phase::Absent,
            next: now + chance.scale(1_000_000..8_000_000_000),
            patience: u64::MAX,
            traits: Traits::draw(&mut chance),
            volume: None,
            since: 0,
            broken: false,
            rings: Vec::new(),
            pages: Vec::new(),
            sector_size: 512,
            sectors: 0,
            can_flush: false,
            can_discard: false,
            next_port: 1000 * (number as u32 + 1),
            chance,
            seen: 0,
        }
    }

    fn domain(&self) -> DomId {
        DomId(self.vbd.frontend)
    }

    /// The backend's state, 0 if it is gone.
    pub(crate) fn back_state(&self, store: &Xenstored) -> u32 {
        let text = store.text(&self.state_path);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn set_state(&self, around: &mut Around<'_>, state: u32) {
        self.vbd.set_front_state(around.store, state);
        *around.poked = true;
    }

    /// Enters a phase, whose end is overdue after `patience` ns.
    pub(crate) fn enter(&mut self, phase: Phase, now: u64, patience: u64) {
        let shown = match phase {
            Phase::Absent => "front {}: absent",
            Phase::Waiting => "front {}: waits for InitWait",
            Phase::Published => "front {}: rings published, waits for Connected",
            Phase::Running => "front {}: connected, on volume {}",
            Phase::Closing(_) => "front {}: closes",
            Phase::Closed(_) => "front {}: closed",
            Phase::Dead => "front {}: its guest is dead",
        };
        let volume = self.volume.map_or(99, |volume| volume as u64);
        trace::event(shown, [self.number as u64, volume, 0]);
        self.phase = phase;
        self.patience = now.saturating_add(patience);
        self.next = now + self.chance.scale(1_000..200_000_000);
    }

    /// Requests without an answer.
    pub(crate) fn outstanding(&self) -> usize {
        self.rings.iter().map(|ring| ring.requests.len()).sum()
    }

    /// When the oldest request that has no answer was sent.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let requests = self.rings.iter().flat_map(|ring| ring.requests.values());
        requests.map(|request| request.issued.at()).min()
    }

    /// Publishes rings and their state, by what the backend offers.
    pub(crate) fn publish(&mut self, around: &mut Around<'_>) {
        let number = |store: &Xenstored, leaf: &str| -> u64 {
            let text = store.text(&self.vbd.back(leaf));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let queues = number(around.store, "multi-queue-max-queues").max(1) as usize;
        // What it grants is taken back after each request otherwise.
        self.traits.persistent &= number(around.store, "feature-persistent") == 1;
        let rings = self.traits.rings.min(queues);
        let order = self
            .traits
            .order
            .min(number(around.store, "max-ring-page-order") as u32);
        let (domain, machine, pages) = (self.domain(), around.machine, 1 << order);
        self.rings.clear();
        let front = |leaf: &str| self.vbd.front(leaf);
        for queue in 0..rings {
            let ring = Blkfront::with_abi(&machine.grants, domain, pages, 0, self.traits.abi);
            let refs = machine.grant_ring(domain, &ring.ring());
            let port = self.next_port;
            self.next_port += 1;
            machine.make_channel(domain, port);
            let at = match rings {
                1 => String::new(),
                _ => format!("queue-{queue}/"),
            };
            for (page, gref) in refs.iter().enumerate() {
                let leaf = match pages {
                    1 => format!("{at}ring-ref"),
                    _ => format!("{at}ring-ref{page}"),
                };
                around.store.write(&front(&leaf), gref.to_string());
            }
            let leaf = format!("{at}event-channel");
            around.store.write(&front(&leaf), port.to_string());
            self.rings.push(Ring {
                front: ring,
                refs,
                port,
                requests: BTreeMap::new(),
            });
        }
        let protocol = match self.traits.abi {
            Abi::Native => "x86_64-abi",
            Abi::X86_32 => "x86_32-abi",
        };
        for (leaf, value) in [
            ("protocol", protocol.to_string()),
            (
                "feature-persistent",
                u8::from(self.traits.persistent).to_string(),
            ),
            ("multi-queue-num-queues", rings.to_string()),
            ("ring-page-order", order.to_string()),
        ] {
            around.store.write(&front(leaf), value);
        }
        self.set_state(around, 3);
        self.enter(Phase::Published, around.now, 0);
    }

    /// The backend is connected: reads what the disk is like.
    pub(crate) fn connect(&mut self, around: &mut Around<'_>) {
        let number = |leaf: &str| -> u64 {
            let text = around.store.text(&self.vbd.back(leaf));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        self.sector_size = number("sector-size").max(512);
        self.sectors = number("sectors");
        self.can_flush = number("feature-flush-cache") == 1;
        self.can_discard = number("feature-discard") == 1;
        self.set_state(around, 4);
        self.enter(Phase::Running, around.now, u64::MAX);
        around.tally.connected += 1;
    }

    /// No further request is answered.
    fn settle(&mut self, around: &mut Around<'_>) {
        for ring in &mut self.rings {
            for request in std::mem::take(&mut ring.requests).into_values() {
                around.tally.abandoned += 1;
                let Some(volume) = around.volume.as_deref_mut() else {
                    continue;
                };
                match request.what {
                    What::Read => volume.end_read(),
                    What::Flush => volume.end_flush(request.issued, false, around.now),
                    What::Write | What::Discard => {
                        volume.abandon((request.from, request.count), request.issued, around.now)
                    }
                    What::Forbidden => {}
                }
            }
        }
    }

    /// The backend is through with the rings and the pages: takes them back, which must be possible.
    pub(crate) fn take_back(&mut self, around: &mut Around<'_>) {
        self.settle(around);
        let (domain, grants) = (self.domain(), &around.machine.grants);
        for page in self.pages.drain(..) {
            if let Some(gref) = page.gref {
                let ended = grants.revoke(domain, gref);
                assert!(ended, "front {}: a page is still mapped", self.number);
            }
            around.spare.push(page.memory);
        }
        for ring in self.rings.drain(..) {
            for gref in ring.refs {
                let ended = grants.revoke(domain, GrantRef(gref));
                assert!(ended, "front {}: a ring is still mapped", self.number);
            }
        }
        if let Some(volume) = around.volume.as_deref_mut() {
            volume.admit_losses(around.now);
        }
        self.broken = false;
    }

    /// Sends a burst of requests.
    pub(crate) fn work(&mut self, around: &mut Around<'_>) {
        let think = self.traits.think_ns;
        self.next = around.now + self.chance.within(1..think * 2);
        let count = self.chance.within(1..self.traits.burst + 1);
        let ring = self.chance.index(self.rings.len());
        self.move_ring(around.machine, ring);
        for _ in 0..count {
            if self.rings[ring].front.free() == 0 || !self.push(around, ring) {
                break;
            }
        }
        if self.rings[ring].front.publish() {
            around
                .machine
                .notify_from(self.domain(), self.rings[ring].port);
        }
    }

    fn move_ring(&mut self, machine: &Machine, ring: usize) {
        let memory = machine.ring(self.domain(), self.rings[ring].refs[0]);
        self.rings[ring].front.move_ring(memory);
    }

    /// Writes one request; false if there is none to write.
    fn push(&mut self, around: &mut Around<'_>, ring: usize) -> bool {
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
            self.note(ring, id, What::Flush, (0, 0), Vec::new(), issued);
            return true;
        }
        // Most of it in a small part, where requests meet.
        let most = if self.chance.one_in(4) { sectors } else { 128 };
        let from = self.chance.within(0..most / unit) * unit;
        if self.can_discard && !self.traits.read_only && self.chance.one_in(24) {
            let count = (self.chance.scale(1..65) * unit).min(sectors - from);
            let issued = volume.begin_discard(from, count, now);
            let id = self.rings[ring].front.push_discard(from, count, false);
            self.note(ring, id, What::Discard, (from, count), Vec::new(), issued);
            return true;
        }
        let write = self.chance.within(0..16) < self.traits.writes;
        let wanted = self.chance.scale(1..12) as usize;
        let whole = unit == PAGE_SECTORS || self.chance.one_in(2);
        let (mut pieces, mut segments, mut count) = (Vec::new(), Vec::new(), 0);
        for _ in 0..wanted {
            let (first, last) = if whole {
                (0, PAGE_SECTORS - 1)
            } else {
                let first = self.chance.within(0..PAGE_SECTORS);
                (first, self.chance.within(first..PAGE_SECTORS))
            };
            if from + count + (last - first + 1) > sectors {
                break;
            }
            let Some(page) = self.page(around.spare) else {
                break;
            };
            count += last - first + 1;
            pieces.push((page, first, last));
        }
        if pieces.is_empty() {
            return false;
        }
        let (what, issued) = match (write, self.traits.read_only) {
            (true, true) => (What::Forbidden, volume.begin_nothing(now)),
            (true, false) => (What::Write, volume.begin_write(from, count, now)),
            (false, _) => (What::Read, volume.begin_watch(now)),
        };
        let mut sector = from;
        for &(page, first, last) in &pieces {
            let mut bytes = [POISON; PAGE_SIZE];
            if write {
                for at in first..=last {
                    let place = at as usize * SECTOR;
                    volume.fill(issued, sector, &mut bytes[place..place + SECTOR]);
                    sector += 1;
                }
            }
            let (domain, persistent) = (self.domain(), self.traits.persistent);
            let page = &mut self.pages[page];
            page.memory.write_bytes(0, &bytes);
            let grants = &around.machine.grants;
            let read_only = write && !persistent;
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
        let operation = if write {
            Operation::WRITE
        } else {
            Operation::READ
        };
        let id = self.rings[ring].front.push(operation, from, &segments);
        self.note(ring, id, what, (from, count), pieces, issued);
        true
    }

    fn note(
        &mut self,
        ring: usize,
        id: u64,
        what: What,
        (from, count): (u64, u64),
        pieces: Vec<(usize, u64, u64)>,
        issued: Issued,
    ) {
        let request = Request {
            what,
            from,
            count,
            pieces,
            issued,
        };
        self.rings[ring].requests.insert(id, request);
    }

    /// A page that no request uses.
    fn page(&mut self, spare: &mut Vec<SharedPages>) -> Option<usize> {
        let free = self.pages.iter().position(|page| !page.busy);
        let index = free.or_else(|| {
            (self.pages.len() < 256).then(|| {
                let memory = spare.pop().unwrap_or_else(|| SharedPages::host(1, 0));
                self.pages.push(Page {
                    memory,
                    gref: None,
                    busy: false,
                });
                self.pages.len() - 1
            })
        })?;
        self.pages[index].busy = true;
        Some(index)
    }

    /// Publishes more requests than the ring holds.
    pub(crate) fn break_ring(&mut self, around: &mut Around<'_>) {
        self.move_ring(around.machine, 0);
        self.rings[0].front.set_req_prod(100_000);
        self.broken = true;
        if let Some(volume) = around.volume.as_deref_mut() {
            volume.forget();
        }
        around
            .machine
            .notify_from(self.domain(), self.rings[0].port);
    }

    /// It was notified on one of its ports: takes the responses.
    pub(crate) fn notified(&mut self, port: u32, around: &mut Around<'_>) -> Result<(), String> {
        let Some(ring) = self.rings.iter().position(|ring| ring.port == port) else {
            return Ok(());
        };
        if self.broken {
            return Ok(());
        }
        self.move_ring(around.machine, ring);
        loop {
            for answer in self.rings[ring].front.answers() {
                let request = self.rings[ring].requests.remove(&answer.id);
                let request = request.ok_or("a request is answered twice")?;
                self.answered(request, answer.status, around)?;
            }
            if !self.rings[ring].front.arm(1) {
                return Ok(());
            }
        }
    }

    fn answered(
        &mut self,
        request: Request,
        status: RspStatus,
        around: &mut Around<'_>,
    ) -> Result<(), String> {
        let ok = status == RspStatus::OKAY;
        let number = self.number;
        around.tally.answered += 1;
        around.tally.failed += u64::from(!ok && request.what != What::Forbidden);
        trace::step(u64::from(ok) << 32 | request.from);
        if !ok {
            let shown = match request.what {
                What::Read => "front {}: a read of {} sectors from {} has failed",
                What::Write => "front {}: a write of {} sectors from {} has failed",
                What::Flush => "front {}: a flush has failed",
                What::Discard => "front {}: a discard of {} sectors from {} has failed",
                What::Forbidden => "front {}: may not write {} sectors from {}",
            };
            trace::event(shown, [number as u64, request.count, request.from]);
            if request.what != What::Forbidden && !around.may_fail {
                return Err(format!("front {number}: {request:?} fails without a cause"));
            }
        }
        let volume = around.volume.as_deref_mut().ok_or("no volume")?;
        let range = (request.from, request.count);
        let mut judged = Ok(());
        match request.what {
            What::Read => {
                if ok {
                    judged = self.judge(&request, volume, around.now);
                    around.tally.judged += request.count;
                }
                volume.end_read();
            }
            What::Write | What::Discard => {
                let overwritten = ok && request.what == What::Write;
                volume.end_change(range, request.issued, overwritten, around.now);
            }
            What::Flush => volume.end_flush(request.issued, ok, around.now),
            What::Forbidden if ok => {
                return Err(format!("front {number}: wrote to a read-only disk"));
            }
            What::Forbidden => {}
        }
        let domain = self.domain();
        for &(page, ..) in &request.pieces {
            let page = &mut self.pages[page];
            page.busy = false;
            if !self.traits.persistent
                && let Some(gref) = page.gref.take()
                && !around.machine.grants.revoke(domain, gref)
            {
                return Err(format!(
                    "front {number}: a page of {request:?} is mapped when it is answered"
                ));
            }
        }
        judged.map_err(|error| format!("front {number}: {error}; {request:?}"))
    }

    fn judge(&self, request: &Request, volume: &mut Volume, now: u64) -> Result<(), String> {
        let mut sector = request.from;
        for &(page, first, last) in &request.pieces {
            let mut bytes = [0; PAGE_SIZE];
            self.pages[page].memory.read_bytes(0, &mut bytes);
            for (at, bytes) in (0..).zip(bytes.chunks_exact(SECTOR)) {
                if (first..=last).contains(&at) {
                    volume.judge(request.issued, sector, bytes, now)?;
                    sector += 1;
                } else if bytes.iter().any(|byte| *byte != POISON) {
                    return Err(format!("sector {at} of a page was not asked for"));
                }
            }
        }
        Ok(())
    }

    /// Reads from `from` on as much as fits into one request; gives where the next begins.
    pub(crate) fn read_on(&mut self, around: &mut Around<'_>, from: u64) -> u64 {
        self.move_ring(around.machine, 0);
        let Some(volume) = around.volume.as_deref_mut() else {
            return u64::MAX;
        };
        let (mut pieces, mut segments, mut count) = (Vec::new(), Vec::new(), 0);
        let issued = volume.begin_watch(around.now);
        while segments.len() < 11 && from + count < volume.len() {
            let page = self.page(around.spare).expect("nothing else is under way");
            let (domain, grants) = (self.domain(), &around.machine.grants);
            let entry = &mut self.pages[page];
            entry.memory.write_bytes(0, &[POISON; PAGE_SIZE]);
            let memory = &entry.memory;
            let gref = *entry
                .gref
                .get_or_insert_with(|| grants.grant(domain, memory, false));
            segments.push(RawSegment {
                gref: gref.0,
                first_sect: 0,
                last_sect: 7,
                pad: 0,
            });
            pieces.push((page, 0, 7));
            count += PAGE_SECTORS;
        }
        let id = self.rings[0].front.push(Operation::READ, from, &segments);
        self.note(0, id, What::Read, (from, count), pieces, issued);
        if self.rings[0].front.publish() {
            around
                .machine
                .notify_from(self.domain(), self.rings[0].port);
        }
        from + count
    }
}
