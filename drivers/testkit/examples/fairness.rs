//! Reports how a guest fares beside each kind of hostile neighbour, in virtual time: one line
//! `fairness key=value ...` for each, of which `cargo xtask bench --fairness` makes a table. Every
//! run reports the same.

use spindle_testkit::neighbours::{Guest, Kind, Neighbour, SSD, play};

const TIME_NS: u64 = 100_000_000;

fn main() {
    // What the disk does at most, in pages a second.
    let all = SSD.channels as f64 * 1e9 / SSD.page_ns as f64;
    line("none", &[], 0, all);
    for (count, rings) in [(1, 1), (4, 1), (1, 8)] {
        for kind in Kind::ALL {
            let beside = vec![Neighbour::flood(kind, rings); count];
            let share = all / (count + 1) as f64;
            line(&format!("{kind:?}"), &beside, rings, share);
        }
    }
}

fn line(kind: &str, beside: &[Neighbour], rings: usize, share: f64) {
    let single = play(SSD, guest(1), beside, TIME_NS);
    let many = play(SSD, guest(32), beside, TIME_NS);
    println!(
        "fairness kind={kind} neighbours={} rings={rings} channels={} page_us={} mean_us={} \
         worst_us={} share={:.2}",
        beside.len(),
        SSD.channels,
        SSD.page_ns / 1000,
        single.mean_ns / 1000,
        single.worst_ns / 1000,
        many.rate / share,
    );
}

fn guest(depth: usize) -> Guest {
    Guest {
        depth,
        persistent: true,
    }
}
