//! Cache lines that more than one core touches during visits, by lackey's trace of every access.
//!
//! A line counts if one core writes it and another reads or writes it. One thread made all cores,
//! as the kernel's control core does, and plays each in turn, so that the trace tells without
//! doubt whose visit an access belongs to. What visits keep on the stack is left out: each core
//! has a stack of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Release};

use crate::allocator::LINE;
use crate::case::Case;
use crate::lane::{Lane, measured_turn};

/// A store to the first says that a visit is over, one to another that a visit of that core
/// begins: they divide the trace.
#[repr(align(64))]
struct Mark(AtomicU64);

const MOST_CORES: usize = 4;
static MARKS: [Mark; MOST_CORES + 1] = [const { Mark(AtomicU64::new(0)) }; MOST_CORES + 1];

/// Turns traced.
const TURNS: usize = 8;

/// What visits may need of the stack.
const STACK: usize = 1 << 20;

/// Runs the turns that lackey traces; prints where the marks and the stack are.
pub(crate) fn child(case: Case) {
    let here = 0u8;
    let stack = black_box(&raw const here).addr();
    println!("{} {stack}", (&raw const MARKS).addr());
    let mut lanes: Vec<Lane> = (0..case.cores).map(|_| Lane::new(case)).collect();
    for _ in 0..TURNS {
        for (lane, mark) in lanes.iter_mut().zip(&MARKS[1..]) {
            lane.turn(|worker, now_ns| {
                mark.0.store(1, Release);
                measured_turn(worker, now_ns);
                MARKS[0].0.store(1, Release);
            });
        }
    }
}

/// Who touched a line, one bit for each core.
#[derive(Clone, Copy, Default)]
struct Touched {
    reads: u8,
    writes: u8,
}

impl Touched {
    fn is_shared(self) -> bool {
        self.writes != 0 && (self.reads | self.writes).count_ones() > 1
    }
}

/// How many lines are shared; `None` without valgrind.
pub(crate) fn shared(case: Case) -> Option<usize> {
    let log = std::env::temp_dir().join(format!("hot_path-{}.trace", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes"])
        .arg(format!("--log-file={}", log.display()))
        .arg(std::env::current_exe().ok()?)
        .args(["--trace", &case.to_string()])
        .output();
    let places = output.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        let (marks, stack) = text.trim().split_once(' ')?;
        Some((marks.parse().ok()?, stack.parse().ok()?))
    });
    let shared = places.and_then(|(marks, stack)| count(&log, marks, stack, case.cores));
    let _ = std::fs::remove_file(&log);
    shared
}

/// Reads a trace: lines such as ` S 1ffeffe7e0,8`, with `L`oad, `S`tore or `M`odify.
fn count(log: &Path, marks: usize, stack: usize, cores: usize) -> Option<usize> {
    let mut core = None;
    let mut visits = 0;
    let mut lines: BTreeMap<usize, Touched> = BTreeMap::new();
    for line in BufReader::new(File::open(log).ok()?).split(b'\n') {
        let line = String::from_utf8_lossy(&line.ok()?).into_owned();
        let Some((kind @ ("L" | "S" | "M"), access)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let (address, bytes) = access.split_once(',')?;
        let address = usize::from_str_radix(address.trim(), 16).ok()?;
        let bytes: usize = bytes.trim().parse().ok()?;
        let mark = address.wrapping_sub(marks) / size_of::<Mark>();
        if mark <= MOST_CORES {
            core = mark.checked_sub(1);
            visits += usize::from(core.is_some());
            continue;
        }
        let Some(core) = core.filter(|_| !(stack - STACK..stack).contains(&address)) else {
            continue;
        };
        for line in address / LINE..=(address + bytes - 1) / LINE {
            let touched = lines.entry(line).or_default();
            if kind != "S" {
                touched.reads |= 1 << core;
            }
            if kind != "L" {
                touched.writes |= 1 << core;
            }
        }
    }
    // Had the marks not been found, nothing would be shared.
    assert_eq!(
        visits,
        2 * TURNS * cores,
        "the trace is not that of the visits"
    );
    Some(lines.values().filter(|touched| touched.is_shared()).count())
}
