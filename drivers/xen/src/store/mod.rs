//! Xenstore: the wire format, the ring to xenstored and the client that speaks over it.
//!
//! | part | job |
//! | --- | --- |
//! | [`wire`] | message headers and payloads (`public/io/xs_wire.h`) |
//! | [`Ring`] | bytes in and out of the shared page |
//! | [`KeptStream`], [`Resume`] | the connection of a kernel that starts again in place |
//! | [`Client`] | batches of requests, transactions, watch events |

mod client;
mod kept;
mod ring;
pub mod wire;

pub(crate) use client::parse_decimal;
pub use client::{Client, Event, Priority, Reply, Request, TransactionError, UnitId};
pub use kept::{KEPT_STREAM_PAGES, KeptStream, Resume, ResumeError};
pub use ring::{Ring, RingError};
