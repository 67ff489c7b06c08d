//! Reports how tenants keep to limits and share a disk by weight, in virtual time: lines
//! `limits table=...`, of which `cargo xtask bench --limits` makes a page. Every run reports
//! the same.

use spindle_testkit::neighbours::SSD;
use spindle_testkit::nvme::Speed;
use spindle_testkit::tenants::{CoreUse, Tenant, TenantFigures, play};

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const SECOND: u64 = 1_000 * MS;

/// A disk that is never what holds anybody back.
const QUICK: Speed = Speed {
    channels: 256,
    page_ns: 5_000,
    discard_ns: 5_000,
    flush_ns: 5_000,
};

fn main() {
    caps();
    weights();
    beside();
    handed_on();
    over_time();
}

/// Floods that are held to a rate, on one core and on four.
fn caps() {
    let rates = [
        ("iops=10", false, 10),
        ("iops=100", false, 100),
        ("iops=1000", false, 1000),
        ("iops=10000", false, 10_000),
        ("iops=100000", false, 100_000),
        ("iops=1000000", false, 1_000_000),
        ("bandwidth=1M", false, 256),
        ("bandwidth=100M", false, 25_600),
        ("bandwidth=100M", true, 100),
        ("bandwidth=4G", true, 4096),
    ];
    for (limits, large, expected) in rates {
        for cores in [1, 4] {
            let tenant = Tenant {
                rings: cores,
                large,
                depth: if large { 8 } else { 128 },
                ..Tenant::flood(limits)
            };
            let (came, spent) = play(cores, QUICK, &[tenant], 3 * SECOND, SECOND);
            let TenantFigures {
                answered, held_ns, ..
            } = &came[0];
            let awake: u64 = spent.iter().map(|core: &CoreUse| core.awake_ns).sum();
            let sleeps: u64 = spent.iter().map(|core: &CoreUse| core.sleeps).sum();
            println!(
                "limits table=cap limit={limits} kib={} cores={cores} expected={expected} first={} second={} \
                 third={} held={:.1} awake={:.2} sleeps={}",
                if large { 1024 } else { 4 },
                answered[0],
                answered[1],
                answered[2],
                *held_ns as f64 * 100.0 / (3 * SECOND * cores as u64) as f64,
                awake as f64 * 100.0 / (3 * SECOND * cores as u64) as f64,
                sleeps / 3 / cores as u64,
            );
        }
    }
}

/// Three tenants that share a disk 1:2:4.
fn weights() {
    let weights = ["weight=8", "weight=16", "weight=32"];
    let mixes = (0..8).map(|mix| ([1, 2, 4].map(|bit| mix & bit != 0), [1; 3]));
    for (large, rings) in mixes.chain([([false; 3], [4, 1, 1])]) {
        let mut what = large
            .map(|large| if large { "1 MiB" } else { "4 KiB" })
            .join(", ");
        if rings[0] > 1 {
            what += ", the first by four rings";
        }
        let tenants: Vec<_> = (0..3)
            .map(|at| Tenant {
                large: large[at],
                rings: rings[at],
                ..Tenant::flood(weights[at])
            })
            .collect();
        let (came, _) = play(1, SSD, &tenants, 2 * SECOND, SECOND);
        let pages = |at: usize| came[at].answered[1] as f64 * if large[at] { 256.0 } else { 1.0 };
        let all: f64 = (0..3).map(pages).sum();
        let share = |at: usize| pages(at) * 7.0 / all;
        println!(
            "limits table=weight one={:.2} two={:.2} four={:.2} pages={all:.0} what={}",
            share(0),
            share(1),
            share(2),
            what.replace(' ', "_"),
        );
    }
}

/// A small tenant that reads a page at a time beside a flood of 1 MiB on four rings.
fn beside() {
    let small = Tenant {
        depth: 1,
        ..Tenant::flood("")
    };
    let flood = |limits| Tenant {
        rings: 4,
        large: true,
        ..Tenant::flood(limits)
    };
    for (what, others) in [
        ("alone", vec![]),
        ("beside the flood", vec![flood("")]),
        (
            "the flood is held to bandwidth=500M",
            vec![flood("bandwidth=500M")],
        ),
        ("the small one has weight=32", vec![flood("")]),
    ] {
        let mut tenants = vec![small.clone()];
        if what.contains("weight") {
            tenants[0].limits = "weight=32";
        }
        tenants.extend(others);
        let (came, _) = play(1, SSD, &tenants, SECOND, 100 * MS);
        let flood = came.get(1).map_or(0, |came| came.answered.iter().sum());
        let mean = came[0].took.iter().sum::<u64>() / came[0].took.len().max(1) as u64;
        println!(
            "limits table=beside mean_us={} p99_us={} flood_mib_s={flood} what={}",
            mean / US,
            came[0].p99_ns() / US,
            what.replace(' ', "_"),
        );
    }
}

/// How soon the others have what a tenant does not use any more: in a group with one rate, and by weight.
fn handed_on() {
    const PAUSE: u64 = 300;
    let one = |limits, group| Tenant {
        group,
        ..Tenant::flood(limits)
    };
    let group = Some("iops=100000");
    for (what, speed, cores, mut tenants) in [
        (
            "a group of two held to iops=100000, on one core",
            QUICK,
            1,
            vec![one("", group); 2],
        ),
        (
            "the same on two cores",
            QUICK,
            2,
            vec![
                one("", group),
                Tenant {
                    rings: 2,
                    ..one("", group)
                },
            ],
        ),
        (
            "three that share a disk 1:2:4",
            SSD,
            1,
            vec![
                one("weight=8", None),
                one("weight=16", None),
                one("weight=32", None),
            ],
        ),
    ] {
        let last = tenants.len() - 1;
        tenants[last].pause = (PAUSE * MS, 600 * MS);
        let (came, _) = play(cores, speed, &tenants, 600 * MS, MS);
        let others = |ms: u64| -> u64 {
            came[..last]
                .iter()
                .map(|came| came.answered[ms as usize])
                .sum()
        };
        let mean =
            |from: u64, to: u64| (from..to).map(others).sum::<u64>() as f64 / (to - from) as f64;
        let (before, after) = (mean(200, PAUSE), mean(400, 500));
        // From then on, over 5 ms each, nine tenths of what is new are there.
        let enough = before + (after - before) * 0.9;
        let soon = (PAUSE..500).find(|&ms| mean(ms, ms + 5) >= enough);
        println!(
            "limits table=handed before={:.0} after={:.0} ms={} what={}",
            before * 1000.0,
            after * 1000.0,
            soon.map_or("-".into(), |ms| (ms - PAUSE).to_string()),
            what.replace(' ', "_"),
        );
    }
}

/// Three tenants over time.
fn over_time() {
    const EVERY: u64 = 10;
    let tenants = [
        Tenant::flood("weight=8"),
        Tenant {
            then: Some((600 * MS, "weight=16:iops=50000")),
            ..Tenant::flood("weight=16")
        },
        Tenant {
            pause: (200 * MS, 400 * MS),
            ..Tenant::flood("weight=32")
        },
    ];
    let (came, _) = play(1, SSD, &tenants, 800 * MS, EVERY * MS);
    for at in 0..80 {
        let rate = |tenant: usize| came[tenant].answered[at] * 1000 / EVERY;
        println!(
            "limits table=time ms={} one={} two={} four={}",
            at as u64 * EVERY,
            rate(0),
            rate(1),
            rate(2)
        );
    }
}
