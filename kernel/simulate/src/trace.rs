//! What happened in a run: the last moments as text, and a number that all of it makes, by which two
//! runs are compared.

use std::cell::RefCell;
use std::collections::VecDeque;

/// How many moments are kept.
const KEPT: usize = 64;

/// The trace of the run on this thread.
#[derive(Debug, Default)]
struct Trace {
    now: u64,
    hash: u64,
    count: u64,
    last: VecDeque<(u64, Moment)>,
}

#[derive(Debug)]
enum Moment {
    Event(&'static str, [u64; 3]),
    Text(String),
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

impl Trace {
    fn add(&mut self, moment: Moment) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back((self.now, moment));
        self.count += 1;
    }

    /// FNV-1a, word by word.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3);
    }
}

/// Begins a run.
pub(crate) fn begin() {
    TRACE.with_borrow_mut(|trace| *trace = Trace::default());
}

/// The time of what is noted from now on.
pub(crate) fn set_now(now: u64) {
    TRACE.with_borrow_mut(|trace| trace.now = now);
}

/// An actor was run. It only counts for the hash: there are too many to be read.
pub(crate) fn step(number: u64) {
    TRACE.with_borrow_mut(|trace| {
        let now = trace.now;
        trace.mix(now);
        trace.mix(number);
    });
}

/// Something happened that a reader of the timeline is to see.
pub(crate) fn event(what: &'static str, numbers: [u64; 3]) {
    TRACE.with_borrow_mut(|trace| {
        let now = trace.now;
        trace.mix(now);
        what.bytes().for_each(|byte| trace.mix(byte.into()));
        numbers.iter().for_each(|number| trace.mix(*number));
        trace.add(Moment::Event(what, numbers));
    });
}

/// The same in words.
pub(crate) fn text(text: String) {
    TRACE.with_borrow_mut(|trace| {
        text.bytes().for_each(|byte| trace.mix(byte.into()));
        trace.add(Moment::Text(text));
    });
}

/// What all of the run makes, and how much was noted.
pub(crate) fn hash() -> u64 {
    TRACE.with_borrow(|trace| trace.hash ^ trace.count)
}

/// The last moments, one a line.
pub(crate) fn timeline() -> Vec<String> {
    TRACE.with_borrow(|trace| {
        let line = |(at, moment): &(u64, Moment)| {
            let at = *at as f64 / 1e9;
            match moment {
                Moment::Event(what, [a, b, c]) => {
                    let shown = what.replacen("{}", &a.to_string(), 1);
                    let shown = shown.replacen("{}", &b.to_string(), 1);
                    let shown = shown.replacen("{}", &c.to_string(), 1);
                    format!("{at:14.6}  {shown}")
                }
                Moment::Text(text) => format!("{at:14.6}  {text}"),
            }
        };
        trace.last.iter().map(line).collect()
    })
}

/// The domain's own log, which becomes a part of the timeline.
struct DomainLog;

impl log::Log for DomainLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        text(format!("log: {}", record.args()));
    }

    fn flush(&self) {}
}

/// Has the domain's log noted from now on.
pub(crate) fn take_log() {
    // An error means that it is taken already.
    if log::set_logger(&DomainLog).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
