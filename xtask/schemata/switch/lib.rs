//! The switch between mutants: which one is active, as the environment says. A crate of its own in the
//! copy of the sources (this file is its only one), which a mutated crate asks at each place.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Mutex;
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
static SEEN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Whether this mutant is the active one.
#[inline]
pub fn on(mutant: u32) -> bool {
    let state = STATE.load(Ordering::Relaxed);
    if state < NONE { state == mutant } else { seldom(state, mutant) }
}

#[cold]
fn seldom(state: u32, mutant: u32) -> bool {
    match state {
        UNREAD => {
            let state = match std::env::var(ACTIVE) {
                Ok(number) => number.parse().expect("MUTANT is a number"),
                Err(_) if std::env::var_os(TRACE).is_some() => TRACED,
                Err(_) => NONE,
            };
            STATE.store(state, Ordering::Relaxed);
            on(mutant)
        }
        TRACED => {
            // A test that panics here elsewhere leaves the set as it was.
            let mut seen = SEEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if seen.insert(mutant) {
                note(mutant);
            }
            false
        }
        _ => false,
    }
}

/// At once, since a process may end in any way.
fn note(mutant: u32) {
    let path = std::env::var_os(TRACE).expect("it was there");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the trace can be written");
    file.write_all(format!("{mutant}\n").as_bytes())
        .expect("the trace can be written");
}
