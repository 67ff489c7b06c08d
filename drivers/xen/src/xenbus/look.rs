//! One look at a device: reads what matters, decides one step, carries it out.
//!
//! The frontend's keys are read first and outside the transaction, so that no frontend can make
//! our transactions conflict; a change of them after that marks the device again. The state is
//! read before the rings, which a frontend publishes in the opposite order.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use log::{info, warn};

use super::backend::{state_of, token_of};
use super::device::{Announce, Circumstances, PATIENCE_NS, Step};
use super::features::features;
use super::rings::{FIRST_KEYS, Plan};
use super::view::{BACK_KEYS, BackendView, View};
use super::{Action, Backend, ConnectRequest, DeviceId, Offer, Refusal, RingLayout, XenbusState};
use crate::Errno;
use crate::store::{Reply, Request, TransactionError};

/// Conflicts in a row before pausing, and before the device is refused, about 7 s later: libxl
/// gives up after 10. Refused writes in a row before the device is refused.
const CONFLICTS_AT_ONCE: u32 = 8;
const CONFLICTS_ALLOWED: u32 = 96;
const FAILURES_ALLOWED: u32 = 3;
const MS: u64 = 1_000_000;

#[derive(Debug)]
enum Phase {
    /// Is there a directory at all?
    Exists,
    /// The frontend's state, perhaps after setting the watch on it.
    Frontend,
    /// How many rings there are.
    RingCount,
    Rings(Plan),
    /// The backend's directory, inside the transaction.
    Backend,
    /// The transaction ends with this done, if anything.
    Ending(Option<Change>),
}

#[derive(Debug)]
enum Change {
    Announce(Announce),
    /// The directory goes; `refused` if that is how the device is refused.
    Remove {
        refused: bool,
    },
}

/// A look under way.
#[derive(Debug)]
pub(super) struct Look {
    id: DeviceId,
    phase: Phase,
    frontend: XenbusState,
    rings: Option<Result<RingLayout, Refusal>>,
}

impl Backend {
    pub(super) fn start_look(&mut self, id: DeviceId) -> Look {
        let watched = self.entry(id).is_some_and(|entry| entry.watched);
        let (phase, request) = if watched {
            (Phase::Frontend, state_of(id))
        } else {
            (Phase::Exists, format!("{}/frontend", id.back()))
        };
        self.client.send_brief(Vec::from([Request::Read(request)]));
        Look {
            id,
            phase,
            frontend: XenbusState::UNKNOWN,
            rings: None,
        }
    }

    /// Goes on with a look; `None` when it has ended.
    pub(super) fn look_on(&mut self, mut look: Look, replies: &[Reply]) -> Option<Look> {
        let id = look.id;
        match core::mem::replace(&mut look.phase, Phase::Backend) {
            Phase::Exists => {
                if matches!(replies, [Err(Errno::ENOENT)]) {
                    let view = View {
                        backend: None,
                        frontend: XenbusState::UNKNOWN,
                        rings: None,
                    };
                    self.step(id, &view);
                    return None;
                }
                let (path, token) = (state_of(id), token_of(id));
                let watch = Request::Watch(path.clone(), token);
                self.client
                    .send_brief(Vec::from([watch, Request::Read(path)]));
                look.phase = Phase::Frontend;
            }
            Phase::Frontend => self.look_at_frontend(&mut look, replies),
            Phase::RingCount => match Plan::new(&self.offer_to(id), replies) {
                Ok(plan) => {
                    let front = id.front();
                    let keys = plan.keys().into_iter();
                    let reads = keys.map(|key| Request::Read(format!("{front}/{key}")));
                    self.client.send_brief(reads.collect());
                    look.phase = Phase::Rings(plan);
                }
                Err(refusal) => {
                    look.rings = Some(Err(refusal));
                    self.look_at_backend(id);
                }
            },
            Phase::Rings(plan) => {
                look.rings = Some(plan.layout(replies));
                self.look_at_backend(id);
            }
            Phase::Backend => {
                let backend = BackendView::new(id, replies);
                let view = View {
                    backend,
                    frontend: look.frontend,
                    rings: look.rings.take(),
                };
                let (changes, change) = self.step(id, &view);
                self.client.commit(changes);
                look.phase = Phase::Ending(change);
            }
            Phase::Ending(_) => return None,
        }
        Some(look)
    }

    fn look_at_frontend(&mut self, look: &mut Look, replies: &[Reply]) {
        look.frontend = match replies.last() {
            Some(Ok(value)) => XenbusState::parse(value),
            _ => XenbusState::UNKNOWN,
        };
        let Some(entry) = self.entry(look.id) else {
            return self.look_at_backend(look.id);
        };
        if let [watch, _] = replies {
            match watch {
                Ok(_) | Err(Errno::EEXIST) => entry.watched = true,
                Err(errno) => {
                    entry
                        .device
                        .refuse(Refusal::new(*errno, refusal_of(*errno)));
                }
            }
        }
        if entry.device.wants_rings(look.frontend) {
            let front = look.id.front();
            let reads = FIRST_KEYS.map(|key| Request::Read(format!("{front}/{key}")));
            self.client.send_brief(reads.into());
            look.phase = Phase::RingCount;
        } else {
            self.look_at_backend(look.id);
        }
    }

    fn offer_to(&mut self, id: DeviceId) -> Offer {
        let offer = self.offer;
        self.entry(id)
            .map_or(offer, |entry| entry.device.offer(&offer))
    }

    fn look_at_backend(&mut self, id: DeviceId) {
        let back = id.back();
        self.client.begin(
            BACK_KEYS
                .map(|key| Request::Read(format!("{back}/{key}")))
                .into(),
        );
    }

    /// Decides, and does what is not done in the store; what is, is returned.
    fn step(&mut self, id: DeviceId, view: &View) -> (Vec<Request>, Option<Change>) {
        let at = Circumstances {
            now: self.now,
            shutting_down: self.patience().is_some(),
            patience_ns: self.patience().unwrap_or(PATIENCE_NS),
        };
        let Some(entry) = self.entry(id) else {
            return (Vec::new(), None);
        };
        let step = match entry.device.decide(view, &at) {
            // The directory may have come back since it was read.
            Step::Forget if entry.dirty => Step::Again,
            step => step,
        };
        entry.dirty |= !matches!(step, Step::Wait | Step::WaitUntil(_));
        entry.wake_at = match step {
            Step::WaitUntil(time) => Some(time),
            _ => None,
        };
        let generation = entry.generation;
        self.tell_refusal(id);
        let action = match step {
            Step::Wait | Step::WaitUntil(_) | Step::Again => None,
            Step::Open {
                params,
                access,
                discard,
            } => Some(Action::Open {
                device: id,
                params,
                access,
                discard,
            }),
            Step::Connect(layout) => {
                let generation = self.new_generation();
                if let Some(entry) = self.entry(id) {
                    entry.generation = generation;
                }
                Some(Action::Connect(ConnectRequest {
                    device: id,
                    generation,
                    layout,
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
                return (changes, Some(Change::Remove { refused }));
            }
            Step::Write(announce) => {
                let changes = self.changes(id, &announce, view);
                return (changes, Some(Change::Announce(announce)));
            }
        };
        self.actions.extend(action);
        (Vec::new(), None)
    }

    /// What an announcement writes: the features first, the state last.
    fn changes(&self, id: DeviceId, announce: &Announce, view: &View) -> Vec<Request> {
        let back = id.back();
        let published = match (announce, &view.backend) {
            (Announce::InitWait(facts) | Announce::Connected(facts), Some(view)) => {
                features(&self.offer, facts, view)
            }
            (Announce::Resized(facts), _) => Vec::from([("sectors", facts.sectors.to_string())]),
            _ => Vec::new(),
        };
        let state = ("state", format!("{}", announce.state().0));
        let all = published.into_iter().chain([state]);
        all.map(|(key, value)| Request::Write(format!("{back}/{key}"), value.into()))
            .collect()
    }

    pub(super) fn look_ended(&mut self, look: Look, result: Result<(), TransactionError>) {
        let now = self.now;
        let (id, frontend) = (look.id, look.frontend);
        let Some(entry) = self.entry(id) else {
            return;
        };
        let at_work = entry.device.is_at_work(frontend);
        let change = match (look.phase, result) {
            (Phase::Ending(change), Ok(())) => change,
            // Abandoning a transaction that wanted nothing may fail as it likes.
            (Phase::Ending(None), Err(_)) => None,
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
                entry.failures = entry.failures.saturating_add(1);
                entry.blocked_until = now.saturating_add((100 * MS) << entry.failures.min(5));
                warn!("vbd {id}: xenstored refuses our changes: {errno}");
                if entry.failures >= FAILURES_ALLOWED && !at_work {
                    entry.device.refuse(Refusal::new(errno, refusal_of(errno)));
                }
                // Then only what others do there gives reason to try again.
                entry.dirty = entry.failures <= 2 * FAILURES_ALLOWED;
                return self.tell_refusal(id);
            }
            (_, Ok(())) => None,
        };
        entry.conflicts = 0;
        match change {
            None => {}
            Some(Change::Remove { refused }) => {
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
            Some(Change::Announce(announce)) => {
                entry.failures = 0;
                entry.device.wrote(&announce, now);
                match announce {
                    Announce::Resized(facts) => info!("vbd {id}: {} sectors now", facts.sectors),
                    _ => info!("vbd {id}: {}", announce.state()),
                }
                if matches!(announce, Announce::InitWait(_) | Announce::Connected(_)) {
                    entry.vanished = false;
                    self.clear_error(id);
                }
            }
        }
    }
}

/// What xenstored means by refusing a change.
fn refusal_of(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC | Errno::E2BIG | Errno::EQUOTA => {
            "xenstored's quota for this driver domain is used up: detach disks, or raise it"
        }
        _ => "xenstored refuses our changes to the device",
    }
}
