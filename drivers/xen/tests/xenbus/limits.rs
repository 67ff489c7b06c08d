//! How many devices there is room for: in xenstored's quota, in our table, for one guest.

use spindle_testkit::xenbus::{Bed, VBD};
use spindle_testkit::xenstored::Vbd;

/// Nodes that a domain may own by xenstored's default.
const QUOTA: usize = 1000;

/// Attaches one disk to each of many guests until one is not served; gives how many are.
fn served(guests: u16) -> (Bed, usize) {
    let mut bed = Bed::new();
    bed.settle();
    bed.store.set_quota(QUOTA);
    for frontend in 1..=guests {
        let vbd = Vbd { frontend, ..VBD };
        bed.attach(vbd);
        bed.run(30_000);
        if vbd.back_state(&bed.store) != 2 {
            return (bed, usize::from(frontend) - 1);
        }
    }
    (bed, guests.into())
}

/// "About 30 disks" of ctl/docs/limits.md: each has its node, the toolstack's and ours.
#[test]
fn xenstoreds_default_quota_is_enough_for_about_thirty_disks() {
    let (bed, count) = served(64);
    assert!((28..=34).contains(&count), "{count}");
    let next = Vbd {
        frontend: count as u16 + 1,
        ..VBD
    };
    let why = bed.error(next).unwrap_or_default();
    assert!(why.contains("quota"), "{why}");
    // The others work on.
    for frontend in 1..=count as u16 {
        assert_eq!(Vbd { frontend, ..VBD }.back_state(&bed.store), 2);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many devices to interpret")]
fn sixty_four_devices_are_served_and_not_one_more() {
    const MOST: usize = 64;
    let mut bed = Bed::new();
    bed.store.set_quota(100 * QUOTA);
    bed.store.set_watch_quota(2 * MOST);
    let vbds: Vec<_> = (1..=MOST as u16 + 2)
        .map(|frontend| Vbd { frontend, ..VBD })
        .collect();
    for vbd in &vbds {
        bed.attach(*vbd);
        bed.settle();
    }
    let served = vbds.iter().filter(|vbd| vbd.back_state(&bed.store) == 2);
    assert!(served.copied().eq(vbds[..MOST].iter().copied()));
    for vbd in &vbds[MOST..] {
        let why = bed.error(*vbd).unwrap();
        assert!(why.contains("64 are served already"), "{why}");
    }
    // A place that becomes free is filled, and no other device is looked at for that.
    bed.run(1_000);
    let before = bed.store.requests();
    vbds[5].destroy(&mut bed.store);
    bed.run(3_000);
    assert_eq!(vbds[MOST].back_state(&bed.store), 2);
    assert_eq!(vbds[MOST + 1].back_state(&bed.store), 1);
    let took = bed.store.requests() - before;
    assert!(took < 200, "{took} requests");
}

#[test]
fn the_reasons_of_the_last_thirty_two_refusals_are_kept() {
    let mut bed = Bed::new();
    let vbds: Vec<_> = (1..=50).map(|frontend| Vbd { frontend, ..VBD }).collect();
    for vbd in &vbds {
        vbd.attach(&mut bed.store, "nope", "w");
        bed.settle();
    }
    let kept: Vec<_> = vbds.iter().map(|vbd| bed.error(*vbd).is_some()).collect();
    assert_eq!(kept, (1..=50).map(|number| number > 18).collect::<Vec<_>>());
}
