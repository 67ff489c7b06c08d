//! Changes of a volume group: from its metadata text to the next one.
//!
//! The text is edited in place, so that what is not understood of it stays: only the places change that a
//! change is about. The outcome is read again and compared with what was meant before it is given.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::parse::{Ground, checked_name, parse_ground, unended};
use crate::space::{Extents, choose, free};
use crate::text::{Body, Item};
use crate::{Group, LogicalVolume, LvmUuid, MAX_LVS};

/// Bytes that the names of a group and a volume may have together, as the device mapper has them.
const MAX_NAMES: usize = 120;
/// Beginnings and parts of names that LVM keeps for itself (lvm(8)).
const RESERVED: [&str; 2] = ["snapshot", "pvmove"];
const RESERVED_WITHIN: [&str; 17] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog",
    "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig",
];

/// What is to be done with a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeChange {
    /// Make it, of so many sectors or a little more.
    Create {
        /// How many.
        sectors: u64,
        /// When that is, in seconds since 1970.
        time: u64,
    },
    /// Make it so many sectors large, or a little more.
    Extend {
        /// How many.
        sectors: u64,
    },
    /// Take it out of its group.
    Remove,
    /// Give it another name.
    Rename {
        /// Which one, without the group's.
        to: String,
    },
}

/// Places of a text, and what is to stand there instead.
struct Edits<'a> {
    text: &'a [u8],
    /// In the order of the places.
    edits: Vec<(usize, usize, String)>,
}

impl<'a> Edits<'a> {
    /// Where a part of the text begins.
    fn at(&self, part: &[u8]) -> usize {
        part.as_ptr()
            .addr()
            .saturating_sub(self.text.as_ptr().addr())
    }

    fn replace(&mut self, from: usize, to: usize, by: String) {
        let place = self.edits.partition_point(|edit| edit.0 <= from);
        self.edits.insert(place, (from, to, by));
    }

    /// The place behind the brace that ends a section.
    fn behind(&self, inside: &Body<'a>) -> Result<usize, String> {
        let mut rest = Body(&self.text[self.at(inside.0) + inside.0.len()..]);
        rest.pass_sign()?;
        Ok(self.at(rest.0))
    }

    /// Replaces the number that stands before what is left of a section.
    fn renumber(&mut self, rest: &Body<'a>, number: u64) {
        let end = self.at(rest.0);
        let before = self.text[..end].iter().rev();
        let digits = before.take_while(|byte| byte.is_ascii_digit()).count();
        self.replace(end - digits, end, number.to_string());
    }

    /// The text with all that, ended by a zero as LVM does.
    fn apply(&self) -> Vec<u8> {
        let added: usize = self.edits.iter().map(|edit| edit.2.len()).sum();
        let mut text = Vec::with_capacity(self.text.len() + added + 1);
        let mut done = 0;
        for (from, to, by) in &self.edits {
            text.extend_from_slice(&self.text[done..*from]);
            text.extend_from_slice(by.as_bytes());
            done = *to;
        }
        text.extend_from_slice(&self.text[done..]);
        text.push(0);
        text
    }
}

/// The text that has the volume `name` of the group changed, and what that text says. `salt` is to be
/// another number each time.
///
/// # Errors
/// Why that cannot be, for people.
pub fn change(
    text: &[u8],
    name: &str,
    change: &VolumeChange,
    salt: u64,
) -> Result<(Vec<u8>, Group), String> {
    let (group, ground) = parse_ground(text, 0)?;
    if let Some(reason) = group.refused {
        return Err(reason.to_string());
    }
    if !ground.writable {
        return Err("its group is read-only".to_string());
    }
    let text = unended(text);
    let mut edits = Edits {
        text,
        edits: Vec::new(),
    };
    let seqno = group
        .seqno
        .checked_add(1)
        .ok_or("its group has no next version")?;
    let (mut body, mut volumes) = (ground.body, None);
    while let Some(item) = body.item()? {
        match item {
            Item::Value(b"seqno", _) => edits.renumber(&body, seqno),
            Item::Section(b"logical_volumes", inside) => volumes = Some(inside),
            _ => {}
        }
    }
    let wanted = edit(&mut edits, &group, &ground, volumes, (name, change, salt))?;
    let text = edits.apply();
    let (new, _) = parse_ground(&text, 0)?;
    let is_meant = new.seqno == seqno
        && new.physical == group.physical
        && (new.uuid, new.extent_size) == (group.uuid, group.extent_size)
        && new.logical == wanted;
    if !is_meant {
        return Err("its metadata cannot be changed by Spindle".to_string());
    }
    Ok((text, new))
}

/// Makes the edits; gives the volumes that there are to be after them.
fn edit<'a>(
    edits: &mut Edits<'a>,
    group: &Group,
    ground: &Ground<'_>,
    volumes: Option<Body<'a>>,
    (name, change, salt): (&str, &VolumeChange, u64),
) -> Result<Vec<LogicalVolume>, String> {
    let mut wanted = group.logical.clone();
    let at = wanted.iter().position(|volume| volume.name == name);
    if let VolumeChange::Create { sectors, time } = *change {
        check_name(group, name)?;
        if group.logical.len() >= MAX_LVS
            || ground.most > 0 && group.logical.len() as u64 >= ground.most
        {
            return Err("its group has as many logical volumes as it may have".to_string());
        }
        let runs = allocate(group, ground, sectors.div_ceil(group.extent_size), None)?;
        let volume = made(group, name, &runs, salt);
        let text = section(group, ground, &volume, &runs, time);
        match volumes {
            Some(inside) => {
                let end = edits.at(inside.0) + inside.0.len();
                edits.replace(end, end, format!("{text}\t"));
            }
            None => {
                let end = edits.at(ground.body.0) + ground.body.0.len();
                edits.replace(end, end, format!("\n\tlogical_volumes {{\n{text}\t}}\n"));
            }
        }
        wanted.push(volume);
        return Ok(wanted);
    }
    let (at, mut inside) = at.zip(volumes).ok_or("there is no such logical volume")?;
    if let Some(reason) = group.logical[at].refused {
        return Err(reason.to_string());
    }
    let (mut found, mut count) = (None, 0);
    while let Some(item) = inside.item()? {
        if let Item::Section(key, body) = item {
            count += 1;
            if key == name.as_bytes() {
                found = Some((key, body));
            }
        }
    }
    let (key, body) = found.ok_or("there is no such logical volume")?;
    match change {
        VolumeChange::Create { .. } => {}
        VolumeChange::Rename { to } => {
            check_name(group, to)?;
            let from = edits.at(key);
            edits.replace(from, from + key.len(), to.clone());
            wanted[at].name.clone_from(to);
        }
        VolumeChange::Remove => {
            let (first, last) = match volumes {
                // An empty section is none that LVM writes.
                Some(all) if count == 1 => {
                    let end = edits.at(all.0);
                    let begin = rfind(&edits.text[..end], b"logical_volumes");
                    (begin.ok_or("there is no such logical volume")?, all)
                }
                _ => (edits.at(key), body),
            };
            let end = edits.behind(&last)?;
            edits.replace(first, end, String::new());
            wanted.remove(at);
        }
        VolumeChange::Extend { sectors } => {
            extend(edits, group, ground, body, &mut wanted[at], *sectors)?;
        }
    }
    Ok(wanted)
}

fn extend<'a>(
    edits: &mut Edits<'a>,
    group: &Group,
    ground: &Ground<'_>,
    mut body: Body<'a>,
    volume: &mut LogicalVolume,
    sectors: u64,
) -> Result<(), String> {
    let (before, size) = (volume.sectors(), group.extent_size);
    let (has, extents) = (before / size, sectors.div_ceil(size));
    if extents <= has {
        let mib = before >> 11;
        return Err(format!(
            "it has {mib} MiB already, and no volume is made smaller"
        ));
    }
    let last = volume.segments.last().filter(|last| last.areas.len() == 1);
    let last = last.map(|last| Extents {
        pv: last.areas[0].pv,
        first: (last.areas[0].first - group.physical[last.areas[0].pv].start) / size,
        count: last.sectors / size,
    });
    let mut runs = allocate(group, ground, extents - has, last)?;
    let goes_on = last.zip(runs.first().copied());
    let goes_on =
        goes_on.filter(|(last, run)| (run.pv, run.first) == (last.pv, last.first + last.count));
    let mut count = volume.segments.len();
    let behind = edits.at(body.0) + body.0.len();
    let mut start = has;
    if let Some((last, run)) = goes_on {
        runs.remove(0);
        start += run.count;
        let mut items = body;
        while let Some(item) = items.item()? {
            if let Item::Section(_, mut segment) = item {
                let begins = number_of(segment, b"start_extent")?;
                while let Some(item) = segment.item()? {
                    if matches!(item, Item::Value(b"extent_count", _))
                        && begins == Some(has - last.count)
                    {
                        edits.renumber(&segment, last.count + run.count);
                    }
                }
            }
        }
        if let Some(segment) = volume.segments.last_mut() {
            segment.sectors += run.count * size;
        }
    }
    let mut text = String::new();
    for run in &runs {
        count += 1;
        text += &segment(ground, count, start, run);
        start += run.count;
        volume.segments.push(linear(group, run));
    }
    while let Some(item) = body.item()? {
        if matches!(item, Item::Value(b"segment_count", _)) {
            edits.renumber(&body, count as u64);
        }
    }
    edits.replace(behind, behind, format!("{text}\t\t"));
    Ok(())
}

fn number_of(mut body: Body<'_>, wanted: &[u8]) -> Result<Option<u64>, String> {
    while let Some(item) = body.item()? {
        match item {
            Item::Value(key, value) if key == wanted => return Ok(value.number()),
            _ => {}
        }
    }
    Ok(None)
}

fn rfind(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).rposition(|part| part == word)
}

fn allocate(
    group: &Group,
    ground: &Ground<'_>,
    count: u64,
    last: Option<Extents>,
) -> Result<Vec<Extents>, String> {
    let free = free(group, ground);
    let free = free.ok_or("its group has volumes of which it is not known where they are")?;
    let there: u64 = free.iter().map(|run| run.count).sum();
    let chosen = choose(free, count, last).filter(|_| count > 0);
    chosen.ok_or_else(|| {
        let mib = |extents: u64| extents.saturating_mul(group.extent_size) >> 11;
        let (wanted, there) = (mib(count), mib(there));
        format!("its group has {there} MiB left, and {wanted} MiB are asked for")
    })
}

fn check_name(group: &Group, name: &str) -> Result<(), String> {
    // By hand: the library's search for strings would be a three-hundredth of the kernel.
    let holds = |part: &&str| rfind(name.as_bytes(), part.as_bytes()).is_some();
    let reserved =
        RESERVED.iter().any(|start| name.starts_with(start)) || RESERVED_WITHIN.iter().any(holds);
    if checked_name(name.as_bytes()).is_none()
        || reserved
        || group.name.len() + name.len() > MAX_NAMES
    {
        return Err(format!("\"{name}\" is no name for a logical volume"));
    }
    if group.logical.iter().any(|volume| volume.name == name) {
        return Err(format!("there is a logical volume {name} already"));
    }
    Ok(())
}

fn linear(group: &Group, run: &Extents) -> crate::LvSegment {
    let first = group.physical[run.pv].start + run.first * group.extent_size;
    crate::LvSegment {
        sectors: run.count * group.extent_size,
        stripe: 0,
        areas: Vec::from([crate::LvArea { pv: run.pv, first }]),
    }
}

fn made(group: &Group, name: &str, runs: &[Extents], salt: u64) -> LogicalVolume {
    let seed = |round: u64| {
        let numbers = [group.seqno, salt, round].map(u64::to_le_bytes);
        let own = group.uuid.characters().bytes().chain(name.bytes());
        own.chain(numbers.concat())
    };
    let is_new = |uuid: &LvmUuid| group.logical.iter().all(|volume| volume.uuid != *uuid);
    let uuid = (0..)
        .map(|round| LvmUuid::derived(seed(round)))
        .find(is_new);
    LogicalVolume {
        name: name.to_string(),
        uuid: uuid.unwrap_or(group.uuid),
        read_only: false,
        hidden: false,
        segments: runs.iter().map(|run| linear(group, run)).collect(),
        refused: None,
    }
}

/// A volume as LVM writes it.
fn section(
    group: &Group,
    ground: &Ground<'_>,
    volume: &LogicalVolume,
    runs: &[Extents],
    time: u64,
) -> String {
    let (name, uuid, count) = (&volume.name, volume.uuid, runs.len());
    let mut text = format!(
        "\n\t\t{name} {{\n\t\t\tid = \"{uuid}\"\n\t\t\tstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\n\
         \t\t\tflags = []\n\t\t\tcreation_time = {time}\n\t\t\tcreation_host = \"spindle\"\n\
         \t\t\tsegment_count = {count}\n"
    );
    let mut start = 0;
    for (number, run) in (1..).zip(runs) {
        text += &segment(ground, number, start, run);
        start += run.count;
    }
    debug_assert_eq!(start * group.extent_size, volume.sectors());
    text + "\t\t}\n"
}

fn segment(ground: &Ground<'_>, number: usize, start: u64, run: &Extents) -> String {
    let pv = ground.pv_names.get(run.pv).copied().unwrap_or_default();
    let pv = pv.escape_ascii();
    let Extents { first, count, .. } = run;
    format!(
        "\n\t\t\tsegment{number} {{\n\t\t\t\tstart_extent = {start}\n\t\t\t\textent_count = {count}\n\n\
         \t\t\t\ttype = \"striped\"\n\t\t\t\tstripe_count = 1\n\n\
         \t\t\t\tstripes = [\n\t\t\t\t\t\"{pv}\", {first}\n\t\t\t\t]\n\t\t\t}}\n"
    )
}
