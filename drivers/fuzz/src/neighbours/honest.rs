//! The guest that does nothing wrong: one read of a page at a time, of a volume that never changes.

use spindle_blkif::abi::{Operation, RspStatus};
use spindle_testkit::blkfront::{Blkfront, GuestPage};

use super::layout::{ROOM, honest_sector};

/// How long a read may take, beside a disk that does four pages in 10 us and has at most 64
/// commands of up to 16 pages. The longest wait over the corpus and its variations was 0.95 ms.
const BOUND_NS: u64 = 2_000_000;

pub(super) struct Honest<'g> {
    front: Blkfront<'g>,
    page: GuestPage,
    count: u64,
    /// The sector that it is waiting for, and since when.
    waiting: Option<(u64, u64)>,
    pub(super) errors: u64,
}

impl<'g> Honest<'g> {
    pub(super) fn new(front: Blkfront<'g>) -> Self {
        Self {
            page: front.page(false),
            front,
            count: 0,
            waiting: None,
            errors: 0,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Does not count so much time of the wait: it is the disk that is at fault for it.
    pub(super) fn excuse(&mut self, ns: u64) {
        if let Some((_, since)) = &mut self.waiting {
            *since += ns;
        }
    }

    /// Takes an answer, and asks for the next page if `go`.
    pub(super) fn turn(&mut self, now_ns: u64, go: bool) {
        let answers = self.front.answers();
        if let Some((sector, since)) = self.waiting {
            assert!(
                now_ns - since <= BOUND_NS,
                "the honest guest has been waiting for {} ns",
                now_ns - since
            );
            match answers[..] {
                [] => return,
                [answer] if answer.status == RspStatus::OKAY => self.check(sector),
                [_] => self.errors += 1,
                _ => panic!("more answers than requests"),
            }
            self.waiting = None;
        } else {
            assert!(answers.is_empty());
        }
        if go {
            self.ask(now_ns);
        }
    }

    fn ask(&mut self, now_ns: u64) {
        // The first page, the last, and those between them by turns.
        let pages = ROOM / 2 / 8;
        let sector = match self.count % 4 {
            0 => pages - 1,
            1 => 0,
            _ => self.count % pages,
        } * 8;
        self.count += 1;
        self.page.memory.zero(0, 4096);
        self.front
            .push(Operation::READ, sector, &[self.page.segment(0, 7)]);
        self.front.publish();
        self.waiting = Some((sector, now_ns));
    }

    fn check(&self, sector: u64) {
        let mut bytes = [0; 4096];
        self.page.memory.read_bytes(0, &mut bytes);
        for (sector, bytes) in (sector..).zip(bytes.chunks_exact(512)) {
            assert!(bytes == honest_sector(sector), "not what is in {sector}");
        }
    }
}
