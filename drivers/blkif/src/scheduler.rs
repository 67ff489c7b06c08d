//! How the rings of a core share a disk: by what their commands cost it, not by their number.
//!
//! Cost is counted in pages: a command costs as many as it moves, and at least one. As long as one
//! ring alone has work it may fill the disk's queue. While several have work ("rivals"), no more
//! than a window of pages is with the disk (see `depth`), because what is there already is served
//! before what comes, whoever it belongs to:
//! - Each rival may at any time have its share of the window with the disk, an equal part of it,
//!   and at least one command. A guest that has one read at a time thus never waits for a place,
//!   and commands that the disk does not answer take no more than their ring's own share.
//! - What the others do not use of their shares is lent, by deficit round robin: in each round
//!   every ring may send a quantum. A ring that sent more sends less in the next round; what it did
//!   not use it does not keep. What a ring has used lately is not lent, since a guest whose reads
//!   have just been answered asks for the next ones a moment later.
//!
//! A queue of few places has no window: rings that find it full take turns (`turnstile`).
//!
//! A ring that may send nothing leaves its requests in the ring. Nothing here is allocated, and a
//! ring without rivals pays one comparison for each visit.

use crate::depth::Depth;

/// Pages that a ring may send in each round.
pub(crate) const QUANTUM: u32 = 32;

/// What a discard and a flush are charged: they keep the disk busy for longer than a page does.
pub(crate) const DISCARD_COST: u32 = 16;
pub(crate) const FLUSH_COST: u32 = 16;

/// A queue with fewer places than this has no window.
const FEW: usize = 16;

/// A ring counts as a rival for so long after its last request.
const LINGER_NS: u64 = 1_000_000_000;

/// What a ring has used of its share is kept for it for so long, or up to twice as long.
const KEEP_NS: u64 = 10_000_000;

/// One ring's side of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    /// What the ring may still send in this round, in pages; negative if it sent more.
    deficit: i32,
    round: u32,
    /// When it last had a request.
    busy_ns: Option<u64>,
    /// The most pages it had with the disk in this period and in the one before.
    peaks: [u32; 2],
    /// When this period began.
    since_ns: u64,
}

impl Account {
    /// Whether the ring had requests lately.
    fn is_rival(&self, now_ns: u64) -> bool {
        self.busy_ns
            .is_some_and(|at| now_ns.saturating_sub(at) < LINGER_NS)
    }

    /// Notes that it has `own` pages with the disk.
    fn note(&mut self, own: u32, now_ns: u64) {
        if now_ns.saturating_sub(self.since_ns) >= KEEP_NS {
            self.peaks = [0, self.peaks[0]];
            self.since_ns = now_ns;
        }
        self.peaks[0] = self.peaks[0].max(own);
    }

    /// What is not lent of the share of a ring that has `own` pages with the disk.
    fn kept(&self, own: u32, share: u32) -> u32 {
        own.max(self.peaks[0].max(self.peaks[1]).min(share))
    }
}

/// One disk's side of it.
#[derive(Debug)]
pub(crate) struct Scheduler {
    depth: Depth,
    /// Whether there is a window.
    limits: bool,
    /// Pages with the disk, and those that are kept for their rings.
    load: u32,
    kept: u32,
    /// Rings that have work, or had some lately: counted, and as of the last count.
    counted: u32,
    rivals: u32,
    round: u32,
    /// A ring with work has used its quantum up, though there is room.
    starved: bool,
    /// A ring with work had no room.
    crowded: bool,
}

impl Scheduler {
    /// For a queue with so many places.
    pub(crate) fn new(depth: usize) -> Self {
        Self {
            depth: Depth::new(depth),
            limits: depth >= FEW,
            load: 0,
            kept: 0,
            counted: 0,
            rivals: 0,
            round: 0,
            starved: false,
            crowded: false,
        }
    }

    /// Whether several rings have work.
    #[inline]
    pub(crate) fn is_contended(&self) -> bool {
        self.limits && self.rivals > 1
    }

    /// Starts to count the rings.
    pub(crate) fn start(&mut self) {
        (self.load, self.kept, self.counted) = (0, 0, 0);
    }

    /// Counts a ring that has `own` pages with the disk; `active` if it has requests.
    pub(crate) fn count(&mut self, account: &mut Account, own: u32, active: bool, now_ns: u64) {
        if active {
            account.busy_ns = Some(now_ns);
        }
        account.note(own, now_ns);
        if account.is_rival(now_ns) {
            self.counted += 1;
            self.load = self.load.saturating_add(own);
            self.kept = self.kept.saturating_add(account.kept(own, self.share()));
        }
    }

    /// Once all rings are counted: one that has `own` pages with the disk has more to send.
    pub(crate) fn left_over(&mut self, account: &Account, own: u32) {
        let room = self.room(account, own);
        self.starved |= room > 0 && account.deficit <= 0;
        self.crowded |= room == 0;
    }

    /// Ends a count at the start of a visit, before what is left over is looked at. A new round
    /// begins if the disk has little to do: then rings are not to wait for each other.
    pub(crate) fn begin_visit(&mut self, now_ns: u64) {
        self.rivals = self.counted;
        let crowded = core::mem::take(&mut self.crowded);
        self.depth.observe(self.load, self.rivals, crowded, now_ns);
        self.starved = self.load * 2 <= self.depth.pages();
    }

    /// The same at the end of a visit.
    pub(crate) fn end_visit(&mut self, now_ns: u64) {
        self.rivals = self.counted;
        self.depth.note(self.load, now_ns);
        self.crowded = false;
    }

    /// Once it is known what is left over: true if a new round begins, in which a ring can send
    /// at once.
    pub(crate) fn next_round(&mut self) -> bool {
        let starved = core::mem::take(&mut self.starved);
        self.round = self.round.wrapping_add(u32::from(starved));
        starved
    }

    /// The pages that a ring may send now, of which it has `own` with the disk already.
    #[inline]
    pub(crate) fn grant(&self, account: &mut Account, own: u32) -> u32 {
        if !self.is_contended() {
            return u32::MAX;
        }
        if account.round != self.round {
            account.round = self.round;
            account.deficit = account.deficit.min(0) + QUANTUM as i32;
        }
        let credit = self.room(account, own).min(account.deficit.max(0) as u32);
        // One command is always allowed, within reason.
        let least = own == 0 && account.deficit > -(QUANTUM as i32);
        credit.max(least.into())
    }

    /// The part of the window that is each ring's own.
    fn share(&self) -> u32 {
        (self.depth.pages() / self.rivals.max(1)).max(1)
    }

    /// Pages that a ring may send if its quantum is not considered.
    fn room(&self, account: &Account, own: u32) -> u32 {
        let share = self.share();
        let others = self.kept.saturating_sub(account.kept(own, share));
        let all = self.depth.pages().saturating_sub(others).max(share);
        all.saturating_sub(own)
    }

    /// Charges a ring for what it sent: `load` pages that are with the disk now, at a `cost`. It
    /// had `own` before.
    #[inline]
    pub(crate) fn charge(&mut self, account: &mut Account, own: u32, load: u32, cost: u32) {
        if !self.is_contended() {
            return;
        }
        let share = self.share();
        let before = account.kept(own, share);
        self.load = self.load.saturating_add(load);
        self.kept += account.kept(own.saturating_add(load), share) - before;
        let cost = i32::try_from(cost).unwrap_or(i32::MAX);
        account.deficit = account.deficit.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of 32 pages, whatever the disk does: nothing is measured in these tests.
    const WINDOW: u32 = 32;

    /// A scheduler after a visit at `now_ns` in which each ring had so many pages with the disk.
    fn visited(accounts: &mut [Account], own: &[u32], now_ns: u64) -> Scheduler {
        let mut scheduler = Scheduler::new(1024);
        again(&mut scheduler, accounts, own, now_ns);
        scheduler
    }

    fn again(scheduler: &mut Scheduler, accounts: &mut [Account], own: &[u32], now_ns: u64) {
        scheduler.start();
        for (account, &own) in accounts.iter_mut().zip(own) {
            scheduler.count(account, own, own > 0, now_ns);
        }
        scheduler.end_visit(now_ns);
    }

    #[test]
    fn a_ring_alone_and_a_small_queue_have_no_limit() {
        let mut accounts = [Account::default(); 2];
        let alone = visited(&mut accounts, &[8, 0], 0);
        assert_eq!(alone.grant(&mut accounts[0], 8), u32::MAX);
        let small = |places| {
            let (mut scheduler, mut accounts) = (Scheduler::new(places), [Account::default(); 2]);
            again(&mut scheduler, &mut accounts, &[1, 1], 0);
            scheduler.is_contended()
        };
        assert!(!small(FEW - 1) && small(FEW));
    }

    #[test]
    fn a_ring_is_a_rival_for_a_second_after_its_last_request() {
        let mut accounts = [Account::default(); 2];
        let mut scheduler = visited(&mut accounts, &[1, 1], 5);
        again(&mut scheduler, &mut accounts, &[1, 0], LINGER_NS + 4);
        assert!(scheduler.is_contended());
        again(&mut scheduler, &mut accounts, &[1, 0], LINGER_NS + 5);
        assert!(!scheduler.is_contended());
    }

    #[test]
    fn each_ring_has_its_share_and_the_rest_is_lent_but_for_what_was_used_lately() {
        let mut accounts = [Account::default(); 2];
        let mut scheduler = visited(&mut accounts, &[20, 4], 0);
        // The first may have what the second leaves, the second its half, whoever has the rest.
        assert_eq!(scheduler.room(&accounts[0], 20), WINDOW - 4 - 20);
        again(&mut scheduler, &mut accounts, &[28, 4], 0);
        assert_eq!(scheduler.room(&accounts[1], 4), WINDOW / 2 - 4);
        // What the second had is kept for it at first, and lent once it has not used it for long.
        again(&mut scheduler, &mut accounts, &[8, 0], KEEP_NS);
        assert_eq!(scheduler.room(&accounts[0], 8), WINDOW - 4 - 8);
        again(&mut scheduler, &mut accounts, &[8, 0], 2 * KEEP_NS - 1);
        assert_eq!(scheduler.room(&accounts[0], 8), WINDOW - 4 - 8);
        again(&mut scheduler, &mut accounts, &[8, 0], 2 * KEEP_NS);
        assert_eq!(scheduler.room(&accounts[0], 8), WINDOW - 8);
    }

    #[test]
    fn no_more_than_a_share_is_kept_and_no_share_is_less_than_a_command() {
        let mut accounts = [Account::default(); 3];
        let mut scheduler = visited(&mut accounts, &[30, 1, 1], 0);
        again(&mut scheduler, &mut accounts, &[0, 1, 1], 0);
        let third = WINDOW / 3;
        assert_eq!(scheduler.room(&accounts[1], 1), WINDOW - third - 1 - 1);
        // What is kept already is not counted again when it is used.
        let kept = scheduler.kept;
        scheduler.charge(&mut accounts[0], 0, 2, 2);
        assert_eq!((scheduler.load, scheduler.kept), (4, kept));
        let mut many = [Account::default(); 40];
        many[0].busy_ns = Some(0);
        let mut own = [1; 40];
        own[0] = 0;
        let scheduler = visited(&mut many, &own, 0);
        assert_eq!(scheduler.room(&many[0], 0), 1);
    }

    #[test]
    fn a_ring_sends_a_quantum_in_a_round_less_what_it_sent_too_much() {
        let mut accounts = [Account::default(); 2];
        let mut scheduler = visited(&mut accounts, &[1, 1], 0);
        scheduler.starved = true;
        assert!(scheduler.next_round() && !scheduler.next_round());
        let account = &mut accounts[0];
        // The window leaves less than the quantum: 32 pages less one of the other's and its own.
        assert_eq!(scheduler.grant(account, 1), WINDOW - 2);
        scheduler.charge(account, 1, 30, 30);
        assert_eq!((scheduler.load, scheduler.kept), (32, 32));
        assert_eq!(account.deficit, QUANTUM as i32 - 30);
        // Answered: the round still has two pages.
        again(&mut scheduler, &mut accounts, &[1, 1], 2 * KEEP_NS);
        again(&mut scheduler, &mut accounts, &[1, 1], 4 * KEEP_NS);
        let account = &mut accounts[0];
        assert_eq!(scheduler.grant(account, 1), 2);
        scheduler.charge(account, 1, 1, 12);
        assert_eq!(scheduler.grant(account, 2), 0, "it had something already");
        assert_eq!(scheduler.grant(account, 0), 1, "one command is allowed");
        // It began the round with 32 and has sent 42: in the next it has 22. What is left of
        // that is not kept for the one after.
        for (round, deficit) in [(1, 22), (2, 32), (3, 32)] {
            scheduler.starved = true;
            assert!(scheduler.next_round(), "{round}");
            scheduler.grant(account, 1);
            assert_eq!(account.deficit, deficit, "{round}");
        }
        // Not even one command, after as much as a quantum too much.
        scheduler.charge(account, 0, 0, 2 * QUANTUM);
        assert_eq!(account.deficit, -(QUANTUM as i32));
        assert_eq!(scheduler.grant(account, 0), 0);
    }

    #[test]
    fn a_round_begins_when_a_ring_with_room_has_used_its_own_up_or_the_disk_runs_dry() {
        let mut accounts = [Account::default(); 2];
        let mut scheduler = visited(&mut accounts, &[20, 12], 0);
        accounts[1].deficit = 1;
        scheduler.left_over(&accounts[1], 12);
        assert!(!scheduler.crowded && !scheduler.next_round(), "it may send");
        scheduler.left_over(&accounts[0], 20);
        assert!(scheduler.crowded && !scheduler.next_round(), "no room");
        accounts[1].deficit = 0;
        scheduler.left_over(&accounts[1], 12);
        assert!(scheduler.next_round());
        let mut accounts = [Account::default(); 2];
        for (own, dry) in [([12, 4], true), ([12, 5], false)] {
            let mut scheduler = visited(&mut accounts, &own, 0);
            scheduler.begin_visit(0);
            assert_eq!(scheduler.next_round(), dry, "{own:?}");
        }
    }
}
