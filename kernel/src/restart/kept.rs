//! Takes up kept memory at the start of a life: the kept code with all that it works with, and the
//! lives so far.

// UNSAFETY: makes memory of ours from addresses that boot has set aside.
#![expect(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use spin::Once;
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::death::Lives;
use spindle_kept::layout::{
    CODE as CODE_PAGE, LOG_PAGE, LOG_PAGES, RAM_PAGE, SLOT_PAGES, SLOTS, STATE, TABLE_PAGES, TABLES,
};
use spindle_kept::{Kept, LogTail, RamRecords, WordNote};
use xen_pvh_boot::{Boot, PAGE, image};

use super::layout;
use crate::arch::cpu;
use crate::{mm, xen};

global_asm!(
    include_str!("kept_code.S"),
    VMMCALL = const layout::VMMCALL,
    ROOT = const layout::ROOT,
    GDTR = const layout::GDTR,
    IDTR = const layout::IDTR,
    ON_THE_WAY = const layout::ON_THE_WAY,
    TRIAL = const layout::TRIAL,
    TRIAL_WANTED = const layout::TRIAL_WANTED,
    TRIAL_UNDER_WAY = const layout::TRIAL_UNDER_WAY,
    NEXT = const layout::NEXT,
    PLANS = const layout::PLANS,
    PLAN_LEN = const layout::PLAN_LEN,
    IMAGE_FROM = const layout::IMAGE_FROM,
    IMAGE_TO = const layout::IMAGE_TO,
    IMAGE_WORDS = const layout::IMAGE_WORDS,
    BSS = const layout::BSS,
    BSS_WORDS = const layout::BSS_WORDS,
    ENTRY = const layout::ENTRY,
    START_INFO = const layout::START_INFO,
    STACK_TOP = const layout::STACK_TOP,
    SLOT_SIZE = const layout::SLOT_SIZE,
    STATE = const layout::STATE,
    CR3 = const layout::CR3,
    RIP = const layout::RIP,
    RSP = const layout::RSP,
    RDI = const layout::RDI,
    RSI = const layout::RSI,
    STARTING = const layout::STARTING,
    PARKED = const layout::PARKED,
    RELEASED = const layout::RELEASED,
    START_AGAIN = const xen_pvh_boot::START_AGAIN,
);

unsafe extern "C" {
    static kept_code: u8;
    static kept_park: u8;
    static kept_enter: u8;
    static kept_nmi: u8;
    static kept_fatal: u8;
    static kept_code_end: u8;
}

/// The kept code and what it works with.
#[derive(Debug)]
pub(super) struct KeptCode {
    /// Where the code begins.
    code: u64,
    /// Whether there was a life before this one.
    again: bool,
    pub(super) slots: SharedPages,
    pub(super) lives: Lives,
    pub(super) state: SharedPages,
    /// Copies of images: of the one that runs, which may not be written to, and of another one.
    pub(super) own: SharedPages,
    pub(super) spare: Option<SharedPages>,
}

/// All of kept memory, and what is in it.
static PAGES: Once<SharedPages> = Once::new();
static MEMORY: Once<Option<Kept>> = Once::new();
static CODE: Once<KeptCode> = Once::new();

/// The kept code, once it is there.
pub(super) fn get() -> Option<&'static KeptCode> {
    CODE.get()
}

/// Whether there was a life before this one.
pub(crate) fn is_again() -> bool {
    get().is_some_and(|kept| kept.again)
}

/// Kept memory; `None` if the domain has no room for it.
pub(crate) fn memory() -> Option<Kept> {
    *MEMORY.get()?
}

/// Begins a life in kept memory, if the domain has room for it. Called once.
pub(crate) fn open(boot: &Boot) -> Option<Kept> {
    let pages = range(&boot.kept.pages)?;
    let pages = PAGES.call_once(|| pages);
    let kept = if boot.kept.again {
        Kept::open_again(pages)
    } else {
        Kept::open(pages)
    };
    // What was asked for is enough.
    *MEMORY.call_once(|| kept.ok())
}

/// Where the heap has ended in the lives before, if there were any.
pub(crate) fn heap_end(boot: &Boot) -> Option<u64> {
    let state = PAGES.get()?.view(STATE, 1)?;
    let end = state.u64_at(layout::HEAP_END).load(Relaxed);
    boot.kept.again.then_some(end)
}

/// What boot has set aside there; empty ranges are none.
fn range(range: &Range<u64>) -> Option<SharedPages> {
    let base = NonNull::new(ptr::with_exposed_provenance_mut(range.start as usize))?;
    let count = range.end.checked_sub(range.start)? / PAGE;
    // SAFETY: boot has mapped kept memory to itself for good and gives it to nothing else, so that
    // no reference covers it; `open` and `init`, which ask for it, are called once.
    Some(unsafe { SharedPages::from_raw(base, count as usize, range.start) })
}

/// If this life has hardly begun, and is the trial of an image, gives it up.
pub(crate) fn give_up_early() {
    let state = PAGES.get().and_then(|pages| pages.view(STATE, 1));
    if let Some(state) = state
        && state.u32_at(layout::ON_THE_WAY).load(Relaxed) == 1
        && state.u32_at(layout::TRIAL).load(Relaxed) == layout::TRIAL_UNDER_WAY
    {
        // The kept code handles exceptions yet.
        cpu::undefined_instruction()
    }
}

/// What a life notes for the next one, and for no other, in 64-bit words.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NextLife {
    /// The functions of PCI that it drives.
    Functions,
    /// Where the virtio devices among them have their registers.
    Layouts,
    /// The controllers that it has left enabled.
    Standby,
}

impl NextLife {
    /// Where it is; `None` without kept memory.
    fn note(self) -> Option<WordNote<'static>> {
        let (place, magic) = match self {
            Self::Functions => (layout::FUNCTIONS, b"PciFunc\x02"),
            Self::Layouts => (layout::LAYOUTS, b"VirtLay\x01"),
            Self::Standby => (layout::STANDBY, b"NvmeOn\0\x01"),
        };
        let state = &get()?.state;
        Some(WordNote::new(state, place, u64::from_le_bytes(*magic)))
    }

    /// What the last life has noted, if it has. A life of another version, or one that ended before that,
    /// may have noted something else.
    pub(crate) fn read(self) -> Option<Vec<u64>> {
        let mut words = self.note().filter(|_| xen::is_present())?.read()?;
        let last = memory()?.life().checked_sub(1);
        let is_last = is_again() && last == words.first().copied();
        is_last.then(|| words.split_off(1))
    }

    /// Notes `words` for the next life, in place of what was noted before; nothing if there are none, or too
    /// many.
    pub(crate) fn write(self, words: &[u64]) {
        let (Some(note), Some(memory)) = (self.note(), memory()) else {
            return;
        };
        note.clear();
        if !words.is_empty() {
            let life = core::iter::once(memory.life());
            let words = life.chain(words.iter().copied());
            note.write(&words.collect::<Vec<_>>());
        }
    }
}

/// The tail of the log, and what former lives have left in it. Called once.
pub(crate) fn log_tail() -> Option<(LogTail, String)> {
    let page = PAGES.get()?.view(LOG_PAGE, LOG_PAGES)?;
    Some(LogTail::begin(page, is_again()))
}

/// Where the RAM disks of the life before are; `None` if the domain has no room for kept memory. Called
/// once.
pub(crate) fn ram_records() -> Option<RamRecords> {
    let page = PAGES.get()?.view(RAM_PAGE, 1)?;
    Some(RamRecords::begin(page, is_again()))
}

/// Has everything ready for a next life. Called once, on the boot core, before any other runs.
///
/// # Errors
/// With the reason, if the kept code cannot be made executable.
pub(crate) fn init(boot: &Boot, kept: Kept, heap_end: u64) -> Result<(), &'static str> {
    let part = |first, count| kept.pages().view(first, count);
    let part = |first, count| part(first, count).ok_or("kept memory is too small");
    let (code, state) = (part(CODE_PAGE, 1)?, part(STATE, 1)?);
    let tables = part(TABLES, TABLE_PAGES)?;
    let slots = part(SLOTS, SLOT_PAGES)?;
    if !boot.kept.again {
        // Cores that wait run in it: what the first life has put there stays.
        write_code(&code);
        slots.zero(0, slots.len());
        write_plan(&state, boot);
        state.u64_at(layout::HEAP_END).store(heap_end, Relaxed);
    }
    let at = code.bus();
    mm::make_code(at..at + PAGE).map_err(|_| "the kept code cannot be mapped")?;
    write_tables(&tables);
    write_state(&state, at, tables.bus());
    let own = range(&boot.kept.image).ok_or("there is no copy of the image")?;
    let spare = boot.kept.spare.as_ref().and_then(range);
    CODE.call_once(|| KeptCode {
        code: at,
        again: boot.kept.again,
        slots,
        lives: kept.lives(),
        state,
        own,
        spare,
    });
    Ok(())
}

/// Bytes from the start of the kept code to one of its symbols.
fn offset(symbol: *const u8) -> u64 {
    (symbol.addr() - (&raw const kept_code).addr()) as u64
}

fn write_code(page: &SharedPages) {
    let len = offset(&raw const kept_code_end) as usize;
    // SAFETY: the code is a constant of that length.
    let code = unsafe { core::slice::from_raw_parts(&raw const kept_code, len) };
    page.write_bytes(0, code);
}

/// Tables that map the first 4 GiB to itself, in pages of 2 MiB, with everything allowed.
fn write_tables(pages: &SharedPages) {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let directories = TABLE_PAGES - 2;
    let entry = |page: usize| (pages.bus() + page as u64 * PAGE) | PRESENT_WRITABLE;
    pages.u64_at(0).store(entry(1), Relaxed);
    for gib in 0..directories {
        let pointer = pages.u64_at(PAGE_SIZE + gib * 8);
        pointer.store(entry(2 + gib), Relaxed);
    }
    for large in 0..directories * 512 {
        let entry = pages.u64_at(2 * PAGE_SIZE + large * 8);
        entry.store((large as u64) << 21 | PRESENT_WRITABLE | LARGE, Relaxed);
    }
}

/// Writes what the kept code at `code` works with.
fn write_state(state: &SharedPages, code: u64, root: u64) {
    /// Nothing, 64-bit code, data, 32-bit code; the same selectors as everywhere.
    const SEGMENTS: [u64; 4] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
    ];
    const VECTORS: usize = 32;
    const NMI: usize = 2;

    let put = |at: usize, value: u64| state.u64_at(at).store(value, Relaxed);
    let here = |at: usize| state.bus() + at as u64;
    put(layout::VMMCALL, xen::is_vmmcall().into());
    put(layout::ROOT, root);
    let tables = [
        (layout::GDTR, layout::GDT, SEGMENTS.len() * 8),
        (layout::IDTR, layout::IDT, VECTORS * 16),
    ];
    for (operand, table, len) in tables {
        // A limit of 16 bits and the address.
        put(operand, (len as u64 - 1) | here(table) << 16);
        put(operand + 8, here(table) >> 48);
    }
    for (index, segment) in SEGMENTS.into_iter().enumerate() {
        put(layout::GDT + index * 8, segment);
    }
    for vector in 0..VECTORS {
        /// Present, 64-bit interrupt gate; selector 8.
        const GATE: u64 = 0x8e00 << 32 | 8 << 16;
        let handler = code
            + match vector {
                NMI => offset(&raw const kept_nmi),
                _ => offset(&raw const kept_fatal),
            };
        let gate = layout::IDT + vector * 16;
        put(
            gate,
            handler & 0xffff | GATE | (handler >> 16 & 0xffff) << 48,
        );
        put(gate + 8, handler >> 32);
    }
}

/// Has each death lead to the image that runs.
fn write_plan(state: &SharedPages, boot: &Boot) {
    let image = image();
    let words = [
        (layout::IMAGE_FROM, boot.kept.image.start),
        (layout::IMAGE_TO, image.all.start),
        (layout::IMAGE_WORDS, (image.bss.start - image.all.start) / 8),
        (layout::BSS, image.bss.start),
        (layout::BSS_WORDS, (image.bss.end - image.bss.start) / 8),
        (layout::ENTRY, image.entry),
        (layout::START_INFO, boot.start_info),
    ];
    for (at, value) in words {
        state.u64_at(layout::PLANS + at).store(value, Relaxed);
    }
    state.u64_at(layout::NEXT).store(0, Relaxed);
    for at in [layout::ON_THE_WAY, layout::TRIAL] {
        state.u32_at(at).store(0, Relaxed);
    }
}

impl KeptCode {
    /// Has this core wait for the next life, in `slot`.
    pub(super) fn park(&self, core: usize) -> ! {
        let at = self.code + offset(&raw const kept_park);
        let slot = self.slots.bus() + (core * layout::SLOT_SIZE) as u64;
        // SAFETY: the code at this address takes these arguments and leaves all memory of this
        // life's alone: nothing that was borrowed on this stack is used again.
        unsafe {
            let park: extern "C" fn(u64, u32) -> ! =
                core::mem::transmute(ptr::with_exposed_provenance::<()>(at as usize));
            park(slot, core as u32)
        }
    }

    /// Puts the image back and enters it. All other cores must wait or be down.
    pub(super) fn enter(&self) -> ! {
        let at = self.code + offset(&raw const kept_enter);
        // SAFETY: the code at this address takes no arguments. What it overwrites is this life's,
        // of which no core runs any more.
        unsafe {
            let enter: extern "C" fn() -> ! =
                core::mem::transmute(ptr::with_exposed_provenance::<()>(at as usize));
            enter()
        }
    }
}
