//! Pages of this domain that another one may read: by Linux' `/dev/xen/gntalloc` (module `xen-gntalloc`,
//! `include/uapi/xen/gntalloc.h`).
//!
//! The pages are the kernel's, and are granted read-only. They stay granted until [`GrantedBytes`] is dropped;
//! what the other domain copies until then is what was there.

// UNSAFETY: an ioctl that writes an array behind its argument, and mapped memory.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// Bytes of a page.
const PAGE: usize = 4096;
/// Where the pages come from.
pub const DEVICE: &str = "/dev/xen/gntalloc";
/// Pages that can be asked for at once; the module's own limit is 1024 in all unless it was told otherwise.
const MOST: usize = 512;

/// `struct ioctl_gntalloc_alloc_gref`, with room for all references.
#[repr(C)]
struct Allocate {
    domain: u16,
    flags: u16,
    count: u32,
    /// Out: where they are to be mapped from.
    index: u64,
    /// Out. The structure of the header ends with one of them.
    refs: [u32; MOST],
}

/// `_IOC(_IOC_NONE, 'G', 5, sizeof(struct ioctl_gntalloc_alloc_gref))`, whose size is 24.
const ALLOCATE: u32 = 24 << 16 | (b'G' as u32) << 8 | 5;

/// Bytes that another domain may read, page by page.
#[derive(Debug)]
pub struct GrantedBytes {
    refs: Vec<u32>,
    at: NonNull<c_void>,
    len: usize,
    /// The pages belong to it.
    _file: File,
}

impl GrantedBytes {
    /// Grants `bytes` to `domain`; what is left of the last page is zero.
    ///
    /// # Errors
    /// The system's: without the device, or if it does not grant as many pages. `InvalidInput` for
    /// more than 2 MiB, or none.
    pub fn new(domain: u16, bytes: &[u8]) -> io::Result<Self> {
        let count = bytes.len().div_ceil(PAGE);
        if count == 0 || count > MOST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let mut call = Allocate {
            domain,
            flags: 0,
            count: count as u32,
            index: 0,
            refs: [0; MOST],
        };
        // SAFETY: the kernel writes the index and `count` references, for which there is room.
        if unsafe { libc::ioctl(file.as_raw_fd(), ALLOCATE.into(), &raw mut call) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let len = count * PAGE;
        let offset = libc::off_t::try_from(call.index).map_err(io::Error::other)?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                rights,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        let at = NonNull::new(at).filter(|at| at.as_ptr() != libc::MAP_FAILED);
        let at = at.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the mapping is ours alone, with `len` bytes, which are at least as many.
        unsafe { bytes.as_ptr().copy_to(at.as_ptr().cast(), bytes.len()) };
        Ok(Self {
            refs: call.refs[..count].to_vec(),
            at,
            len,
            _file: file,
        })
    }

    /// The grant of each page, in order.
    #[must_use]
    pub fn refs(&self) -> &[u32] {
        &self.refs
    }
}

impl Drop for GrantedBytes {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and nothing refers to it.
        unsafe { libc::munmap(self.at.as_ptr(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_granted_is_an_error() {
        for len in [0, MOST * PAGE + 1] {
            let error = GrantedBytes::new(1, &vec![0; len]).expect_err("an error");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        // The layout that the kernel has.
        assert_eq!(std::mem::offset_of!(Allocate, refs), 16);
        assert_eq!(ALLOCATE, 0x0018_4705);
    }
}
