//! When the control core looks at what, and how long it sleeps in between.
//!
//! An event makes control look sooner, and nothing depends on one: xenstored's ring, the cores'
//! mailboxes and the disks are looked at once a second whatever has been heard of them. So no state
//! of an event channel decides whether control goes on, only when.

use spindle_blkif::worker::Next;
use spindle_xen::event::Deadline;

/// How often control looks at everything. Several looks fit into the 10 s that the toolstack gives
/// an attach, and one a second costs less than a thousandth of a CPU even where the hypervisor is
/// itself emulated and a sleep costs a millisecond.
pub const LOOK_NS: u64 = 1_000_000_000;
/// How often the disks are looked at while one is being reset.
const RESET_NS: u64 = 1_000_000;
/// How often they are looked at while a core is waited for that has not answered for long.
const LATE_NS: u64 = 100_000_000;
/// How soon to look for the answer of a core. Cores do not wake control: an event for it would
/// wake every core that sleeps on more than one port.
const ANSWER_NS: u64 = 500_000;

/// How control sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Not at all: there is something to do.
    No,
    /// On xenstored's port.
    Store(Deadline),
    /// On xenstored's port and those of the local worker's rings, if the worker agrees.
    StoreAndRings(Deadline),
}

/// How soon the disks are to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing is under way.
    Idle,
    /// A core is late, and nothing else is waited for.
    Late,
    /// A disk is being reset, or the cores are waited for.
    Soon,
}

/// When things are due, in nanoseconds on the clock of every call.
#[derive(Debug, Default)]
pub struct Rounds {
    /// When the backend is to be pumped for what it has to do itself.
    pump_at: u64,
    /// When all is looked at. At once, so that an idle core wakes for all of it together.
    look_at: u64,
}

impl Rounds {
    /// With everything due at once.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pump_at: 0,
            look_at: 0,
        }
    }

    /// The backend has something to do besides what xenstored may send.
    pub fn pump_soon(&mut self) {
        self.pump_at = 0;
    }

    /// Whether the backend is to be pumped: `event` tells whether xenstored has sent one. What was
    /// due is taken to be done.
    pub fn take_pump(&mut self, event: bool, now_ns: u64) -> bool {
        let due = event || now_ns >= self.pump_at || now_ns >= self.look_at;
        if due {
            self.pump_at = u64::MAX;
        }
        due
    }

    /// The backend was pumped, and is to be pumped again at `deadline_ns` if not sooner.
    pub fn pumped(&mut self, deadline_ns: Option<u64>) {
        self.pump_at = deadline_ns.map_or(self.pump_at, |at| at.min(self.pump_at));
    }

    /// Whether a look is due. The backend and the mailboxes have had theirs by then in the same turn;
    /// what is left are the disks, and what else is done now and then.
    #[must_use]
    pub fn are_disks_due(&self, now_ns: u64) -> bool {
        now_ns >= self.look_at
    }

    /// The disks are to be looked at at once.
    pub fn look_soon(&mut self) {
        self.look_at = 0;
    }

    /// The disks were looked at.
    pub fn disks_seen(&mut self, pace: Pace, now_ns: u64) {
        let wait = match pace {
            Pace::Idle => LOOK_NS,
            Pace::Late => LATE_NS,
            Pace::Soon => RESET_NS,
        };
        self.look_at = now_ns.saturating_add(wait);
    }

    /// How to sleep after a turn. `owed` tells whether a core owes an answer; `local` what the worker
    /// in control's own loop is to do next, if there is one.
    #[must_use]
    pub fn sleep(&self, now_ns: u64, owed: impl FnOnce() -> bool, local: Option<Next>) -> Sleep {
        let limit = match local {
            Some(Next::Turn | Next::Stop) => return Sleep::No,
            Some(Next::Rest(limit) | Next::Nap(limit)) => limit.ns(),
            None => u64::MAX,
        };
        let answer_at = if owed() {
            now_ns.saturating_add(ANSWER_NS)
        } else {
            u64::MAX
        };
        let until = self.pump_at.min(self.look_at).min(answer_at);
        if until <= now_ns {
            return Sleep::No;
        }
        let until = Deadline::new(now_ns, until.min(limit));
        match local {
            Some(Next::Rest(_)) => Sleep::StoreAndRings(until),
            _ => Sleep::Store(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn all_is_looked_at_once_a_second_though_no_event_comes() {
        let mut rounds = Rounds::new();
        let (mut now, mut pumps, mut looks, mut turns) = (5 * MS, 0, 0, 0);
        while now < 10_000 * MS {
            turns += 1;
            if rounds.take_pump(false, now) {
                pumps += 1;
                rounds.pumped(None);
            }
            if rounds.are_disks_due(now) {
                looks += 1;
                rounds.disks_seen(Pace::Idle, now);
            }
            let Sleep::Store(until) = rounds.sleep(now, || false, None) else {
                panic!("it has nothing to do");
            };
            // Sleeps end late.
            now = until.ns() + MS;
        }
        assert_eq!((pumps, looks, turns), (10, 10, 10));
    }

    #[test]
    fn what_is_due_sooner_ends_the_sleep() {
        let now = 1_000_000 * MS;
        let until = |rounds: &Rounds, owed| match rounds.sleep(now, || owed, None) {
            Sleep::Store(until) => until.ns() - now,
            other => panic!("{other:?}"),
        };
        let mut rounds = Rounds::new();
        assert_eq!(rounds.sleep(now, || false, None), Sleep::No);
        assert!(rounds.take_pump(false, now));
        rounds.disks_seen(Pace::Idle, now);
        assert_eq!(until(&rounds, false), LOOK_NS);
        assert_eq!(until(&rounds, true), ANSWER_NS);
        rounds.pumped(Some(now + 5 * MS));
        assert_eq!(until(&rounds, false), 5 * MS);
        rounds.disks_seen(Pace::Soon, now);
        assert_eq!(until(&rounds, false), MS);
        // What comes up while the backend is pumped is not forgotten with that.
        rounds.pump_soon();
        rounds.pumped(Some(now + MS));
        assert_eq!(rounds.sleep(now, || false, None), Sleep::No);
    }

    #[test]
    fn the_local_worker_shortens_the_sleep_and_never_lengthens_it() {
        let now = 7;
        let mut rounds = Rounds::new();
        assert!(rounds.take_pump(true, now));
        rounds.disks_seen(Pace::Idle, now);
        let soon = Deadline::new(now, now + 5);
        let late = Deadline::new(now, u64::MAX);
        let look = Deadline::new(now, now + LOOK_NS);
        for (next, sleep) in [
            (Next::Turn, Sleep::No),
            (Next::Rest(soon), Sleep::StoreAndRings(soon)),
            (Next::Rest(late), Sleep::StoreAndRings(look)),
            (Next::Nap(soon), Sleep::Store(soon)),
            (Next::Nap(late), Sleep::Store(look)),
        ] {
            assert_eq!(rounds.sleep(now, || false, Some(next)), sleep);
        }
    }
}
