//! Prints how a guest fares beside each kind of hostile neighbour, as `cargo xtask bench
//! --fairness` does.

use spindle_testkit::neighbours::{Guest, Kind, Neighbour, SSD, play};

const TIME_NS: u64 = 100_000_000;

fn main() {
    let one = guest(1);
    let alone = play(SSD, one, &[], TIME_NS);
    let all = SSD.channels as f64 * 1e9 / SSD.page_ns as f64;
    println!(
        "A guest that reads 4 KiB at a time, beside neighbours that ask for all that their rings \
         hold, on one core\nand a disk that works on {} pages at once, {} us each. Alone one read \
         takes {} us, at most {} us.\n",
        SSD.channels,
        SSD.page_ns / 1000,
        alone.mean_ns / 1000,
        alone.worst_ns / 1000,
    );
    println!(
        "| neighbours | one at a time: us | worst us | worst / alone | 32: of an equal share |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for (count, rings) in [(1, 1), (4, 1), (1, 8)] {
        for kind in Kind::ALL {
            let beside = vec![Neighbour::flood(kind, rings); count];
            let single = play(SSD, one, &beside, TIME_NS);
            let many = play(SSD, guest(32), &beside, TIME_NS);
            println!(
                "| {count} x {kind:?}, rings: {rings} | {} | {} | {:.2} | {:.2} |",
                single.mean_ns / 1000,
                single.worst_ns / 1000,
                single.worst_ns as f64 / alone.worst_ns as f64,
                many.rate / (all / (count + 1) as f64),
            );
        }
    }
}

fn guest(depth: usize) -> Guest {
    Guest {
        depth,
        persistent: true,
    }
}
