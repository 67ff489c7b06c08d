//! A preload library for `xl create`: lets a PVH domain use the IOMMU.
//!
//! Xen can pass a device through to a PVH domain that was created with the flag for it; libxl
//! refuses to set that flag for PVH (`passthrough not yet supported for x86 PVH guests`, all
//! releases up to 4.22). This library stands between libxl and libxenctrl in one function,
//! `xc_domain_create`, and sets the flag. Everything else stays with stock xl.
//!
//! `spindlectl create --route pvh` preloads it into `xl create`, which hands it on to what it starts:
//! the process that waits for the domain's end. That creates no domain.

// UNSAFETY: a function with C's calling convention that calls the one it hides.
#![expect(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::transmute;

/// The domain is HVM or PVH, not PV (`XEN_DOMCTL_CDF_hvm`).
const HVM: u32 = 1 << 0;
/// The domain may use the IOMMU (`XEN_DOMCTL_CDF_iommu`).
const IOMMU: u32 = 1 << 5;

/// The start of `struct xen_domctl_createdomain` (`xen/domctl.h`): the same since Xen 4.13.
#[repr(C)]
pub struct CreateDomain {
    ssidref: u32,
    handle: [u8; 16],
    flags: u32,
}

const _: () = assert!(std::mem::offset_of!(CreateDomain, flags) == 20);

/// `int xc_domain_create(xc_interface *, uint32_t *, struct xen_domctl_createdomain *)`.
type Create = unsafe extern "C" fn(*mut c_void, *mut u32, *mut CreateDomain) -> c_int;

/// The flags to create a domain with: PV domains are left alone.
const fn with_iommu(flags: u32) -> u32 {
    if flags & HVM == 0 {
        flags
    } else {
        flags | IOMMU
    }
}

/// Stands in for libxenctrl's function of this name; -1 and `ENOSYS` if there is none to call.
///
/// # Safety
/// As libxenctrl's: the pointers are those that libxl passes, valid for the length of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xc_domain_create(
    interface: *mut c_void,
    domid: *mut u32,
    config: *mut CreateDomain,
) -> c_int {
    // SAFETY: the name is a C string; the call looks a symbol up and changes nothing.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"xc_domain_create".as_ptr()) };
    if next.is_null() || config.is_null() {
        // SAFETY: gives this thread's own errno.
        unsafe { *libc::__errno_location() = libc::ENOSYS };
        return -1;
    }
    // SAFETY: `config` is valid and begins as `CreateDomain` does (checked against the header).
    unsafe { (*config).flags = with_iommu((*config).flags) };
    // SAFETY: libxenctrl's function of this name has this type.
    let next: Create = unsafe { transmute(next) };
    // SAFETY: the caller's promises are those that `next` asks for.
    unsafe { next(interface, domid, config) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_domains_with_hardware_support_get_the_flag() {
        assert_eq!(with_iommu(HVM | 2), HVM | 2 | IOMMU);
        assert_eq!(with_iommu(0), 0);
        assert_eq!(with_iommu(2), 2);
    }

    #[test]
    fn without_libxenctrl_the_call_fails_and_says_why() {
        let mut config = CreateDomain {
            ssidref: 0,
            handle: [0; 16],
            flags: HVM,
        };
        let mut domid = 0;
        // SAFETY: both pointers are valid; nothing is called, as no libxenctrl is loaded.
        let rc = unsafe { xc_domain_create(std::ptr::null_mut(), &mut domid, &mut config) };
        assert_eq!(rc, -1);
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        assert_eq!(config.flags, HVM);
    }

    /// Where Debian's `libxen-dev` puts Xen's public headers.
    const HEADER: &str = "/usr/include/xen/domctl.h";

    #[test]
    fn the_layout_is_that_of_xens_header() {
        let header = std::fs::read_to_string(HEADER);
        let header = header.expect("Xen's headers: apt-get install libxen-dev");
        let from = header.find("struct xen_domctl_createdomain {");
        let text = &header[from.expect("the struct")..];
        let fields: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| line.ends_with(';') && !line.starts_with("#"))
            .collect();
        let expected = [
            "uint32_t ssidref;",
            "xen_domain_handle_t handle;",
            "uint32_t flags;",
        ];
        assert_eq!(fields[..3], expected);
        for (name, bit) in [("hvm", HVM), ("iommu", IOMMU)] {
            let define = format!("#define _XEN_DOMCTL_CDF_{name} ");
            let line = text.lines().find(|line| line.starts_with(&define));
            let number = line.and_then(|line| line.split_whitespace().next_back());
            let number: u32 = number.and_then(|n| n.parse().ok()).expect("a bit number");
            assert_eq!(1 << number, bit, "{name}");
        }
    }
}
