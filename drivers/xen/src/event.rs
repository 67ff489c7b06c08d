//! Event channels as the rest of Spindle sees them.

use alloc::boxed::Box;

/// A local event channel port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

/// Sending events, the one event-channel operation on the data path.
pub trait Notify {
    /// Notifies the other end of `port`.
    fn notify(&self, port: Port);
}

impl<N: Notify + ?Sized> Notify for Box<N> {
    fn notify(&self, port: Port) {
        (**self).notify(port);
    }
}
