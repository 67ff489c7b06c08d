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

/// Memory that outlives the kernel in its own domain: at the same place at each start, whatever
/// image is started, below 4 GiB, and mapped to itself, writable. Nothing but this crate's copy of
/// the image is written there by a start.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The pages that the kernel asked for by [`entry!`](crate::entry). They are empty if they did
    /// not fit into memory.
    pub pages: Range<u64>,
    /// The image as it was loaded, without `.bss`: made at the first start, before anything in it
    /// was changed. It is mapped read-only.
    pub image: Range<u64>,
    /// Whether the kernel was entered with [`START_AGAIN`] and with the image that is kept.
    pub again: bool,
}

/// What a kernel that starts itself again has in EAX at the entry point, beside the address of
/// start_info in EBX.
pub const START_AGAIN: u32 = 0x6e69_6761;

/// Takes kept memory off the end of `pool`, free RAM that is mapped, and has the image copied there
/// at the first start. The copy is below the pages, so that another image moves it alone.
pub(crate) fn keep(pool: &mut Range<u64>, info: &BootInfo, image: &Image, again: bool) -> Kept {
    let pages = xen_pvh_boot_kept(info.ram.total()).saturating_mul(PAGE);
    let loaded = image.loaded();
    let size = (loaded.end - loaded.start).next_multiple_of(PAGE);
    let start = pool.end.checked_sub(pages);
    let copy = start.and_then(|start| start.checked_sub(size));
    // More than half of it is never taken.
    let Some((start, copy)) = start
        .zip(copy)
        .filter(|(_, copy)| copy.saturating_sub(pool.start) > size + pages)
    else {
        return Kept {
            pages: 0..0,
            image: 0..0,
            again: false,
        };
    };
    let kept = start..pool.end;
    pool.end = copy;
    let len = (loaded.end - loaded.start) as usize;
    let from = ptr::with_exposed_provenance::<u8>(loaded.start as usize);
    let to = ptr::with_exposed_provenance_mut::<u8>(copy as usize);
    // SAFETY: both are mapped memory of that length; the copy's is free RAM, of which nothing but
    // this function knows, and nothing writes to the image while the two are compared or copied.
    let again = unsafe {
        let same =
            again && core::slice::from_raw_parts(from, len) == core::slice::from_raw_parts(to, len);
        if !same {
            from.copy_to(to, len);
        }
        same
    };
    Kept {
        pages: kept,
        image: copy..start,
        again,
    }
}
