//! Xen as a backend needs it: the public ABI, the xenstore client and the xenbus state machine.
//!
//! No hypercall is made here. Bytes and events come in, actions go out.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod clock;
pub mod console;
pub mod errno;
pub mod event;
pub mod grant;
pub mod store;
pub mod xenbus;

pub use errno::Errno;

/// A domain's number (`domid_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(pub u16);

impl DomId {
    /// The calling domain itself (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);
}
