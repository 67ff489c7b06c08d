//! The kernel starts again in place: what outlives it, and the way from one life to the next.
//!
//! A death (`decision`, `crate::panic`) is noted in kept memory. The other cores are stopped by
//! non-maskable interrupts and wait in code that is not part of the image (`cores`,
//! `kept_code.S`); the boot core copies the image back and enters it again. The next life reads how
//! the last one ended, and has the cores go on with what it gives them.
//!
//! | file | what it does |
//! | --- | --- |
//! | `layout` | what is where in the kernel's own pages of kept memory |
//! | `kept` | takes up kept memory at the start of a life |
//! | `kept_code.S` | the part that runs while there is no image |
//! | `cores` | stops cores, and sends them into the next life |
//! | `decision` | whether a life may follow |
//! | `store` | takes up the connection to xenstored |
//! | `watch` | finds a core that hangs |
//! | `marks` | how long which part of a start took |
//! | `update`, `head.S` | another image in the place of this one |
//! | `drill` | deaths on purpose |

mod cores;
mod decision;
mod drill;
mod kept;
mod layout;
mod marks;
mod store;
mod update;
mod watch;

pub(crate) use cores::{
    Release, absent, is_asked_for, release, running, stand_aside, start_again, starting,
    unblock_interrupts,
};
pub(crate) use decision::{may_follow, note, serves, work_is_at};
pub(crate) use drill::{obey, order};
pub(crate) use kept::{
    NextLife, give_up_early, heap_end, init, is_again, log_tail, memory, open, ram_records,
};
pub(crate) use layout::pages;
pub(crate) use marks::{Mark, clock_runs, pass};
pub(crate) use store::ring;
pub(crate) use update::{follow, introduce, note_failed_trial, outcome, settled, update, version};
pub(crate) use watch::{Watcher, alive};
