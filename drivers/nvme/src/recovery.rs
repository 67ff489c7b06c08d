//! What is done about a controller that does not do its work: an abort, resets, and in the end
//! giving it up. For the control core, which comes by about once a second and waits here for
//! nothing but single admin commands of a controller that has just said it is ready.
//!
//! A reset goes through four stages. The queues' owners stop (so that no core touches a doorbell
//! or a queue's memory), the controller is disabled (so that it reaches no memory), the owners
//! clear their queues, and the controller is brought up as it was. Then every queue submits again
//! what it had in flight. No command is answered in between, so that no memory goes back to a
//! guest as long as the controller could write to it.
//!
//! An owner that does not follow in time (a core that never came to life, or stands still) costs
//! its own queue only: that is given up, and what is in flight there fails once the controller is
//! disabled.

mod orders;
mod revive;
mod trial;
mod watch;

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use spindle_hw::{Clock, DmaAlloc, Registers};

use crate::admin;
use crate::change::Rescan;
use crate::lifecycle::BLIND_MIN;
use crate::link::{Cause, Order, Step};
use crate::series::Series;
use crate::{Change, Controller, Error, HealthLog, Identity, Status};

/// What resets in a row, without a command answered in between, may cost before a controller is given
/// up: three of them, or five if all but the first ended a command that it may have failed over. One
/// that does nothing at all ends command after command in this way.
const BUDGET: u32 = 11;
/// What a reset costs.
const RESET: u32 = 3;
/// The same if a command has ended since the last one that the controller may have failed over.
const RESET_WITH_END: u32 = 2;
/// How long the other queues wait for one that tries again what the controller may have failed over.
const TRY_NS: u64 = 1_000_000_000;
/// A controller that has worked for so many times the limit of a command has recovered.
const CALM: u32 = 10;
/// How long a queue's owner, who is woken again and again, may take to follow an order.
const FOLLOW_NS: u64 = 10_000_000_000;

/// What [`Controller::attend`] found, for the kernel to act upon.
#[derive(Debug, Default)]
pub struct Attention {
    /// Every core is to take a turn with its queue on this controller, or nothing goes on.
    pub wake: bool,
    /// Attend again within milliseconds rather than in a second.
    pub soon: bool,
    /// Namespaces that are no longer what they were.
    pub changes: Vec<Change>,
    /// Its health log, which it was asked for, or by which it warns.
    pub health: Option<HealthLog>,
    /// The part of a page that it was asked for by [`Controller::inspect`], or why there is none.
    pub inspected: Option<Result<Vec<u8>, Status>>,
    /// The controller has been given up; said once, and once more for each
    /// [`Controller::probe_again`] that came to nothing.
    pub lost: Option<Lost>,
    /// A controller that is brought up once more has stopped all that it did before: it may reach memory
    /// again, if something was done to keep it from that.
    pub quiet: bool,
    /// The controller was lost, and works again.
    pub back: Option<Back>,
    /// What was in its write cache may be gone: it has lost its power, or was reset as if it had. No
    /// command is answered now, and none before the next [`Controller::attend`]. What was in flight is
    /// submitted again.
    pub cache_lost: bool,
}

/// What has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// The same disk: what was attached works on, but for what [`Attention::changes`] says.
    Same,
    /// Another disk in its place: nothing of what was attached is on it.
    Other,
}

/// A controller that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub reason: Error,
    /// Whether it has said that it reaches no memory any longer. Each core may then call
    /// [`spindle_block::DiskQueue::fail_all`]; otherwise something else must cut it off first.
    pub disabled: bool,
    /// It was lost before, and has not come back.
    pub again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// Until every queue has stopped; since when.
    Pausing(u64),
    /// Until CSTS.RDY is clear; since when.
    Disabling(u64),
    /// Until every queue is clear; since when.
    Clearing(u64),
    /// Until CSTS.RDY is set; since when.
    Enabling(u64),
    /// It is up, and waits until nothing is submitted to namespaces that were removed.
    Closing,
    Lost,
}

/// An abort that was asked for.
#[derive(Clone, Copy, Debug)]
struct Abort {
    queue: u16,
    cid: u16,
    at: u64,
}

/// How far the last resort has been used since the controller last worked for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subsystem {
    Untried,
    /// It is reset as soon as no queue is at work.
    Due,
    Tried,
}

/// A queue that tries again what the controller may have failed over more than once.
#[derive(Clone, Copy, Debug)]
struct Trial {
    queue: u16,
    since: u64,
    /// Nothing else is with the controller.
    alone: bool,
}

/// What was done about the controller, and may show that it is about to fail. Printed as words of
/// [`spindle_block::DiskEvents::health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Resets that were begun, of a controller that was lost as well.
    pub resets: u64,
    /// Commands that the controller was asked to abort, since they were late.
    pub aborts: u64,
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resets={} aborts={}", self.resets, self.aborts)
    }
}

/// How far things have gone.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// How often what was done.
    repairs: Repairs,
    pub(crate) stage: Stage,
    pub(crate) order: Order,
    abort: Option<Abort>,
    /// What the resets have cost since the controller last answered a command, or worked for a while.
    spent: u32,
    /// What the queues had done at the last reset: commands answered, and failed by resets.
    done: (u32, u32),
    /// The subsystem has been reset since the controller last worked; true once it is to be.
    pub(crate) subsystem: Subsystem,
    /// The queue that tries again what the controller may have failed over.
    trial: Option<Trial>,
    running_since: u64,
    /// Who the controller was before the reset.
    pub(crate) before: Identity,
    /// It was lost, and is brought up once more.
    pub(crate) reviving: bool,
    /// Another one is in its place, which has not been reported. This outlasts attempts that come to
    /// nothing: until it is reported, all outside goes by the name of the one that was lost.
    pub(crate) replaced: bool,
    /// The status has read as all ones since the last change of CC.EN.
    pub(crate) blind: bool,
    /// Its write cache may have been lost since it was set up last.
    cache_lost: bool,
    /// That has been reported.
    loss_reported: bool,
    /// Why the controller is given up once it is disabled.
    giving_up: Option<Error>,
    /// Why it could not be started, as long as that has not been reported.
    pub(crate) unreported: Option<Error>,
}

impl Recovery {
    pub(crate) fn new() -> Self {
        Self {
            repairs: Repairs::default(),
            stage: Stage::Running,
            order: Order::default(),
            abort: None,
            spent: 0,
            done: (0, 0),
            subsystem: Subsystem::Untried,
            trial: None,
            running_since: 0,
            before: Identity::default(),
            reviving: false,
            replaced: false,
            blind: false,
            cache_lost: false,
            loss_reported: false,
            giving_up: None,
            unreported: None,
        }
    }
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// What has been done about it so far.
    #[must_use]
    pub const fn repairs(&self) -> Repairs {
        self.recovery.repairs
    }

    /// Looks after the controller: late commands, failure, events. To be called about once a
    /// second as long as somebody uses the disk, and sooner where it says so.
    pub fn attend(&mut self) -> Attention {
        let now = self.clock.now_ns();
        let mut attention = Attention::default();
        if let Err(reason) = self.advance(now, &mut attention) {
            // Not the time of before, in case that something was waited for.
            self.stumble(reason, self.clock.now_ns(), &mut attention);
        }
        let leaving = !self.leaving.is_empty();
        attention.wake |= leaving;
        attention.soon = self.is_recovering()
            || self.recovery.trial.is_some_and(|trial| trial.alone)
            || self.series.is_pending()
            || leaving && self.is_running() && !self.awaits_closing();
        attention
    }

    /// Attends until the controller works again. For the start, when there is nothing else to do and
    /// there are no queues yet.
    ///
    /// # Errors
    /// Why it was given up.
    pub fn recover(&mut self) -> Result<(), Error> {
        loop {
            let attention = self.attend();
            if let Some(lost) = attention.lost {
                return Err(lost.reason);
            }
            if !attention.soon {
                break;
            }
            self.clock.relax();
        }
        match self.is_running() {
            true => Ok(()),
            false => Err(Error::NotRunning),
        }
    }

    /// Whether a reset is under way.
    pub(crate) fn is_recovering(&self) -> bool {
        !matches!(self.recovery.stage, Stage::Running | Stage::Lost)
    }

    /// Whether what becomes of a command is yet to be seen: one that is aborted, or tried again.
    pub(crate) fn is_trying(&self) -> bool {
        self.recovery.abort.is_some() || self.recovery.trial.is_some()
    }

    /// Whether the controller can be asked anything.
    pub(crate) fn is_running(&self) -> bool {
        self.recovery.stage == Stage::Running
    }

    /// Whether it was given up and is not being brought up once more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.recovery.stage == Stage::Lost
    }

    fn advance(&mut self, now: u64, attention: &mut Attention) -> Result<(), Error> {
        let limit = self.capabilities.timeout();
        let patience = match self.recovery.blind {
            true => limit.max(BLIND_MIN),
            false => limit,
        };
        let late =
            |since, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_nanos();
        match self.recovery.stage {
            Stage::Running => {
                self.watch(now)?;
                self.look_at_trial(now, attention);
                self.take_health(attention);
                self.take_event(attention)?;
                self.let_leave();
                self.look_again(now, attention)?;
                self.look_at_all(attention)?;
            }
            Stage::Pausing(since) | Stage::Clearing(since) if !self.all_follow() => {
                // An owner that sleeps may have missed the last event.
                attention.wake = true;
                if now.saturating_sub(since) > FOLLOW_NS {
                    self.abandon_queues();
                }
            }
            Stage::Pausing(_) => {
                if self.recovery.subsystem == Subsystem::Due {
                    self.reset_subsystem();
                } else {
                    self.registers.begin_disable();
                }
                self.recovery.blind = false;
                self.recovery.stage = Stage::Disabling(now);
            }
            Stage::Clearing(since) => {
                let capabilities = match self.registers.usable_capabilities() {
                    Err(Error::Gone) => return self.look_blindly(true, late(since, patience)),
                    capabilities => capabilities?,
                };
                if self.was_without_power() {
                    self.count_reset();
                    if self.recovery.spent > BUDGET {
                        return Err(Error::Restarted);
                    }
                    // That is reported where it is disabled.
                    self.registers.begin_disable();
                    self.recovery.stage = Stage::Disabling(now);
                    return Ok(());
                }
                self.release_queues();
                self.renew_capabilities(capabilities)?;
                if capabilities.max_queue_entries() < u32::from(self.depth) {
                    // What is in flight has no place then. It fails, and the controller is brought up
                    // once more, with shorter queues.
                    return Err(Error::Changed("size of queues"));
                }
                self.admin.restart();
                self.host_memory.is_disabled();
                let (submission, completion) = self.admin.addresses();
                self.registers
                    .set_admin_queues(submission, completion, admin::ENTRIES.into());
                self.registers.begin_enable();
                self.recovery.blind = false;
                self.recovery.stage = Stage::Enabling(now);
            }
            Stage::Disabling(since) => match self.registers.status_in_change() {
                Some(status) if !status.ready() => {
                    if let Some(reason) = self.recovery.giving_up {
                        self.lose(reason, true, attention);
                    } else if self.has_loss_to_report() {
                        // Every queue has stopped, so that none answers a flush before this is known.
                        // The controller shows it until the next step, for a driver that comes after
                        // this one if it ends now.
                        attention.cache_lost = true;
                        self.recovery.loss_reported = true;
                    } else {
                        attention.quiet = self.let_end();
                        let (submission, completion) = self.admin.addresses();
                        self.registers.set_admin_queues(
                            submission,
                            completion,
                            admin::ENTRIES.into(),
                        );
                        self.recovery.blind = false;
                        (self.recovery.cache_lost, self.recovery.loss_reported) = (false, false);
                        self.order(Step::Clear, attention);
                        self.recovery.stage = Stage::Clearing(now);
                    }
                }
                Some(_) if late(since, patience) => return Err(Error::NotDisabled(limit)),
                status => return self.look_blindly(status.is_none(), late(since, patience)),
            },
            Stage::Enabling(since) => match self.registers.status_in_change() {
                Some(status) if status.fatal() => return Err(Error::Fatal),
                Some(status) if status.ready() => {
                    match self.in_series(|this| this.revive(&mut attention.changes)) {
                        Err(Error::Pending) => return Ok(()),
                        result => result?,
                    }
                    self.recovery.stage = Stage::Closing;
                    return self.go_on(now, attention);
                }
                Some(_) if late(since, patience) => return Err(Error::NotReady(limit)),
                status => return self.look_blindly(status.is_none(), late(since, patience)),
            },
            Stage::Closing => {
                self.health()?;
                return self.go_on(now, attention);
            }
            Stage::Lost => {
                let lost = |reason| Lost {
                    reason,
                    disabled: false,
                    again: true,
                };
                attention.lost = self.recovery.unreported.take().map(lost);
            }
        }
        Ok(())
    }

    /// Has the queues work again, once nothing is submitted to what the controller no longer has.
    fn go_on(&mut self, now: u64, attention: &mut Attention) -> Result<(), Error> {
        if self.awaits_closing() {
            return Ok(());
        }
        let serial = &self.identity.serial;
        if core::mem::take(&mut self.recovery.reviving) {
            attention.back = Some(self.come_back());
        } else {
            log::warn!("nvme {serial}: reset, works again");
        }
        self.tell_terms();
        self.resume(now, attention);
        self.recovery.stage = Stage::Running;
        self.recovery.running_since = now;
        Ok(())
    }

    /// Decides what follows from a failure.
    #[inline(never)]
    fn stumble(&mut self, reason: Error, now: u64, attention: &mut Attention) {
        if reason == Error::Gone {
            // It may be unplugged, or only its registers may be. One that had been disabled before
            // reaches no memory.
            let disabled = matches!(self.recovery.stage, Stage::Clearing(_));
            return self.lose(reason, disabled, attention);
        }
        if let Stage::Disabling(_) = self.recovery.stage {
            if !self.may_reset_subsystem() {
                return self.lose(reason, false, attention);
            }
            log::error!("nvme {}: {reason}", self.identity.serial);
            self.reset_subsystem();
            self.recovery.blind = false;
            self.recovery.stage = Stage::Disabling(now);
            return;
        }
        let calm = self.timeout.saturating_mul(CALM).as_nanos();
        let worked = now.saturating_sub(self.recovery.running_since);
        if self.is_running() && u128::from(worked) > calm {
            (self.recovery.spent, self.recovery.subsystem) = (0, Subsystem::Untried);
        }
        self.count_reset();
        self.recovery.repairs.resets += 1;
        self.recovery.abort = None;
        let trial = self.recovery.trial.take();
        (self.series, self.event) = (Series::default(), None);
        self.looking.clear();
        self.rescan = Rescan::No;
        let serial = &self.identity.serial;
        let reviving = self.recovery.reviving;
        // What was in its cache may be gone. Or dom0 takes the controller away, and has reset it: one
        // that is enabled once more at once is left at work when the domain ends.
        let forgot = reason == Error::Restarted && self.may_forget();
        let changed = matches!(reason, Error::Changed(_) | Error::FewerQueues { .. });
        let hopeless = changed || forgot || reviving;
        let spent = self.recovery.spent;
        if !hopeless && spent > BUDGET && self.may_reset_subsystem() {
            log::error!("nvme {serial}: {reason}; resets do not help");
            self.recovery.subsystem = Subsystem::Due;
        } else if hopeless || spent > BUDGET {
            if !reviving {
                log::error!("nvme {serial}: {reason}; given up");
            }
            self.recovery.giving_up = Some(reason);
        } else {
            log::warn!("nvme {serial}: {reason}; the controller is reset");
        }
        if self.is_running() {
            self.recovery.before = self.identity.clone();
            for pair in self.pairs.iter().flatten() {
                let elsewhere = trial.is_some_and(|trial| trial.queue != pair.shape.id);
                pair.link.give_cause(match reason {
                    Error::Fatal if elsewhere => Cause::Spared,
                    Error::Fatal => Cause::Failure,
                    _ => Cause::Late,
                });
            }
            self.order(Step::Pause, attention);
            self.recovery.stage = Stage::Pausing(now);
        } else {
            // The queues have stopped long since.
            if self.recovery.subsystem == Subsystem::Due {
                self.reset_subsystem();
            } else {
                self.registers.begin_disable();
            }
            self.recovery.blind = false;
            self.recovery.stage = Stage::Disabling(now);
        }
    }

    /// Whether a disabled controller has lost its power, and with it what was answered.
    fn was_without_power(&self) -> bool {
        self.may_forget() && !self.registers.keeps_admin_queues(admin::ENTRIES.into())
    }

    /// Whether a disabled controller may have lost its write cache, and that is yet to be reported.
    fn has_loss_to_report(&self) -> bool {
        !self.recovery.loss_reported && (self.recovery.cache_lost || self.was_without_power())
    }

    /// Whether what was answered is lost with the power. All that a controller had before it was lost
    /// is reported as lost by then.
    fn may_forget(&self) -> bool {
        self.identity.write_cache && !self.recovery.reviving
    }

    /// Whether the last resort is left, and disturbs no other user of the subsystem.
    fn may_reset_subsystem(&self) -> bool {
        let before = &self.recovery.before;
        let alone = !before.serial.is_empty() && !before.shared && !self.identity.shared;
        self.recovery.subsystem == Subsystem::Untried
            && self.capabilities.resets_subsystem()
            && alone
    }

    fn reset_subsystem(&mut self) {
        log::error!("nvme {}: its subsystem is reset", self.identity.serial);
        self.registers.reset_subsystem();
        self.recovery.subsystem = Subsystem::Tried;
        // As after a loss of power.
        self.recovery.cache_lost |= self.recovery.before.write_cache;
    }

    /// The status of a controller in change reads as all ones, if it is `blind`: that gives it more
    /// time once, and is the end if it is `late` even so.
    fn look_blindly(&mut self, blind: bool, late: bool) -> Result<(), Error> {
        if blind && late && self.recovery.blind {
            return Err(Error::Gone);
        }
        self.recovery.blind |= blind;
        Ok(())
    }

    /// Counts what a reset costs. Those before a command that was answered count no longer.
    fn count_reset(&mut self) {
        let mut done = (0u32, 0u32);
        for (answered, failed) in self.pairs.iter().flatten().map(|pair| pair.link.progress()) {
            done = (done.0.wrapping_add(answered), done.1.wrapping_add(failed));
        }
        let before = core::mem::replace(&mut self.recovery.done, done);
        if done.0 != before.0 {
            self.recovery.spent = 0;
        }
        let cost = match done.1 == before.1 {
            true => RESET,
            false => RESET_WITH_END,
        };
        self.recovery.spent += cost;
    }

    #[inline(never)]
    fn lose(&mut self, reason: Error, disabled: bool, attention: &mut Attention) {
        self.order(Step::Lose, attention);
        if self.is_running() {
            self.recovery.before = self.identity.clone();
        } else {
            // Whoever answered since is not the one that is lost.
            self.identity = self.recovery.before.clone();
        }
        (self.series, self.event) = (Series::default(), None);
        self.looking.clear();
        self.rescan = Rescan::No;
        self.recovery.stage = Stage::Lost;
        // Whoever hears that it is lost takes its cache to be lost as well.
        self.recovery.cache_lost = false;
        let again = core::mem::take(&mut self.recovery.reviving);
        attention.lost = Some(Lost {
            reason,
            disabled,
            again,
        });
    }
}
