//! Xen's grant table: guests grant pages, the backend maps and copies them, and faults are
//! injected on demand.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_xen::event::{Notify, Port};
use spindle_xen::grant::{
    CopyEnd, CopyOp, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_READONLY, GrantOps, GrantRef,
    MapOp, Status, UnmapOp,
};
use spindle_xen::{DomId, Errno};

use zerocopy::IntoBytes;

use crate::mem::FakeBus;

/// Which hypercall a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `GNTTABOP_map_grant_ref`.
    Map,
    /// `GNTTABOP_unmap_grant_ref`.
    Unmap,
    /// `GNTTABOP_copy`.
    Copy,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation ends with this status, not carried out.
    Operation(Status),
    /// The whole hypercall fails before this operation; those before it were carried out.
    Hypercall(Errno),
}

/// Hypercalls made and operations in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Map hypercalls.
    pub map_calls: u64,
    /// Map operations.
    pub maps: u64,
    /// Unmap hypercalls.
    pub unmap_calls: u64,
    /// Unmap operations.
    pub unmaps: u64,
    /// Copy hypercalls.
    pub copy_calls: u64,
    /// Copy operations.
    pub copies: u64,
}

impl Counts {
    /// All hypercalls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.map_calls + self.unmap_calls + self.copy_calls
    }
}

#[derive(Debug)]
struct Grant {
    page: SharedPages,
    read_only: bool,
}

#[derive(Debug)]
struct Mapping {
    dom: u16,
    gref: u32,
    at: u64,
}

#[derive(Debug, Default)]
struct State {
    grants: BTreeMap<(u16, u32), Grant>,
    next_gref: BTreeMap<u16, u32>,
    mappings: BTreeMap<u32, Mapping>,
    /// Handles to give out before new ones: Xen uses them again, too.
    free_handles: BTreeSet<u32>,
    /// Where they are.
    places: BTreeSet<u64>,
    /// How often each grant is mapped, if it is.
    mapped: BTreeMap<(u16, u32), usize>,
    counts: Counts,
    /// In order; each is due when its hypercall reaches that many operations.
    faults: VecDeque<(Call, u64, Fault)>,
}

impl State {
    /// How the operation just counted as number `n` of its kind fails, if it does; or how the
    /// whole hypercall fails there.
    fn fault(&mut self, call: Call, n: u64) -> Result<Option<Status>, Errno> {
        let due = |&(c, at, _): &(Call, u64, Fault)| c == call && at == n;
        let found = self.faults.iter().position(due);
        let fault = found.and_then(|found| self.faults.remove(found));
        match fault {
            Some((_, _, Fault::Hypercall(errno))) => Err(errno),
            Some((_, _, Fault::Operation(status))) => Ok(Some(status)),
            None => Ok(None),
        }
    }

    fn unmap(&mut self, handle: u32) {
        let Some(Mapping { dom, gref, at }) = self.mappings.remove(&handle) else {
            return;
        };
        self.free_handles.insert(handle);
        self.places.remove(&at);
        if let Entry::Occupied(mut count) = self.mapped.entry((dom, gref)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn granted(&self, dom: u16, gref: u64) -> Option<&Grant> {
        self.grants.get(&(dom, u32::try_from(gref).ok()?))
    }
}

/// The grant tables of all domains, and the backend's mappings, which appear on a bus.
#[derive(Debug)]
pub struct FakeGrants<'b> {
    bus: &'b FakeBus,
    state: Mutex<State>,
}

impl<'b> FakeGrants<'b> {
    /// Empty grant tables; mappings and the backend's own memory are on `bus`.
    #[must_use]
    pub fn new(bus: &'b FakeBus) -> Self {
        Self {
            bus,
            state: Mutex::default(),
        }
    }

    /// `dom` grants `page` to the backend.
    pub fn grant(&self, dom: DomId, page: &SharedPages, read_only: bool) -> GrantRef {
        let mut state = self.state.lock().unwrap();
        // References 0 to 7 are reserved by Xen.
        let next = state.next_gref.entry(dom.0).or_insert(8);
        let gref = *next;
        *next += 1;
        drop(state);
        self.grant_as(dom, GrantRef(gref), page, read_only);
        GrantRef(gref)
    }

    /// As [`FakeGrants::grant`], by a reference of the guest's choice.
    pub fn grant_as(&self, dom: DomId, gref: GrantRef, page: &SharedPages, read_only: bool) {
        assert_eq!(page.len(), PAGE_SIZE);
        let grant = Grant {
            page: page.alias(),
            read_only,
        };
        let mut state = self.state.lock().unwrap();
        let old = state.grants.insert((dom.0, gref.0), grant);
        assert!(old.is_none(), "reference granted twice");
    }

    /// `dom` ends access; false if the page is still mapped, which a guest cannot undo.
    pub fn revoke(&self, dom: DomId, gref: GrantRef) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.mapped.contains_key(&(dom.0, gref.0)) {
            return false;
        }
        state.grants.remove(&(dom.0, gref.0));
        true
    }

    /// Injects a fault into the `ahead`-th operation of its kind from now on, 0 being the next.
    pub fn inject(&self, call: Call, ahead: u64, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        let done = match call {
            Call::Map => state.counts.maps,
            Call::Unmap => state.counts.unmaps,
            Call::Copy => state.counts.copies,
        };
        state.faults.push_back((call, done + ahead + 1, fault));
    }

    /// Takes back all faults that have not happened yet.
    pub fn repair(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Makes the next operation of a kind end with `GNTST_eagain`, `times` times running.
    pub fn inject_eagain(&self, call: Call, times: u64) {
        for ahead in 0..times {
            self.inject(call, ahead, Fault::Operation(Status::EAGAIN));
        }
    }

    /// Hypercalls and operations so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.lock().unwrap().counts
    }

    /// Mappings not undone.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.state.lock().unwrap().mappings.len()
    }

    /// Undoes all mappings, as a kernel does with those of its former life: says how many.
    pub fn sweep(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        let mappings = std::mem::take(&mut state.mappings);
        state.places.clear();
        state.mapped.clear();
        state.free_handles.clear();
        for mapping in mappings.values() {
            self.bus.remove(mapping.at);
        }
        mappings.len()
    }

    /// Who has granted what is mapped with this handle, and by which reference.
    #[must_use]
    pub fn granted_by(&self, handle: u32) -> Option<(DomId, u32)> {
        let state = self.state.lock().unwrap();
        let mapping = state.mappings.get(&handle)?;
        Some((DomId(mapping.dom), mapping.gref))
    }

    /// Whether a grant is mapped at any of these addresses.
    #[must_use]
    pub fn is_any_mapped(&self, at: Range<u64>) -> bool {
        let state = self.state.lock().unwrap();
        state.places.range(at).next().is_some()
    }

    /// The page at one end of a copy and the offset in it.
    fn end(&self, state: &State, end: &CopyEnd, grant: bool, write: bool) -> Result<End, Status> {
        if !grant {
            let at = end.frame << 12 | u64::from(end.offset);
            return if end.dom == DomId::SELF.0 {
                Ok(End::Own(at))
            } else {
                Err(Status::PERMISSION_DENIED)
            };
        }
        let granted = state.granted(end.dom, end.frame);
        let granted = granted.ok_or(Status::BAD_GNTREF)?;
        if write && granted.read_only {
            return Err(Status::GENERAL_ERROR);
        }
        Ok(End::Granted(granted.page.alias(), end.offset.into()))
    }

    fn copy_one(&self, state: &State, op: &CopyOp) -> Status {
        let len = usize::from(op.len);
        let in_page = |offset: u16| usize::from(offset) + len <= PAGE_SIZE;
        if !in_page(op.source.offset) || !in_page(op.dest.offset) {
            return Status::BAD_COPY_ARG;
        }
        let source = self.end(
            state,
            &op.source,
            op.flags & GNTCOPY_SOURCE_GREF != 0,
            false,
        );
        let dest = self.end(state, &op.dest, op.flags & GNTCOPY_DEST_GREF != 0, true);
        let (source, dest) = match (source, dest) {
            (Ok(source), Ok(dest)) => (source, dest),
            (Err(status), _) | (_, Err(status)) => return status,
        };
        let mut bytes = [0; PAGE_SIZE];
        let bytes = &mut bytes[..len];
        let read = match source {
            End::Own(at) => self.bus.read(at, bytes),
            End::Granted(page, offset) => {
                page.read_bytes(offset, bytes);
                true
            }
        };
        let written = match dest {
            End::Own(at) => self.bus.write(at, bytes),
            End::Granted(page, offset) => {
                page.write_bytes(offset, bytes);
                true
            }
        };
        if read && written {
            Status::OKAY
        } else {
            Status::BAD_COPY_ARG
        }
    }
}

enum End {
    Own(u64),
    Granted(SharedPages, usize),
}

impl GrantOps for &FakeGrants<'_> {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        let state = &mut *self.state.lock().unwrap();
        state.counts.map_calls += 1;
        for op in ops {
            state.counts.maps += 1;
            if let Some(status) = state.fault(Call::Map, state.counts.maps)? {
                op.status = status;
                continue;
            }
            let Some(grant) = state.granted(op.dom, op.gref.into()) else {
                op.status = Status::BAD_GNTREF;
                continue;
            };
            if grant.read_only && op.flags & GNTMAP_READONLY == 0 {
                op.status = Status::GENERAL_ERROR;
                continue;
            }
            let free = state.places.insert(op.host_addr);
            assert!(free, "mapped over a mapping, which would leak it");
            *state.mapped.entry((op.dom, op.gref)).or_default() += 1;
            let grant = state.granted(op.dom, op.gref.into()).expect("it is there");
            self.bus.insert(op.host_addr, grant.page.alias());
            let mapping = Mapping {
                dom: op.dom,
                gref: op.gref,
                at: op.host_addr,
            };
            let next = state.mappings.len() as u32;
            op.handle = state.free_handles.pop_first().unwrap_or(next);
            op.status = Status::OKAY;
            state.mappings.insert(op.handle, mapping);
        }
        Ok(())
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        let state = &mut *self.state.lock().unwrap();
        state.counts.unmap_calls += 1;
        for op in ops {
            state.counts.unmaps += 1;
            if let Some(status) = state.fault(Call::Unmap, state.counts.unmaps)? {
                op.status = status;
                continue;
            }
            op.status = match state.mappings.get(&op.handle) {
                None => Status::BAD_HANDLE,
                Some(mapping) if mapping.at != op.host_addr => Status::BAD_VIRT_ADDR,
                Some(_) => {
                    state.unmap(op.handle);
                    self.bus.remove(op.host_addr);
                    Status::OKAY
                }
            };
        }
        Ok(())
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        self.bus.read(at, words.as_mut_bytes())
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        let state = &mut *self.state.lock().unwrap();
        state.counts.copy_calls += 1;
        for op in ops {
            state.counts.copies += 1;
            if let Some(status) = state.fault(Call::Copy, state.counts.copies)? {
                op.status = status;
                continue;
            }
            op.status = self.copy_one(state, op);
        }
        Ok(())
    }
}

/// Event channels that count what is sent on each port.
#[derive(Debug)]
pub struct FakeEvents {
    sent: [AtomicU64; 64],
}

impl Default for FakeEvents {
    fn default() -> Self {
        Self {
            sent: [const { AtomicU64::new(0) }; 64],
        }
    }
}

impl FakeEvents {
    /// Notifications sent on `port`, which is below 64.
    #[must_use]
    pub fn sent(&self, port: Port) -> u64 {
        self.sent[port.0 as usize].load(Relaxed)
    }
}

impl Notify for &FakeEvents {
    fn notify(&self, port: Port) {
        self.sent[port.0 as usize].fetch_add(1, Relaxed);
    }
}
