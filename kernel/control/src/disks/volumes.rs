//! Logical volumes that an administrator has changed: one at a time, block by block on a ring core, and
//! then read again as if another had changed them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use log::{info, warn};
use spindle_blkif::BlockAccess;
use spindle_block::{EditAccess, EditStep, Op, ReadError, Volume, VolumeChange, VolumeEditor};
use spindle_status::orders::{VolumeAction, VolumeOrder};

use super::Disks;
use super::tables::MOST_TRIES;

/// A change that is under way.
pub(super) struct VolumeEdit {
    order: VolumeOrder,
    token: u64,
    /// How often a core did not take what is next.
    tries: usize,
    /// `None` once it is done, until what there is now has been read.
    editor: Option<VolumeEditor>,
}

impl<Q> Disks<Q> {
    /// Begins to change a logical volume; the answer comes with [`Disks::volume_changed`], or is the error.
    ///
    /// # Errors
    /// What is to be answered at once.
    pub(crate) fn change_volume(&mut self, text: &[u8], now: u64) -> Result<(), String> {
        let text = str::from_utf8(text).unwrap_or_default();
        let word = text.split(' ').next().unwrap_or_default();
        let refused = |reason: &str| {
            warn!("volume: {text}: refused: {reason}");
            format!("{word} refused: {reason}")
        };
        let order = VolumeOrder::parse(text).ok_or_else(|| refused("it is no order"))?;
        let editor = self
            .editor(&order, now)
            .map_err(|reason| refused(&reason))?;
        info!("volume: {text}");
        self.edit = Some(VolumeEdit {
            token: self.tables.next_token(),
            tries: 0,
            editor: Some(editor),
            order,
        });
        Ok(())
    }

    fn editor(&self, order: &VolumeOrder, now: u64) -> Result<VolumeEditor, String> {
        let name = &*order.name;
        if self.edit.is_some() {
            return Err("another change is under way".to_string());
        }
        let group = name.split('/').next().unwrap_or_default();
        // What such a one has is free by the metadata.
        let mut kept = self.targets.kept().map(|(volume, _)| &*volume.name);
        let is_of_group = |kept: &&str| kept.split_once('/').is_some_and(|(of, _)| of == group);
        if let Some(kept) = kept.find(is_of_group) {
            return Err(format!(
                "{kept} is open, and its group was changed under it"
            ));
        }
        let change = match &order.action {
            &VolumeAction::Create { sectors, time } => VolumeChange::Create { sectors, time },
            &VolumeAction::Extend { sectors, more } => {
                let volume = self
                    .targets
                    .named(name)
                    .map_err(|error| error.to_string())?;
                let before = if more {
                    self.targets.volume(volume).sectors
                } else {
                    0
                };
                let sectors = before.saturating_add(sectors);
                VolumeChange::Extend { sectors }
            }
            VolumeAction::Remove => VolumeChange::Remove,
            VolumeAction::Rename { to } => VolumeChange::Rename { to: to.clone() },
        };
        if matches!(change, VolumeChange::Remove | VolumeChange::Rename { .. })
            && let Some(holder) = self.targets.holder(name)
        {
            return Err(format!("{holder} has it open"));
        }
        self.physical.edit(&self.targets, name, change, now)
    }

    /// What a core is to do next for the change that is under way, and how many cores have not taken it.
    pub(super) fn next_of_edit(&mut self) -> Option<(Box<BlockAccess>, usize)> {
        let edit = self.edit.as_mut()?;
        let editor = edit.editor.as_mut()?;
        let outcome = match editor.step() {
            EditStep::Done(outcome) => outcome,
            EditStep::Access(access) => match self.tables.take_page() {
                None => Err(ReadError::NoMemory.to_string()),
                Some(page) => {
                    page.write_bytes(0, &access.data);
                    let EditAccess {
                        disk,
                        unit,
                        block_shift,
                        op,
                        block,
                        bytes,
                        ..
                    } = access;
                    let access = BlockAccess {
                        token: edit.token,
                        op,
                        disk,
                        unit,
                        block_shift,
                        block,
                        bytes: bytes as u32,
                        page: Some(page),
                        outcome: Err(ReadError::Pending),
                    };
                    return Some((Box::new(access), edit.tries));
                }
            },
        };
        // Whatever there is by now is to be known, also if only a part of it was written.
        let editor = edit.editor.take();
        for (disk, unit) in editor.iter().flat_map(VolumeEditor::units) {
            let is_it = |it: &&Volume| (it.disk, it.unit) == (disk, unit);
            let disk = self.targets.disks().find(is_it).cloned();
            disk.into_iter()
                .for_each(|disk| self.look_for_partitions(disk));
        }
        if let Err(reason) = outcome
            && let Some(edit) = self.edit.take()
        {
            self.answer_edit(&edit.order, &format!("refused: {reason}"));
        }
        None
    }

    /// A core has done what the change that is under way had it do, or could not. Gives the access back if
    /// that was of no change.
    pub(super) fn has_edited(&mut self, access: &BlockAccess) -> bool {
        let lost = self.targets.lost(access.disk).is_some();
        let Some(edit) = self.edit.as_mut().filter(|edit| edit.token == access.token) else {
            return false;
        };
        let refused = matches!(access.outcome, Err(ReadError::NotTaken(_)));
        edit.tries += usize::from(refused);
        if let Some(editor) = &mut edit.editor
            && (lost || !refused || edit.tries >= MOST_TRIES)
        {
            edit.tries = 0;
            let page = access.page.as_ref().ok_or(ReadError::TimedOut);
            let outcome = access.outcome.and(page).map(|page| {
                let read = if access.op == Op::Read {
                    access.bytes
                } else {
                    0
                };
                let mut bytes = alloc::vec![0; read as usize];
                page.read_bytes(0, &mut bytes);
                bytes
            });
            editor.add(outcome);
        }
        true
    }

    /// All has been read that a change has brought about: it is answered.
    pub(super) fn settle_edit(&mut self) {
        if let Some(edit) = self.edit.take_if(|edit| edit.editor.is_none()) {
            let name = &edit.order.name;
            let kept = self.targets.kept().find(|(volume, _)| volume.name == *name);
            let text = kept.map_or_else(
                || "done".to_string(),
                |(_, reason)| format!("done, but its guest has it as it was: {reason}"),
            );
            self.answer_edit(&edit.order, &text);
        }
    }

    fn answer_edit(&mut self, order: &VolumeOrder, text: &str) {
        info!("volume {}: {text}", order.name);
        self.edited = Some(format!("{} {text}", order.word));
    }

    /// The answer to an order, once.
    pub(crate) fn volume_changed(&mut self) -> Option<String> {
        self.edited.take()
    }
}
