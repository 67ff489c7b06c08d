//! One look at a device: reads what matters, decides what is to be done, carries it out.
//!
//! | round trip to xenstored | sent in one batch |
//! | --- | --- |
//! | 1 | the watch on a new frontend, its state, the keys that say how many rings there are; the start of a transaction |
//! | 2 | the rings; in the transaction, the backend's directory |
//! | 3 | what is decided, and the commit with it if that is a single change |
//! | 4 | the commit of more changes than one |
//!
//! The frontend's keys are read outside the transaction and before the backend's, so that no
//! frontend can make our transactions conflict; a change of them after that marks the device
//! again. The state is read before the rings, which a frontend publishes in the opposite order.
//!
//! A connection that a former life of the kernel had is taken up after round trip 2: its rings are read
//! before its disk is open, and such devices are looked at before the watches are set, which tell of all
//! others.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use log::{info, warn};

use super::backend::{Entry, state_of, token_of};
use super::device::{Announce, Circumstances, PATIENCE_NS, Step};
use super::features::features;
use super::rings::{FIRST_KEYS, Plan};
use super::view::{BACK_KEYS, BackendView, View};
use super::{
    Action, Backend, ConnectRequest, DeviceId, DiskFacts, Offer, Refusal, RingLayout, XenbusState,
};
use crate::Errno;
use crate::store::{Priority, Reply, Request, TransactionError, UnitId};

/// Conflicts in a row before pausing, and before the device is refused, about 7 s later: libxl
/// gives up after 10.
const CONFLICTS_AT_ONCE: u32 = 8;
const CONFLICTS_ALLOWED: u32 = 96;
/// Refused writes in a row before the device is refused: where it will not be otherwise in a
/// moment, and where it may be, about 6 s later. As many more before nothing is tried any longer.
const FAILURES_ALLOWED: u32 = 3;
const PASSING_ALLOWED: u32 = 6;
const MS: u64 = 1_000_000;

#[derive(Debug)]
enum Phase {
    /// The frontend's state and perhaps its [`FIRST_KEYS`], perhaps after setting the watch.
    Frontend { watching: bool },
    /// The rings of this plan, if any, and the backend's directory.
    Backend { plan: Option<Plan> },
    /// The kernel opens the disk; the transaction goes on if it does so at once.
    Opening(View),
    /// The transaction ends with this done.
    Ending(Change),
}

#[derive(Debug)]
enum Change {
    Announce(Announce),
    /// The directory goes; `refused` if that is how the device is refused.
    Remove {
        refused: bool,
    },
}

/// What a step needs of the store.
enum Then {
    /// Nothing: the look has ended.
    Nothing,
    /// The next step, with what was read.
    Next,
    /// As `Next`, when the disk is open.
    Opened,
    Write(Vec<Request>, Change),
}

/// A look under way.
#[derive(Debug)]
pub(super) struct Look {
    id: DeviceId,
    phase: Phase,
    frontend: XenbusState,
    written: bool,
    rings: Option<Result<RingLayout, Refusal>>,
    /// The frontend could not be watched, which is to be tried again.
    unwatched: Option<Errno>,
}

impl Look {
    /// The device, if the look waits for its disk.
    pub(super) const fn opening(&self) -> Option<DeviceId> {
        match self.phase {
            Phase::Opening(_) => Some(self.id),
            _ => None,
        }
    }

    /// Where the state comes among the replies that the look at this device waits for, if it does.
    pub(super) fn state_reply(&self, id: DeviceId) -> Option<usize> {
        match self.phase {
            Phase::Frontend { watching } if self.id == id => Some(usize::from(watching)),
            _ => None,
        }
    }
}

impl Backend {
    pub(super) fn start_look(&mut self, id: DeviceId) -> (UnitId, Look) {
        let (watched, rings, new) = self.entry(id).map_or((false, false, false), |entry| {
            let device = &entry.device;
            (entry.watched, device.may_want_rings(), device.is_new())
        });
        let priority = if new {
            Priority::Urgent
        } else {
            Priority::Normal
        };
        let path = state_of(id);
        let watch = (!watched).then(|| Request::Watch(path.clone(), token_of(id)));
        let front = id.front();
        let keys = if rings { &FIRST_KEYS[..] } else { &[] };
        let keys = keys
            .iter()
            .map(|key| Request::ReadBrief(format!("{front}/{key}")));
        let reads = watch
            .into_iter()
            .chain([Request::ReadBrief(path)])
            .chain(keys);
        let unit = self.client.begin(reads.collect(), priority);
        let look = Look {
            id,
            phase: Phase::Frontend { watching: !watched },
            frontend: XenbusState::UNKNOWN,
            written: false,
            rings: None,
            unwatched: None,
        };
        (unit, look)
    }

    /// The look has ended, with nothing changed in the store.
    pub(super) fn look_over(&mut self, look: &Look) {
        let now = self.now;
        let Some(entry) = self.entry(look.id) else {
            return;
        };
        entry.looking = false;
        if let Some(errno) = look.unwatched {
            entry.store_refuses(errno, now);
            self.tell_refusal(look.id);
        }
    }

    /// Goes on with a look; `None` when it has ended.
    pub(super) fn look_on(&mut self, unit: UnitId, look: Look, replies: &[Reply]) -> Option<Look> {
        match look.phase {
            Phase::Frontend { watching } => {
                Some(self.look_at_frontend(unit, look, watching, replies))
            }
            Phase::Backend { ref plan } => {
                let rings = replies.len().saturating_sub(BACK_KEYS.len());
                let (rings, backend) = replies.split_at(rings);
                let view = View {
                    backend: BackendView::new(look.id, backend),
                    frontend: look.frontend,
                    written: look.written,
                    rings: match plan {
                        Some(plan) => Some(plan.layout(rings)),
                        None => look.rings.clone(),
                    },
                };
                self.look_done(unit, look, view)
            }
            // Neither has any replies to come.
            Phase::Opening(_) | Phase::Ending(_) => {
                self.look_over(&look);
                None
            }
        }
    }

    /// Goes on with a look that has waited for its disk.
    pub(super) fn look_opened(&mut self, unit: UnitId, mut look: Look) -> Option<Look> {
        let over = Phase::Backend { plan: None };
        match core::mem::replace(&mut look.phase, over) {
            Phase::Opening(view) => self.look_done(unit, look, view),
            _ => None,
        }
    }

    /// All is read: does what is to be done.
    fn look_done(&mut self, unit: UnitId, mut look: Look, mut view: View) -> Option<Look> {
        loop {
            let then = self.step(look.id, &view);
            // The next step is not to take what has been noted for yet another write.
            view.written = false;
            match then {
                Then::Next => {}
                Then::Opened => {
                    look.phase = Phase::Opening(view);
                    return Some(look);
                }
                Then::Write(changes, change) => {
                    self.client.commit(unit, changes);
                    look.phase = Phase::Ending(change);
                    return Some(look);
                }
                Then::Nothing => {
                    self.client.abandon(unit);
                    if let Some(entry) = self.entry(look.id) {
                        entry.conflicts = 0;
                        if look.unwatched.is_none() {
                            entry.failures = 0;
                        }
                    }
                    self.look_over(&look);
                    return None;
                }
            }
        }
    }

    fn look_at_frontend(
        &mut self,
        unit: UnitId,
        mut look: Look,
        watching: bool,
        replies: &[Reply],
    ) -> Look {
        let id = look.id;
        let (watch, replies) = replies.split_at(usize::from(watching));
        let (state, keys) = replies.split_at(1.min(replies.len()));
        look.frontend = match state {
            [Ok(value)] => XenbusState::parse(value),
            _ => XenbusState::UNKNOWN,
        };
        let offer = self.offer_to(id);
        let mut plan = None;
        if let Some(entry) = self.entry(id) {
            match watch {
                [] => {}
                [Ok(_) | Err(Errno::EEXIST), ..] => {
                    entry.watched = true;
                    entry.look_again();
                }
                [Err(errno), ..] if is_passing(*errno) || entry.device.is_at_work() => {
                    look.unwatched = Some(*errno);
                }
                [Err(errno), ..] => {
                    let refusal = Refusal::new(*errno, refusal_of(*errno));
                    entry.device.refuse(refusal);
                }
            }
            let after = core::mem::take(&mut entry.written_after);
            look.written = core::mem::replace(&mut entry.written, after);
            if entry.device.wants_rings(look.frontend, look.written) && !keys.is_empty() {
                match Plan::new(&offer, keys) {
                    Ok(rings) => plan = Some(rings),
                    Err(refusal) => look.rings = Some(Err(refusal)),
                }
            }
        }
        let (front, back) = (id.front(), id.back());
        let rings = plan.iter().flat_map(Plan::keys);
        let rings = rings.map(|key| Request::ReadBrief(format!("{front}/{key}")));
        let backend = BACK_KEYS.map(|key| Request::Read(format!("{back}/{key}")));
        self.client.within(unit, rings.collect(), backend.into());
        look.phase = Phase::Backend { plan };
        look
    }

    fn offer_to(&mut self, id: DeviceId) -> Offer {
        let offer = self.offer;
        self.entry(id)
            .map_or(offer, |entry| entry.device.offer(&offer))
    }

    /// Decides, and does what is not done in the store; what is, is returned.
    fn step(&mut self, id: DeviceId, view: &View) -> Then {
        let at = Circumstances {
            now: self.now,
            shutting_down: self.patience().is_some(),
            patience_ns: self.patience().unwrap_or(PATIENCE_NS),
            held: self.held.contains(&id),
        };
        let Some(entry) = self.entry(id) else {
            return Then::Nothing;
        };
        let step = match entry.device.decide(view, &at) {
            // The directory may have come back since it was read.
            Step::Forget if entry.dirty => Step::Again,
            step => step,
        };
        let then = match step {
            Step::Open(_) => Then::Opened,
            // What follows can be said at once.
            Step::Close | Step::Disconnect => Then::Next,
            _ => Then::Nothing,
        };
        entry.dirty |= matches!(step, Step::Again);
        entry.wake_at = match step {
            Step::WaitUntil(time) => Some(time),
            _ => None,
        };
        let (generation, former) = (entry.generation, entry.device.was_connected());
        self.tell_refusal(id);
        let action = match step {
            Step::Wait | Step::WaitUntil(_) | Step::Again => None,
            Step::Open(disk) => Some(Action::Open {
                device: id,
                disk,
                former,
            }),
            Step::Connect { layout, former } => {
                let generation = self.new_generation();
                if let Some(entry) = self.entry(id) {
                    entry.generation = generation;
                }
                Some(Action::Connect(ConnectRequest {
                    device: id,
                    generation,
                    layout,
                    former,
                }))
            }
            Step::Disconnect => Some(Action::Disconnect {
                device: id,
                generation,
            }),
            Step::Close => Some(Action::Close { device: id }),
            Step::Forget => {
                self.forget(id);
                None
            }
            Step::Remove => {
                let state = view.backend.as_ref().map(|back| back.state);
                let refused = state == Some(XenbusState::INITIALISING);
                let changes = Vec::from([Request::Remove(id.back())]);
                return Then::Write(changes, Change::Remove { refused });
            }
            Step::Write(announce) => {
                let changes = self.changes(id, &announce, view);
                return Then::Write(changes, Change::Announce(announce));
            }
        };
        self.actions.extend(action);
        then
    }

    /// What an announcement writes: the features first, the state last. With Connected only what
    /// has changed since `InitWait`, which in most cases is the state alone.
    fn changes(&mut self, id: DeviceId, announce: &Announce, view: &View) -> Vec<Request> {
        let back = id.back();
        let offer = self.offer;
        let size = |facts: &DiskFacts| Vec::from([("sectors", facts.sectors.to_string())]);
        let published = match (announce, &view.backend) {
            (Announce::InitWait(facts), Some(view)) => features(&offer, facts, view),
            (Announce::Connected(facts), _)
                if self
                    .entry(id)
                    .is_some_and(|entry| entry.device.shows(facts)) =>
            {
                Vec::new()
            }
            (Announce::Connected(facts) | Announce::Resized(facts), _) => size(facts),
            _ => Vec::new(),
        };
        let state = ("state", format!("{}", announce.state().0));
        let all = published.into_iter().chain([state]);
        all.map(|(key, value)| Request::Write(format!("{back}/{key}"), value.into()))
            .collect()
    }

    pub(super) fn look_ended(&mut self, look: Look, result: Result<(), TransactionError>) {
        let now = self.now;
        let id = look.id;
        let Some(entry) = self.entry(id) else {
            return;
        };
        entry.looking = false;
        // Of a look that could not begin; all others have taken it.
        entry.written |= core::mem::take(&mut entry.written_after);
        let at_work = entry.device.is_at_work();
        let change = match (look.phase, result) {
            (Phase::Ending(change), Ok(())) => change,
            (_, Err(TransactionError::Conflict)) => {
                entry.dirty = true;
                entry.conflicts = entry.conflicts.saturating_add(1);
                let rounds = entry.conflicts / CONFLICTS_AT_ONCE;
                if entry.conflicts.is_multiple_of(CONFLICTS_AT_ONCE) {
                    entry.blocked_until = now.saturating_add((10 * MS) << rounds.min(7));
                    if rounds == 1 {
                        warn!("vbd {id}: {} xenstore conflicts in a row", entry.conflicts);
                    }
                }
                if entry.conflicts == CONFLICTS_ALLOWED && !at_work {
                    let text = "somebody else changes the device in xenstore without end";
                    entry.device.refuse(Refusal::new(Errno::EAGAIN, text));
                    self.tell_refusal(id);
                }
                return;
            }
            (_, Err(TransactionError::Refused(errno))) => {
                warn!("vbd {id}: xenstored refuses our changes: {errno}");
                entry.store_refuses(errno, now);
                return self.tell_refusal(id);
            }
            (_, Ok(())) => return,
        };
        // There may be more to do.
        entry.dirty = true;
        entry.conflicts = 0;
        match change {
            Change::Remove { refused } => {
                entry.failures = 0;
                entry.vanished = refused;
                let why = entry.device.refused().filter(|_| refused).cloned();
                entry.device.removed();
                entry.told = false;
                info!("vbd {id}: removed");
                if let Some(why) = why {
                    // If the store was full when it was first written, there is room for it now.
                    self.write_error(id, &why);
                }
            }
            Change::Announce(announce) => {
                entry.device.wrote(&announce, now);
                match look.unwatched {
                    Some(errno) => entry.store_refuses(errno, now),
                    None => entry.failures = 0,
                }
                let close = announce == Announce::Closed && entry.device.take_disk();
                match announce {
                    Announce::Resized(facts) => info!("vbd {id}: {} sectors now", facts.sectors),
                    _ => info!("vbd {id}: {}", announce.state()),
                }
                if matches!(announce, Announce::InitWait(_) | Announce::Connected(_)) {
                    entry.vanished = false;
                    self.clear_error(id);
                }
                if close {
                    self.actions.push_back(Action::Close { device: id });
                }
                self.tell_refusal(id);
            }
        }
    }
}

impl Entry {
    /// xenstored refuses what the device needs: it is tried again after a while, longer each time.
    /// After some times the device is refused.
    fn store_refuses(&mut self, errno: Errno, now: u64) {
        let most = if is_passing(errno) {
            PASSING_ALLOWED
        } else {
            FAILURES_ALLOWED
        };
        self.failures = self.failures.saturating_add(1);
        let mut pause = (100 * MS) << self.failures.min(5);
        if self.failures >= most && !self.device.is_at_work() {
            if self.failures == most {
                // A toolstack waits to hear of it.
                pause = 100 * MS;
            }
            self.device.refuse(Refusal::new(errno, refusal_of(errno)));
        }
        self.blocked_until = now.saturating_add(pause);
        self.given_up = self.failures > 2 * most;
        // Then only what others do there gives reason to try again, if we hear of it: what came
        // meanwhile does.
        self.dirty |= !self.given_up || !self.watched;
    }

    /// A look begins. If nothing was tried any longer, there is news, of which the watch is the
    /// first: all is tried as if for the first time.
    pub(super) fn look_again(&mut self) {
        if self.watched && core::mem::take(&mut self.given_up) {
            self.failures = 0;
            self.device.retry();
        }
    }
}

/// Whether xenstored may do in a moment what it refuses now.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EBUSY | Errno::ENOMEM)
}

/// What xenstored means by refusing a change.
fn refusal_of(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC | Errno::E2BIG | Errno::EQUOTA => {
            "xenstored's quota for this driver domain is used up: detach disks, or raise it"
        }
        _ if is_passing(errno) => "xenstored has had no time or memory for us for seconds",
        _ => "xenstored refuses our changes to the device",
    }
}
