//! Changes of a group that Spindle makes, after which LVM finds it in order.

use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, bail, ensure};
use spindle_lvm::{
    Assembled, Rewrite, RewriteStep, SECTOR, SectorSource, Unchanged, VolumeChange, assemble, find,
};

use super::Compared;
use super::group::RandomGroup;
use super::machine::ImageFile;

impl RandomGroup<'_> {
    /// Has Spindle change something, if it would, and LVM look at it.
    pub(super) fn write(&mut self, compared: &mut Compared) -> Result<()> {
        let mut files = self.tools.open()?;
        let mut found = Vec::new();
        for file in &mut files {
            let pv = find(file).ok().flatten();
            found.push(pv.context("no physical volume is found")?);
        }
        let mut groups = assemble(&found.iter().collect::<Vec<_>>());
        if groups.is_empty() {
            return Ok(());
        }
        let assembled = groups.remove(self.rng.usize(..groups.len()));
        let (name, change, what) = self.choose(&assembled);
        let places: Option<Vec<usize>> = assembled.places.iter().copied().collect();
        let Some(places) = places else {
            return Ok(());
        };
        let planned = plan(
            &assembled,
            &places,
            &mut files,
            &name,
            &change,
            self.rng.u64(..),
        );
        let group = &assembled.group.name;
        let context = || format!("{group}/{name}: {change:?}");
        let count = compared.commands.entry(what).or_default();
        match planned {
            Ok(rewrite) => {
                count.0 += 1;
                self.carry_out(rewrite, &places).with_context(context)?;
            }
            Err(Unchanged::Refused(reason)) => {
                count.1 += 1;
                self.check_refusal(&assembled, &reason, &change)
                    .with_context(context)?;
                // What is in the way of one volume or its size is no reason by itself.
                let reason = match reason.split_once(" MiB ") {
                    Some(_) => "for its size",
                    None => reason.split('"').next_back().unwrap_or_default().trim(),
                };
                *compared.unwritten.entry(reason.into()).or_default() += 1;
            }
            Err(Unchanged::Stop) => bail!("reading stops"),
        }
        Ok(())
    }

    fn choose(&mut self, assembled: &Assembled) -> (String, VolumeChange, &'static str) {
        let group = &assembled.group;
        let names: Vec<_> = group
            .logical
            .iter()
            .map(|it| (&it.name, it.sectors()))
            .collect();
        let old = self
            .rng
            .choice(&names)
            .map(|(name, sectors)| ((*name).clone(), *sectors));
        let extents = self.rng.u64(1..12) * group.extent_size;
        let new = self.name();
        match (self.rng.u32(..8), old) {
            (0..=2, _) | (_, None) => {
                // Not always whole extents.
                let sectors = extents - self.rng.u64(..group.extent_size);
                let time = 1_700_000_000;
                (
                    new,
                    VolumeChange::Create { sectors, time },
                    "Spindle: create",
                )
            }
            (3..=5, Some((old, before))) => {
                let sectors = before + extents;
                (old, VolumeChange::Extend { sectors }, "Spindle: extend")
            }
            (6, Some((old, _))) => (old, VolumeChange::Rename { to: new }, "Spindle: rename"),
            (_, Some((old, _))) => (old, VolumeChange::Remove, "Spindle: remove"),
        }
    }

    fn carry_out(&self, mut rewrite: Rewrite, places: &[usize]) -> Result<()> {
        let devices = self.tools.devices()?;
        while let Some(step) = rewrite.step() {
            match step {
                RewriteStep::Write {
                    pv,
                    first,
                    data,
                    instead_of,
                } => {
                    let (device, at) = (&devices[places[pv]], first * SECTOR);
                    if let Some(expected) = instead_of {
                        let mut there = vec![0; expected.len()];
                        device.read_exact_at(&mut there, at)?;
                        ensure!(there == expected, "another header is there");
                    }
                    device.write_all_at(&data, at)?;
                }
                RewriteStep::Flush => {
                    for device in &devices {
                        device.sync_all()?;
                    }
                }
            }
        }
        let group = rewrite.group().name.clone();
        ensure!(self.tools.run("vgck", &[group])?, "vgck finds a fault");
        for place in places {
            let device = self.tools.disks[*place].1.clone();
            ensure!(self.tools.run("pvck", &[device])?, "pvck finds a fault");
        }
        Ok(())
    }

    /// A volume is not refused for its size if LVM has that much.
    fn check_refusal(
        &self,
        assembled: &Assembled,
        reason: &str,
        change: &VolumeChange,
    ) -> Result<()> {
        let group = &assembled.group;
        if let VolumeChange::Create { sectors, .. } = change
            && reason.contains("MiB left")
        {
            let rows = self.tools.report("vgs", "vg_name,vg_free_count")?;
            let row = rows.iter().find(|row| row[0] == group.name);
            let free: u64 = row.context("no such group")?[1].parse()?;
            ensure!(
                sectors.div_ceil(group.extent_size) > free,
                "{free} extents are free"
            );
        }
        Ok(())
    }
}

fn plan(
    assembled: &Assembled,
    places: &[usize],
    files: &mut [ImageFile],
    name: &str,
    change: &VolumeChange,
    salt: u64,
) -> Result<Rewrite, Unchanged> {
    let mut sources: Vec<Option<&mut dyn SectorSource>> = Vec::new();
    sources.extend(
        files
            .iter_mut()
            .map(|file| Some(file as &mut dyn SectorSource)),
    );
    let own = places.iter().filter_map(|place| sources[*place].take());
    let mut own: Vec<_> = own.collect();
    Rewrite::plan(&assembled.group, &mut own, name, change, salt)
}
