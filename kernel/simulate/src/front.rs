//! A guest's disk as its own kernel sees it: the frontend's steps in xenstore, its rings, its memory,
//! its requests, and what it holds against the backend.

mod answer;
mod ask;

use std::collections::{BTreeMap, VecDeque};

use spindle_blkif::abi::{Abi, Operation, RawSegment};
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::xenstored::{Vbd, Xenstored};
use spindle_xen::DomId;
use spindle_xen::grant::GrantRef;

use crate::chance::Chance;
use crate::trace;
use crate::volume::{Issued, SECTOR, Volume};
use crate::world::calls::Publication;
use crate::world::machine::Machine;
use ask::Piece;

/// What the memory for a read is filled with before it.
const POISON: u8 = 0xa5;
/// One that thinks for so long asks for nothing by itself.
pub(crate) const NO_THOUGHT: u64 = u64::MAX / 4;
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
    /// It uses one page after the other, instead of those that were used last.
    roams: bool,
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
            roams: chance.one_in(4),
        }
    }
}

#[derive(Debug)]
struct Page {
    memory: SharedPages,
    gref: Option<GrantRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Write,
    Flush,
    Discard,
    /// One that must be refused.
    Forbidden,
    /// A read into pages that the guest grants for reading only, which must fail.
    Denied,
}

#[derive(Debug)]
struct Request {
    what: What,
    from: u64,
    count: u64,
    pieces: Vec<Piece>,
    /// The page with the list of its segments.
    list: Option<usize>,
    /// The flush that is a part of it.
    flush: Option<Issued>,
    issued: Issued,
}

impl Request {
    /// One that moves nothing.
    fn without(what: What, issued: Issued) -> Self {
        Self {
            what,
            from: 0,
            count: 0,
            pieces: Vec::new(),
            list: None,
            flush: None,
            issued,
        }
    }

    /// What it adds to the counters.
    const fn counts(&self) -> Sums {
        match self.what {
            What::Read => [1, 0, self.count, 0],
            // The backend takes a barrier for a flush.
            What::Write => [0, self.flush.is_none() as u64, 0, self.count],
            What::Flush | What::Discard | What::Forbidden | What::Denied => [0; 4],
        }
    }
}

struct Ring {
    front: Blkfront<'static>,
    refs: Vec<u32>,
    port: u32,
    requests: BTreeMap<u64, Request>,
    /// Responses taken.
    taken: u32,
}

/// Requests, reads and writes, then bytes, of both, read and written, as limits count them.
pub(crate) type Used = [u64; 6];

/// Four counters of a connection.
pub(crate) type Sums = [u64; 4];

/// What a connection has asked for and had answered, as its backend is to count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Reads and writes, then sectors that were read and written.
    pub(crate) sums: Sums,
    /// What they may be instead at least, and how much more: since the kernel has died.
    pub(crate) outlived: Option<(Sums, Sums)>,
    /// A request has failed, of which nothing says whether the backend counts it.
    pub(crate) failed: bool,
    /// When the last request was answered, or the connection made.
    pub(crate) since: u64,
}

impl Counted {
    /// Whether these may be the counters.
    pub(crate) fn allows(&self, shown: Self) -> bool {
        let (least, more) = self.outlived.unwrap_or((self.sums, [0; 4]));
        let mut bounds = least.into_iter().zip(self.sums.into_iter().zip(more));
        let mut shown = shown.sums.into_iter();
        bounds.all(|(least, (sum, more))| {
            shown
                .next()
                .is_some_and(|at| least <= at && at <= sum + more)
        })
    }

    /// They are these, as long as the kernel does not die again.
    pub(crate) fn go_on_from(&mut self, shown: Self) {
        (self.sums, self.outlived) = (shown.sums, None);
    }
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
    /// How long a request may take, if that is known.
    pub(crate) prompt_ns: u64,
    /// Since when it could be.
    pub(crate) prompt_from: u64,
}

/// A frontend.
pub(crate) struct Front {
    pub(crate) number: usize,
    pub(crate) vbd: Vbd,
    state_path: String,
    pub(crate) phase: Phase,
    /// When it has entered that.
    pub(crate) entered: u64,
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
    /// Pages that no request uses.
    idle: VecDeque<usize>,
    pub(crate) counted: Counted,
    /// What it has had answered so far.
    pub(crate) used: Used,
    sector_size: u64,
    sectors: u64,
    can_flush: bool,
    can_discard: bool,
    can_barrier: bool,
    /// Segments of an indirect request at most.
    indirect: u64,
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
            entered: now,
            next: now + chance.scale(1_000_000..8_000_000_000),
            patience: u64::MAX,
            traits: Traits::draw(&mut chance),
            volume: None,
            since: 0,
            broken: false,
            rings: Vec::new(),
            pages: Vec::new(),
            idle: VecDeque::new(),
            counted: Counted::default(),
            used: [0; 6],
            sector_size: 512,
            sectors: 0,
            can_flush: false,
            can_discard: false,
            can_barrier: false,
            indirect: 0,
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
        self.entered = now;
        self.patience = now.saturating_add(patience);
        self.next = now + self.chance.scale(1_000..200_000_000);
    }

    /// Rings that it has.
    pub(crate) fn ring_count(&self) -> usize {
        self.rings.len()
    }

    /// Requests without an answer.
    pub(crate) fn outstanding(&self) -> usize {
        self.rings.iter().map(|ring| ring.requests.len()).sum()
    }

    /// The kernel dies, when so much was published as counted. What was counted since is lost, and what
    /// is not answered is done, and counted, again.
    pub(crate) fn outlive(&mut self, published: Counted) {
        let mut more = self.counted.outlived.map_or([0; 4], |(_, more)| more);
        let requests = self.rings.iter().flat_map(|ring| ring.requests.values());
        for counts in requests.map(Request::counts) {
            more = std::array::from_fn(|at| more[at] + counts[at]);
        }
        self.counted.outlived = Some((published.sums, more));
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
            let memory = machine.ring_memory(pages);
            let ring = Blkfront::within(&machine.grants, domain, memory, 0, self.traits.abi);
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
                taken: 0,
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
        self.can_barrier = number("feature-barrier") == 1;
        self.indirect = number("feature-max-indirect-segments");
        self.counted = Counted {
            since: around.now,
            ..Counted::default()
        };
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
                        volume.abandon((request.from, request.count), request.issued, around.now);
                        if let Some(flush) = request.flush {
                            volume.end_flush(flush, false, around.now);
                        }
                    }
                    What::Forbidden | What::Denied => {}
                }
            }
        }
    }

    /// The backend is through with the rings and the pages: takes them back, which must be possible.
    pub(crate) fn take_back(&mut self, around: &mut Around<'_>) {
        self.settle(around);
        let (domain, grants) = (self.domain(), &around.machine.grants);
        self.idle.clear();
        for page in self.pages.drain(..) {
            if let Some(gref) = page.gref {
                let ended = grants.revoke(domain, gref);
                assert!(ended, "front {}: a page is still mapped", self.number);
            }
            around.spare.push(page.memory);
        }
        for ring in self.rings.drain(..) {
            around.machine.forget_ring(domain, ring.refs[0], ring.port);
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
        if self.chance.one_in(3) {
            // Soon, maybe in the middle of what a core does, such as to look for the last time before it
            // sleeps.
            let by = around.now + self.chance.scale(1_000..400_000);
            let Ring {
                front, refs, port, ..
            } = &self.rings[ring];
            let produced = front.produced();
            around.machine.publish_later(Publication {
                by,
                domain: self.domain(),
                ring: refs[0],
                port: *port,
                produced,
            });
        } else if self.rings[ring].front.publish() {
            around
                .machine
                .notify_from(self.domain(), self.rings[ring].port);
        }
    }

    fn move_ring(&mut self, machine: &Machine, ring: usize) {
        let memory = machine.ring(self.domain(), self.rings[ring].refs[0]);
        self.rings[ring].front.move_ring(memory);
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
                let Ring {
                    requests, taken, ..
                } = &mut self.rings[ring];
                let request = requests.remove(&answer.id);
                let request = request.ok_or("a request is answered twice")?;
                let index = *taken;
                *taken += 1;
                self.answered((ring, index), request, answer.status, around)?;
            }
            if !self.rings[ring].front.arm(1) {
                break;
            }
        }
        // Some have the next requests ready, which come as the core is about to sleep.
        if self.traits.think_ns < NO_THOUGHT && self.chance.one_in(8) {
            let soon = around.now + self.chance.within(0..300_000);
            self.next = self.next.min(soon);
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
        let request = Request {
            from,
            count,
            pieces,
            ..Request::without(What::Read, issued)
        };
        self.note(0, id, request);
        if self.rings[0].front.publish() {
            around
                .machine
                .notify_from(self.domain(), self.rings[0].port);
        }
        from + count
    }
}
