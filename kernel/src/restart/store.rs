//! The connection to xenstored, which outlives the kernel.

use log::warn;
use spindle_hw::Clock;
use spindle_kept::layout::{STORE_PAGE, STORE_PAGES};
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::store::{KEPT_STREAM_PAGES, KeptStream, Resume, Ring};

use super::kept;
use crate::xen::{self, Events, sched, time::CoreClock};

const _: () = assert!(KEPT_STREAM_PAGES == STORE_PAGES);
/// How long xenstored may take before its ring is looked at without an event.
const LOOK_NS: u64 = 1_000_000_000;

/// The ring to xenstored, in step: whatever an earlier life was in the middle of has ended. Called
/// once.
pub(crate) fn ring(store: xen::Ring, events: Events, clock: &CoreClock) -> (Ring, Port) {
    let xen::Ring { page, port } = store;
    let kept = kept::memory().and_then(|kept| {
        let pages = kept.pages().view(STORE_PAGE, STORE_PAGES)?;
        Some((KeptStream::new(pages), kept::is_again()))
    });
    let Some((stream, again)) = kept else {
        return (Ring::new(page), port);
    };
    let mut ring = Ring::keeping(page, stream, again);
    if again && let Err(error) = resume(&mut ring, port, events, clock) {
        warn!("the connection to xenstored may be out of step: {error}");
    }
    (ring, port)
}

fn resume(
    ring: &mut Ring,
    port: Port,
    events: Events,
    clock: &CoreClock,
) -> Result<(), spindle_xen::store::ResumeError> {
    let mut resume = Resume::new(ring)?;
    loop {
        events.take_pending(port);
        let done = resume.poll(ring)?;
        if ring.take_notify() {
            events.notify(port);
        }
        if done {
            return Ok(());
        }
        let now = clock.now_ns();
        // An error only means that the sleep was short. Its event may be lost.
        let _ = sched::poll(&[port], Deadline::new(now, now + LOOK_NS));
    }
}
