//! Sharing a window of pages, at one level: between the guests of a disk, or a guest's rings.
//!
//! Those that have work, or had some lately, are rivals:
//! - Each rival may at any time have its share of the window with the disk, a part of it by its
//!   weight, and at least one command. One that has one read at a time thus never waits for a place, and
//!   commands that the disk does not answer take no more than their owner's share.
//! - What the others do not use of their shares is lent, by deficit round robin: in each round
//!   every rival may send a quantum, also by its weight. One that sent more sends less in the next round; what it did
//!   not use it does not keep, unless it had more to send all the while. What one has used lately is not lent,
//!   since a guest whose reads have just been answered asks for the next ones a moment later.
//! - While all have more to send than they may, each sends what comes back of its share, and the disk has a
//!   large command for longer than a small one. One that falls behind the others by that is owed what it could
//!   not send of its quanta, and its share is the larger the more that is: so in the end all get what they
//!   have weight for, whatever their commands are like.

use spindle_limits::DEFAULT_WEIGHT;

/// Pages that one of the usual weight may send in a round.
pub(super) const QUANTUM: u32 = 32;

/// How long one counts as a rival after its last request.
pub(crate) const LINGER_NS: u64 = 1_000_000_000;

/// What one has used of its share is kept for it for so long, or up to twice as long.
const KEEP_NS: u64 = 5_000_000;

/// The side of one of those that share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    weight: u8,
    /// What it may still send in this round, in pages; negative if it sent more.
    deficit: i32,
    round: u32,
    /// What of it is owed from the rounds before, at most a quantum.
    behind: u32,
    /// Whether it had more to send in this round than it might.
    wants: bool,
    /// When it last had a request.
    busy_ns: Option<u64>,
    /// The most pages it had with the disk in this period and in the one before.
    peaks: [u32; 2],
    /// When this period began.
    since_ns: u64,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            weight: DEFAULT_WEIGHT,
            deficit: 0,
            round: 0,
            behind: 0,
            wants: false,
            busy_ns: None,
            peaks: [0; 2],
            since_ns: 0,
        }
    }
}

impl Account {
    /// Gives it a weight, at least 1.
    pub(crate) fn set_weight(&mut self, weight: u8) {
        self.weight = weight;
    }

    /// The weight that it was given last.
    pub(crate) fn weight(&self) -> u8 {
        self.weight
    }

    /// Pages that it may send in a round.
    fn quantum(&self) -> i32 {
        (QUANTUM / u32::from(DEFAULT_WEIGHT) * u32::from(self.weight)) as i32
    }

    /// Whether it had requests lately.
    fn is_rival(&self, now_ns: u64) -> bool {
        self.busy_ns
            .is_some_and(|at| now_ns.saturating_sub(at) < LINGER_NS)
    }

    /// Notes that it has `own` pages with the disk.
    fn note(&mut self, own: u32, now_ns: u64) {
        if now_ns.saturating_sub(self.since_ns) >= KEEP_NS {
            self.peaks = [0, self.peaks[0]];
            self.since_ns = now_ns;
        }
        self.peaks[0] = self.peaks[0].max(own);
    }

    /// What is not lent of its share while it has `own` pages with the disk.
    fn kept(&self, own: u32, share: u32) -> u32 {
        own.max(self.peaks[0].max(self.peaks[1]).min(share))
    }
}

/// What those that share have in common. The window that they share is given with each call.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    /// Pages that are kept for those that have or had them.
    kept: u32,
    /// Rivals: counted, and as of the last count.
    counted: u32,
    rivals: u32,
    /// Their weights: of those counted, and as of the last count.
    weighed: u32,
    weight: u32,
    round: u32,
    /// One with work has used its quantum up, though there is room.
    starved: bool,
    /// The disk has little to do.
    dry: bool,
    /// That is not why this round began, so that what is left of the one before is owed.
    owes: bool,
}

impl Level {
    /// Starts a count.
    pub(super) fn start(&mut self) {
        (self.kept, self.counted, self.weighed) = (0, 0, 0);
    }

    /// Counts one that has `own` pages with the disk; `active` if it has requests. True if it is a
    /// rival.
    pub(super) fn count(
        &mut self,
        account: &mut Account,
        own: u32,
        active: bool,
        window: u32,
        now_ns: u64,
    ) -> bool {
        if active {
            account.busy_ns = account.busy_ns.max(Some(now_ns));
        }
        account.note(own, now_ns);
        let rival = account.is_rival(now_ns);
        if rival {
            self.counted += 1;
            self.weighed += u32::from(account.weight);
            let kept = account.kept(own, self.share(account, window));
            self.kept = self.kept.saturating_add(kept);
        }
        rival
    }

    /// Ends a count: gives the rivals.
    pub(super) fn end(&mut self) -> u32 {
        (self.rivals, self.weight) = (self.counted, self.weighed);
        self.rivals
    }

    /// Rivals as of the last count.
    #[inline]
    pub(super) fn rivals(&self) -> u32 {
        self.rivals
    }

    /// Has a new round begin if no more than half of the window is with the disk, and no other one.
    pub(super) fn see_dry(&mut self, load: u32, window: u32) {
        (self.dry, self.starved) = (load.saturating_mul(2) <= window, false);
    }

    /// One has more to send than it may, though it has `room`.
    pub(super) fn left_over(&mut self, account: &mut Account, room: bool) {
        account.wants = true;
        self.starved |= room && account.deficit <= 0;
    }

    /// Begins a new round if one with rivals waits for it.
    pub(super) fn next_round(&mut self) -> bool {
        let (dry, starved) = (self.dry, self.starved);
        (self.dry, self.starved) = (false, false);
        let begins = (dry | starved) && self.rivals > 1;
        if begins {
            self.round = self.round.wrapping_add(1);
            self.owes = starved;
        }
        begins
    }

    /// The part of the window that is one's own: rounded up, since of a small window shared by
    /// many a page is a good part of a share.
    fn share(&self, account: &Account, window: u32) -> u32 {
        let weight = u32::from(account.weight);
        let own = window.saturating_mul(weight);
        own.div_ceil(self.weight.max(weight)).max(1)
    }

    /// The same with what it is owed: half more for a quantum.
    fn due(&self, account: &Account, window: u32) -> u32 {
        let (share, quantum) = (self.share(account, window), account.quantum() as u32);
        let owed = share.saturating_mul(account.behind.min(quantum));
        share + owed.saturating_add(quantum) / (2 * quantum)
    }

    /// Pages that one may send that has `own` with the disk, if its quantum is not considered.
    pub(super) fn room(&self, account: &Account, own: u32, window: u32) -> u32 {
        let share = self.share(account, window);
        let others = self.kept.saturating_sub(account.kept(own, share));
        let all = window.saturating_sub(others);
        all.max(self.due(account, window)).saturating_sub(own)
    }

    /// Pages that it may send now.
    pub(super) fn grant(&self, account: &mut Account, own: u32, window: u32) -> u32 {
        if account.round != self.round {
            account.round = self.round;
            let wanted = core::mem::take(&mut account.wants);
            let most = if wanted && self.owes {
                account.quantum()
            } else {
                0
            };
            let kept = account.deficit.min(most);
            account.behind = kept.max(0) as u32;
            account.deficit = kept + account.quantum();
        }
        let room = self.room(account, own, window);
        let credit = room.min(account.deficit.max(0) as u32);
        // One command is always allowed, within reason.
        let least = own == 0 && account.deficit > -account.quantum();
        credit.max(least.into())
    }

    /// Charges one for what it sent: `load` pages that are with the disk now, at a `cost`. It had
    /// `own` before.
    pub(super) fn charge(
        &mut self,
        account: &mut Account,
        own: u32,
        load: u32,
        cost: u32,
        window: u32,
    ) {
        let share = self.share(account, window);
        let before = account.kept(own, share);
        let after = account.kept(own.saturating_add(load), share);
        self.kept = self.kept.saturating_add(after - before);
        let cost = i32::try_from(cost).unwrap_or(i32::MAX);
        account.deficit = account.deficit.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 32;

    fn visited(accounts: &mut [Account], own: &[u32], now_ns: u64) -> Level {
        let mut level = Level::default();
        again(&mut level, accounts, own, now_ns);
        level
    }

    /// Counts all, each with so many pages with the disk.
    fn again(level: &mut Level, accounts: &mut [Account], own: &[u32], now_ns: u64) {
        level.start();
        for (account, &own) in accounts.iter_mut().zip(own) {
            level.count(account, own, own > 0, WINDOW, now_ns);
        }
        level.end();
    }

    #[test]
    fn one_is_a_rival_for_a_second_after_its_last_request() {
        let mut accounts = [Account::default(); 2];
        let mut level = visited(&mut accounts, &[1, 1], 5);
        again(&mut level, &mut accounts, &[1, 0], LINGER_NS + 4);
        assert_eq!(level.rivals(), 2);
        again(&mut level, &mut accounts, &[1, 0], LINGER_NS + 5);
        assert_eq!(level.rivals(), 1);
    }

    #[test]
    fn each_has_its_share_and_the_rest_is_lent_but_for_what_was_used_lately() {
        let mut accounts = [Account::default(); 2];
        let mut level = visited(&mut accounts, &[20, 4], 0);
        // The first may have what the second leaves, the second its half, whoever has the rest.
        assert_eq!(level.room(&accounts[0], 20, WINDOW), WINDOW - 4 - 20);
        again(&mut level, &mut accounts, &[28, 4], 0);
        assert_eq!(level.room(&accounts[1], 4, WINDOW), WINDOW / 2 - 4);
        // What the second had is kept for it at first, and lent once it has not used it for long.
        again(&mut level, &mut accounts, &[8, 0], KEEP_NS);
        assert_eq!(level.room(&accounts[0], 8, WINDOW), WINDOW - 4 - 8);
        again(&mut level, &mut accounts, &[8, 0], 2 * KEEP_NS - 1);
        assert_eq!(level.room(&accounts[0], 8, WINDOW), WINDOW - 4 - 8);
        again(&mut level, &mut accounts, &[8, 0], 2 * KEEP_NS);
        assert_eq!(level.room(&accounts[0], 8, WINDOW), WINDOW - 8);
    }

    #[test]
    fn no_more_than_a_share_is_kept_and_no_share_is_less_than_a_command() {
        let mut accounts = [Account::default(); 3];
        let mut level = visited(&mut accounts, &[30, 1, 1], 0);
        again(&mut level, &mut accounts, &[0, 1, 1], 0);
        let third = WINDOW.div_ceil(3);
        assert_eq!(level.room(&accounts[1], 1, WINDOW), WINDOW - third - 1 - 1);
        // What is kept already is not counted again when it is used.
        let kept = level.kept;
        level.charge(&mut accounts[0], 0, 2, 2, WINDOW);
        assert_eq!(level.kept, kept);
        let mut many = [Account::default(); 40];
        many[0].busy_ns = Some(0);
        let mut own = [1; 40];
        own[0] = 0;
        let level = visited(&mut many, &own, 0);
        assert_eq!(level.room(&many[0], 0, WINDOW), 1);
    }

    #[test]
    fn shares_and_quanta_are_by_weight() {
        let mut accounts = [Account::default(); 3];
        for (account, weight) in accounts.iter_mut().zip([4, 8, 16]) {
            account.set_weight(weight);
        }
        let mut level = visited(&mut accounts, &[1, 1, 1], 0);
        let shares = accounts.map(|account| level.share(&account, 28));
        assert_eq!(shares, [4, 8, 16]);
        level.starved = true;
        assert!(level.next_round());
        for (account, quantum) in accounts.iter_mut().zip([16, 32, 64]) {
            level.grant(account, 1, WINDOW);
            assert_eq!(account.deficit, quantum);
        }
        // As soon as one is no rival any more, the others have its share.
        let busy = accounts[2].busy_ns.take();
        level.start();
        for account in &mut accounts {
            level.count(account, 0, false, WINDOW, 0);
        }
        assert_eq!((busy, level.end()), (Some(0), 2));
        assert_eq!(level.share(&accounts[0], 30), 10);
    }

    #[test]
    fn one_sends_a_quantum_in_a_round_less_what_it_sent_too_much() {
        let mut accounts = [Account::default(); 2];
        let mut level = visited(&mut accounts, &[1, 1], 0);
        level.starved = true;
        assert!(level.next_round() && !level.next_round());
        let account = &mut accounts[0];
        // The window leaves less than the quantum: 32 pages less one of the other's and its own.
        assert_eq!(level.grant(account, 1, WINDOW), WINDOW - 2);
        level.charge(account, 1, 30, 30, WINDOW);
        assert_eq!(level.kept, 32);
        assert_eq!(account.deficit, QUANTUM as i32 - 30);
        // Answered: the round still has two pages.
        again(&mut level, &mut accounts, &[1, 1], 2 * KEEP_NS);
        again(&mut level, &mut accounts, &[1, 1], 4 * KEEP_NS);
        let account = &mut accounts[0];
        assert_eq!(level.grant(account, 1, WINDOW), 2);
        level.charge(account, 1, 1, 12, WINDOW);
        assert_eq!(level.grant(account, 2, WINDOW), 0, "it had something");
        assert_eq!(level.grant(account, 0, WINDOW), 1, "one command is allowed");
        // It began the round with 32 and has sent 42: in the next it has 22. What is left of
        // that is not kept for the one after.
        for (round, deficit) in [(1, 22), (2, 32), (3, 32)] {
            level.starved = true;
            assert!(level.next_round(), "{round}");
            level.grant(account, 1, WINDOW);
            assert_eq!(account.deficit, deficit, "{round}");
        }
        // Not even one command, after as much as a quantum too much.
        level.charge(account, 0, 0, 2 * QUANTUM, WINDOW);
        assert_eq!(account.deficit, -(QUANTUM as i32));
        assert_eq!(level.grant(account, 0, WINDOW), 0);
    }

    #[test]
    fn one_that_falls_behind_is_owed_the_rest_and_has_a_larger_share() {
        let mut accounts = [Account::default(); 2];
        let mut level = visited(&mut accounts, &[16, 16], 0);
        let quantum = QUANTUM as i32;
        // In each round the first sends all that it may, and the second only so much of it, though it has
        // more, unless it `wants` none; what it has then, and what its share is.
        let mut round = |used: i32, wants: bool, dry: bool| {
            let [first, second] = &mut accounts;
            first.deficit = 0;
            second.deficit -= used;
            if wants {
                level.left_over(second, false);
            }
            if !dry {
                level.left_over(first, true);
            }
            level.dry = dry;
            assert!(level.next_round());
            level.grant(second, 16, WINDOW);
            (second.deficit, level.due(second, WINDOW))
        };
        assert_eq!(round(0, true, false), (quantum, 16));
        assert_eq!(round(quantum - 8, true, false), (quantum + 8, 18));
        assert_eq!(round(quantum, true, false), (quantum + 8, 18));
        assert_eq!(round(quantum + 4, true, false), (quantum + 4, 17));
        // No more than a quantum is owed, for which it has half as much again.
        assert_eq!(round(-1000, true, false), (2 * quantum, 24));
        // Nothing to one that had no more to send, or if no other was ahead.
        assert_eq!(round(0, false, false), (quantum, 16));
        assert_eq!(round(0, true, true), (quantum, 16));
    }

    #[test]
    fn a_round_begins_for_one_with_rivals_that_has_used_its_own_up() {
        let mut accounts = [Account::default(); 2];
        let mut level = visited(&mut accounts, &[20, 12], 0);
        accounts[1].deficit = 1;
        level.left_over(&mut accounts[1], true);
        assert!(!level.next_round(), "it may send");
        accounts[1].deficit = 0;
        level.left_over(&mut accounts[1], true);
        assert!(level.next_round());
        let mut alone = visited(&mut accounts[..1], &[20], 0);
        accounts[0].deficit = 0;
        alone.left_over(&mut accounts[0], true);
        assert!(!alone.next_round());
    }
}
