//! Logical volumes: their segments, and why one is not served.

use alloc::vec::Vec;

use crate::parse::{Status, checked_name};
use crate::text::{Body, Item, List, Value};
use crate::{Group, LogicalVolume, LvArea, LvSegment, LvmUuid, Reason};

/// Logical volumes of a group that are taken, hidden ones included.
pub const MAX_LVS: usize = 1024;
/// Areas of all segments of a group, and names in other kinds of segments.
pub const MAX_SPANS: usize = 8192;

const FIELD: Reason = "its metadata lacks a field, or has one of the wrong kind";
const MAP: Reason = "its segments do not make a whole";
const SNAPSHOT: Reason = "it is a snapshot";
const TOO_MANY: Reason = "its group has too many segments";

/// The words that a volume which is served may have.
const STATUS: [&[u8]; 4] = [b"READ", b"WRITE", b"VISIBLE", b"FIXED_MINOR"];

/// Extents of a physical volume that a logical volume has.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) pv: usize,
    pub(crate) first: u64,
    /// The first one after it.
    pub(crate) end: u64,
    lv: usize,
}

/// What is read beside the volumes themselves.
struct Reading<'a, 'p> {
    pvs: &'p [&'a [u8]],
    names: Vec<&'a [u8]>,
    spans: Vec<Span>,
    /// Names of other volumes that segments of the volume with this number are made of.
    used: Vec<(usize, &'a [u8])>,
    /// Of these, what snapshots are kept in. To people it is the snapshot, and has its name; in metadata it
    /// is hidden, and what makes it a snapshot is a volume of a name of its own.
    stores: Vec<&'a [u8]>,
    /// All extents that any volume has are among the spans.
    complete: bool,
}

/// Adds the logical volumes to the group. Gives the extents that they have, in the order of where they
/// are, if all of these are known.
pub(crate) fn logical_volumes<'a>(
    mut body: Body<'a>,
    group: &mut Group,
    pvs: &[&'a [u8]],
    read_only: bool,
) -> Result<Option<Vec<Span>>, Reason> {
    let mut reading = Reading {
        pvs,
        names: Vec::new(),
        spans: Vec::new(),
        used: Vec::new(),
        stores: Vec::new(),
        complete: true,
    };
    while let Some(item) = body.item()? {
        if let Item::Section(name, body) = item {
            if group.logical.len() == MAX_LVS {
                return Err("its group has too many logical volumes");
            }
            let mut volume = reading.volume(name, body, group)?;
            volume.read_only |= read_only;
            reading.names.push(name);
            group.logical.push(volume);
        }
    }
    reading.refuse_parts(group);
    let spans = in_order(&reading.spans);
    refuse_overlaps(&spans, group);
    for volume in &mut group.logical {
        if volume.refused.is_some() {
            volume.segments = Vec::new();
        }
    }
    // A kind of segment that is not known may have extents of a physical volume that it names.
    let mut used = reading.used.iter();
    let complete = reading.complete && !used.any(|(_, name)| pvs.contains(name));
    Ok(complete.then_some(spans))
}

impl<'a> Reading<'a, '_> {
    fn volume(
        &mut self,
        name: &[u8],
        body: Body<'a>,
        group: &Group,
    ) -> Result<LogicalVolume, Reason> {
        let (mut uuid, mut status, mut count) = (None, Status::none(), None);
        let mut items = body;
        while let Some(item) = items.item()? {
            match item {
                Item::Value(b"id", value) => uuid = value.quoted().and_then(LvmUuid::from_text),
                Item::Value(b"status", value) => status = Status::new(value),
                Item::Value(b"segment_count", value) => count = value.number(),
                _ => {}
            }
        }
        let mut volume = LogicalVolume {
            name: checked_name(name).ok_or("a logical volume has a name that names cannot be")?,
            uuid: uuid.ok_or(FIELD)?,
            read_only: !status.has(b"WRITE"),
            hidden: !status.has(b"VISIBLE"),
            segments: Vec::new(),
            refused: refused_for(status),
        };
        let (mut items, mut end, mut segments) = (body, 0, 0);
        while let Some(item) = items.item()? {
            if let Item::Section(_, body) = item {
                segments += 1;
                self.segment(body, group, &mut volume, &mut end)?;
            }
        }
        if count != Some(segments) || segments == 0 {
            volume.refused.get_or_insert(MAP);
        }
        Ok(volume)
    }

    /// Adds a segment to a volume of which `end` extents are known.
    fn segment(
        &mut self,
        mut body: Body<'a>,
        group: &Group,
        volume: &mut LogicalVolume,
        end: &mut u64,
    ) -> Result<(), Reason> {
        let (mut start, mut extents, mut kind) = (None, None, None);
        let (mut stripes, mut stripe_count, mut stripe_size) = (None, None, None);
        let number = group.logical.len();
        while let Some(item) = body.item()? {
            let Item::Value(key, value) = item else {
                continue;
            };
            match key {
                b"start_extent" => start = value.number(),
                b"extent_count" => extents = value.number(),
                b"type" => kind = value.quoted(),
                b"stripe_count" => stripe_count = value.number(),
                b"stripe_size" => stripe_size = value.number(),
                b"stripes" => stripes = value.list(),
                b"tags" => {}
                b"cow_store" | b"merging_store" => {
                    let name = value.quoted().ok_or(FIELD)?;
                    self.note_used(number, name)?;
                    self.stores.push(name);
                    volume.hidden = true;
                }
                // Whatever it means, a volume that is named there is not one by itself.
                _ => match value {
                    Value::Quoted(text) => self.note_used(number, text)?,
                    Value::List(list) => self.note_names(number, list)?,
                    _ => {}
                },
            }
        }
        let (start, extents) = (start.ok_or(FIELD)?, extents.ok_or(FIELD)?);
        let areas = match stripes {
            Some(list) => self.areas(number, list, group, extents)?,
            None => Err(MAP),
        };
        if kind != Some(b"striped") {
            let kind = kind.unwrap_or_default();
            volume.refused.get_or_insert(refused_kind(kind));
            return Ok(());
        }
        let size = extents.checked_mul(group.extent_size);
        let checked = areas.and_then(|areas| {
            let count = areas.len() as u64;
            let stripe = if count > 1 {
                stripe_size.ok_or(MAP)?
            } else {
                0
            };
            let fits =
                count == 1 || stripe.is_power_of_two() && group.extent_size.is_multiple_of(stripe);
            let whole = start == *end && stripe_count == Some(count);
            let sectors = size.filter(|size| *size < 1 << 55);
            let sectors = sectors.filter(|_| whole && fits).ok_or(MAP)?;
            *end = end.checked_add(extents).ok_or(MAP)?;
            Ok(LvSegment {
                sectors,
                stripe,
                areas,
            })
        });
        match checked {
            Ok(segment) => volume.segments.push(segment),
            Err(reason) => {
                volume.refused.get_or_insert(reason);
            }
        }
        Ok(())
    }

    /// The areas of a list of names and first extents, each of which holds its share of `extents`. The
    /// inner error is of this volume alone.
    fn areas(
        &mut self,
        number: usize,
        mut list: List<'a>,
        group: &Group,
        extents: u64,
    ) -> Result<Result<Vec<LvArea>, Reason>, Reason> {
        let count = (list.count() / 2) as u64;
        if count == 0 || !extents.is_multiple_of(count) || extents == 0 {
            self.complete = false;
            return Ok(Err(MAP));
        }
        let share = extents / count;
        let (mut areas, mut outcome) = (Vec::new(), Ok(()));
        while let (Some(name), Some(first)) = (list.next(), list.next()) {
            let name = name?.quoted().ok_or(FIELD)?;
            let first = first?.number().ok_or(FIELD)?;
            let Some(pv) = self.pvs.iter().position(|other| *other == name) else {
                self.note_used(number, name)?;
                outcome = Err("it lies on another logical volume");
                continue;
            };
            let member = &group.physical[pv];
            let end = first
                .checked_add(share)
                .filter(|end| *end <= member.extents);
            let Some(end) = end else {
                self.complete = false;
                outcome = Err("it has extents that its physical volume has not");
                continue;
            };
            if self.spans.len() == MAX_SPANS {
                return Err(TOO_MANY);
            }
            let lv = number;
            self.spans.push(Span { pv, first, end, lv });
            let first = member.start + first * group.extent_size;
            areas.push(LvArea { pv, first });
        }
        Ok(outcome.map(|()| areas))
    }

    fn note_names(&mut self, number: usize, list: List<'a>) -> Result<(), Reason> {
        for value in list {
            if let Value::Quoted(text) = value? {
                self.note_used(number, text)?;
            }
        }
        Ok(())
    }

    fn note_used(&mut self, by: usize, name: &'a [u8]) -> Result<(), Reason> {
        if self.used.len() == MAX_SPANS {
            return Err(TOO_MANY);
        }
        self.used.push((by, name));
        Ok(())
    }

    /// Refuses what other volumes are made of: the origin of a snapshot would be changed beneath it.
    fn refuse_parts(&self, group: &mut Group) {
        for (by, name) in &self.used {
            let found = self.names.iter().position(|other| other == name);
            if let Some(found) = found.filter(|found| found != by) {
                let reason = "another logical volume depends on it";
                group.logical[found].refused.get_or_insert(reason);
            }
        }
        for name in &self.stores {
            if let Some(found) = self.names.iter().position(|other| other == name) {
                let store = &mut group.logical[found];
                (store.hidden, store.refused) = (false, Some(SNAPSHOT));
            }
        }
    }
}

fn refused_for(status: Status<'_>) -> Option<Reason> {
    for (word, reason) in [
        (&b"PVMOVE"[..], "it is part of a pvmove"),
        (b"LOCKED", "it is locked, as by a pvmove that has not ended"),
    ] {
        if status.has(word) {
            return Some(reason);
        }
    }
    if !status.has(b"VISIBLE") {
        return Some("it is a hidden part of another logical volume");
    }
    let known = status.has(b"READ") && status.only(&STATUS);
    (!known).then_some("it has an unknown status")
}

/// Why a kind of segment is not served.
fn refused_kind(kind: &[u8]) -> Reason {
    for (start, reason) in [
        (&b"thin-pool"[..], "it is a thin pool"),
        (b"thin", "it is a thin volume"),
        (b"snapshot", SNAPSHOT),
        (b"raid", "it is RAID"),
        (b"mirror", "it is a mirror"),
        (b"cache", "it is cached"),
        (b"writecache", "it is cached"),
        (b"vdo", "it is a VDO volume"),
        (b"integrity", "it has integrity checksums"),
    ] {
        if kind.starts_with(start) {
            return reason;
        }
    }
    "it has segments of an unknown kind"
}

fn in_order(spans: &[Span]) -> Vec<Span> {
    // Put in order by hand: the library's sort would be a hundredth of the kernel.
    let mut order: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        let place = order.partition_point(|at| (at.pv, at.first) <= (span.pv, span.first));
        order.insert(place, *span);
    }
    order
}

/// Refuses volumes that share extents.
fn refuse_overlaps(order: &[Span], group: &mut Group) {
    // Of those that begin no later, the one that ends last.
    let mut reach: Option<Span> = None;
    for span in order.iter().copied() {
        let before = reach.filter(|before| before.pv == span.pv);
        if let Some(before) = before.filter(|before| before.end > span.first) {
            for lv in [before.lv, span.lv] {
                let reason = "it shares extents with another logical volume";
                group.logical[lv].refused.get_or_insert(reason);
            }
        }
        if before.is_none_or(|before| before.end <= span.end) {
            reach = Some(span);
        }
    }
}
