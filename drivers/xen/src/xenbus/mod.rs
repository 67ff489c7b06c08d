//! The backend side of xenbus for block devices (`vbd`): what the toolstack and the frontends say
//! in xenstore goes in, actions for the kernel come out.
//!
//! Every device is reconciled level-triggered: an event only marks it, then one *look* reads all
//! that matters and decides the one next step. Nothing is queued per event, and a look that
//! finds nothing to do ends.
//!
//! | part | job |
//! | --- | --- |
//! | [`Backend`] | what the kernel calls |
//! | `jobs` | the units of xenstore work; where watch events lead |
//! | `turns` | which device is looked at next, and how often |
//! | `look` | one look at a device: read, decide, carry out |
//! | `device` | one device's state machine: what is known, and the next step from what is there |
//! | `view` | what a look has read |
//! | `rings` | the frontend's rings, validated: [`RingLayout`] |
//! | `features` | what we say in a device's directory |
//! | `publish` | what we say elsewhere: errors, and the kernel's own values |
//! | `orders` | drills that an operator asks for |
//! | `types` | the words the kernel and the backend share |

mod backend;
mod device;
mod features;
mod jobs;
mod look;
mod orders;
mod publish;
mod rings;
mod turns;
mod types;
mod view;

pub use backend::Backend;
pub use rings::{Abi, QueueParams, RingLayout};
pub use spindle_block::{Access, Discard};
pub use types::{
    Action, ConnectRequest, DeviceId, DiskFacts, DiskRequest, FormerConnection, FormerDevice,
    Generation, Offer, Refusal, ShutdownKind, XenbusState,
};
