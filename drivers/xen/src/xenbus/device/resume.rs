//! What becomes of a connection that a former life of the kernel had.
//!
//! | in xenstore | what follows |
//! | --- | --- |
//! | both sides connected, or closing, with the rings that were known | it is taken up, without a word in the store |
//! | the frontend has initialised its rings anew | it is connected anew |
//! | both sides connected, and the connection is not known or cannot be taken up | it is ended, with the reason |
//! | anything else | nothing was connected: as for any device |

use super::{Device, Disk, Link, Stale, Step, alive};
use crate::Errno;
use crate::xenbus::view::{BackendView, View};
use crate::xenbus::{FormerConnection, Offer, Refusal, XenbusState};
use XenbusState as S;

/// log2 of the pages of the largest ring.
const LARGEST_RING: u32 = 4;

/// What a former life must have offered for what the frontend has.
pub(super) fn offered_before(offer: Offer, former: &FormerConnection) -> Offer {
    let queues = u32::try_from(former.layout.queues.len()).unwrap_or(u32::MAX);
    Offer {
        max_queues: offer.max_queues.max(queues),
        max_ring_page_order: LARGEST_RING,
        ..offer
    }
}

impl Device {
    /// One that may have been served by a former life of the kernel, which has left this of it.
    pub(in crate::xenbus) fn resumed(former: Option<Result<FormerConnection, Refusal>>) -> Self {
        let unknown = || {
            let text = "the driver domain's kernel has started again, and has no record of the \
                        connection";
            Err(Refusal::new(Errno::EIO, text))
        };
        Self {
            former: Some(former.unwrap_or_else(unknown)),
            closed_before: Some(None),
            ..Self::new()
        }
    }

    /// The next step for a connection that a former life had, if it had one.
    pub(super) fn take_up(&mut self, back: &BackendView, view: &View) -> Option<Step> {
        let former = self.former.clone()?;
        let front = view.frontend;
        let in_use = matches!(back.state, S::CONNECTED | S::CLOSING) && alive(front);
        if !in_use || self.link != Link::Down {
            self.former = None;
            return None;
        }
        let anew = front == S::INITIALISED && back.state == S::CONNECTED;
        if let Err(refusal) = former.as_ref()
            && !anew
        {
            let refusal = refusal.clone();
            return self.give_former_up(refusal, view);
        }
        match (&self.disk, &back.disk) {
            (Disk::Opening, _) => return Some(Step::Wait),
            (Disk::None, Ok(request)) if self.refusal.is_none() => {
                self.disk = Disk::Opening;
                return Some(Step::Open(request.clone()));
            }
            (Disk::None, Err(refusal)) => {
                let refusal = refusal.clone();
                return self.give_former_up(refusal, view);
            }
            // It has been refused for its disk.
            (Disk::None, Ok(_)) => {
                self.former = None;
                return None;
            }
            (Disk::Open(_), _) => {}
        }
        if anew {
            // Nothing is under way on these rings: their frontend waits for Connected.
            self.former = None;
            self.replacing = true;
            return None;
        }
        let (Some(rings), Ok(former)) = (&view.rings, former) else {
            return Some(Step::Again);
        };
        match rings {
            Ok(layout) if *layout == former.layout && !self.rewritten => {
                self.former = None;
                self.link = Link::Connecting;
                self.layout = Some(layout.clone());
                self.shown = true;
                self.published = former.sectors;
                Some(Step::Connect {
                    layout: layout.clone(),
                    former: true,
                })
            }
            Ok(_) => {
                let text = "the frontend has other rings than before the driver domain's kernel \
                            started again";
                self.give_former_up(Refusal::new(Errno::EIO, text), view)
            }
            Err(refusal) => {
                let refusal = refusal.clone();
                self.give_former_up(refusal, view)
            }
        }
    }

    /// The connection is lost: its frontend is to close, and may connect anew.
    fn give_former_up(&mut self, why: Refusal, view: &View) -> Option<Step> {
        self.former = None;
        self.failure = Some(why);
        self.stale = Some(Stale {
            state: view.frontend,
            rings: view.rings.clone(),
        });
        None
    }
}
