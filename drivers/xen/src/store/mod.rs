//! Xenstore: the wire format, the ring to xenstored and the client that speaks over it.
//!
//! | part | job |
//! | --- | --- |
//! | [`wire`] | message headers and payloads (`public/io/xs_wire.h`) |
//! | [`Ring`] | bytes in and out of the shared page |
//! | [`Client`] | batches of requests, transactions, watch events |

mod client;
mod ring;
pub mod wire;

pub(crate) use client::parse_decimal;
pub use client::{Client, Event, Priority, Reply, Request, TransactionError, UnitId};
pub use ring::{Ring, RingError};
