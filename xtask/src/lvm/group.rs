//! A volume group with a life of random changes, and the comparison.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use spindle_lvm::{Assembled, LogicalVolume, assemble, find};

use super::Compared;
use super::machine::LvmTools;

/// Changes in a life, at most, and between two comparisons.
const CHANGES: usize = 14;
const UNSEEN: usize = 4;
/// Extents of a disk, about.
const EXTENTS: u64 = 24;

/// The group.
pub(super) struct RandomGroup<'a> {
    pub(super) tools: &'a LvmTools<'a>,
    pub(super) rng: Rng,
    /// Volumes ever made, for names.
    made: usize,
}

/// A volume as `lvs` reports it: its identifier, its kinds of segments, its attributes, and each
/// segment's ranges.
#[derive(Default)]
struct Reported {
    uuid: String,
    kinds: Vec<String>,
    attributes: String,
    ranges: Vec<String>,
}

impl<'a> RandomGroup<'a> {
    /// Makes a group of this seed.
    pub(super) fn new(tools: &'a LvmTools<'a>, seed: u64) -> Result<Self> {
        let mut rng = Rng::with_seed(seed);
        let extent_kib = 1_u64 << rng.u32(2..13);
        tools.reset((EXTENTS * extent_kib).max(8 << 10) << 10)?;
        let disks: Vec<_> = tools
            .disks
            .iter()
            .map(|(_, device)| device.clone())
            .collect();
        for (number, device) in disks.iter().enumerate() {
            // The first one has metadata in any case. A small area wraps around soon.
            let copies = if number == 0 {
                rng.u32(1..3)
            } else {
                rng.u32(0..3)
            };
            let size = rng.choice(["64k", "256k", "1020k"]).unwrap_or("1020k");
            let mut args = vec!["--metadatasize".into(), size.into()];
            args.extend([
                "--pvmetadatacopies".into(),
                copies.to_string(),
                device.clone(),
            ]);
            ensure!(tools.run("pvcreate", &args)?, "pvcreate fails");
        }
        let used = rng.usize(1..=disks.len());
        let mut args = vec!["--physicalextentsize".into(), format!("{extent_kib}k")];
        if rng.bool() {
            args.extend(["--metadatacopies".into(), rng.u32(1..3).to_string()]);
        }
        args.push("vg-0".into());
        args.extend(disks.into_iter().take(used));
        ensure!(tools.run("vgcreate", &args)?, "vgcreate fails");
        Ok(Self {
            tools,
            rng,
            made: 0,
        })
    }

    /// Changes it and compares, again and again.
    pub(super) fn live(&mut self, compared: &mut Compared) -> Result<()> {
        let changes = self.rng.usize(4..CHANGES);
        let mut unseen = 0;
        for number in 0..changes {
            if self.rng.bool() {
                self.change(compared)?;
            } else {
                self.write(compared)?;
            }
            unseen += 1;
            if unseen == UNSEEN || self.rng.u8(..3) == 0 || number + 1 == changes {
                unseen = 0;
                self.compare(compared)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, compared: &mut Compared) -> Result<()> {
        let groups = self.tools.report("vgs", "vg_name")?;
        let group = self.pick(&groups)?[0].clone();
        let all = self.tools.report("lvs", "vg_name,lv_name,lv_attr")?;
        let visible = |row: &&Vec<String>| row[0] == group && !row[1].starts_with('[');
        let volumes: Vec<_> = all.iter().filter(visible).cloned().collect();
        let volume = match volumes.is_empty() {
            true => None,
            false => Some(format!("{group}/{}", self.pick(&volumes)?[1])),
        };
        let device = self.pick(&self.tools.disks)?.1.clone();
        let extents = self.rng.u64(1..10).to_string();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let create = |name: String, extents: &str| {
            words(&["-an", "-Zn", "-Wn", "-l", extents, "-n", &name, &group])
        };
        let (command, args) = match (self.rng.u32(..20), volume) {
            (0..=4, _) | (_, None) => {
                let mut args = create(self.name(), &extents);
                let stripes = self.rng.u32(1..4);
                if stripes > 1 {
                    let size = 4_u32 << self.rng.u32(..3);
                    args.extend([
                        "-i".into(),
                        stripes.to_string(),
                        "-I".into(),
                        format!("{size}k"),
                    ]);
                } else if self.rng.bool() {
                    args.push(device);
                }
                ("lvcreate", args)
            }
            (5..=8, Some(volume)) => ("lvextend", words(&["-l", &format!("+{extents}"), &volume])),
            (9..=10, Some(volume)) => (
                "lvreduce",
                words(&["-f", "-l", &format!("-{extents}"), &volume]),
            ),
            (11..=12, Some(volume)) => ("lvremove", words(&["-f", &volume])),
            (13, Some(_)) => ("vgextend", words(&[&group, &device])),
            (14, Some(_)) => ("vgsplit", words(&[&group, &format!("{group}x"), &device])),
            (15, Some(_)) => {
                let other = self.pick(&groups)?[0].clone();
                ("vgmerge", words(&[&group, &other]))
            }
            (16, Some(volume)) => {
                let mut args = words(&["-n", &volume, &device]);
                if self.rng.bool() {
                    args = words(&["--abort"]);
                }
                ("pvmove", args)
            }
            (17, Some(volume)) => {
                let access = if self.rng.bool() { "r" } else { "rw" };
                ("lvchange", words(&["--permission", access, &volume]))
            }
            (18, Some(volume)) => {
                let name = self.name();
                ("lvrename", words(&[&volume, &format!("{group}/{name}")]))
            }
            (_, Some(volume)) => {
                let mut args = words(&["-an", "-Wn", "-l", &extents, "-n", &self.name()]);
                match self.rng.bool() {
                    true => args.extend(words(&["--type", "mirror", "-m1", &group])),
                    false => args.extend(words(&["--snapshot", &volume])),
                }
                ("lvcreate", args)
            }
        };
        let done = self.tools.run(command, &args)?;
        let count = compared.commands.entry(command).or_default();
        match done {
            true => count.0 += 1,
            false => count.1 += 1,
        }
        Ok(())
    }

    pub(super) fn name(&mut self) -> String {
        self.made += 1;
        let form = self.rng.choice(["web", "db-a", "a.b_c+"]).unwrap_or("web");
        format!("{form}{}", self.made)
    }

    fn pick<'b, T>(&mut self, from: &'b [T]) -> Result<&'b T> {
        self.rng.choice(from).context("nothing to choose from")
    }

    /// Reads the disks, and compares every volume with what LVM reports.
    fn compare(&mut self, compared: &mut Compared) -> Result<()> {
        let (mut found, mut devices) = (Vec::new(), Vec::new());
        for (mut file, (_, device)) in self.tools.open()?.into_iter().zip(&self.tools.disks) {
            let pv = find(&mut file).ok().flatten();
            let pv = pv.with_context(|| format!("no physical volume is found on {device}"))?;
            ensure!(pv.notes.is_empty(), "{device}: {:?}", pv.notes);
            found.push(pv);
            devices.push(device.as_str());
        }
        let groups = assemble(&found.iter().collect::<Vec<_>>());
        let mut reported: BTreeMap<(String, String), Reported> = BTreeMap::new();
        let fields = "vg_name,lv_name,lv_uuid,segtype,lv_attr,seg_pe_ranges";
        for row in self.tools.report("lvs", fields)? {
            let [group, name, uuid, kind, attributes, ranges] = &row[..] else {
                bail!("lvs reports {row:?}");
            };
            let name = name.trim_matches(['[', ']']).to_string();
            let volume = reported.entry((group.clone(), name)).or_default();
            volume.uuid.clone_from(uuid);
            volume.kinds.push(kind.clone());
            volume.attributes.clone_from(attributes);
            volume.ranges.push(ranges.clone());
        }
        compared.generations += 1;
        let mut seqnos = BTreeMap::new();
        for row in self.tools.report("vgs", "vg_name,vg_seqno")? {
            seqnos.insert(row[0].clone(), row[1].clone());
        }
        ensure!(seqnos.len() == groups.len(), "other groups than {seqnos:?}");
        for assembled in &groups {
            let group = &assembled.group;
            let seqno = seqnos
                .get(&group.name)
                .with_context(|| group.name.clone())?;
            ensure!(
                *seqno == group.seqno.to_string(),
                "{}: not {seqno}",
                group.seqno
            );
            for volume in &group.logical {
                let key = (group.name.clone(), volume.name.clone());
                let what = reported.remove(&key);
                let what = what.with_context(|| format!("LVM does not know {key:?}"))?;
                check(assembled, volume, &what, &devices, compared)
                    .with_context(|| format!("{key:?}"))?;
            }
        }
        // A snapshot is a volume of its own to lvs, and its segment another to the metadata.
        let left: Vec<_> = reported.keys().collect();
        ensure!(left.is_empty(), "not found: {left:?}");
        Ok(())
    }
}

fn check(
    assembled: &Assembled,
    volume: &LogicalVolume,
    what: &Reported,
    devices: &[&str],
    compared: &mut Compared,
) -> Result<()> {
    let group = &assembled.group;
    ensure!(volume.uuid.to_string() == what.uuid, "not {}", what.uuid);
    let attribute = |at: usize| what.attributes.as_bytes().get(at).copied().unwrap_or(b'?');
    ensure!(
        volume.read_only == (attribute(1).eq_ignore_ascii_case(&b'r')),
        "not {}",
        what.attributes
    );
    let plain = what
        .kinds
        .iter()
        .all(|kind| kind == "linear" || kind == "striped");
    if let Some(reason) = volume.refused {
        // `-` is a volume like all others, and `o` the origin of a snapshot.
        let usual = plain && attribute(0) == b'-' && {
            let mut places = what.ranges.iter().flat_map(|it| it.split(' '));
            places.all(|place| place.starts_with("/dev/"))
        };
        ensure!(
            !usual,
            "refused: {reason}; {}, {:?}",
            what.attributes,
            what.ranges
        );
        *compared.refused.entry(reason).or_default() += 1;
        return Ok(());
    }
    ensure!(
        plain && attribute(0) == b'-',
        "served, but it is {}",
        what.attributes
    );
    let mut ranges = Vec::new();
    for segment in &volume.segments {
        let share = segment.sectors / segment.areas.len() as u64 / group.extent_size;
        let range = segment.areas.iter().map(|area| {
            let place = assembled.places[area.pv].map_or("?", |place| devices[place]);
            let first = (area.first - group.physical[area.pv].start) / group.extent_size;
            format!("{place}:{first}-{}", first + share - 1)
        });
        ranges.push(range.collect::<Vec<_>>().join(" "));
        compared.segments += 1;
        compared.striped += u64::from(segment.areas.len() > 1);
    }
    ensure!(ranges == what.ranges, "{ranges:?} is not {:?}", what.ranges);
    compared.maps += 1;
    Ok(())
}
