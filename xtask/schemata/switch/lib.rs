//! The switch between mutants: which one is active, as the environment says. A crate of its own in the
//! copy of the sources (this file is its only one), which a mutated crate asks at each place. Nothing is
//! allocated but when the environment is read: there are tests that count.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The number of the active mutant.
const ACTIVE: &str = "MUTANT";
/// A file to which the number of each mutant is added, in a line, when its place is first reached.
const TRACE: &str = "MUTANT_TRACE";

/// No number: the environment has not been read.
const UNREAD: u32 = u32::MAX;
/// No number: places are to be noted.
const TRACED: u32 = u32::MAX - 1;
/// No number: no mutant is active.
const NONE: u32 = u32::MAX - 2;

static STATE: AtomicU32 = AtomicU32::new(UNREAD);
static NOTES: OnceLock<File> = OnceLock::new();
/// A bit for each mutant that was noted; those of higher numbers are noted each time.
static SEEN: [AtomicU32; 2048] = [const { AtomicU32::new(0) }; 2048];

/// Whether this mutant is the active one.
#[inline]
pub fn on(mutant: u32) -> bool {
    let state = STATE.load(Ordering::Relaxed);
    if state < NONE {
        state == mutant
    } else {
        seldom(state, mutant)
    }
}

#[cold]
fn seldom(state: u32, mutant: u32) -> bool {
    match state {
        UNREAD => {
            STATE.store(read(), Ordering::Relaxed);
            return on(mutant);
        }
        TRACED => note(mutant),
        _ => {}
    }
    false
}

fn read() -> u32 {
    if let Ok(number) = std::env::var(ACTIVE) {
        return number.parse().expect("MUTANT is a number");
    }
    let Some(path) = std::env::var_os(TRACE) else {
        return NONE;
    };
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(path);
    // Another thread may have been faster.
    let _ = NOTES.set(file.expect("the trace can be written"));
    TRACED
}

/// At once, since a process may end in any way.
fn note(mutant: u32) {
    let bit = 1 << (mutant % 32);
    let word = SEEN.get(mutant as usize / 32);
    if word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit != 0) {
        return;
    }
    let mut line = [0; 16];
    let mut rest = &mut line[..];
    let _ = writeln!(rest, "{mutant}");
    let length = 16 - rest.len();
    let mut file = NOTES.get().expect("it was opened before");
    file.write_all(&line[..length])
        .expect("the trace can be written");
}
