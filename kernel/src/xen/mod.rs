//! The hypervisor: what it offers, in safe types. Running without it is supported for quick tests.

mod cpuid;
pub(crate) mod events;
mod grants;
mod hypercall;
mod params;
pub(crate) mod sched;
mod shared;
pub(crate) mod time;
pub(crate) mod vcpus;

pub(crate) use cpuid::Hypervisor;
pub(crate) use events::Events;
pub(crate) use grants::Grants;
pub(crate) use hypercall::is_vmmcall;
pub(crate) use params::Ring;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use shared::SharedInfo;
use spindle_xen::event::Port;

use crate::mm::GrantWindow;

/// Whether hypercalls can be made.
static PRESENT: AtomicBool = AtomicBool::new(false);

/// What Xen gave us.
#[derive(Debug)]
pub(crate) struct Xen {
    /// Version and domain number.
    pub(crate) hypervisor: Hypervisor,
    /// Event channels.
    pub(crate) events: Events,
    /// Grant operations.
    pub(crate) grants: Grants,
    /// xenstored's ring.
    pub(crate) store: Option<Ring>,
    /// The port to xenconsoled.
    pub(crate) console_port: Option<Port>,
    /// xenconsoled's ring, until the log takes it.
    pub(crate) console: Option<Ring>,
}

/// Whether we run under Xen.
pub(crate) fn is_present() -> bool {
    PRESENT.load(Relaxed)
}

/// Makes contact: hypercalls, the shared page (at a frame of `window`), the rings, the clock.
/// `None` without Xen. Called once.
///
/// # Errors
/// With the reason, if Xen is there but refuses.
pub(crate) fn init(window: GrantWindow) -> Result<Option<Xen>, &'static str> {
    let Some(hypervisor) = cpuid::detect() else {
        time::start(time::Source::calibrated());
        return Ok(None);
    };
    hypercall::init();
    PRESENT.store(true, Relaxed);
    let page = window.alloc(1).ok_or("no guest frame for shared_info")?;
    let shared = SharedInfo::new(page).map_err(|_| "Xen refused shared_info")?;
    let shared = &*Box::leak(Box::new(shared));
    time::start(time::Source::Xen { shared, vcpu: 0 });
    vcpus::init(shared);
    let console = params::console();
    Ok(Some(Xen {
        hypervisor,
        events: Events::new(shared),
        grants: Grants::new(),
        store: params::store(),
        console_port: console.as_ref().map(|ring| ring.port),
        console,
    }))
}
