//! Whether a life may follow the one that ends, and the note of how it ended.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use spindle_hw::Clock;
use spindle_kept::death::{Cause, Death, MESSAGE_MAX, TRACE_MAX};

use super::kept;
use crate::arch::cpu;
use crate::xen::{self, time};

/// Event channels to frontends.
static FRONTENDS: AtomicUsize = AtomicUsize::new(0);
/// The option `drill=on`.
static DRILL: AtomicBool = AtomicBool::new(false);

/// Counts an event channel to a frontend.
pub(crate) fn frontend_connected() {
    FRONTENDS.fetch_add(1, Relaxed);
}

/// Counts one less.
pub(crate) fn frontend_gone() {
    FRONTENDS.fetch_sub(1, Relaxed);
}

/// Allows drills.
pub(crate) fn allow_drills() {
    DRILL.store(true, Relaxed);
}

/// Notes that this life serves.
pub(crate) fn serves() {
    if let Some(kept) = kept::get() {
        kept.lives.serves();
    }
}

/// Notes how this life ends.
pub(crate) fn note(
    cause: Cause,
    message: fmt::Arguments<'_>,
    trace: &heapless::Vec<u64, TRACE_MAX>,
) {
    let Some(kept) = kept::get() else {
        return;
    };
    let mut kept_message = Cut(heapless::String::new());
    // Writing to `Cut` cannot fail: it cuts off.
    let _ = kept_message.write_fmt(message);
    kept.lives.end(&Death {
        cause,
        core: cpu::number() as u32,
        uptime_ns: time::uptime_ns(),
        at_ns: time::clock().map_or(0, Clock::now_ns),
        ring: 0,
        message: kept_message.0,
        trace: trace.clone(),
    });
}

/// Whether a life may follow this one, whose end is noted.
///
/// # Errors
/// With the reason, if not.
pub(crate) fn may_follow() -> Result<(), &'static str> {
    let kept = kept::get().ok_or("there is no kept memory")?;
    let clock = time::clock().filter(|_| xen::is_present());
    let clock = clock.ok_or("there is no hypervisor")?;
    // Until the next life takes over what frontends have of this one, they are better off with an
    // end that the toolstack sees.
    if FRONTENDS.load(Relaxed) > 0 && !DRILL.load(Relaxed) {
        return Err("frontends are connected");
    }
    if !kept.lives.may_go_on(clock.now_ns()) {
        return Err("there were too many deaths within a minute");
    }
    Ok(())
}

/// A message that is cut off rather than refused.
struct Cut(heapless::String<MESSAGE_MAX>);

impl Write for Cut {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let _ = s.chars().try_for_each(|c| self.0.push(c));
        Ok(())
    }
}
