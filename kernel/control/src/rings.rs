//! A ring between xenbus and a ring core: its pages mapped, its event channel bound, and both let
//! go again when the core is done with it.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Acquire;

use log::error;
use spindle_blkif::{
    Attachment, Claims, Detached, Losses, Member, Session, Unusable, Window, guest_share,
};
use spindle_block::Volume;
use spindle_config::DataPath;
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::{JournalPages, JournalPlace, Mappings};
use spindle_status::stats::RingSnapshot;
use spindle_xen::event::Port;
use spindle_xen::grant::{GrantOps, MapOp, UnmapOp};
use spindle_xen::xenbus::{QueueParams, Refusal, RingLayout};
use spindle_xen::{DomId, Errno};

use crate::hypervisor::{CONTROLS_SHARE, Hypervisor};
use crate::noted::{Borrowed, NotedGrants};

/// Grants that one ring keeps mapped: the 32 requests of a ring page with 32 segments, and a page
/// that lists them, as Linux makes them unless told otherwise.
const CACHED_GRANTS: usize = 32 * (32 + 1);

/// The vCPU that control runs on.
const CONTROL: usize = 0;

/// Offset of `rsp_prod` in a ring, in bytes (`public/io/ring.h`).
const RSP_PROD: usize = 8;

/// What maps rings and binds their ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingMapper<H> {
    pub(crate) hypervisor: H,
    /// How data is reached.
    pub(crate) path: DataPath,
    /// Where it is noted what is mapped.
    pub(crate) mappings: Mappings,
}

/// What the control core keeps of a ring while a ring core has the session.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// For the unmap: handle and guest-physical address of each page.
    pages: Vec<(u32, u64)>,
    cache: Option<SharedPages>,
    /// Where its journal is.
    pub(crate) journal: JournalPlace,
    /// Bytes of heap that its session takes.
    pub(crate) bytes: usize,
}

/// What a ring serves.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) volume: Volume,
    /// If it is shown with smaller sectors than it has blocks: where its writes claim these.
    pub(crate) claims: Option<Arc<Claims>>,
    /// What its disk may have lost, for all connections of the device.
    pub(crate) losses: Arc<Losses>,
}

/// What a ring is given besides its disk.
#[derive(Debug)]
pub(crate) struct Outfit {
    /// Its part in the barriers of its device.
    pub(crate) gate: Member,
    pub(crate) place: JournalPlace,
    pub(crate) journal: JournalPages,
    /// What it had counted when a former life of the kernel ended, if one has served it: the journal
    /// is of that.
    pub(crate) former: Option<RingSnapshot>,
}

/// Bytes of heap that rings take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingMemory {
    /// Those of one guest.
    pub(crate) by_guest: usize,
    /// Those of all guests.
    pub(crate) by_all: usize,
}

impl<H: Hypervisor> RingMapper<H> {
    /// Whether a guest may have one more ring, with what rings take already.
    ///
    /// # Errors
    /// If it would have more than its share of memory.
    pub(crate) fn check_share(
        self,
        queue: &QueueParams,
        layout: &RingLayout,
        indirect_segments: u16,
        disk: &Served,
        taken: RingMemory,
    ) -> Result<(), Refusal> {
        let need = footprint(queue, layout, indirect_segments, disk);
        let left = self.heap_left();
        // Where there is not even that, there is none for anybody, and `open` says so.
        if need <= left && need > guest_share(taken.by_guest, taken.by_all, left) {
            return Err(share_used_up(need, taken, left));
        }
        Ok(())
    }

    /// Bytes of heap that are left for rings.
    fn heap_left(self) -> usize {
        self.hypervisor.heap_free().saturating_sub(CONTROLS_SHARE)
    }

    /// Maps a frontend's ring and binds its event channel.
    ///
    /// # Errors
    /// With the reason; nothing is left mapped or bound then.
    pub(crate) fn open(
        self,
        domain: DomId,
        queue: &QueueParams,
        disk: Served,
        layout: &RingLayout,
        indirect_segments: u16,
        outfit: Outfit,
    ) -> Result<(Session, Mapped), Refusal> {
        let need = footprint(queue, layout, indirect_segments, &disk);
        let left = self.heap_left();
        if need > left {
            return Err(no_memory(need, left));
        }
        let no_room = || Refusal::new(Errno::ENOMEM, "no guest frames left to map grants at");
        let pages = self
            .hypervisor
            .alloc_frames(queue.refs.len())
            .ok_or_else(no_room)?;
        let mut mapped = Mapped {
            pages: self.map(domain, queue, &pages)?,
            cache: None,
            journal: outfit.place,
            bytes: need,
        };
        let remote = Port(queue.event_channel);
        let port = match self.hypervisor.bind_interdomain(domain, remote) {
            Ok(port) => port,
            Err(error) => {
                self.unmap(&mapped.pages, &pages);
                let text = format!("cannot bind event-channel {}: {error}", queue.event_channel);
                return Err(Refusal::new(error, text));
            }
        };
        // It may have kept its grants though that was not offered.
        let persistent = layout.persistent && self.path.offers_persistent();
        // Without room for a cache everything is copied, which works as well.
        mapped.cache = if self.path.maps(persistent) {
            self.hypervisor.alloc_frames(CACHED_GRANTS)
        } else {
            None
        };
        let cache = mapped.cache.as_ref();
        let window = cache.map(|cache| Window::new(cache.bus(), CACHED_GRANTS));
        let Ok(window) = window.transpose() else {
            self.let_go(&mapped, port, &pages, None);
            return Err(no_memory(need, left));
        };
        // 0, but for a ring that is connected again: what was answered is not done twice.
        let start = pages.u32_at(RSP_PROD).load(Acquire);
        let attachment = Attachment {
            domain,
            port,
            volume: disk.volume,
            abi: layout.abi,
            start,
            window,
            persistent,
            indirect_segments,
            gate: outfit.gate,
            claims: disk.claims,
            losses: disk.losses,
            journal: outfit.journal,
        };
        let session = match &outfit.former {
            None => Session::new(pages, attachment),
            Some(stats) => Session::adopt(pages, attachment, stats),
        };
        match session {
            Ok(session) => Ok((session, mapped)),
            Err(unfit) => {
                self.let_go(&mapped, port, &unfit.ring, unfit.window.as_ref());
                Err(match unfit.why {
                    // There is enough, but not in one piece.
                    Unusable::Memory(_) => no_memory(need, left),
                    Unusable::Ring(error) => Refusal::new(Errno::EINVAL, error.to_string()),
                    Unusable::Journal(error) => Refusal::new(Errno::EIO, error.to_string()),
                })
            }
        }
    }

    /// The grant operations of control, noted.
    pub(crate) fn grants(&self) -> impl GrantOps + '_ {
        NotedGrants::new(Borrowed(self.hypervisor.grants()), self.mappings, CONTROL)
    }

    /// Lets go of a ring that its core gave back.
    pub(crate) fn close(self, mapped: &Mapped, detached: &Detached) {
        let window = detached.window.as_ref();
        self.let_go(mapped, detached.port, &detached.ring, window);
    }

    fn let_go(self, mapped: &Mapped, port: Port, ring: &SharedPages, window: Option<&Window>) {
        if let Err(error) = self.hypervisor.close(port) {
            error!("cannot close event channel {}: {error}", port.0);
        }
        self.unmap(&mapped.pages, ring);
        let lost = window.map_or(0, Window::unusable);
        match &mapped.cache {
            Some(cache) if lost == 0 => self.hypervisor.free_frames(cache),
            Some(_) => error!("{lost} frames cannot be used again; their window is given up"),
            None => {}
        }
    }

    /// Maps all pages or none.
    fn map(
        self,
        domain: DomId,
        queue: &QueueParams,
        pages: &SharedPages,
    ) -> Result<Vec<(u32, u64)>, Refusal> {
        let at = |i: usize| pages.bus() + (i * PAGE_SIZE) as u64;
        let refs = queue.refs.iter().enumerate();
        let mut ops: Vec<MapOp> = refs
            .map(|(i, gref)| MapOp::new(domain, *gref, at(i), false))
            .collect();
        let call = self.grants().map(&mut ops);
        let done = ops.iter().filter(|op| op.status.is_ok());
        let mapped: Vec<_> = done.map(|op| (op.handle, op.host_addr)).collect();
        if mapped.len() == ops.len() {
            return Ok(mapped);
        }
        self.unmap(&mapped, pages);
        let text = match (call, ops.iter().find(|op| !op.status.is_ok())) {
            (Ok(()), Some(op)) => {
                format!(
                    "cannot map ring-ref {}: grant status {}",
                    op.gref, op.status.0
                )
            }
            (Err(error), _) => format!("cannot map the ring: {error}"),
            (Ok(()), None) => "cannot map the ring".into(),
        };
        Err(Refusal::new(Errno::EINVAL, text))
    }

    /// Unmaps a ring's pages and gives their frames back, if they are free again.
    fn unmap(self, mapped: &[(u32, u64)], pages: &SharedPages) {
        let mut ops: Vec<_> = mapped
            .iter()
            .map(|&(handle, at)| UnmapOp::new(handle, at))
            .collect();
        let call = self.grants().unmap(&mut ops);
        if call.is_ok() && ops.iter().all(|op| op.status.is_ok()) {
            self.hypervisor.free_frames(pages);
        } else {
            error!(
                "a ring at {:#x} could not be unmapped; its frames are given up",
                pages.bus()
            );
        }
    }
}

/// Bytes of heap that a ring takes.
fn footprint(
    queue: &QueueParams,
    layout: &RingLayout,
    indirect_segments: u16,
    disk: &Served,
) -> usize {
    let indirect = indirect_segments > 0;
    Session::footprint(
        queue.refs.len(),
        layout.abi,
        CACHED_GRANTS,
        indirect,
        disk.claims.is_some(),
        disk.volume.map.as_ref().map_or(0, |map| map.disks().len()),
    )
}

fn share_used_up(need: usize, taken: RingMemory, left: usize) -> Refusal {
    let need = need.div_ceil(1024);
    let (own, most) = (taken.by_guest / 1024, (taken.by_all + left) / 2048);
    let text = format!(
        "this guest's share of memory is used up: the ring takes {need} KiB, its other rings take \
         {own} KiB, and one guest may have {most} KiB; raise memory= of the driver domain, or have \
         fewer disks or fewer or smaller rings (queues=, ring_order=)"
    );
    Refusal::new(Errno::ENOMEM, text)
}

fn no_memory(need: usize, left: usize) -> Refusal {
    let (need, left) = (need.div_ceil(1024), left / 1024);
    let text = format!(
        "not enough memory: the ring takes {need} KiB of the {left} KiB left; raise memory= of the \
         driver domain, or have fewer or smaller rings (queues=, ring_order=)"
    );
    Refusal::new(Errno::ENOMEM, text)
}
