//! Whether a life may follow the one that ends, and the note of how it ended.

use core::fmt::{self, Write};

use spin::Once;
use spindle_hw::{Clock, SharedPages};
use spindle_kept::AtWork;
use spindle_kept::death::{Death, DeathCause, MESSAGE_MAX, TRACE_MAX};

use super::kept;
use super::layout::TRIAL_UNDER_WAY;
use crate::arch::cpu;
use crate::xen::{self, time};

/// Where each core says which ring it is serving.
static WORK: Once<SharedPages> = Once::new();

/// Has notes say which ring the core was serving that died. Cores say it in `page`.
pub(crate) fn work_is_at(page: SharedPages) {
    WORK.call_once(|| page);
}

/// Notes that this life serves.
pub(crate) fn serves() {
    if let Some(kept) = kept::get() {
        kept.lives.serves();
    }
}

/// Notes how this life ends.
pub(crate) fn note(
    cause: DeathCause,
    message: fmt::Arguments<'_>,
    trace: &heapless::Vec<u64, TRACE_MAX>,
) {
    let Some(kept) = kept::memory() else {
        return;
    };
    let mut kept_message = Cut(heapless::String::new());
    // Writing to `Cut` cannot fail: it cuts off.
    let _ = kept_message.write_fmt(message);
    let core = cpu::number();
    let ring = WORK.get().and_then(|page| AtWork::read(page, core));
    kept.lives().end(&Death {
        cause,
        core: core as u32,
        uptime_ns: time::uptime_ns(),
        at_ns: time::clock().map_or(0, Clock::now_ns),
        ring: ring.map_or(0, |first| u64::from(first) + 1),
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
    if kept.trial() == TRIAL_UNDER_WAY {
        // The image that was there before goes on.
        return Ok(());
    }
    let clock = time::clock().filter(|_| xen::is_present());
    let clock = clock.ok_or("there is no hypervisor")?;
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
