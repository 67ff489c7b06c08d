//! Reports what idle policies come to in virtual time: one line `idle key=value ...` for each and for each
//! disk, think time and machine, of which `cargo xtask bench --idle` makes a page. Every run reports the
//! same.

use spindle_testkit::idle::{Always, Host, Hybrid, Interrupts, Napi, Policy, Spindle, Times, play};

const US: u64 = 1_000;
const REQUESTS: usize = 20_000;

const HOSTS: [(&str, Host); 3] = [
    ("quick", host(5, 5, 0)),
    ("stock", host(5, 5, 50)),
    ("slow", host(30, 60, 0)),
];

const fn host(event: u64, timer: u64, slop: u64) -> Host {
    Host {
        event_ns: event * US,
        timer_ns: timer * US,
        slop_ns: slop * US,
    }
}

const DISKS: [(&str, Times); 6] = [
    ("fixed-10", Times::Fixed(10 * US)),
    ("fixed-80", Times::Fixed(80 * US)),
    ("exponential-80", Times::Exponential(80 * US)),
    ("bimodal-80-1000", Times::Bimodal(80 * US, 1000 * US, 5)),
    ("turns-80-15", Times::ByTurns(80 * US, 15 * US)),
    ("fixed-5000", Times::Fixed(5000 * US)),
];

const THINKS: [(&str, Times); 5] = [
    ("0", Times::Fixed(0)),
    ("50", Times::Fixed(50 * US)),
    ("105", Times::Fixed(105 * US)),
    ("exponential-100", Times::Exponential(100 * US)),
    ("1000", Times::Fixed(1000 * US)),
];

fn main() {
    for (host, hosts) in HOSTS {
        for (disk, disks) in DISKS {
            for (think, thinks) in THINKS {
                let report = |policy: &str, decide: &mut dyn Policy| {
                    let outcome = play(hosts, disks, thinks, decide, REQUESTS);
                    let us = |ns: u64| ns as f64 / US as f64;
                    println!(
                        "idle host={host} disk={disk} think={think} policy={policy} mean_us={:.1} \
                         p99_us={:.0} cpu_us={:.1} sleeps={:.1}",
                        us(outcome.mean_ns),
                        us(outcome.p99_ns),
                        us(outcome.cpu_ns),
                        outcome.sleeps,
                    );
                };
                report("spindle", &mut Spindle::new(100 * US));
                report("spindle-msi", &mut Spindle::with_interrupts(100 * US));
                report("always", &mut Always);
                report("interrupts", &mut Interrupts);
                report("hybrid", &mut Hybrid::default());
                report("napi", &mut Napi::new());
            }
        }
    }
}
