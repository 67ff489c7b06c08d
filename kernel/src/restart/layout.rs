//! What the kernel has in its own pages of kept memory (`spindle_kept::layout` says where these are): the
//! state page and the cores' slots, which kept_code.S works with.

use spindle_kept::layout::{FIXED_PAGES, SLOT_PAGES};
use xen_pvh_boot::PAGE;

/// The part of RAM that journals of rings may take.
const JOURNALS_SHARE: u64 = 32;
/// Their pages, at most: 64 MiB, as much as 64 devices with 16 rings of 16 pages each take.
const JOURNALS_MAX: u64 = 16_384;

/// Pages of kept memory in a domain with `ram` bytes of RAM.
pub(crate) fn pages(ram: u64) -> u64 {
    let journals = (ram / PAGE / JOURNALS_SHARE).min(JOURNALS_MAX);
    FIXED_PAGES as u64 + journals
}

/// Bytes in the state page: whether it is VMMCALL rather than VMCALL, the root page table, the
/// operands of LGDT and LIDT.
pub(super) const VMMCALL: usize = 0;
pub(super) const ROOT: usize = 8;
pub(super) const GDTR: usize = 16;
pub(super) const IDTR: usize = 32;
/// The image's copy, its place, and their length in words; `.bss` and its length; the entry point
/// and what it is given.
pub(super) const IMAGE_FROM: usize = 48;
pub(super) const IMAGE_TO: usize = 56;
pub(super) const IMAGE_WORDS: usize = 64;
pub(super) const BSS: usize = 72;
pub(super) const BSS_WORDS: usize = 80;
pub(super) const ENTRY: usize = 88;
pub(super) const START_INFO: usize = 96;
/// Descriptor tables.
pub(super) const GDT: usize = 128;
pub(super) const IDT: usize = 512;
/// Above the boot core's stack.
pub(super) const STACK_TOP: usize = 4096;

/// Cores that have a slot: as many as Xen has a clock for.
pub(super) const CORES: usize = 32;
/// Bytes of a slot. Its end is the top of the core's stack.
pub(super) const SLOT_SIZE: usize = 512;
/// Bytes in a slot: its state, whether it was sent an interrupt, with what it is to begin, and where
/// it was when it was stopped.
pub(super) const STATE: usize = 0;
pub(super) const SENT: usize = 4;
pub(super) const CR3: usize = 8;
pub(super) const RIP: usize = 16;
pub(super) const RSP: usize = 24;
pub(super) const RDI: usize = 32;
pub(super) const RSI: usize = 40;

/// States of a core, in its slot. Never started; on its way to its descriptor tables; at work.
pub(super) const ABSENT: u32 = 0;
pub(super) const STARTING: u32 = 1;
pub(super) const RUNNING: u32 = 2;
/// About to wait; waiting; sent into the next life.
pub(super) const PARKING: u32 = 3;
pub(super) const PARKED: u32 = 4;
pub(super) const RELEASED: u32 = 5;
/// It did not come when it was to wait: it may still be in code of the life before, and must not run.
pub(super) const LOST: u32 = 6;

const _: () = assert!(CORES * SLOT_SIZE == SLOT_PAGES * 4096);
