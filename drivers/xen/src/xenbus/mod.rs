//! The backend side of xenbus for block devices (`vbd`): what the toolstack and the frontends say
//! in xenstore goes in, actions for the kernel come out.
//!
//! Every device is reconciled level-triggered: an event only marks it, then one *look* reads all
//! that matters and decides the one next step. Nothing is queued per event, and a look that
//! finds nothing to do ends.
//!
//! | part | job |
//! | --- | --- |
//! | [`Backend`] | finds devices, runs one look at a time, talks to the kernel |
//! | `device` | one device's state machine: the next step from what is there |
//! | `view` | what a look has read |
//! | `rings` | the frontend's rings, validated: [`RingLayout`] |
//! | `features` | what we publish |
//! | `types` | the words the kernel and the backend share |

mod backend;
mod device;
mod features;
mod look;
mod rings;
mod types;
mod view;

pub use backend::Backend;
pub use rings::{Protocol, QueueParams, RingLayout};
pub use types::{
    Access, Action, ConnectRequest, DeviceId, Discard, DiskFacts, Generation, Offer, Refusal,
    ShutdownKind, XenbusState,
};
