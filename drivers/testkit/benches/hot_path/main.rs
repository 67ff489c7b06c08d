//! What an I/O costs between ring and disk: the real ring, blkif, grant cache and NVMe code, with
//! the types that the kernel has, in a closed loop with a frontend, a disk and grant tables that
//! cost nothing.
//!
//! Without arguments every case is timed, counted under callgrind, and, for several rings, looked
//! at under lackey for cache lines that more than one core touches. Arguments name what to do:
//! `time`, `instructions`, `lines`; or, alone, `bounds`, which fails if more instructions are counted
//! than may be. Lines that begin with `bench` are for programs.
//!
//! Whole turns of a worker are measured, but for the clock, which they are handed. The frontend and
//! the disk run between them, so that neither the one's writing of requests nor the other's of
//! completions is counted; nor is what grant operations would do, but for the reading of mapped
//! lists.

mod allocator;
mod case;
mod front;
mod grants;
mod instructions;
mod lane;
mod lines;
mod time;

use case::Case;

fn main() {
    // `cargo bench` adds `--bench`.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--count", case] => instructions::child(case.parse().expect("a case")),
        ["--trace", case] => lines::child(case.parse().expect("a case")),
        ["bounds"] => check_bounds(),
        _ => report(|what| args.is_empty() || args.contains(&what)),
    }
}

/// Compares the instructions of every case, on one core, with what they may be.
fn check_bounds() {
    let mut exceeded = false;
    for case in Case::all().filter(|case| case.cores == 1) {
        let Some(counted) = instructions::count(case) else {
            println!("there is no valgrind to count instructions with");
            return;
        };
        let bound = case.bound();
        if counted > bound {
            println!("{case}: {counted:.1} instructions, of at most {bound}");
            exceeded = true;
        }
    }
    std::process::exit(exceeded.into());
}

/// Measures what is wanted of every case.
fn report(wanted: impl Fn(&str) -> bool) {
    println!(
        "per request, or per turn that finds nothing: ns, ns of the worst sample, cycles, \
         instructions, lines shared by cores"
    );
    for case in Case::all() {
        let mut words = vec![format!("bench name={case}")];
        let mut columns = vec![format!("{:32}", case.to_string())];
        let mut add = |name: &str, value: Option<String>| {
            let value = value.unwrap_or_else(|| "-".into());
            columns.push(format!("{value:>8}"));
            words.push(format!("{name}={value}"));
        };
        if wanted("time") && case.batch > 0 {
            let spent = time::measure(case);
            add("ns", Some(format!("{:.1}", spent.ns)));
            add("ns_worst", Some(format!("{:.1}", spent.ns_worst)));
            add("cycles", Some(format!("{:.0}", spent.cycles)));
        }
        if wanted("instructions") {
            add(
                "instr",
                instructions::count(case).map(|n| format!("{n:.1}")),
            );
        }
        if wanted("lines") && case.cores > 1 && case.batch > 1 {
            add("shared_lines", lines::shared(case).map(|n| n.to_string()));
        }
        if words.len() == 1 {
            continue;
        }
        println!("{}", columns.join(" "));
        println!("{}", words.join(" "));
    }
}
