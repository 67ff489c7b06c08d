//! Memory that outlives the kernel, with a copy of the image in it, so that a kernel can start again in
//! its own domain.

// UNSAFETY: copies the image as raw memory.
#![expect(unsafe_code)]

use core::ops::Range;
use core::ptr;

use crate::{BootInfo, Image, PAGE};

unsafe extern "Rust" {
    safe fn xen_pvh_boot_kept(ram: u64) -> u64;
}

/// Bytes of a room for the copy of an image, whatever the image: 768 KiB. `linker.ld` sees that the image
/// fits.
pub const IMAGE_ROOM: u64 = 768 << 10;

/// The page of [`Kept::pages`] that holds code of the kernel for the way from one start to the next: it
/// is executable, and not writable, at each start but the first.
pub const KEPT_CODE_PAGE: u64 = 1;

/// RAM from which on there is a room for a second image.
const ROOMY: u64 = 14 << 20;

/// Memory that outlives the kernel in its own domain: at the same place at each start, whatever
/// image is started, below 4 GiB, and mapped to itself, writable but for what is said here. Nothing
/// but this crate's copy of the image is written there by a start.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The pages that the kernel asked for by [`entry!`](crate::entry). They are empty if they did
    /// not fit into memory.
    pub pages: Range<u64>,
    /// All rooms for copies of images, below the pages.
    pub rooms: Range<u64>,
    /// The room of the image that was started: a copy of it as it was loaded, without `.bss`, made at
    /// the first start, before anything in it was changed. It is mapped read-only.
    pub image: Range<u64>,
    /// The other room, for the image that is to be started next; `None` in a small domain.
    pub spare: Option<Range<u64>>,
    /// Whether the kernel was entered with [`START_AGAIN`] and with an image that is kept.
    pub again: bool,
}

impl Kept {
    const NONE: Self = Self {
        pages: 0..0,
        rooms: 0..0,
        image: 0..0,
        spare: None,
        again: false,
    };

    pub(crate) fn code(&self) -> Range<u64> {
        let code = self.pages.start + KEPT_CODE_PAGE * PAGE;
        code..code + PAGE
    }
}

/// What a kernel that starts itself again has in EAX at the entry point, beside the address of
/// start_info in EBX.
pub const START_AGAIN: u32 = 0x6e69_6761;

/// Takes kept memory off the end of `pool`, free RAM that is mapped, and has the image copied there
/// at the first start.
pub(crate) fn keep(pool: &mut Range<u64>, info: &BootInfo, image: &Image, again: bool) -> Kept {
    let ram = info.ram.total();
    let pages = xen_pvh_boot_kept(ram).saturating_mul(PAGE);
    let count = if ram < ROOMY { 1 } else { 2 };
    let loaded = image.loaded();
    let start = pool.end.checked_sub(pages);
    let first = start.and_then(|start| start.checked_sub(count * IMAGE_ROOM));
    // More than half of it is never taken, but for the second room.
    let Some((start, first)) = start.zip(first).filter(|(_, first)| {
        loaded.end - loaded.start <= IMAGE_ROOM
            && first.saturating_sub(pool.start) > IMAGE_ROOM + pages
    }) else {
        return Kept::NONE;
    };
    let kept = start..pool.end;
    pool.end = first;
    // The first image's is the upper one.
    let room = |number: u64| start - (number + 1) * IMAGE_ROOM..start - number * IMAGE_ROOM;
    let mine = (0..count).find(|number| again && is_copy(image, &room(*number)));
    let number = mine.unwrap_or_else(|| {
        copy(image, &room(0));
        0
    });
    Kept {
        pages: kept,
        rooms: first..start,
        image: room(number),
        spare: (count == 2).then(|| room(1 - number)),
        again: mine.is_some(),
    }
}

/// The image as it was loaded, which nothing has written to yet.
fn loaded(image: &Image) -> (*const u8, usize) {
    let Range { start, end } = image.loaded();
    let at = ptr::with_exposed_provenance(start as usize);
    (at, (end - start) as usize)
}

/// Whether the image's copy is in `room`.
fn is_copy(image: &Image, room: &Range<u64>) -> bool {
    let (from, len) = loaded(image);
    let there = ptr::with_exposed_provenance(room.start as usize);
    // SAFETY: both are mapped memory of that length; the room is free RAM, of which nothing but
    // this module knows, and nothing writes to the image while the two are compared.
    unsafe { core::slice::from_raw_parts(from, len) == core::slice::from_raw_parts(there, len) }
}

/// Copies the image to `room`.
fn copy(image: &Image, room: &Range<u64>) {
    let (from, len) = loaded(image);
    let to = ptr::with_exposed_provenance_mut::<u8>(room.start as usize);
    // SAFETY: as in `is_copy`.
    unsafe { from.copy_to(to, len) };
}
