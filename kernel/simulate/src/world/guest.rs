//! A guest with a disk: its rings, its requests, and what it expects to read.

use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_testkit::blkfront::{Answer, Blkfront, GuestPage, fill};
use spindle_testkit::xenstored::{Vbd, Xenstored};
use spindle_xen::DomId;

use super::machine::Machine;

/// Sectors in a page.
pub const PAGE_SECTORS: u64 = 8;

struct GuestRing {
    front: Blkfront<'static>,
    refs: Vec<u32>,
    /// The guest's own end of the event channel.
    port: u32,
    answers: Vec<Answer>,
}

/// One disk of a guest.
pub struct Guest {
    /// The device.
    pub vbd: Vbd,
    machine: &'static Machine,
    rings: Vec<GuestRing>,
    next_port: u32,
}

impl Guest {
    /// A guest that has published nothing yet.
    pub fn new(machine: &'static Machine, vbd: Vbd) -> Self {
        Self {
            vbd,
            machine,
            rings: Vec::new(),
            next_port: 20 + vbd.device % 1000 * 100,
        }
    }

    /// Its domain.
    pub fn domain(&self) -> DomId {
        DomId(self.vbd.frontend)
    }

    /// Makes so many rings of so many pages, and publishes them without their state.
    pub fn publish(&mut self, store: &mut Xenstored, rings: usize, pages: usize) {
        let (domain, machine) = (self.domain(), self.machine);
        self.rings.clear();
        for queue in 0..rings {
            let front = Blkfront::with_abi(&machine.grants, domain, pages, 0, Abi::Native);
            let refs = machine.grant_ring(domain, &front.ring());
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
                store.write(&self.vbd.front(&leaf), gref.to_string());
            }
            let leaf = format!("{at}event-channel");
            store.write(&self.vbd.front(&leaf), port.to_string());
            self.rings.push(GuestRing {
                front,
                refs,
                port,
                answers: Vec::new(),
            });
        }
        for (leaf, value) in [
            ("protocol", "x86_64-abi".to_string()),
            ("feature-persistent", "1".to_string()),
            ("multi-queue-num-queues", rings.to_string()),
            ("ring-page-order", pages.ilog2().to_string()),
            ("num-ring-pages", pages.to_string()),
        ] {
            store.write(&self.vbd.front(leaf), value);
        }
    }

    /// The reference of a ring's page.
    pub fn ring_ref(&self, ring: usize, page: usize) -> u32 {
        self.rings[ring].refs[page]
    }

    /// Whether a request fits into a ring.
    pub fn has_room(&self, ring: usize) -> bool {
        self.rings[ring].front.free() > 0
    }

    /// The rings it has published.
    pub fn ring_count(&self) -> usize {
        self.rings.len()
    }

    fn ring(&mut self, ring: usize) -> &mut GuestRing {
        let domain = self.domain();
        let ring = &mut self.rings[ring];
        let memory = self.machine.ring(domain, ring.refs[0]);
        ring.front.move_ring(memory);
        ring
    }

    fn submit(&mut self, ring: usize, operation: Operation, sector: u64, page: &GuestPage) -> u64 {
        let (domain, machine) = (self.domain(), self.machine);
        let ring = self.ring(ring);
        let segment = page.segment(0, (PAGE_SECTORS - 1) as u8);
        let id = ring.front.push(operation, sector, &[segment]);
        if ring.front.publish() {
            machine.notify_from(domain, ring.port);
        }
        id
    }

    /// Asks for what was written to be stored; gives the request's number.
    pub fn flush(&mut self, ring: usize) -> u64 {
        let (domain, machine) = (self.domain(), self.machine);
        let ring = self.ring(ring);
        let id = ring.front.push(Operation::FLUSH, 0, &[]);
        if ring.front.publish() {
            machine.notify_from(domain, ring.port);
        }
        id
    }

    /// Asks for these sectors to be freed, whatever is offered; gives the request's number.
    pub fn discard(&mut self, ring: usize, sector: u64, sectors: u64) -> u64 {
        let (domain, machine) = (self.domain(), self.machine);
        let ring = self.ring(ring);
        let id = ring.front.push_discard(sector, sectors, false);
        if ring.front.publish() {
            machine.notify_from(domain, ring.port);
        }
        id
    }

    /// As [`Guest::write`], as a barrier.
    pub fn write_barrier(&mut self, ring: usize, sector: u64, seed: u64) -> u64 {
        let page = self.ring(ring).front.page(false);
        fill(&page.memory, seed);
        self.submit(ring, Operation::WRITE_BARRIER, sector, &page)
    }

    /// Asks for a page to be written, with a pattern by `seed`; gives the request's number.
    pub fn write(&mut self, ring: usize, sector: u64, seed: u64) -> u64 {
        let page = self.ring(ring).front.page(false);
        fill(&page.memory, seed);
        self.submit(ring, Operation::WRITE, sector, &page)
    }

    /// Asks for a page; gives the request's number, and where it will be.
    pub fn read(&mut self, ring: usize, sector: u64) -> (u64, SharedPages) {
        let page = self.ring(ring).front.page(false);
        let id = self.submit(ring, Operation::READ, sector, &page);
        (id, page.memory)
    }

    /// Breaks the protocol: publishes more requests than the ring holds.
    pub fn overrun(&mut self, ring: usize) {
        let (domain, machine) = (self.domain(), self.machine);
        let ring = self.ring(ring);
        ring.front.set_req_prod(1000);
        machine.notify_from(domain, ring.port);
    }

    /// It was notified on one of its ports.
    pub fn notified(&mut self, port: u32) {
        for index in 0..self.rings.len() {
            if self.rings[index].port == port {
                self.collect(index);
            }
        }
    }

    /// Takes the responses there are, and asks to be notified of the next.
    fn collect(&mut self, index: usize) {
        let ring = self.ring(index);
        loop {
            let answers = ring.front.answers();
            ring.answers.extend(answers);
            if !ring.front.arm(1) {
                return;
            }
        }
    }

    /// The responses since this was last asked.
    pub fn take_answers(&mut self, ring: usize) -> Vec<Answer> {
        std::mem::take(&mut self.rings[ring].answers)
    }

    /// Responses on all rings.
    pub fn answer_count(&self) -> usize {
        self.rings.iter().map(|ring| ring.answers.len()).sum()
    }

    /// Requests without a response.
    pub fn outstanding(&self) -> usize {
        self.rings.iter().map(|ring| ring.front.outstanding()).sum()
    }
}

/// What a page that was written with `seed` holds.
pub fn pattern(seed: u64) -> Vec<u8> {
    let page = SharedPages::host(1, 0);
    fill(&page, seed);
    contents(&page)
}

/// The bytes of a page.
pub fn contents(page: &SharedPages) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    page.read_bytes(0, &mut bytes);
    bytes
}

/// Whether all went well.
pub fn all_okay(answers: &[Answer]) -> bool {
    answers
        .iter()
        .all(|answer| answer.status == RspStatus::OKAY)
}
