//! The grant cache against a model: what is mapped, pinned, evicted.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use spindle_blkif::Window;
use spindle_blkif::cache::GrantCache;
use spindle_hw::SharedPages;
use spindle_testkit::grants::FakeGrants;
use spindle_testkit::mem::FakeBus;
use spindle_xen::DomId;
use spindle_xen::grant::{GrantOps, GrantRef, MapOp};

const DOM: DomId = DomId(4);
const BASE: u64 = 1 << 40;

/// References that all hash to the same few places, for multiplication by 2^32 / phi.
fn colliding(count: usize) -> Vec<u32> {
    // The inverse of 0x9e3779b1 modulo 2^32 turns consecutive products back into references.
    let mut inverse = 1u32;
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(inverse.wrapping_mul(0x9e37_79b1)));
    }
    (1..=count as u32)
        .map(|n| n.wrapping_mul(inverse))
        .collect()
}

/// Has a reference kept, mapping it if need be, while those at `busy` are in use; its address.
fn get(
    cache: &mut GrantCache,
    grants: &FakeGrants<'_>,
    gref: u32,
    busy: impl Iterator<Item = u64>,
) -> Option<u64> {
    cache.note_uses(1);
    let mut missing = match cache.find_or_miss(gref) {
        Ok(bus) => return Some(bus),
        Err(missing) => missing,
    };
    if cache.is_full() && cache.may_evict() {
        busy.for_each(|bus| cache.mark(bus));
        cache.evict(&grants);
        missing = cache.find_or_miss(gref).expect_err("none has come");
    }
    let (bus, op) = cache.reserve(missing)?;
    map(cache, grants, op);
    Some(bus)
}

fn map(cache: &mut GrantCache, grants: &FakeGrants<'_>, op: MapOp) {
    let mut ops = [op];
    let _ = grants.map(&mut ops);
    assert!(cache.record(&ops[0]));
}

fn none() -> impl Iterator<Item = u64> {
    std::iter::empty()
}

#[test]
fn references_chosen_to_collide_cost_a_bounded_probe_and_stay_usable() {
    let bus = FakeBus::new();
    let grants = FakeGrants::new(&bus);
    let mut cache = GrantCache::new(DOM, Window::new(BASE, 256).unwrap()).unwrap();
    let page = SharedPages::host(1, 0);
    let grefs = colliding(256);
    let mut placed = Vec::new();
    for &gref in &grefs {
        grants.grant_as(DOM, GrantRef(gref), &page, false);
        if let Some(at) = get(&mut cache, &grants, gref, none()) {
            placed.push((gref, at));
        }
    }
    assert_eq!(placed.len(), 32, "the length of a probe");
    for (gref, at) in placed {
        assert_eq!(cache.find(gref), Some(at));
    }
    cache.dismantle(&&grants);
    assert_eq!(grants.outstanding(), 0);
}

#[test]
fn frames_that_were_lost_to_an_earlier_ring_are_not_used() {
    use spindle_testkit::grants::{Call, Fault};
    use spindle_xen::grant::Status;
    let bus = FakeBus::new();
    let grants = FakeGrants::new(&bus);
    let page = SharedPages::host(1, 0);
    let grefs: Vec<_> = (0..4).map(|_| grants.grant(DOM, &page, false).0).collect();
    let mut cache = GrantCache::new(DOM, Window::new(BASE, 2).unwrap()).unwrap();
    let at = get(&mut cache, &grants, grefs[0], none()).unwrap();
    grants.inject(Call::Unmap, 0, Fault::Operation(Status::GENERAL_ERROR));
    let window = cache.dismantle(&&grants);
    assert_eq!((window.unusable(), window.is_usable(0)), (1, false));
    let mut cache = GrantCache::new(DOM, window).unwrap();
    let other = get(&mut cache, &grants, grefs[1], none()).unwrap();
    assert_ne!(other, at);
    assert!(
        get(&mut cache, &grants, grefs[2], none()).is_none(),
        "one frame, and it was used a moment ago"
    );
}

#[test]
fn what_is_mapped_once_goes_with_its_request_and_its_frame_comes_back() {
    use spindle_testkit::grants::{Call, Fault};
    use spindle_xen::grant::Status;
    let bus = FakeBus::new();
    let grants = FakeGrants::new(&bus);
    let page = SharedPages::host(1, 0);
    let gref = grants.grant(DOM, &page, false).0;
    let mut cache = GrantCache::new(DOM, Window::new(BASE, 2).unwrap()).unwrap();
    let mut ops = Vec::with_capacity(1);
    for _ in 0..3 {
        // Twice, each in a frame of its own.
        let (first, op) = cache.map_once(gref, true).unwrap();
        map(&mut cache, &grants, op);
        let (second, op) = cache.map_once(gref, true).unwrap();
        assert!(first != second && cache.map_once(gref, true).is_none());
        // Given up before it is known whether it can be mapped.
        cache.let_go(second);
        assert!(!cache.has_idle());
        map(&mut cache, &grants, op);
        assert!(cache.has_idle());
        cache.let_go(first);
        for left in [1, 0] {
            assert_eq!(cache.find(gref), None, "no other request finds it");
            cache.sweep(&mut ops);
            assert_eq!((ops.len(), cache.has_idle()), (1, left > 0), "room for one");
            let _ = (&grants).unmap(&mut ops);
            assert_eq!(cache.swept(&ops), 0);
            ops.clear();
            assert_eq!(grants.outstanding(), left);
        }
    }
    // One that cannot be mapped, whether its request ends before that is known or after.
    for early in [false, true] {
        grants.inject(Call::Map, 0, Fault::Operation(Status::GENERAL_ERROR));
        let (at, op) = cache.map_once(gref, false).unwrap();
        let mut op = [op];
        if early {
            cache.let_go(at);
        }
        let _ = (&grants).map(&mut op);
        assert!(!cache.record(&op[0]));
        if !early {
            cache.let_go(at);
        }
        assert!(!cache.has_idle());
    }
    let (at, op) = cache.map_once(gref, false).unwrap();
    map(&mut cache, &grants, op);
    // One that was taken from the disk is never used again.
    cache.cut_off(&&grants);
    assert_eq!(grants.outstanding(), 0);
    cache.let_go(at);
    assert!(!cache.has_idle() && cache.map_once(gref, false).is_none());
}

/// A frontend's uses of its pages, and how many of them were found mapped.
struct Uses<'a> {
    cache: GrantCache,
    grants: FakeGrants<'a>,
    page: SharedPages,
    granted: BTreeSet<u32>,
}

impl<'a> Uses<'a> {
    fn new(bus: &'a FakeBus, frames: usize) -> Self {
        Self {
            cache: GrantCache::new(DOM, Window::new(BASE, frames).unwrap()).unwrap(),
            grants: FakeGrants::new(bus),
            page: SharedPages::host(1, 0),
            granted: BTreeSet::new(),
        }
    }

    /// Uses pages one after the other, 32 in a turn: how many were found, and how many are mapped anew.
    fn of(&mut self, grefs: impl Iterator<Item = u32>) -> (usize, usize) {
        let (mut found, mut mapped) = (0, 0);
        for (n, gref) in grefs.enumerate() {
            if n % 32 == 0 {
                self.cache.next_turn();
            }
            if self.cache.find(gref).is_some() {
                found += 1;
                self.cache.note_uses(1);
                continue;
            }
            if self.granted.insert(gref) {
                self.grants.grant_as(DOM, GrantRef(gref), &self.page, false);
            }
            let got = get(&mut self.cache, &self.grants, gref, none());
            mapped += usize::from(got.is_some());
        }
        (found, mapped)
    }
}

/// So many rounds over so many pages.
fn rounds(first: u32, pages: u32, rounds: usize) -> impl Iterator<Item = u32> {
    (0..rounds).flat_map(move |_| first..first + pages)
}

#[test]
#[cfg_attr(miri, ignore = "too many uses to interpret")]
fn a_few_pages_more_in_turn_than_frames_are_nearly_all_found() {
    let bus = FakeBus::new();
    for (pages, least) in [
        (1056, 1056),
        (1057, 1056),
        (1100, 1056),
        (2112, 1056),
        (4000, 1000),
    ] {
        let mut uses = Uses::new(&bus, 1056);
        uses.of(rounds(8, pages, 2));
        let (found, mapped) = uses.of(rounds(8, pages, 40));
        assert!(found >= least * 40, "{found} of {pages} in 40 rounds");
        assert!(mapped <= 64 * 40 / 4, "{mapped} mapped anew of {pages}");
        uses.cache.dismantle(&&uses.grants);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many uses to interpret")]
fn pages_that_are_used_once_do_not_drive_out_those_that_are_used_again() {
    let bus = FakeBus::new();
    let mut uses = Uses::new(&bus, 256);
    uses.of(rounds(8, 200, 4));
    for n in 0..200 {
        // As many that never come again.
        let (found, _) = uses.of(rounds(8, 200, 1));
        assert_eq!(found, 200, "after {n} times");
        let (_, mapped) = uses.of(rounds(1000 + n * 200, 200, 1));
        assert!(mapped <= 64);
    }
    uses.cache.dismantle(&&uses.grants);
}

#[test]
#[cfg_attr(miri, ignore = "too many uses to interpret")]
fn other_pages_are_found_soon_when_a_frontend_turns_to_them() {
    let bus = FakeBus::new();
    let mut uses = Uses::new(&bus, 256);
    uses.of(rounds(8, 256, 8));
    // Two rounds until the old ones count as unused, and some to replace them.
    uses.of(rounds(1000, 256, 100));
    assert_eq!(uses.of(rounds(1000, 256, 4)), (1024, 0));
    uses.cache.dismantle(&&uses.grants);
}

proptest! {
    /// Over any sequence of uses: a reference always leads to its own page, a page in use never
    /// moves, at most as many are mapped as there are frames, and nothing is mapped at the end.
    #[test]
    fn agrees_with_a_map(
        frames in 1usize..24,
        steps in prop::collection::vec((0usize..60, any::<bool>(), any::<bool>()), 1..if cfg!(miri) { 20 } else { 400 }),
        collide: bool,
    ) {
        let bus = FakeBus::new();
        let grants = FakeGrants::new(&bus);
        let mut cache = GrantCache::new(DOM, Window::new(BASE, frames).unwrap()).unwrap();
        let grefs = if collide { colliding(60) } else { (8..68).collect() };
        for (i, &gref) in grefs.iter().enumerate() {
            let page = SharedPages::host(1, 0);
            page.write_bytes(0, &[i as u8]);
            grants.grant_as(DOM, GrantRef(gref), &page, false);
        }
        let mut used: BTreeMap<usize, u64> = BTreeMap::new();
        for (i, keep, turn) in steps {
            if turn {
                cache.next_turn();
            }
            if let Some(at) = used.remove(&i) {
                prop_assert_eq!(cache.find(grefs[i]), Some(at), "a page in use moved");
            } else if let Some(at) = get(&mut cache, &grants, grefs[i], used.values().copied()) {
                let mut byte = [0];
                prop_assert!(bus.read(at, &mut byte));
                prop_assert_eq!(usize::from(byte[0]), i, "another grant's page");
                if keep {
                    used.insert(i, at);
                }
            }
            prop_assert!(grants.outstanding() <= frames);
        }
        let window = cache.dismantle(&&grants);
        prop_assert_eq!((window.frames(), window.unusable()), (frames, 0));
        prop_assert_eq!(grants.outstanding(), 0);
    }
}

#[test]
fn what_a_look_up_learnt_is_not_used_once_another_has_the_place() {
    let bus = FakeBus::new();
    let grants = FakeGrants::new(&bus);
    let mut cache = GrantCache::new(DomId(1), Window::new(1 << 40, 4).unwrap()).unwrap();
    let page = SharedPages::host(1, 0);
    let gref = grants.grant(DomId(1), &page, false).0;
    let missing = cache.find_or_miss(gref).expect_err("it was never mapped");
    get(&mut cache, &grants, gref, none()).expect("a frame");
    assert!(cache.reserve(missing).is_none(), "the same place twice");
    cache.dismantle(&&grants);
}
