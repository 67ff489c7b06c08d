//! Rings keep to the rates of their devices and groups, however many there are and whatever they ask
//! for, and can have all of what the others do not use.

use std::sync::Arc;

use proptest::prelude::*;
use spindle_limits::{Allowance, IoLimits, Meters, SLICE_NS, Usage};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn limits(words: &str) -> IoLimits {
    let mut limits = IoLimits::default();
    limits.set_all(words).expect(words);
    limits
}

/// A ring that takes as much as it may.
struct Ring {
    allowance: Allowance,
    done: Usage,
}

impl Ring {
    fn of<const N: usize>(meters: [&Arc<Meters>; N]) -> Self {
        let meters = meters.into_iter().cloned();
        Self {
            allowance: Allowance::new(meters, Usage::default()),
            done: Usage::default(),
        }
    }

    /// Takes up to `most` requests of so many sectors, as a ring core does: as long as there are pages.
    fn ask(&mut self, now_ns: u64, most: u32, sectors: u64, write: bool) -> u32 {
        let done = self.done;
        let mut left = self.allowance.pages(now_ns, || done);
        let pages = sectors.div_ceil(8) as u32;
        let mut taken = 0;
        while taken < most && left > 0 {
            left = left.saturating_sub(pages);
            self.allowance.take(pages);
            let (count, moved) = match write {
                true => (&mut self.done.writes, &mut self.done.sectors_written),
                false => (&mut self.done.reads, &mut self.done.sectors_read),
            };
            *count += 1;
            *moved += sectors;
            taken += 1;
        }
        taken
    }

    fn bytes(&self) -> u64 {
        (self.done.sectors_read + self.done.sectors_written) * 512
    }

    fn count(&self) -> u64 {
        self.done.reads + self.done.writes
    }
}

fn near(count: u64, expected: u64) -> bool {
    count.abs_diff(expected) * 50 <= expected
}

#[test]
fn rates_from_10_to_a_million_are_kept_within_two_percent_over_any_second() {
    for rate in [10, 11, 37, 101, 999, 10_007, 123_456, 1_000_000] {
        for rings in [1, 3] {
            let meters = Arc::new(Meters::new(&limits(&format!("iops={rate}")), 0));
            let mut all: Vec<_> = (0..rings).map(|_| Ring::of([&meters])).collect();
            // Idle at first, so that the burst is full; then every ring asks every 5 us.
            let (mut now, mut seconds) = (5 * SECOND, Vec::new());
            for _ in 0..3 {
                let before: u64 = all.iter().map(Ring::count).sum();
                let end = now + SECOND;
                while now < end {
                    for ring in &mut all {
                        ring.ask(now, 32, 8, false);
                    }
                    now += 5_000;
                }
                seconds.push(all.iter().map(Ring::count).sum::<u64>() - before);
            }
            assert!(
                seconds.iter().all(|&n| near(n, rate)),
                "{rate} {rings}: {seconds:?}"
            );
        }
    }
}

#[test]
fn bandwidth_is_kept_with_requests_larger_than_what_is_left() {
    for (sectors, rate) in [
        (1, 1 << 20),
        (8, 50 << 20),
        (2048, 10 << 20),
        (2048, 4 << 30),
    ] {
        let meters = Arc::new(Meters::new(&limits(&format!("bandwidth={rate}")), 0));
        let mut rings = [Ring::of([&meters]), Ring::of([&meters])];
        let mut now = SECOND;
        while now < 11 * SECOND {
            for ring in &mut rings {
                ring.ask(now, 32, sectors, true);
            }
            now += 10_000;
        }
        let bytes: u64 = rings.iter().map(Ring::bytes).sum();
        assert!(near(bytes, 10 * rate), "{sectors} {rate}: {bytes}");
        let [first, second] = rings.map(|ring| ring.bytes());
        let most = 3 * 2048 * 512 + first / 50;
        assert!(
            first.abs_diff(second) <= most,
            "{first} {second}: they take turns"
        );
    }
}

#[test]
fn what_one_does_not_use_others_of_its_group_have_at_once() {
    let group = Arc::new(Meters::new(&limits("iops=10000"), 0));
    let mut rings = [Ring::of([&group]), Ring::of([&group])];
    let (mut now, mut counts) = (0, [0; 3]);
    // Both ask, then the second one pauses, then both do again.
    for (phase, count) in counts.iter_mut().enumerate() {
        let end = now + SECOND;
        let mut first = rings[0].count();
        let began = now;
        while now < end {
            rings[0].ask(now, 32, 8, false);
            if phase != 1 {
                rings[1].ask(now, 32, 8, false);
            }
            now += 20_000;
            // What it has in the first 10 ms is not looked at.
            if now - began <= 10 * MS {
                first = rings[0].count();
            }
        }
        *count = rings[0].count() - first;
    }
    let (half, all) = (4_950, 9_900);
    assert!(
        near(counts[0], half) && near(counts[1], all) && near(counts[2], half),
        "{counts:?}"
    );
}

#[test]
fn reads_and_writes_are_limited_apart_and_a_device_within_its_group() {
    let group = Arc::new(Meters::new(&limits("iops=1000"), 0));
    let small = Arc::new(Meters::new(&limits("iops-write=100"), 0));
    let mut rings = [Ring::of([&small, &group]), Ring::of([&group])];
    let mut now = SECOND;
    while now < 2 * SECOND {
        rings[0].ask(now, 32, 8, true);
        rings[1].ask(now, 32, 8, true);
        now += 20_000;
    }
    assert!(near(rings[0].count(), 100), "{}", rings[0].count());
    assert!(near(rings[1].count(), 900), "{}", rings[1].count());
    while now < 3 * SECOND {
        rings[0].ask(now, 32, 8, false);
        now += 20_000;
    }
    let reads = rings[0].done.reads;
    assert!(
        near(reads, 1000),
        "{reads}: its reads have the limit of the group only"
    );
}

#[test]
fn a_burst_makes_up_for_a_pause_and_for_no_more() {
    for (burst, expected) in [(0, 1), (10, 10), (200, 200)] {
        let words = format!("iops=1000:burst={burst}");
        let meters = Arc::new(Meters::new(&limits(&words), 0));
        let mut ring = Ring::of([&meters]);
        let now = 10 * SECOND;
        let taken: u32 = (0..1000).map(|_| ring.ask(now, 1, 8, false)).sum();
        assert_eq!(taken, expected, "{words}");
    }
}

#[test]
fn a_ring_that_is_held_back_knows_until_when_and_since_when() {
    let meters = Arc::new(Meters::new(&limits("iops=10:burst=0"), 0));
    let mut ring = Ring::of([&meters]);
    assert_eq!(ring.ask(SECOND, 5, 8, false), 1);
    assert_eq!(ring.allowance.take_held(), None);
    assert_eq!(ring.ask(SECOND + 7, 5, 8, false), 0);
    assert_eq!(ring.allowance.from_ns(), SECOND + 100 * MS);
    assert_eq!(ring.ask(SECOND + 99 * MS, 5, 8, false), 0);
    assert_eq!(ring.ask(SECOND + 100 * MS, 5, 8, false), 1);
    assert_eq!(ring.allowance.take_held(), Some(SECOND + 7));
    assert_eq!(ring.allowance.take_held(), None);
}

#[test]
fn cores_that_draw_at_the_same_moment_share_and_lose_nothing() {
    let meters = Arc::new(Meters::new(&limits("iops=1000000"), 0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut ring = Ring::of([&meters]);
            std::thread::spawn(move || {
                for step in 0..20_000 {
                    ring.ask(SECOND + step * 50_000, 1000, 8, false);
                }
                ring.count()
            })
        })
        .collect();
    let count: u64 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    // A second, the burst, and a lease of each.
    let most = 1_000_000 + 10_000 + 4 * SLICE_NS / 1000;
    assert!(count <= most, "{count}");
}

proptest! {
    /// Whatever is asked for when: over any span no more than the rate, the burst, and what each ring
    /// may have too much of.
    #[test]
    fn no_span_of_time_has_more_than_its_share(
        rate in prop_oneof![10..1000u64, 1000..1_000_000u64],
        burst in 0..100u64,
        rings in 1..5usize,
        asks in prop::collection::vec((0..3 * MS, 0..5usize, 1..40u32, 1..300u64), 1..400),
    ) {
        let words = format!("bandwidth={}:burst={burst}", rate * 4096);
        let meters = Arc::new(Meters::new(&limits(&words), 0));
        let mut all: Vec<_> = (0..rings).map(|_| Ring::of([&meters])).collect();
        let (mut now, mut done) = (SECOND, vec![(SECOND, 0u64)]);
        for (wait, ring, most, sectors) in asks {
            now += wait;
            all[ring % rings].ask(now, most, sectors, false);
            done.push((now, all.iter().map(Ring::bytes).sum()));
        }
        let slice = (rate * 4096 * SLICE_NS / SECOND).max(4096);
        // A lease that was drawn and kept, and a request that began with its last page.
        let kept = rings as u64 * (2 * slice + 300 * 512);
        for (at, &(from, before)) in done.iter().enumerate() {
            for &(until, after) in &done[at..] {
                let span = u128::from(until - from + burst * MS);
                let most = (span * u128::from(rate) * 4096).div_ceil(SECOND.into()) as u64;
                prop_assert!(after - before <= most + kept, "{} of {most} + {kept}", after - before);
            }
        }
    }
}
