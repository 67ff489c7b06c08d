//! Event channels (`public/event_channel.h`), polled.

// UNSAFETY: hypercalls.
#![expect(unsafe_code)]

use spindle_xen::event::{Notify, Port};
use spindle_xen::{DomId, Errno};

use super::hypercall::{self, EVENT_CHANNEL_OP};
use super::shared::SharedInfo;

const BIND_INTERDOMAIN: u64 = 0;
const CLOSE: u64 = 3;
const SEND: u64 = 4;
const ALLOC_UNBOUND: u64 = 6;

/// The domain's event channels. Ports stay masked: nobody is interrupted, everybody polls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Events {
    shared: &'static SharedInfo,
}

fn op<T>(number: u64, arg: &mut T) -> Result<(), Errno> {
    // SAFETY: `arg` is the structure that the operation takes, and outlives the call; event
    // channel operations change no other memory.
    unsafe { hypercall::call(EVENT_CHANNEL_OP, [number, (&raw mut *arg).addr() as u64, 0]) }
        .map(drop)
}

impl Events {
    pub(super) const fn new(shared: &'static SharedInfo) -> Self {
        Self { shared }
    }

    /// Binds a new local port to `port` of `remote`. Xen marks it pending at once.
    ///
    /// # Errors
    /// Xen's: EINVAL if there is no such port bound to us.
    pub(crate) fn bind_interdomain(self, remote: DomId, port: Port) -> Result<Port, Errno> {
        /// `struct evtchn_bind_interdomain`.
        #[repr(C)]
        struct Bind {
            remote: u16,
            pad: u16,
            remote_port: u32,
            local_port: u32,
        }
        let mut bind = Bind {
            remote: remote.0,
            pad: 0,
            remote_port: port.0,
            local_port: 0,
        };
        op(BIND_INTERDOMAIN, &mut bind)?;
        Ok(Port(bind.local_port))
    }

    /// A new local port that `remote` may bind to.
    ///
    /// # Errors
    /// Xen's: ENOSPC if there are no ports left.
    pub(crate) fn alloc_unbound(self, remote: DomId) -> Result<Port, Errno> {
        /// `struct evtchn_alloc_unbound`.
        #[repr(C)]
        struct Alloc {
            domid: u16,
            remote: u16,
            port: u32,
        }
        let mut alloc = Alloc {
            domid: DomId::SELF.0,
            remote: remote.0,
            port: 0,
        };
        op(ALLOC_UNBOUND, &mut alloc)?;
        Ok(Port(alloc.port))
    }

    /// Closes a local port and forgets what came for it.
    ///
    /// # Errors
    /// Xen's: EINVAL if the port is not ours.
    pub(crate) fn close(self, port: Port) -> Result<(), Errno> {
        op(CLOSE, &mut { port.0 })?;
        self.take_pending(port);
        Ok(())
    }

    /// Whether an event came for `port` since the last call, which forgets it.
    #[inline]
    pub(crate) fn take_pending(self, port: Port) -> bool {
        self.shared.take_pending(port)
    }

    /// Whether an event is waiting for `port`.
    #[inline]
    pub(crate) fn is_pending(self, port: Port) -> bool {
        self.shared.is_pending(port)
    }
}

impl Notify for Events {
    /// An error means that the other end is gone, which xenstore tells in its own time.
    #[inline]
    fn notify(&self, port: Port) {
        let _ = op(SEND, &mut { port.0 });
    }
}
