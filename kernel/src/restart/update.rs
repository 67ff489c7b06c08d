//! Another image in the place of the one that runs: taken from dom0, checked, tried, and kept or given up.
//!
//! The image comes into the spare room for copies, so that until it is checked nothing has changed that
//! matters. Then this life ends, not by a death, and the new image is entered. What a death leads to is
//! the old one, as long as the new one has not taken over all that was connected: kept_code.S goes
//! back to it by itself.

// UNSAFETY: the image's head is made by the linker.
#![expect(unsafe_code)]

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::arch::global_asm;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use log::{error, info};
use spin::Mutex;
use spindle_control::{HandOver, UpdateStep};
use spindle_hw::{Clock, PAGE_SIZE, SharedPages};
use spindle_kept::death::DeathCause;
use spindle_kept::image::{
    HEAD_LEN, HEAD_MAGIC, HEAD_VERSION, ImageHead, ImageOffer, LAYOUTS, Unfit, UpdateNote,
    UpdateOutcome,
};
use spindle_status::orders::{UpdateAnswer, UpdateOrder};
use spindle_xen::DomId;
use spindle_xen::grant::{CopyEnd, CopyOp, GrantOps, GrantRef};

use super::kept::{self, KeptCode, NextLife};
use super::layout::{
    BSS, BSS_WORDS, ENTRY, IMAGE_FROM, IMAGE_TO, IMAGE_WORDS, NEXT, PLAN_LEN, PLANS, START_INFO,
    TRIAL, TRIAL_FAILED, TRIAL_NONE, TRIAL_UNDER_WAY, TRIAL_WANTED,
};
use super::marks::{self, Mark};
use super::{cores, decision};
use crate::xen::time;

global_asm!(
    include_str!("head.S"),
    concat!(
        ".ascii \"",
        env!("CARGO_PKG_VERSION"),
        " ",
        env!("SPINDLE_GIT"),
        "\""
    ),
    ".org {HEAD_LEN}",
    HEAD_LEN = const HEAD_LEN,
    HEAD_MAGIC = const HEAD_MAGIC,
    HEAD_VERSION = const HEAD_VERSION,
    LAYOUT = const LAYOUTS.0,
    READS = const LAYOUTS.1,
);

unsafe extern "C" {
    static image_head: [u8; HEAD_LEN];
}

/// Where images come from.
const DOM0: DomId = DomId(0);
/// Grants that are copied in one call.
const BATCH: usize = 64;

/// Why there is no room: a domain with little memory, or one that cannot start again at all.
const NO_ROOM: &str = "the domain has no memory for a second image: 16 MiB are needed";

/// This image's version, in words.
pub(crate) fn version() -> String {
    running().map_or(String::new(), |head| head.to_string())
}

/// What this image says of itself.
fn running() -> Result<ImageHead, Unfit> {
    // SAFETY: a constant in the image.
    ImageHead::read(unsafe { &image_head })
}

/// The image that is to follow, once the cores are drained.
static PLANNED: Mutex<Option<Planned>> = Mutex::new(None);

/// An image that was taken in and checked.
#[derive(Debug)]
struct Planned {
    /// Of the order.
    number: u64,
    running: ImageHead,
    head: ImageHead,
    /// It is the one that runs.
    same: bool,
}

/// Takes in what an order to update names.
pub(crate) fn update(order: &[u8], grants: &impl GrantOps) -> UpdateStep {
    let text = core::str::from_utf8(order).unwrap_or_default();
    let refused = |number, why: &str| {
        let answer = UpdateAnswer::Refused.line(number, why);
        UpdateStep::Answered(answer)
    };
    let Some(order) = UpdateOrder::parse(text) else {
        return refused(0, "the order is not a number and a grant");
    };
    match take_in(&order, grants) {
        Ok(planned) if order.check => {
            let head = planned.head;
            let more = format!("{head}, {} bytes", head.loaded());
            UpdateStep::Fits(UpdateAnswer::Fits.line(order.number, more))
        }
        Ok(planned) => {
            *PLANNED.lock() = Some(planned);
            UpdateStep::Planned
        }
        Err(reason) => refused(order.number, &reason),
    }
}

fn take_in(order: &UpdateOrder, grants: &impl GrantOps) -> Result<Planned, String> {
    let kept = kept::get().ok_or(NO_ROOM)?;
    let unfit = |unfit: Unfit| unfit.to_string();
    let room = kept.spare.as_ref().ok_or(NO_ROOM)?;
    let running = running().map_err(unfit)?;
    if kept.trial() != TRIAL_NONE {
        return Err("an update is under way".into());
    }
    let size = room.len() as u64;
    fetch(room, &[GrantRef(order.grant)], grants)?;
    let offer = ImageOffer::read(room, size).map_err(unfit)?;
    let refs: Vec<_> = offer.refs.iter().copied().map(GrantRef).collect();
    fetch(room, &refs, grants)?;
    let head = offer.examine(room).map_err(unfit)?;
    head.may_follow(&running, size).map_err(unfit)?;
    Ok(Planned {
        number: order.number,
        running,
        head,
        same: offer.examine(&kept.own).is_ok(),
    })
}

/// Has the image follow that was planned. `left` is what this life leaves to the next.
///
/// # Panics
/// If none was planned, or this life cannot end, which [`update`] has seen: that is a death.
pub(crate) fn follow(left: &HandOver) -> ! {
    if let Some(planned) = PLANNED.lock().take() {
        change_over(&planned, left);
    }
    panic!("no image follows");
}

fn change_over(planned: &Planned, left: &HandOver) {
    let (Some(kept), Some(memory)) = (kept::get(), kept::memory()) else {
        return;
    };
    let Planned { running, head, .. } = planned;
    let text = |head: &ImageHead| heapless::String::try_from(head.version()).unwrap_or_default();
    let now = time::clock().map_or(0, Clock::now_ns);
    memory.note_update(&UpdateNote {
        id: planned.number,
        at_ns: now.saturating_sub(left.drained_ns),
        pause_ns: left.drained_ns,
        outcome: UpdateOutcome::Open,
        old: text(running),
        new: text(head),
    });
    // Two rooms with the same image could not be told apart.
    let from = match &kept.spare {
        Some(room) if planned.same => {
            room.zero(0, HEAD_LEN);
            &kept.own
        }
        Some(room) => room,
        None => return,
    };
    kept.plan(head, from);
    info!("update: {head} is to follow {running}");
    let nowhere = heapless::Vec::new();
    let message = format_args!("UPDATE to {head}\n");
    decision::note(DeathCause::UPDATE, message, &nowhere);
    NextLife::Standby.write(&left.standing);
    cores::start_again();
}

/// Copies what dom0 has granted, page by page, to the front of `room`.
fn fetch(room: &SharedPages, refs: &[GrantRef], grants: &impl GrantOps) -> Result<(), String> {
    let mut to = room.bus();
    for refs in refs.chunks(BATCH) {
        let ops = refs.iter().map(|gref| {
            let op = CopyOp::from_grant(CopyEnd::granted(DOM0, *gref, 0), to, PAGE_SIZE as u16);
            to += PAGE_SIZE as u64;
            op
        });
        let mut ops: Vec<_> = ops.collect();
        let copied = grants.copy(&mut ops);
        copied.map_err(|error| format!("a grant cannot be copied: {error}"))?;
        if let Some(op) = ops.iter().find(|op| !op.status.is_ok()) {
            return Err(format!("a grant cannot be copied: status {}", op.status.0));
        }
    }
    Ok(())
}

impl KeptCode {
    /// How far the trial of another image has come.
    pub(super) fn trial(&self) -> u32 {
        self.state.u32_at(TRIAL).load(Acquire)
    }

    fn set_trial(&self, trial: u32) {
        self.state.u32_at(TRIAL).store(trial, Release);
    }

    /// Has the image with this head, whose copy is at `from`, tried by the next start.
    fn plan(&self, head: &ImageHead, from: &SharedPages) {
        let next = self.state.u64_at(NEXT).load(Relaxed) as usize;
        let (now, plan) = (PLANS + next, PLANS + (next ^ PLAN_LEN));
        let start_info = self.state.u64_at(now + START_INFO).load(Relaxed);
        let bss = head.bss();
        let words = [
            (IMAGE_FROM, from.bus()),
            (IMAGE_TO, head.start()),
            (IMAGE_WORDS, head.loaded() / 8),
            (BSS, bss.start),
            (BSS_WORDS, (bss.end - bss.start) / 8),
            (ENTRY, head.entry()),
            (START_INFO, start_info),
        ];
        for (at, value) in words {
            self.state.u64_at(plan + at).store(value, Relaxed);
        }
        self.set_trial(TRIAL_WANTED);
    }
}

/// The last update, as a line for xenstore; `None` if there was none, or it is open.
pub(crate) fn outcome() -> Option<String> {
    let note = kept::memory()?.update()?;
    let UpdateNote { id, old, new, .. } = &note;
    let pause = note.pause_ns / 1_000_000;
    let (answer, more) = match note.outcome {
        UpdateOutcome::Open => return None,
        UpdateOutcome::Done => (
            UpdateAnswer::Done,
            format!("{new} follows {old}, {pause} ms"),
        ),
        UpdateOutcome::Failed => (
            UpdateAnswer::Failed,
            format!("{old} runs again instead of {new}"),
        ),
    };
    Some(answer.line(*id, more))
}

/// Notes it if the life before was the trial of an image, in vain.
pub(crate) fn note_failed_trial() {
    if let Some(kept) = kept::get()
        && kept.trial() == TRIAL_FAILED
    {
        settle(
            UpdateOutcome::Failed,
            time::clock().map_or(0, Clock::now_ns),
        );
        kept.set_trial(TRIAL_NONE);
    }
}

/// It is decided what becomes of all that was connected; all of it was `served` before xenstore was asked, or
/// not. If this is the trial of an image, deaths lead to it from now on; true then.
pub(crate) fn settled(served: bool) -> bool {
    marks::pass(Mark::Settled);
    let trial = kept::get().filter(|kept| kept.trial() == TRIAL_UNDER_WAY);
    if let Some((memory, death)) = kept::memory().and_then(|it| Some((it, it.lives().last()?))) {
        let note = memory.update().filter(|_| trial.is_some());
        marks::report(note.map(|note| note.at_ns), death.at_ns, served);
    }
    if let Some(kept) = trial {
        settle(UpdateOutcome::Done, marks::served(served));
        let next = kept.state.u64_at(NEXT);
        kept.set_trial(TRIAL_NONE);
        next.store(next.load(Relaxed) ^ PLAN_LEN as u64, Release);
    }
    trial.is_some()
}

/// Notes how the last update has ended, and that guests waited until then: `now`, on the system's clock.
fn settle(outcome: UpdateOutcome, now: u64) {
    let Some(kept) = kept::memory() else {
        return;
    };
    if let Some(mut note) = kept.update() {
        note.pause_ns = now.saturating_sub(note.at_ns).max(1);
        note.outcome = outcome;
        kept.note_update(&note);
    }
}

/// Begins the log of a life that follows an update.
pub(crate) fn introduce(life: u64, ago_us: u64) {
    let Some(note) = kept::memory().and_then(|kept| kept.update()) else {
        return;
    };
    let (old, new) = (note.old, note.new);
    if kept::get().is_some_and(|kept| kept.trial() == TRIAL_FAILED) {
        error!("life {life}: {new} has died at its beginning, {old} runs again");
    } else {
        info!("life {life}: an update, {ago_us} us ago: {new} follows {old}");
    }
}
