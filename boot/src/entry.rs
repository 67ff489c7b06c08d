//! From the entry point to the kernel's main function: reads the boot information, replaces the
//! temporary page tables by the real ones and calls what [`entry!`](crate::entry) named.

// UNSAFETY: this is where the machine is taken over: raw memory, control registers, MSRs.
#![expect(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ops::Range;
use core::ptr;

use crate::kept::{self, Kept, START_AGAIN};
use crate::{
    BootError, BootInfo, MapError, MemoryKind, PAGE, PageTables, PhysRead, Regions, TableMemory,
};

global_asm!(include_str!("entry.S"));

/// What the tables of `entry.S` map: all that can be reached before the real ones are loaded.
const BOOT_MAPPED: u64 = 4 << 30;

/// What the kernel's main function gets.
#[derive(Debug)]
pub struct Boot {
    /// What the domain builder said.
    pub info: BootInfo,
    /// RAM that is free: without the image, its page tables, the boot modules, what the boot
    /// information was read from and kept memory. All of it is mapped to itself, writable.
    pub free: Regions,
    /// Physical address of the root page table in use.
    pub root: u64,
    /// Physical address of start_info, to start again with.
    pub start_info: u64,
    /// What this start and every later one leave alone.
    pub kept: Kept,
    /// The boot processor's time stamp counter when the image was entered.
    pub entered: u64,
}

/// Names the kernel's main function, of type `fn(Result<Boot, BootError>) -> !`, and one that says
/// how many pages of [`Kept`] it wants in a domain with so many bytes of RAM, `fn(u64) -> u64`.
///
/// It runs on the boot processor, interrupts off, on a 128 KiB stack with a guard page. After an
/// error the temporary page tables are still in use: the first 4 GiB, everything allowed.
#[macro_export]
macro_rules! entry {
    ($main:path, kept: $kept:path) => {
        /// What `xen-pvh-boot` asks for the size of kept memory.
        #[unsafe(no_mangle)]
        extern "Rust" fn xen_pvh_boot_kept(ram: u64) -> u64 {
            $kept(ram)
        }

        /// What `xen-pvh-boot` calls once the machine is set up.
        #[unsafe(no_mangle)]
        extern "Rust" fn xen_pvh_boot_main(
            boot: ::core::result::Result<$crate::Boot, $crate::BootError>,
        ) -> ! {
            $main(boot)
        }
    };
}

unsafe extern "Rust" {
    safe fn xen_pvh_boot_main(boot: Result<Boot, BootError>) -> !;
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __place_end: u8;
    static pvh_entry: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __bss_start: u8;
    static boot_stack_guard: u8;
    static boot_stack_top: u8;
}

/// Where the image's parts are in memory.
#[derive(Clone, Debug)]
pub struct Image {
    /// All of it.
    pub all: Range<u64>,
    /// Where it and every other image lies, with what is left over behind it.
    pub place: Range<u64>,
    /// Where it is entered.
    pub entry: u64,
    /// Code.
    pub text: Range<u64>,
    /// Constants.
    pub rodata: Range<u64>,
    /// Variables, the boot stack with its guard page among them.
    pub data: Range<u64>,
    /// Variables that are zero at the start.
    pub bss: Range<u64>,
    /// The boot processor's stack, guard page not included.
    pub stack: Range<u64>,
}

impl Image {
    /// What was loaded, without [`Image::bss`].
    pub(crate) fn loaded(&self) -> Range<u64> {
        self.all.start..self.bss.start
    }
}

/// Where this image was loaded: where it was linked.
#[must_use]
pub fn image() -> Image {
    fn between(start: *const u8, end: *const u8) -> Range<u64> {
        start.addr() as u64..end.addr() as u64
    }
    let guard = (&raw const boot_stack_guard).addr() as u64;
    Image {
        all: between(&raw const __image_start, &raw const __image_end),
        place: between(&raw const __image_start, &raw const __place_end),
        entry: (&raw const pvh_entry).addr() as u64,
        text: between(&raw const __text_start, &raw const __text_end),
        rodata: between(&raw const __rodata_start, &raw const __rodata_end),
        data: between(&raw const __data_start, &raw const __data_end),
        bss: between(&raw const __bss_start, &raw const __image_end),
        stack: guard + PAGE..(&raw const boot_stack_top).addr() as u64,
    }
}

/// Page tables in identity-mapped memory, which come from `source`.
#[derive(Debug)]
pub struct IdentityTables<F>(F);

impl<F: FnMut() -> Option<u64>> IdentityTables<F> {
    /// Tables from the pages that `source` returns.
    ///
    /// # Safety
    /// Each page from `source`, and each table of a tree that this is used with, must be
    /// identity-mapped, page-aligned and used for nothing else; and what is mapped or unmapped in
    /// such a tree must not be memory that Rust still relies on being mapped as it was.
    pub const unsafe fn new(source: F) -> Self {
        Self(source)
    }
}

impl<F: FnMut() -> Option<u64>> TableMemory for IdentityTables<F> {
    fn load(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `new` was promised that tables are mapped; `index` is below 512.
        unsafe { entry_of(table, index).read_volatile() }
    }

    fn store(&mut self, table: u64, index: usize, entry: u64) {
        // SAFETY: as in `load`; nothing else uses the page.
        unsafe { entry_of(table, index).write_volatile(entry) }
    }

    fn allocate(&mut self) -> Option<u64> {
        let page = (self.0)()?;
        (0..512).for_each(|i| self.store(page, i, 0));
        Some(page)
    }

    fn flush(&mut self, address: u64) {
        // SAFETY: INVLPG has no effect but to make the processor walk the tables again.
        unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
    }
}

fn entry_of(table: u64, index: usize) -> *mut u64 {
    ptr::with_exposed_provenance_mut::<u64>(table as usize).wrapping_add(index & 511)
}

/// Physical memory as the tables of `entry.S` show it.
struct BootMemory;

impl PhysRead for BootMemory {
    fn read(&self, from: u64, out: &mut [u8]) -> bool {
        let end = from.checked_add(out.len() as u64);
        if from == 0 || end.is_none_or(|end| end > BOOT_MAPPED) {
            return false;
        }
        let from = ptr::with_exposed_provenance::<u8>(from as usize);
        // SAFETY: the range is identity-mapped and does not begin at null; `out` is our own memory,
        // which no boot information overlaps since the domain builder put it outside the image.
        unsafe { from.copy_to(out.as_mut_ptr(), out.len()) };
        true
    }
}

/// Called by `entry.S`, once, with the physical address of start_info and what was in EAX.
#[unsafe(no_mangle)]
extern "C" fn pvh_start(start_info: u64, eax: u32) -> ! {
    // SAFETY: RDTSC exists on every 64-bit processor and only reads a counter.
    let entered = unsafe { core::arch::x86_64::_rdtsc() };
    enable_write_back();
    xen_pvh_boot_main(start(start_info, eax == START_AGAIN, entered))
}

fn start(start_info: u64, again: bool, entered: u64) -> Result<Boot, BootError> {
    let info = BootInfo::read(&BootMemory, start_info)?;
    let image = image();
    if !info.ram.contains(&image.place) {
        return Err(BootError::ImageNotInRam);
    }
    let mut free = info.ram.clone();
    free.remove(&image.place);
    for module in &info.modules {
        free.remove(&(module.start & !(PAGE - 1)..module.end.next_multiple_of(PAGE)));
    }
    info.sources.iter().for_each(|range| free.remove(&range));
    let mut reachable = free.clone();
    reachable.remove(&(BOOT_MAPPED..u64::MAX));
    let mut pool = reachable.largest().unwrap_or(0..0);
    let kept = kept::keep(&mut pool, &info, &image, again);
    free.remove(&kept.pages);
    free.remove(&kept.rooms);
    let mut next = pool.start;
    let source = || {
        let page = next;
        (page < pool.end).then(|| next += PAGE).map(|()| page)
    };
    // SAFETY: the pool is free RAM that the tables in use map to itself.
    let tables = unsafe { IdentityTables::new(source) };
    let root = build(tables, &image, &info.ram, &kept)?;
    free.remove(&(pool.start..next));
    // SAFETY: the new tables map the code that runs, its stack and all else of the image to the
    // same addresses, with the rights that the linker script's sections ask for.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
    Ok(Boot {
        info,
        free,
        root,
        start_info,
        kept,
        entered,
    })
}

fn build(
    memory: impl TableMemory,
    image: &Image,
    ram: &Regions,
    kept: &Kept,
) -> Result<u64, MapError> {
    let mut tables = PageTables::new(memory)?;
    tables.map(image.text.clone(), MemoryKind::Text)?;
    tables.map(image.rodata.clone(), MemoryKind::ReadOnly)?;
    tables.map(
        image.data.start..image.stack.start - PAGE,
        MemoryKind::Memory,
    )?;
    tables.map(image.stack.start..image.data.end, MemoryKind::Memory)?;
    let mut rest = ram.clone();
    rest.remove(&image.place);
    // No stray write reaches what later starts are made of.
    rest.remove(&kept.image);
    tables.map(kept.image.clone(), MemoryKind::ReadOnly)?;
    if kept.again {
        // What happens before the kernel has tables of its own ends there.
        rest.remove(&kept.code());
        tables.map(kept.code(), MemoryKind::Text)?;
    }
    for range in rest.iter() {
        tables.map(range, MemoryKind::Memory)?;
    }
    Ok(tables.root())
}

/// Makes memory cacheable where firmware should have: in an HVM container entered without
/// firmware the MTRRs are off, and on Intel with a passed-through device all RAM is uncached then.
///
/// The boot processor has done so when the kernel's main function runs; every other core must.
pub fn enable_write_back() {
    const MTRR_FEATURE: u32 = 1 << 12;
    const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
    const ENABLED: u32 = 1 << 11;
    /// MTRRs on, fixed ranges on, everything else write-back.
    const WRITE_BACK: u32 = 0xc06;

    if core::arch::x86_64::__cpuid(1).edx & MTRR_FEATURE == 0 {
        return;
    }
    // SAFETY: CPUID says that the register exists; the value only makes RAM cacheable, and device
    // memory is mapped uncached by the page tables, which prevail.
    unsafe {
        let low: u32;
        asm!("rdmsr", in("ecx") MTRR_DEFAULT_TYPE, out("eax") low, out("edx") _,
            options(nomem, nostack, preserves_flags));
        if low & ENABLED == 0 {
            asm!("wrmsr", in("ecx") MTRR_DEFAULT_TYPE, in("eax") WRITE_BACK, in("edx") 0,
                options(nostack, preserves_flags));
        }
    }
}
