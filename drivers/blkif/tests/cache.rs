//! The grant cache against a model: what is mapped, pinned, evicted.

use std::collections::BTreeMap;

use proptest::prelude::*;
use spindle_blkif::Window;
use spindle_blkif::cache::GrantCache;
use spindle_hw::SharedPages;
use spindle_testkit::grants::FakeGrants;
use spindle_testkit::mem::FakeBus;
use spindle_xen::DomId;
use spindle_xen::grant::{GrantOps, GrantRef};

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

/// Pins a reference, mapping it if need be; its address.
fn get(cache: &mut GrantCache, grants: &FakeGrants<'_>, gref: u32) -> Option<u64> {
    let mut missing = match cache.pin_or_miss(gref) {
        Ok(bus) => return Some(bus),
        Err(missing) => missing,
    };
    if cache.is_full() {
        cache.evict(&grants);
        missing = cache.pin_or_miss(gref).expect_err("none has come");
    }
    let (bus, op) = cache.reserve(missing, false)?;
    let mut ops = [op];
    let _ = grants.map(&mut ops);
    assert!(cache.record(&ops[0]));
    Some(bus)
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
        if let Some(at) = get(&mut cache, &grants, gref) {
            placed.push((gref, at));
        }
    }
    assert_eq!(placed.len(), 32, "the length of a probe");
    for (gref, at) in placed {
        assert_eq!(cache.pin(gref), Some(at));
        cache.unpin(at);
        cache.unpin(at);
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
    let at = get(&mut cache, &grants, grefs[0]).unwrap();
    cache.unpin(at);
    grants.inject(Call::Unmap, 0, Fault::Operation(Status::GENERAL_ERROR));
    let window = cache.dismantle(&&grants);
    assert_eq!((window.unusable(), window.is_usable(0)), (1, false));
    let mut cache = GrantCache::new(DOM, window).unwrap();
    let other = get(&mut cache, &grants, grefs[1]).unwrap();
    assert_ne!(other, at);
    assert!(
        get(&mut cache, &grants, grefs[2]).is_none(),
        "one frame, and it is pinned"
    );
}

proptest! {
    /// Over any sequence of uses: a reference always leads to its own page, a pinned page never
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
        let mut pinned: BTreeMap<usize, u64> = BTreeMap::new();
        for (i, keep, turn) in steps {
            if turn {
                cache.next_turn();
            }
            if let Some(at) = pinned.remove(&i) {
                prop_assert_eq!(cache.pin(grefs[i]), Some(at), "a pinned page moved");
                cache.unpin(at);
                cache.unpin(at);
            } else if let Some(at) = get(&mut cache, &grants, grefs[i]) {
                let mut byte = [0];
                prop_assert!(bus.read(at, &mut byte));
                prop_assert_eq!(usize::from(byte[0]), i, "another grant's page");
                if keep {
                    pinned.insert(i, at);
                } else {
                    cache.unpin(at);
                }
            }
            prop_assert!(grants.outstanding() <= frames);
        }
        for at in pinned.into_values() {
            cache.unpin(at);
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
    let missing = cache.pin_or_miss(gref).expect_err("it was never mapped");
    let at = get(&mut cache, &grants, gref).expect("a frame");
    assert!(
        cache.reserve(missing, false).is_none(),
        "the same place twice"
    );
    cache.unpin(at);
    cache.dismantle(&&grants);
}
