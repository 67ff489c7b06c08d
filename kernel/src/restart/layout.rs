//! What the kernel has in its own pages of kept memory (`spindle_kept::layout` says where these are): the
//! state page and the cores' slots, which kept_code.S works with.

use core::ops::Range;

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
/// Where the boot core is on its way into an image: 1 until that has tables of its own. How far the trial of
/// another image has come. Which plan is to be followed after a death: bytes from the first.
pub(super) const ON_THE_WAY: usize = 48;
pub(super) const TRIAL: usize = 52;
pub(super) const NEXT: usize = 56;
/// Where the heap ends: devices may reach what is behind it. No life has it end later.
pub(super) const HEAP_END: usize = 64;
/// When the last life had stopped its cores, in ns of system time.
pub(super) const LEFT_AT: usize = 72;
/// Descriptor tables.
pub(super) const GDT: usize = 128;
pub(super) const IDT: usize = 512;
/// Two plans of how to enter an image. Bytes in one: the image's copy, its place, and their length in
/// words; `.bss` and its length; the entry point and what it is given.
pub(super) const PLANS: usize = 1024;
pub(super) const PLAN_LEN: usize = 64;
pub(super) const IMAGE_FROM: usize = 0;
pub(super) const IMAGE_TO: usize = 8;
pub(super) const IMAGE_WORDS: usize = 16;
pub(super) const BSS: usize = 24;
pub(super) const BSS_WORDS: usize = 32;
pub(super) const ENTRY: usize = 40;
pub(super) const START_INFO: usize = 48;
/// Where controllers that stay enabled are noted, in words: as many as nine.
pub(super) const STANDBY: Range<usize> = PLANS + 2 * PLAN_LEN..1536;
/// The same for the disks' functions. Images that do not know of these two leave them alone; what is there is
/// checked, and has the life that it is of, so that it needs no version of the layout.
pub(super) const FUNCTIONS: Range<usize> = 1536..2560;
/// The same for where virtio devices have their registers.
pub(super) const LAYOUTS: Range<usize> = 2560..3072;
/// Above the boot core's stack.
pub(super) const STACK_TOP: usize = 4096;

/// States of a trial. The other plan is to be followed at the next start; it was; its image has died
/// before it served, and the first plan was followed again. kept_code.S adds one.
pub(super) const TRIAL_NONE: u32 = 0;
pub(super) const TRIAL_WANTED: u32 = 1;
pub(super) const TRIAL_UNDER_WAY: u32 = 2;
pub(super) const TRIAL_FAILED: u32 = 3;

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

/// The code of the first life stays for those that follow, whatever their image: where this fails, the
/// layout of kept memory is another one, and has another version (`spindle_kept::layout`).
const _: () = assert!(
    sum(include_bytes!("kept_code.S")) == 0x455b_53dc_12b6_a805
        && spindle_kept::layout::VERSION == 5
);

const fn sum(bytes: &[u8]) -> u64 {
    let (mut sum, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        sum = (sum ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    sum
}
