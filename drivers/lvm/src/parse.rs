//! From a metadata text to a [`Group`]: the group itself and its physical volumes.

use alloc::string::String;
use alloc::vec::Vec;

use crate::logical::{Span, logical_volumes};
use crate::text::{Body, Item, List, Value};
use crate::{Group, LvmUuid, MemberPv, Reason};

/// Physical volumes of a group that are taken.
pub const MAX_PVS: usize = 256;
/// Characters of a name; LVM allows fewer.
const MAX_NAME: usize = 127;
/// Sectors of an extent; LVM allows fewer.
const MAX_EXTENT: u64 = 1 << 32;

const FIELD: Reason = "its metadata lacks a field, or has one of the wrong kind";

/// Status words of a list.
#[derive(Clone, Copy)]
pub(crate) struct Status<'a>(Option<List<'a>>);

impl<'a> Status<'a> {
    pub(crate) fn new(value: Value<'a>) -> Self {
        Self(value.list())
    }

    pub(crate) const fn none() -> Self {
        Self(None)
    }

    fn words(self) -> impl Iterator<Item = &'a [u8]> {
        let words = self.0.into_iter().flatten();
        // What is no string is a word that none knows.
        words.map(|word| word.ok().and_then(Value::quoted).unwrap_or_default())
    }

    pub(crate) fn has(self, word: &[u8]) -> bool {
        self.words().any(|other| other == word)
    }

    /// Whether all its words are among these.
    pub(crate) fn only(self, known: &[&[u8]]) -> bool {
        self.words().all(|word| known.contains(&word))
    }
}

/// What a text has besides, for those who change it.
pub(crate) struct Ground<'a> {
    /// All that is in the group's section.
    pub(crate) body: Body<'a>,
    /// The names of the physical volumes in the text, in their order.
    pub(crate) pv_names: Vec<&'a [u8]>,
    /// Whether volumes may be placed on each.
    pub(crate) allocatable: Vec<bool>,
    /// The extents that logical volumes have, in the order of where they are; `None` if that is not all.
    pub(crate) used: Option<Vec<Span>>,
    /// Logical volumes that the group may have; 0 for any number.
    pub(crate) most: u64,
    pub(crate) writable: bool,
}

/// Reads a metadata text of this checksum.
///
/// # Errors
/// If the text is none, or one that says too little to know its name. What is not served for another
/// reason has that in it.
pub fn parse(text: &[u8], checksum: u32) -> Result<Group, Reason> {
    parse_ground(text, checksum).map(|(group, _)| group)
}

/// A text up to the zero that LVM ends it with.
pub(crate) fn unended(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == 0);
    &text[..end.unwrap_or(text.len())]
}

/// The same with what else is needed to change it.
pub(crate) fn parse_ground(text: &[u8], checksum: u32) -> Result<(Group, Ground<'_>), Reason> {
    let mut top = Body(unended(text));
    let mut group = None;
    let mut is_group_text = false;
    while let Some(item) = top.item()? {
        match item {
            Item::Section(name, body) if group.is_none() => group = Some((name, body)),
            Item::Section(..) => return Err("its metadata text has two groups"),
            Item::Value(b"contents", value) => {
                is_group_text = value.quoted() == Some(b"Text Format Volume Group");
            }
            Item::Value(b"version", value) if value.number() != Some(1) => {
                return Err("its metadata text has an unknown version");
            }
            Item::Value(..) => {}
        }
    }
    let (name, body) = group.filter(|_| is_group_text).ok_or(FIELD)?;
    volume_group(name, body, checksum)
}

/// A name that is fit to be shown and to be asked for.
pub(crate) fn checked_name(name: &[u8]) -> Option<String> {
    let fits =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'_' | b'.' | b'-');
    let good = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.iter().all(fits)
        && name[0] != b'-'
        && name != b"."
        && name != b"..";
    let name = str::from_utf8(name).ok().filter(|_| good)?;
    Some(name.into())
}

fn volume_group<'a>(
    name: &[u8],
    mut body: Body<'a>,
    checksum: u32,
) -> Result<(Group, Ground<'a>), Reason> {
    let mut ground = Ground {
        body,
        pv_names: Vec::new(),
        allocatable: Vec::new(),
        used: Some(Vec::new()),
        most: 0,
        writable: false,
    };
    let (mut uuid, mut seqno, mut extent_size) = (None, None, None);
    let (mut status, mut refused) = (Status::none(), None);
    let (mut physical, mut logical) = (None, None);
    while let Some(item) = body.item()? {
        match item {
            Item::Section(b"physical_volumes", body) => physical = Some(body),
            Item::Section(b"logical_volumes", body) => logical = Some(body),
            Item::Section(..) => {}
            Item::Value(key, value) => match key {
                b"id" => uuid = value.quoted().and_then(LvmUuid::from_text),
                b"seqno" => seqno = value.number(),
                b"extent_size" => extent_size = value.number(),
                b"max_lv" => ground.most = value.number().unwrap_or(0),
                b"status" => status = Status::new(value),
                b"format" if value.quoted() != Some(b"lvm2") => {
                    refused = Some("its group has metadata of an unknown format");
                }
                b"system_id" if value.quoted() != Some(b"") => {
                    refused = Some("its group belongs to another system (system_id)");
                }
                b"lock_type" if !matches!(value.quoted(), Some(b"" | b"none")) => {
                    refused = Some("its group is shared under a lock manager (lock_type)");
                }
                _ => {}
            },
        }
    }
    if status.has(b"EXPORTED") {
        refused = Some("its group is exported");
    } else if !status.has(b"READ") || !status.only(&[b"RESIZEABLE", b"READ", b"WRITE"]) {
        refused.get_or_insert("its group has an unknown status");
    }
    let usual = |size: &u64| *size > 0 && *size <= MAX_EXTENT;
    let mut group = Group {
        name: checked_name(name).ok_or("a group has a name that names cannot be")?,
        uuid: uuid.ok_or(FIELD)?,
        seqno: seqno.ok_or(FIELD)?,
        checksum,
        extent_size: extent_size.filter(usual).ok_or(FIELD)?,
        refused,
        physical: Vec::new(),
        logical: Vec::new(),
    };
    if let Some(body) = physical {
        physical_volumes(body, &mut group, &mut ground)?;
    }
    ground.writable = status.has(b"WRITE");
    if let Some(body) = logical {
        let read_only = !ground.writable;
        ground.used = logical_volumes(body, &mut group, &ground.pv_names, read_only)?;
    }
    Ok((group, ground))
}

fn physical_volumes<'a>(
    mut body: Body<'a>,
    group: &mut Group,
    ground: &mut Ground<'a>,
) -> Result<(), Reason> {
    let names = &mut ground.pv_names;
    while let Some(item) = body.item()? {
        let Item::Section(name, mut body) = item else {
            continue;
        };
        if names.len() == MAX_PVS {
            return Err("its group has too many physical volumes");
        }
        let (mut uuid, mut start, mut extents) = (None, None, None);
        let (mut flags, mut status) = (Status::none(), Status::none());
        while let Some(item) = body.item()? {
            match item {
                Item::Value(b"id", value) => uuid = value.quoted().and_then(LvmUuid::from_text),
                Item::Value(b"pe_start", value) => start = value.number(),
                Item::Value(b"pe_count", value) => extents = value.number(),
                Item::Value(b"flags", value) => flags = Status::new(value),
                Item::Value(b"status", value) => status = Status::new(value),
                _ => {}
            }
        }
        let (uuid, start) = (uuid.ok_or(FIELD)?, start.ok_or(FIELD)?);
        let extents = extents.ok_or(FIELD)?;
        // Whatever is reckoned with it later fits, too.
        let end = extents.checked_mul(group.extent_size);
        let end = end.and_then(|size| size.checked_add(start));
        end.filter(|end| *end < 1 << 55).ok_or(FIELD)?;
        let twice = names.contains(&name) || group.physical.iter().any(|pv| pv.uuid == uuid);
        if twice {
            return Err("its group has a physical volume twice");
        }
        let missing = flags.has(b"MISSING") || status.has(b"MISSING");
        names.push(name);
        ground.allocatable.push(status.has(b"ALLOCATABLE"));
        group.physical.push(MemberPv {
            uuid,
            start,
            extents,
            refused: missing
                .then_some("a physical volume under it was missing when it was changed"),
        });
    }
    Ok(())
}
