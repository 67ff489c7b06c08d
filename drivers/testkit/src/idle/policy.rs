//! The policies: Spindle's, and those of the field.

use spindle_blkif::pacer::{Pacer, PollTime, Rest};
use spindle_blkif::wait::Wait;

/// What a core does after a turn that found nothing.
#[derive(Clone, Copy, Debug)]
pub enum Idle {
    /// Polls until work comes, or until then.
    Poll {
        /// When to ask again.
        until: u64,
    },
    /// Sleeps until a request comes, or until then. With `interrupts` the disk's end wakes it, too.
    Sleep {
        /// When a timer is to wake it, if any.
        until: Option<u64>,
        /// Whether the disk's interrupts are on.
        interrupts: bool,
    },
}

impl Idle {
    const POLL: Self = Self::Poll { until: u64::MAX };
    const BLOCK: Self = Self::Sleep {
        until: None,
        interrupts: true,
    };
}

/// What a turn finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A request, which is a write or a read, and goes to the disk.
    Request {
        /// Which of both it is.
        write: bool,
    },
    /// The disk is done with it.
    End,
}

/// What decides for a core that has one request at a time.
pub trait Policy {
    /// A turn begins.
    fn turn(&mut self, now: u64, found: Found);
    /// It found nothing, and the disk has something or not.
    fn idle(&mut self, now: u64, with_disk: bool) -> Idle;
}

/// Spindle's.
#[derive(Debug)]
pub struct Spindle {
    pacer: Pacer,
    wait: Wait,
    interrupts: bool,
}

impl Spindle {
    /// With `poll_us=` of so many nanoseconds.
    #[must_use]
    pub fn new(poll_ns: u64) -> Self {
        Self {
            pacer: Pacer::new(PollTime::For(poll_ns)),
            wait: Wait::default(),
            interrupts: false,
        }
    }

    /// The same if the disk's interrupt could end a nap, which it cannot.
    #[must_use]
    pub fn with_interrupts(poll_ns: u64) -> Self {
        Self {
            interrupts: true,
            ..Self::new(poll_ns)
        }
    }
}

impl Policy for Spindle {
    fn turn(&mut self, now: u64, found: Found) {
        let slept = self.pacer.wake(now);
        match found {
            Found::Nothing => return,
            Found::Request { write } => {
                let (read, written) = if write { (0, 8) } else { (8, 0) };
                self.wait.took(read, written);
                self.wait.note(now, false, 1, slept);
            }
            Found::End => self.wait.note(now, true, 0, slept),
        }
        self.pacer.worked(now);
    }

    fn idle(&mut self, now: u64, with_disk: bool) -> Idle {
        // A turn at a time, as in the worker.
        let poll = Idle::Poll { until: now };
        if self.pacer.goes_on(now) {
            return poll;
        }
        let rings = std::iter::once(&self.wait);
        match self.pacer.idle(now, usize::from(with_disk), false, rings) {
            Rest::Poll => poll,
            Rest::Sleep => {
                assert!(!with_disk, "nothing would wake it");
                Idle::BLOCK
            }
            Rest::Nap { until, .. } => Idle::Sleep {
                until: Some(until),
                interrupts: self.interrupts,
            },
        }
    }
}

/// Polls.
#[derive(Debug)]
pub struct Always;

impl Policy for Always {
    fn turn(&mut self, _now: u64, _found: Found) {}

    fn idle(&mut self, _now: u64, _with_disk: bool) -> Idle {
        Idle::POLL
    }
}

/// Sleeps until an interrupt comes.
#[derive(Debug)]
pub struct Interrupts;

impl Policy for Interrupts {
    fn turn(&mut self, _now: u64, _found: Found) {}

    fn idle(&mut self, _now: u64, _with_disk: bool) -> Idle {
        Idle::BLOCK
    }
}

/// Sleeps for half of what reads, or writes, have been taking on average, then polls until the end.
#[derive(Debug, Default)]
pub struct Hybrid {
    began: u64,
    write: bool,
    slept: bool,
    /// Of reads and of writes: how long all have taken, and how many there were.
    seen: [(u64, u64); 2],
}

impl Policy for Hybrid {
    fn turn(&mut self, now: u64, found: Found) {
        match found {
            Found::Nothing => {}
            Found::Request { write } => (self.began, self.write, self.slept) = (now, write, false),
            Found::End => {
                let (sum, count) = &mut self.seen[usize::from(self.write)];
                (*sum, *count) = (*sum + now - self.began, *count + 1);
            }
        }
    }

    fn idle(&mut self, now: u64, with_disk: bool) -> Idle {
        if !with_disk {
            return Idle::BLOCK;
        }
        let (sum, count) = self.seen[usize::from(self.write)];
        if self.slept || count == 0 {
            return Idle::POLL;
        }
        self.slept = true;
        Idle::Sleep {
            until: Some(now + sum / count / 2),
            interrupts: false,
        }
    }
}

/// Polls for so long after work, then sleeps until an interrupt comes.
#[derive(Debug)]
pub struct Napi {
    poll_ns: u64,
    worked: u64,
}

impl Napi {
    /// One that polls for 2 us.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            poll_ns: 2_000,
            worked: 0,
        }
    }
}

impl Default for Napi {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Napi {
    fn turn(&mut self, now: u64, found: Found) {
        if found != Found::Nothing {
            self.worked = now;
        }
    }

    fn idle(&mut self, now: u64, _with_disk: bool) -> Idle {
        let until = self.worked + self.poll_ns;
        if now < until {
            Idle::Poll { until }
        } else {
            Idle::BLOCK
        }
    }
}
