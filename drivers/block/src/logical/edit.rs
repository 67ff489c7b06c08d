//! Changing a logical volume without waiting for its disks: which blocks of the group's physical volumes
//! are to be read and written, one access after the other.
//!
//! What is read is kept until it is known what is to be written; from then on each write is of whole
//! blocks, around which the rest of a block is read before.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use spindle_hw::PAGE_SIZE;
use spindle_lvm::{Group, Rewrite, RewriteStep, SECTOR, SectorSource, Unchanged, VolumeChange};

use super::PhysicalVolumes;
use super::look::VolumeSectors;
use crate::partition::KnownBlocks;
use crate::{Blocks, Op, ReadError, Targets, Unit};

/// What is next.
#[derive(Debug)]
pub enum EditStep {
    /// This is to be done, and [`VolumeEditor::add`] to be called with its outcome.
    Access(EditAccess),
    /// It is done, or the reason why not.
    Done(Result<(), String>),
}

/// An access to a disk.
#[derive(Debug)]
pub struct EditAccess {
    /// The disk.
    pub disk: usize,
    /// Which part of it.
    pub unit: Unit,
    /// log2 of the disk's block size in bytes.
    pub block_shift: u8,
    /// A read, a write, or a flush.
    pub op: Op,
    /// The first block on the unit.
    pub block: u64,
    /// Bytes of a read: whole blocks, at most a page.
    pub bytes: usize,
    /// What is written: whole blocks, at most a page.
    pub data: Vec<u8>,
}

/// A change of a logical volume that is under way.
pub struct VolumeEditor {
    group: Group,
    /// Without the group's.
    name: String,
    change: VolumeChange,
    salt: u64,
    /// The group's physical volumes, in its order.
    pvs: Vec<EditedPv>,
    rewrite: Option<Rewrite>,
    /// What is under way once it is known what is to be written.
    under_way: UnderWay,
    failed: Option<String>,
}

struct EditedPv {
    disk: usize,
    unit: Unit,
    /// Its first block on the unit.
    start: u64,
    sectors: u64,
    blocks: KnownBlocks,
}

enum UnderWay {
    Nothing,
    /// This is to be written in blocks of which these bytes are known.
    Write {
        pv: usize,
        first: u64,
        data: Vec<u8>,
        instead_of: Option<Vec<u8>>,
        around: Option<Vec<u8>>,
    },
    /// Caches are to be written out, from this physical volume on.
    Flush(usize),
}

impl PhysicalVolumes {
    /// Makes ready to change the volume `name`, `<group>/<volume>`. `salt` is to be another number each
    /// time.
    ///
    /// # Errors
    /// Why that cannot be, for people.
    pub fn edit<H: Copy + PartialEq + Display>(
        &self,
        targets: &Targets<H>,
        name: &str,
        change: VolumeChange,
        salt: u64,
    ) -> Result<VolumeEditor, String> {
        let (group_name, name) = name
            .split_once('/')
            .ok_or_else(|| format!("\"{name}\" is no GROUP/VOLUME"))?;
        let unknown = || format!("there is no volume group {group_name}");
        let (groups, places) = self
            .groups(targets, true)
            .ok_or("there is no memory for it")?;
        let mut groups = groups.into_iter();
        let assembled = groups.find(|it| it.group.name == group_name);
        let assembled = assembled.ok_or_else(unknown)?;
        let group = assembled.group;
        let mut pvs = Vec::new();
        for (pv, place) in group.physical.iter().zip(assembled.places) {
            let absent = "a physical volume of its group is not there";
            let place = place.ok_or(pv.refused.unwrap_or(absent))?;
            let volume = places[place];
            if let Some(holder) = targets.writer(volume) {
                return Err(format!("{holder} has {} for writing", volume.name));
            }
            if let Some(reason) = targets.lost(volume.disk) {
                return Err(format!("{} is lost: {reason}", volume.name));
            }
            if volume.read_only {
                return Err(format!("{} is read-only", volume.name));
            }
            pvs.push(EditedPv {
                disk: volume.disk,
                unit: volume.unit,
                start: volume.start,
                sectors: volume.sectors,
                blocks: KnownBlocks::for_metadata(volume.block_shift, volume.sectors),
            });
        }
        Ok(VolumeEditor {
            name: name.to_string(),
            group,
            change,
            salt,
            pvs,
            rewrite: None,
            under_way: UnderWay::Nothing,
            failed: None,
        })
    }
}

impl VolumeEditor {
    /// The parts of disks that its group is on.
    pub fn units(&self) -> impl Iterator<Item = (usize, Unit)> {
        self.pvs.iter().map(|pv| (pv.disk, pv.unit))
    }

    /// What is to be done next; the same until [`VolumeEditor::add`].
    pub fn step(&mut self) -> EditStep {
        if let Some(reason) = self.failed.take() {
            return EditStep::Done(Err(reason));
        }
        if self.rewrite.is_none() {
            match self.plan() {
                Ok(rewrite) => {
                    // What was read may be much.
                    self.pvs.iter_mut().for_each(|pv| pv.blocks.forget());
                    self.rewrite = Some(rewrite);
                }
                Err(step) => return step,
            }
        }
        if matches!(self.under_way, UnderWay::Nothing) {
            self.under_way = match self.rewrite.as_mut().and_then(Rewrite::step) {
                None => return EditStep::Done(Ok(())),
                Some(RewriteStep::Flush) => UnderWay::Flush(0),
                Some(RewriteStep::Write {
                    pv,
                    first,
                    data,
                    instead_of,
                }) => UnderWay::Write {
                    pv,
                    first,
                    data,
                    instead_of,
                    around: None,
                },
            };
        }
        EditStep::Access(self.access())
    }

    fn plan(&mut self) -> Result<Rewrite, EditStep> {
        let mut sources = Vec::new();
        for pv in &mut self.pvs {
            pv.blocks.missing = None;
            sources.push(VolumeSectors::new(&mut pv.blocks, 0, pv.sectors));
        }
        let mut all: Vec<&mut dyn SectorSource> = Vec::new();
        for source in &mut sources {
            all.push(source);
        }
        let plan = Rewrite::plan(&self.group, &mut all, &self.name, &self.change, self.salt);
        let error = sources.iter().find_map(|source| source.error);
        match plan {
            Ok(rewrite) => Ok(rewrite),
            Err(Unchanged::Refused(reason)) => Err(EditStep::Done(Err(reason))),
            Err(Unchanged::Stop) => {
                let mut pvs = self.pvs.iter();
                let missing = pvs.find_map(|pv| {
                    let (first, bytes) = pv.blocks.missing?;
                    Some(pv.access(Op::Read, first, bytes, Vec::new()))
                });
                Err(match missing {
                    Some(access) => EditStep::Access(access),
                    None => {
                        let error = error.unwrap_or(ReadError::NoMemory);
                        EditStep::Done(Err(format!("its metadata cannot be read: {error}")))
                    }
                })
            }
        }
    }

    fn access(&self) -> EditAccess {
        let (pv, op, block, bytes, all) = match &self.under_way {
            UnderWay::Write {
                pv,
                first,
                data,
                instead_of,
                around,
            } => {
                let (block, bytes, skip) = self.pvs[*pv].blocks_of(*first, data.len());
                let whole = bytes == data.len() && instead_of.is_none();
                match around {
                    None if !whole => (pv, Op::Read, block, bytes, Vec::new()),
                    around => {
                        let mut all = around.as_ref().unwrap_or(data).clone();
                        all[skip..skip + data.len()].copy_from_slice(data);
                        (pv, Op::Write, block, bytes, all)
                    }
                }
            }
            UnderWay::Flush(pv) => (pv, Op::Flush, 0, 0, Vec::new()),
            UnderWay::Nothing => (&0, Op::Flush, 0, 0, Vec::new()),
        };
        self.pvs[*pv].access(op, block, bytes, all)
    }

    /// Adds the outcome of the last [`EditStep::Access`]: for a read, the bytes.
    pub fn add(&mut self, outcome: Result<Vec<u8>, ReadError>) {
        if self.rewrite.is_none() {
            let missing = |pv: &&mut EditedPv| pv.blocks.missing.is_some();
            if let Some(pv) = self.pvs.iter_mut().find(missing) {
                pv.blocks.add(outcome);
            }
            return;
        }
        let bytes = match outcome {
            Ok(bytes) => bytes,
            Err(error) => {
                let text = format!("its metadata cannot be written: {error}; see vgck(8)");
                self.failed = Some(text);
                return;
            }
        };
        match &mut self.under_way {
            UnderWay::Write {
                pv,
                first,
                data,
                instead_of,
                around,
            } if !bytes.is_empty() => {
                let (_, _, skip) = self.pvs[*pv].blocks_of(*first, data.len());
                let there = bytes.get(skip..skip + data.len());
                if instead_of.as_deref().is_some_and(|it| Some(it) != there) || there.is_none() {
                    let text = "another has changed its group meanwhile".to_string();
                    self.failed = Some(text);
                }
                *around = Some(bytes);
            }
            UnderWay::Flush(pv) if *pv + 1 < self.pvs.len() => *pv += 1,
            under_way => *under_way = UnderWay::Nothing,
        }
    }
}

impl EditedPv {
    /// The first block that sectors are in, the bytes of all of these, and how many come before the sectors.
    fn blocks_of(&self, first: u64, bytes: usize) -> (u64, usize, usize) {
        let shift = self.blocks.block_shift();
        let at = first * SECTOR;
        let block = at >> shift;
        let skip = (at - (block << shift)) as usize;
        let all = (skip + bytes).next_multiple_of(1 << shift);
        debug_assert!(all <= PAGE_SIZE, "pieces are within pages");
        (block, all, skip)
    }

    /// An access to these blocks of it.
    fn access(&self, op: Op, first: u64, bytes: usize, data: Vec<u8>) -> EditAccess {
        EditAccess {
            disk: self.disk,
            unit: self.unit,
            block_shift: self.blocks.block_shift(),
            op,
            block: self.start + first,
            bytes,
            data,
        }
    }
}
