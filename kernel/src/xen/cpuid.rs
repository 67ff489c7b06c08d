//! Xen as CPUID shows it (`public/arch-x86/cpuid.h`).

use core::arch::x86_64::__cpuid;

use spindle_xen::DomId;

/// The hypervisor we run under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hypervisor {
    /// Major and minor version.
    pub(crate) version: (u16, u16),
    /// Our own domain; [`DomId::SELF`] from a hypervisor that does not tell.
    pub(crate) domid: DomId,
}

/// Looks for Xen. It is at one of 256 places, since a nested hypervisor may have the first.
pub(super) fn detect() -> Option<Hypervisor> {
    let base = (0x4000_0000..0x4001_0000).step_by(0x100).find(|base| {
        let leaf = __cpuid(*base);
        let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        name.as_flattened() == b"XenVMMXenVMM" && leaf.eax >= base + 2
    })?;
    let version = __cpuid(base + 1).eax;
    Some(Hypervisor {
        version: ((version >> 16) as u16, version as u16),
        domid: domid(base).unwrap_or(DomId::SELF),
    })
}

fn domid(base: u32) -> Option<DomId> {
    /// `XEN_HVM_CPUID_DOMID_PRESENT`.
    const DOMID_PRESENT: u32 = 1 << 4;
    let leaf = __cpuid(base + 4);
    (__cpuid(base).eax >= base + 4 && leaf.eax & DOMID_PRESENT != 0)
        .then_some(DomId(leaf.ecx as u16))
}
