//! Event channels (`public/event_channel.h`), polled.

// UNSAFETY: hypercalls.
#![expect(unsafe_code)]

use spindle_hw::Clock;
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::{DomId, Errno};

use super::hypercall::{self, EVENT_CHANNEL_OP};
use super::sched;
use super::shared::SharedInfo;

const BIND_INTERDOMAIN: u64 = 0;
const CLOSE: u64 = 3;
const SEND: u64 = 4;
const STATUS: u64 = 5;
const BIND_IPI: u64 = 7;
/// How late an event may be noticed by a core that sleeps on more ports than Xen takes.
const MANY_PORTS_NS: u64 = 1_000_000;

/// The domain's event channels. Ports stay masked: no vCPU is interrupted, all of them poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Events {
    shared: &'static SharedInfo,
}

fn op<T>(number: u64, arg: &mut T) -> Result<(), Errno> {
    let args = [number, hypercall::address(&raw mut *arg), 0];
    // SAFETY: `arg` is the structure that the operation takes, and outlives the call; event
    // channel operations change no other memory.
    unsafe { hypercall::call(EVENT_CHANNEL_OP, args) }.map(drop)
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

    /// A new port within the domain: any core may notify it, and whoever sleeps on it wakes. It is
    /// bound to `vcpu`, which matters to interrupts only, not to polling.
    ///
    /// # Errors
    /// Xen's: ENOENT if there is no such vCPU, ENOSPC if there are no ports left.
    pub(crate) fn bind_ipi(self, vcpu: usize) -> Result<Port, Errno> {
        /// `struct evtchn_bind_ipi`.
        #[repr(C)]
        struct Bind {
            vcpu: u32,
            port: u32,
        }
        let vcpu = u32::try_from(vcpu).map_err(|_| Errno::ENOENT)?;
        let mut bind = Bind { vcpu, port: 0 };
        op(BIND_IPI, &mut bind)?;
        Ok(Port(bind.port))
    }

    /// Sleeps as [`sched::poll`] does, on any number of ports.
    ///
    /// Xen looks at [`sched::POLL_MAX`] of them at most. Asleep on more than one port, a vCPU is
    /// woken by every event of the domain; so all that could be missed is what comes for one of
    /// the others just before it falls asleep, and that is why it then sleeps for 1 ms at most.
    ///
    /// # Errors
    /// Xen's: EINVAL for a port that is not ours.
    pub(crate) fn sleep(
        self,
        ports: impl IntoIterator<Item = Port>,
        deadline: Deadline,
        clock: &impl Clock,
    ) -> Result<(), Errno> {
        let mut listed: heapless::Vec<Port, { sched::POLL_MAX }> = heapless::Vec::new();
        let mut crowded = false;
        for port in ports {
            if let Err(port) = listed.push(port) {
                crowded = true;
                if self.is_pending(port) {
                    return Ok(());
                }
            }
        }
        let deadline = if crowded {
            let now = clock.now_ns();
            deadline.min(Deadline::new(now, now.saturating_add(MANY_PORTS_NS)))
        } else {
            deadline
        };
        sched::poll(&listed, deadline)
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

    /// Closes every local port but those that are to be `kept`, and Xen's own, which are not shown to the
    /// domain; gives how many there were.
    pub(crate) fn close_all_but(self, kept: impl Fn(Port) -> bool) -> usize {
        let is_open = |port: &Port| Self::is_open(*port) == Ok(true) && !kept(*port);
        // Xen has no ports above the first that it does not know.
        let known = (1..)
            .map(Port)
            .take_while(|port| Self::is_open(*port) != Err(Errno::EINVAL));
        known
            .filter(is_open)
            .filter(|port| self.close(*port).is_ok())
            .count()
    }

    /// Whether a local port is in use.
    ///
    /// # Errors
    /// Xen's: EINVAL if there is no such port yet, EACCES for one that is Xen's own.
    fn is_open(port: Port) -> Result<bool, Errno> {
        /// `struct evtchn_status`.
        #[repr(C)]
        struct Status {
            domid: u16,
            pad: u16,
            port: u32,
            status: u32,
            vcpu: u32,
            detail: [u32; 2],
        }
        let mut status = Status {
            domid: DomId::SELF.0,
            pad: 0,
            port: port.0,
            status: 0,
            vcpu: 0,
            detail: [0; 2],
        };
        op(STATUS, &mut status)?;
        Ok(status.status != 0)
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
