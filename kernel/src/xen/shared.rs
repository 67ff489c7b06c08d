//! The page that Xen shares with every domain (`struct shared_info`, 64-bit layout): pending
//! events and the clock.

// UNSAFETY: hypercalls.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use spindle_hw::SharedPages;
use spindle_xen::clock::TimeInfo;
use spindle_xen::event::Port;
use spindle_xen::{DomId, Errno};

use super::hypercall::{self, MEMORY_OP};
use super::params;
use crate::arch::cpu;

/// Ports of the two-level ABI.
const PORTS: u32 = 4096;
/// `sizeof(struct vcpu_info)`.
const VCPU_INFO: usize = 64;
/// vCPUs with a `vcpu_info` in this page (`XEN_LEGACY_MAX_VCPUS`).
pub(super) const VCPUS: usize = 32;
/// `HVM_PARAM_CALLBACK_TYPE_VECTOR` in the parameter's top byte.
const CALLBACK_BY_VECTOR: u64 = 2 << 56;
const CALLBACK_VECTOR: u8 = 0xf3;
const TIME: usize = 32;
const PENDING: usize = VCPUS * VCPU_INFO;
const MASK: usize = PENDING + 512;
/// The wall clock: a version, which is odd while Xen changes what follows, and the seconds since 1970
/// when system time was 0, each 4 bytes.
const WALL: usize = MASK + 512;

/// The shared page.
#[derive(Debug)]
pub(crate) struct SharedInfo {
    page: SharedPages,
}

impl SharedInfo {
    /// Has Xen put the page at the guest frame of `page`, where no memory may be.
    ///
    /// # Errors
    /// Xen's.
    pub(super) fn new(page: SharedPages) -> Result<Self, Errno> {
        const XENMEM_ADD_TO_PHYSMAP: u64 = 7;
        const XENMAPSPACE_SHARED_INFO: u32 = 0;
        /// `struct xen_add_to_physmap`.
        #[repr(C)]
        struct AddToPhysmap {
            domid: u16,
            size: u16,
            space: u32,
            index: u64,
            frame: u64,
        }
        let op = AddToPhysmap {
            domid: DomId::SELF.0,
            size: 0,
            space: XENMAPSPACE_SHARED_INFO,
            index: 0,
            frame: page.bus() >> 12,
        };
        // SAFETY: the caller owns the frame, behind which nothing is yet; `op` outlives the call.
        unsafe {
            hypercall::call(
                MEMORY_OP,
                [XENMEM_ADD_TO_PHYSMAP, hypercall::address(&raw const op), 0],
            )?;
        }
        // Asking for a callback makes Xen take the layout from the mode we are in, 64-bit, and
        // tells libxl that the domain listens to control/shutdown. None will come: all ports are
        // masked and stay so.
        params::set(
            params::CALLBACK_IRQ,
            CALLBACK_BY_VECTOR | u64::from(CALLBACK_VECTOR),
        )?;
        // Nothing here takes interrupts; polling does not look at masks.
        for word in 0..PORTS as usize / 64 {
            page.u64_at(MASK + word * 8).store(u64::MAX, Relaxed);
        }
        Ok(Self { page })
    }

    /// Whether an event came for `port` since the last call, which forgets it.
    #[inline]
    pub(super) fn take_pending(&self, port: Port) -> bool {
        if port.0 >= PORTS {
            return false;
        }
        let word = self.page.u64_at(PENDING + port.0 as usize / 64 * 8);
        let bit = 1 << (port.0 % 64);
        // Most polls find nothing: spare them the locked instruction.
        word.load(Relaxed) & bit != 0 && word.fetch_and(!bit, AcqRel) & bit != 0
    }

    /// Whether an event is waiting for `port`.
    #[inline]
    pub(super) fn is_pending(&self, port: Port) -> bool {
        port.0 < PORTS
            && self
                .page
                .u64_at(PENDING + port.0 as usize / 64 * 8)
                .load(Relaxed)
                & 1 << (port.0 % 64)
                != 0
    }

    /// System time in nanoseconds, as `vcpu` itself must read it, unless Xen is changing its
    /// parameters.
    #[inline]
    pub(super) fn now_ns(&self, vcpu: usize) -> Option<u64> {
        TimeInfo::now_ns(&self.page, vcpu.min(VCPUS - 1) * VCPU_INFO + TIME, cpu::tsc)
    }

    /// How long so many ticks of the counter take, unless Xen is changing its parameters.
    pub(super) fn span_ns(&self, vcpu: usize, ticks: u64) -> Option<u64> {
        let at = vcpu.min(VCPUS - 1) * VCPU_INFO + TIME;
        // What system time was when the counter was at the stamp.
        let (stamp, then) = (self.page.u64_at(at + 8), self.page.u64_at(at + 16));
        let then = then.load(Relaxed);
        let at_end = || stamp.load(Relaxed).wrapping_add(ticks);
        let end = TimeInfo::now_ns(&self.page, at, at_end)?;
        end.checked_sub(then)
    }

    /// Seconds since 1970 when system time was 0, by dom0's clock; `None` while Xen changes it, or if
    /// it was never set.
    pub(super) fn booted_s(&self) -> Option<u64> {
        let word = self.page.u64_at(WALL).load(Relaxed);
        (word & 1 == 0 && word >> 32 != 0).then_some(word >> 32)
    }
}
