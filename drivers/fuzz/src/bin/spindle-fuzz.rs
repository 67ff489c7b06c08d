//! Runs one target on a stable compiler: over variations of its corpus for some time, or over one
//! file. `cargo xtask fuzz` calls it:
//!
//! ```text
//! spindle-fuzz TARGET vary SEED FIRST SECONDS FAILURE
//! spindle-fuzz TARGET replay FILE
//! ```
//!
//! `vary` begins with input number FIRST and prints the number of the next one. It may end early,
//! since pages of fakes are never freed. The input that a panic or a hang is due to goes to the
//! file FAILURE.
#![forbid(unsafe_code)]

use std::process::{ExitCode, abort};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, panic, thread};

use spindle_fuzz::vary::{Vary, corpus};
use spindle_fuzz::{Run, TARGETS};

/// No input takes as long as that.
const LIMIT: Duration = Duration::from_secs(20);
/// Pages of 4 KiB of memory, after which another process goes on.
const MEMORY: u64 = 1 << 18;

/// The input under way, and since when.
type Current = Arc<Mutex<(Vec<u8>, Instant)>>;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = |name: &str| {
        TARGETS
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, run)| *run)
    };
    let done = match words[..] {
        [name, "replay", file] => run(name).zip(fs::read(file).ok()).map(|(run, input)| {
            run(&input);
            println!("{name} holds for {file}");
        }),
        [name, "vary", seed, first, seconds, failure] => (|| {
            let (run, kept) = (run(name)?, corpus(name).ok()?);
            let time = Duration::from_secs(seconds.parse().ok()?);
            watch(failure.to_owned(), |current| {
                let (seed, first) = (seed.parse().ok()?, first.parse().ok()?);
                println!("{}", vary(run, kept, seed, first, time, current));
                Some(())
            })
        })(),
        _ => None,
    };
    if done.is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("spindle-fuzz TARGET vary SEED FIRST SECONDS FAILURE | TARGET replay FILE");
    ExitCode::FAILURE
}

/// Runs the target for so long, and returns the number of the next input.
fn vary(
    run: Run,
    kept: Vec<Vec<u8>>,
    seed: u64,
    first: u64,
    time: Duration,
    current: &Current,
) -> u64 {
    let (start, vary) = (Instant::now(), Vary::new(kept));
    let mut number = first;
    while start.elapsed() < time && (!number.is_multiple_of(64) || pages_in_use() < MEMORY) {
        let input = vary.input(seed, number);
        *current.lock().unwrap_or_else(PoisonError::into_inner) = (input.clone(), Instant::now());
        run(&input);
        number += 1;
    }
    number
}

/// Calls `with` while it is seen to that an input that fails is kept.
fn watch<T>(failure: String, with: impl FnOnce(&Current) -> T) -> T {
    let current: Current = Arc::new(Mutex::new((Vec::new(), Instant::now())));
    let keep = |current: &Current, failure: &str| {
        let (input, _) = &*current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = fs::write(failure, input) {
            eprintln!(
                "write {failure}: {error}; the input: {}",
                input.escape_ascii()
            );
        }
    };
    let (watched, name) = (Arc::clone(&current), failure.clone());
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        keep(&watched, &name);
        show(info);
    }));
    let watched = Arc::clone(&current);
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            let since = watched.lock().unwrap_or_else(PoisonError::into_inner).1;
            if since.elapsed() > LIMIT {
                keep(&watched, &failure);
                eprintln!("no end of it after {} s", LIMIT.as_secs());
                abort();
            }
        }
    });
    with(&current)
}

/// What this process has of the memory, where that can be known.
fn pages_in_use() -> u64 {
    let known = fs::read_to_string("/proc/self/statm").ok();
    let resident = known.and_then(|text| text.split(' ').nth(1)?.parse().ok());
    resident.unwrap_or(0)
}
