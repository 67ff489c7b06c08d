//! The scheduler without a core: rings whose pages with the disk are set by hand.

use alloc::vec::Vec;

use super::*;

/// A window of 32 pages, whatever the disk does: nothing is measured in these tests.
const WINDOW: u32 = 32;

/// Rings with a scheduler: of each the guest, and its account.
struct Rings {
    scheduler: Scheduler,
    rings: Vec<(u16, Account)>,
    own: Vec<u32>,
}

impl Rings {
    /// After a visit at 0 in which each ring, of this guest, had so many pages with the disk.
    fn of(rings: &[(u16, u32)]) -> Self {
        let mut scheduler = Scheduler::new(1024, 64);
        rings.iter().for_each(|&(guest, _)| scheduler.enter(guest));
        let account = |&(guest, _): &_| (guest, Account::default());
        let mut rings = Self {
            scheduler,
            rings: rings.iter().map(account).collect(),
            own: rings.iter().map(|&(_, own)| own).collect(),
        };
        rings.end_visit(0);
        rings
    }

    fn party(&mut self, ring: usize) -> (&mut Scheduler, Party<'_>) {
        let (guest, account) = &mut self.rings[ring];
        let party = Party {
            guest: *guest,
            account,
            own: self.own[ring],
            weight: spindle_limits::DEFAULT_WEIGHT,
        };
        (&mut self.scheduler, party)
    }

    fn count(&mut self, now_ns: u64) {
        self.scheduler.start();
        for ring in 0..self.rings.len() {
            let (scheduler, party) = self.party(ring);
            let active = party.own > 0;
            scheduler.count(party, active, now_ns);
        }
    }

    fn begin_visit(&mut self, now_ns: u64) {
        self.count(now_ns);
        self.scheduler.begin_visit(now_ns);
    }

    fn end_visit(&mut self, now_ns: u64) {
        self.count(now_ns);
        self.scheduler.end_visit(now_ns);
    }

    fn grant(&mut self, ring: usize) -> u32 {
        let (scheduler, party) = self.party(ring);
        scheduler.grant(party)
    }

    /// Has a ring send so many pages.
    fn send(&mut self, ring: usize, pages: u32) {
        let (scheduler, party) = self.party(ring);
        scheduler.charge(party, pages, pages);
        self.own[ring] += pages;
    }

    fn left_over(&mut self, ring: usize) {
        let (scheduler, party) = self.party(ring);
        scheduler.left_over(party);
    }

    /// Has all rings in turn send what they may, until none may send more; what the disk has of
    /// each.
    fn flood(&mut self) -> Vec<u32> {
        self.begin_visit(0);
        loop {
            for ring in 0..self.rings.len() {
                let pages = self.grant(ring);
                self.send(ring, pages);
            }
            (0..self.rings.len()).for_each(|ring| self.left_over(ring));
            if !self.scheduler.next_round() {
                return self.own.clone();
            }
        }
    }
}

#[test]
fn a_ring_alone_and_a_small_queue_have_no_limit() {
    let mut alone = Rings::of(&[(0, 8), (1, 0)]);
    assert_eq!(alone.grant(0), u32::MAX);
    assert_eq!(alone.grant(1), u32::MAX);
    for (places, limited) in [(FEW - 1, false), (FEW, true)] {
        let mut rings = Rings::of(&[(0, 1), (1, 1)]);
        let mut scheduler = Scheduler::new(places, 2);
        scheduler.enter(0);
        scheduler.enter(1);
        rings.scheduler = scheduler;
        rings.end_visit(0);
        assert_eq!(rings.scheduler.is_contended(), limited);
    }
}

#[test]
fn a_guest_has_one_share_however_many_rings_it_has() {
    // Each ring asks for all that it may have, those of the guest with many first.
    let played = |many: usize| {
        let mut rings = vec![(0, 1); many];
        rings.push((1, 1));
        let own = Rings::of(&rings).flood();
        (own[..many].iter().sum::<u32>(), own[many])
    };
    let (theirs, others) = played(1);
    assert_eq!((theirs, others), (WINDOW - 1, WINDOW / 2));
    for many in [2, 3, 8, 16] {
        assert_eq!(played(many), (theirs, others), "{many}");
    }
    // More pages than it may have were with the disk already: it gets no more.
    assert_eq!(played(40), (40, WINDOW / 2));
}

#[test]
fn rings_of_a_guest_share_what_it_may_have() {
    // A ring with a page at a time is not kept waiting by the others of its guest.
    let mut rings = Rings::of(&[(0, 16), (0, 1), (1, 15)]);
    assert_eq!(rings.scheduler.guests[0].window, 17);
    rings.begin_visit(0);
    rings.own[1] = 0;
    rings.begin_visit(0);
    rings.left_over(1);
    assert!(rings.scheduler.next_round());
    assert_eq!(rings.grant(0), 0, "a page is kept for the other ring");
    assert_eq!(rings.grant(1), 1);
    // A guest alone: its rings share the whole window.
    let mut alone = Rings::of(&[(0, 1), (0, 1)]);
    assert!(alone.scheduler.is_contended());
    assert_eq!(alone.scheduler.guests[0].window, WINDOW);
    assert_eq!(alone.flood(), [WINDOW - 1, WINDOW / 2]);
    // What they send while no other guest has work does not count against it later.
    alone.send(0, 1000);
    alone.own.fill(1);
    alone.rings.push((1, Account::default()));
    alone.own.push(1);
    alone.scheduler.enter(1);
    alone.end_visit(0);
    alone.begin_visit(0);
    assert!(alone.scheduler.next_round());
    assert_eq!(alone.grant(1), WINDOW - 1 - 2);
}

#[test]
fn a_guest_that_leaves_its_place_leaves_no_debts() {
    let mut rings = Rings::of(&[(0, 1), (1, 1), (2, 1)]);
    rings.begin_visit(0);
    rings.send(1, 100);
    rings.scheduler.leave(1, 3);
    assert_eq!(
        (rings.scheduler.guests[1].own, rings.scheduler.used),
        (0, 3)
    );
    rings.scheduler.leave(2, 1);
    assert_eq!(rings.scheduler.used, 1);
}

#[test]
fn a_round_begins_when_a_ring_with_room_has_used_its_own_up_or_the_disk_runs_dry() {
    for (own, dry) in [([12, 4], true), ([12, 5], false)] {
        let mut rings = Rings::of(&[(0, own[0]), (1, own[1])]);
        rings.begin_visit(0);
        assert_eq!(rings.scheduler.next_round(), dry, "{own:?}");
    }
    let mut rings = Rings::of(&[(0, 20), (1, 12)]);
    rings.left_over(0);
    assert!(
        rings.scheduler.crowded && !rings.scheduler.next_round(),
        "no room"
    );
    rings.left_over(1);
    assert!(rings.scheduler.next_round(), "it has had no quantum yet");
    assert_eq!(rings.grant(1), 4);
    rings.left_over(1);
    assert!(!rings.scheduler.next_round(), "it may send");
}

#[test]
fn a_disk_that_is_back_with_another_queue_is_shared_by_what_that_holds() {
    let mut rings = Rings::of(&[(0, 1), (1, 1)]);
    assert!(rings.scheduler.is_contended());
    for (depth, window) in [(20, Some(15)), (4, None), (1024, Some(WINDOW))] {
        rings.scheduler.renew(depth);
        rings.end_visit(0);
        assert_eq!(rings.scheduler.is_contended(), window.is_some(), "{depth}");
        if let Some(window) = window {
            assert_eq!(rings.scheduler.depth.pages(), window, "{depth}");
        }
    }
}
