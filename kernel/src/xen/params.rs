//! HVM parameters (`public/hvm/params.h`): where the toolstack put the store's and the console's
//! rings.

// UNSAFETY: hypercalls.
#![expect(unsafe_code)]

use spindle_hw::SharedPages;
use spindle_xen::event::Port;
use spindle_xen::{DomId, Errno};

use super::hypercall::{self, HVM_OP};
use crate::mm;

pub(super) const CALLBACK_IRQ: u32 = 0;
const STORE_PFN: u32 = 1;
const STORE_EVTCHN: u32 = 2;
const CONSOLE_PFN: u32 = 17;
const CONSOLE_EVTCHN: u32 = 18;

/// `struct xen_hvm_param`.
#[repr(C)]
struct Param {
    domid: u16,
    pad: u16,
    index: u32,
    value: u64,
}

fn hvm_op(op: u64, index: u32, value: u64) -> Result<u64, Errno> {
    let mut param = Param {
        domid: DomId::SELF.0,
        pad: 0,
        index,
        value,
    };
    // SAFETY: `param` outlives the call; the parameters used here change no memory.
    unsafe { hypercall::call(HVM_OP, [op, hypercall::address(&raw mut param), 0])? };
    Ok(param.value)
}

/// `HVMOP_set_param` for the domain itself.
pub(super) fn set(index: u32, value: u64) -> Result<(), Errno> {
    hvm_op(0, index, value).map(drop)
}

/// `HVMOP_get_param` for the domain itself.
fn get(index: u32) -> Result<u64, Errno> {
    hvm_op(1, index, 0)
}

/// A ring that the toolstack set up for us.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Its page.
    pub(crate) page: SharedPages,
    /// Our port of its event channel.
    pub(crate) port: Port,
}

fn ring(frame: u32, port: u32) -> Option<Ring> {
    let (frame, port) = (get(frame).ok()?, get(port).ok()?);
    if frame == 0 || port == 0 {
        return None;
    }
    let page = mm::special_page(frame).ok()?;
    Some(Ring {
        page,
        port: Port(u32::try_from(port).ok()?),
    })
}

/// xenstored's ring. Only the first call gets it.
pub(super) fn store() -> Option<Ring> {
    ring(STORE_PFN, STORE_EVTCHN)
}

/// xenconsoled's ring. Only the first call gets it.
pub(super) fn console() -> Option<Ring> {
    ring(CONSOLE_PFN, CONSOLE_EVTCHN)
}
