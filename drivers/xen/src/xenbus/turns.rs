//! Whose turn it is to be looked at: new devices first, then guests, each for its devices; and how
//! much of all looks a guest may have.

use super::Backend;
use super::jobs::Job;
use super::look::Look;
use crate::DomId;
use crate::store::UnitId;

/// Looks under way at once, at most. Each holds a transaction, of which xenstored lets a domain
/// have 10 by default.
pub(super) const MAX_LOOKS: usize = 8;
/// Looks at a known device in a row, and how often there may be one after that, for each device
/// that the guest has, up to a limit: a guest that toggles its states costs no more than that,
/// and one that boots, hands over and resumes is never made to wait.
const LOOKS_AT_ONCE: u64 = 64;
const LOOK_NS: u64 = 200_000_000;
const LOOK_MAX_NS: u64 = 3_000_000_000;
/// Looks in a row after which the guest's devices are no longer looked at side by side.
const LOOKS_SIDE_BY_SIDE: u64 = 16;

impl Backend {
    /// Begins the look that is due next, if it may begin.
    ///
    /// Devices of which nothing is known yet go first: a toolstack waits for them. Of the others,
    /// guests take turns, and a guest's devices among themselves. No guest takes more of the looks
    /// than it leaves to others.
    pub(super) fn next_look(&mut self) -> Option<(UnitId, Look)> {
        let looks = self.count(|job| matches!(job, Job::Look(_)));
        let free = MAX_LOOKS.saturating_sub(looks);
        if free == 0 {
            return None;
        }
        let now = self.now;
        for entry in &mut self.entries {
            if entry.wake_at.is_some_and(|time| time <= now) {
                entry.wake_at = None;
                entry.dirty = true;
            }
        }
        let of_guest = |guest: DomId| {
            let its = self
                .entries
                .iter()
                .filter(move |entry| entry.id.frontend == guest);
            its.fold((0, 0), |(looking, looked), entry| {
                (
                    looking + usize::from(entry.looking),
                    looked.max(entry.looked),
                )
            })
        };
        let due = self.entries.iter().filter_map(|entry| {
            if !entry.dirty || entry.looking || entry.blocked_until > now {
                return None;
            }
            let (looking, guest_looked) = of_guest(entry.id.frontend);
            let known = entry.looked > 0;
            let ahead = LOOKS_SIDE_BY_SIDE * self.interval(entry.id.frontend);
            let often = entry.paid_until > now.saturating_add(ahead);
            let most = if often { 1 } else { free };
            if known && looking >= most {
                return None;
            }
            Some(((known, guest_looked, entry.looked), entry.id))
        });
        let (_, id) = due.min()?;
        self.looks += 1;
        let looks = self.looks;
        let shutting_down = self.patience().is_some();
        let interval = self.interval(id.frontend);
        let entry = self.entry(id)?;
        // Other pauses follow a conflict or a refusal.
        if entry.conflicts == 0 && entry.failures == 0 && !shutting_down {
            entry.paid_until = entry.paid_until.max(now) + interval;
            let owed = entry.paid_until.saturating_sub(LOOKS_AT_ONCE * interval);
            entry.blocked_until = entry.blocked_until.max(owed);
        }
        entry.look_again();
        entry.dirty = false;
        entry.looking = true;
        entry.looked = looks;
        Some(self.start_look(id))
    }

    /// The time that a look at a device of this guest is paid with, in ns.
    fn interval(&self, guest: DomId) -> u64 {
        (LOOK_NS * self.count_of(guest) as u64).min(LOOK_MAX_NS)
    }
}
