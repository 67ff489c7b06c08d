//! Whatever its neighbours on the core ask for, a guest gets its share of the disk, in time.
//!
//! The disk works on more pages at once than there are rings: on another, reads of other rings are
//! in the way however few there are.

use proptest::prelude::*;
use spindle_testkit::neighbours::{Guest, Kind, Neighbour, Outcome, SSD, play};
use spindle_testkit::nvme::Speed;

const TIME_NS: u64 = 20_000_000;

/// The largest command that is given to a disk while rings compete, in pages.
const LARGEST: usize = 32;

fn neighbour() -> impl Strategy<Value = Neighbour> {
    let kind = prop::sample::select(Kind::ALL.to_vec());
    let depth = prop_oneof![3 => Just(usize::MAX), 1 => 1..64usize];
    let rings = prop_oneof![1 => Just(1), 1 => 2..9usize];
    (kind, 0..5u32, depth, rings).prop_map(|(kind, order, depth, rings)| Neighbour {
        kind,
        rings,
        pages: 1 << order,
        depth,
    })
}

/// Channels that discards and flushes keep from all others: one of each kind for each guest, by
/// however many rings it asks for them.
fn held(neighbours: &[Neighbour]) -> usize {
    let held = |neighbour: &Neighbour| match neighbour.kind {
        Kind::Discards | Kind::Flushes => 1,
        Kind::Mixed => 2,
        _ => 0,
    };
    neighbours.iter().map(held).sum()
}

fn check(speed: Speed, persistent: bool, neighbours: &[Neighbour]) -> Result<(), TestCaseError> {
    let one = Guest {
        depth: 1,
        persistent,
    };
    let many = Guest {
        depth: 32,
        persistent,
    };
    let alone = play(speed, one, &[], TIME_NS);
    let beside = play(speed, one, neighbours, TIME_NS);
    let command_ns = LARGEST.div_ceil(speed.channels) as u64 * speed.page_ns * 9 / 8;
    let bound = 2 * alone.worst_ns + command_ns;
    prop_assert!(
        beside.worst_ns <= bound,
        "{beside:?}, alone {alone:?}, at most {bound}"
    );
    let all = play(speed, many, &[], TIME_NS).rate;
    let channels = speed.channels - held(neighbours);
    let disk = channels as f64 * 1e9 / speed.page_ns as f64;
    // At twice the latency, which it may have by the first bound, 32 reads at a time can use half
    // of what they can alone.
    let fair = (all / 2.0).min(disk / (neighbours.len() + 1) as f64);
    let Outcome { rate, .. } = play(speed, many, neighbours, TIME_NS);
    prop_assert!(rate >= 0.9 * fair, "{rate} reads a second of {fair}");
    Ok(())
}

/// What sharing by ring fails at, whatever cases are drawn below.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn a_guest_gets_its_share_beside_one_with_many_rings() {
    for (kind, persistent) in [
        (Kind::Pages, true),
        (Kind::Large, true),
        (Kind::CopiedLarge, false),
        (Kind::Discards, true),
        (Kind::Flushes, true),
        (Kind::Mixed, false),
    ] {
        let speed = Speed {
            channels: 16,
            ..SSD
        };
        let rings = match kind {
            Kind::Discards | Kind::Flushes | Kind::Mixed => 12,
            _ => 4,
        };
        check(speed, persistent, &[Neighbour::flood(kind, rings)]).unwrap();
    }
}

/// A copied guest, which asks for its next page a little later than others, has nothing but its own
/// share beside one that takes all that is lent: a share that is rounded down is too little.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn a_share_of_a_small_window_is_not_rounded_down() {
    let kinds = [Kind::Pages, Kind::Discards, Kind::Discards];
    let neighbours = kinds.map(|kind| Neighbour {
        kind,
        rings: 1,
        pages: 1,
        depth: usize::MAX,
    });
    let speed = Speed {
        channels: 16,
        ..SSD
    };
    check(speed, false, &neighbours).unwrap();
}

/// A case takes a second or two without optimizations.
fn config() -> ProptestConfig {
    let all = ProptestConfig::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        _ if cfg!(miri) => 1,
        Some(_) => all.cases,
        None => 4,
    };
    ProptestConfig { cases, ..all }
}

proptest! {
    #![proptest_config(config())]

    /// One read at a time takes at most twice as long as alone, and a command of the disk; many
    /// get nine tenths of their fair share. More cases: `PROPTEST_CASES=100`.
    #[test]
    fn a_guest_gets_its_share_beside_any_neighbours(
        neighbours in prop::collection::vec(neighbour(), 1..5),
        channels in prop::sample::select(vec![16usize, 32, 64, 128]),
        persistent: bool,
    ) {
        check(Speed { channels, ..SSD }, persistent, &neighbours)?;
    }
}
