//! Requests as the device reads them: a header, descriptors of data, a status, for each command or part
//! of one.

use spindle_block::{Budget, Command, Op, Part, SubmitError, Tag};

use super::{Engine, FRAME, WHOLE};
use crate::config::Erase;
use crate::request::{HEADER_LEN, RANGE_LEN, kind};
use crate::ring::{DESCRIPTOR, Descriptor, flag};
use crate::runs::Runs;
use crate::slots::Next;

impl Engine {
    pub(super) fn submit_other(
        &mut self,
        command: &Command<'_>,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        match command.op {
            Op::Flush if self.abilities.flush => self.begin(Next::Flush, tag),
            Op::Discard => self.erase(command, false, tag),
            Op::SecureDiscard => self.erase(command, true, tag),
            _ => Err(SubmitError::Unsupported),
        }
    }

    pub(super) fn runs<'a>(&self, command: &Command<'a>) -> Runs<'a> {
        Runs::new(command.segments, self.limits, self.abilities.block_shift)
    }

    /// Takes a command whole, or nothing of it.
    pub(super) fn transfer(
        &mut self,
        command: &Command<'_>,
        (kind, next): (u32, Next),
        tag: Tag,
    ) -> Result<(), SubmitError> {
        let mut runs = self.runs(command);
        let part = self.build(command.block, &mut runs, kind, WHOLE)?;
        let mut parts = part.commands;
        // A later try helps only if an empty queue would do.
        while let Some(run) = runs.next(|_, _, _| {}) {
            run.map_err(|_| SubmitError::Scattered)?;
            parts += 1;
        }
        if parts == 0 || parts > self.capacity() {
            return Err(SubmitError::Scattered);
        }
        if parts > part.commands {
            return Err(SubmitError::Full);
        }
        self.begin_parts(parts, tag, next);
        Ok(())
    }

    /// Writes tables and areas for `runs`, which begin at `block`, as far as places and budget go.
    /// None of them counts before [`Self::begin_parts`].
    pub(super) fn build(
        &mut self,
        block: u64,
        runs: &mut Runs<'_>,
        kind: u32,
        budget: Budget,
    ) -> Result<Part, SubmitError> {
        let direction = if kind == kind::IN { flag::WRITE } else { 0 };
        let (mut bytes, mut commands) = (0u64, 0);
        while commands < budget.commands && bytes < budget.bytes.into() {
            let Some(slot) = self.slots.reserve(commands) else {
                break;
            };
            let run = runs.next(|piece, bus, len| {
                self.describe(slot, 1 + piece as u16, bus, len, direction | flag::NEXT);
            });
            let run = match run {
                None => break,
                Some(run) => run.map_err(|_| SubmitError::Scattered)?,
            };
            let sector = self.sector(block).wrapping_add(bytes >> 9);
            self.frame(slot, kind, sector, run.pieces as u16);
            bytes += u64::from(run.bytes);
            commands += 1;
        }
        Ok(Part {
            blocks: bytes >> self.abilities.block_shift,
            commands,
        })
    }

    /// Takes the first `parts` requests that were written, for one command.
    pub(super) fn begin_parts(&mut self, parts: usize, tag: Tag, next: Next) {
        let (ring, table) = (&mut self.ring, self.table);
        let head = |slot| slot * if self.tables.is_some() { 1 } else { table };
        self.slots
            .begin(parts, tag, next, |slot| ring.offer(head(slot)));
    }

    pub(super) fn erase(
        &mut self,
        command: &Command<'_>,
        secure: bool,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        let per_block = self.sector(1);
        let erase = Next::Erase {
            sector: self.sector(command.block),
            left: command.blocks.saturating_mul(per_block),
            secure,
        };
        if self.how_to_erase(secure).is_none() {
            return Err(SubmitError::Unsupported);
        }
        self.begin(erase, tag)
    }

    pub(super) fn how_to_erase(&self, secure: bool) -> Option<Erase> {
        if secure {
            self.abilities.secure_erase
        } else {
            self.abilities.discard
        }
    }

    /// Takes a slot for a command that is all in `step`.
    pub(super) fn begin(&mut self, step: Next, tag: Tag) -> Result<(), SubmitError> {
        let slot = self.slots.reserve(0).ok_or(SubmitError::Full)?;
        let next = self.request(slot, step);
        self.slots.begin(1, tag, next, |_| {});
        self.ring.offer(self.head(slot));
        Ok(())
    }

    /// Writes the request for `step` and returns what remains to be done after it.
    pub(super) fn request(&self, slot: u16, step: Next) -> Next {
        match step {
            Next::Erase {
                sector,
                left,
                secure,
            } if let Some(how) = self.how_to_erase(secure) => {
                let now = left.min(how.max_sectors.into());
                self.areas.range(slot, sector, now as u32, how.flags);
                self.describe(slot, 1, self.areas.range_bus(slot), RANGE_LEN, flag::NEXT);
                self.frame(slot, how.kind, 0, 1);
                match left - now {
                    0 => Next::Done,
                    left => Next::Erase {
                        sector: sector.wrapping_add(now),
                        left,
                        secure,
                    },
                }
            }
            _ => {
                self.frame(slot, kind::FLUSH, 0, 0);
                Next::Done
            }
        }
    }

    /// Header and status around `pieces` descriptors, and what makes a request of them.
    pub(super) fn frame(&self, slot: u16, kind: u32, sector: u64, pieces: u16) {
        self.areas.head(slot, kind, sector);
        self.describe(slot, 0, self.areas.header_bus(slot), HEADER_LEN, flag::NEXT);
        self.describe(
            slot,
            pieces + 1,
            self.areas.status_bus(slot),
            1,
            flag::WRITE,
        );
        if let Some(tables) = &self.tables {
            let at = usize::from(slot) * usize::from(self.table) * DESCRIPTOR;
            let whole = Descriptor {
                bus: tables.bus() + at as u64,
                len: u32::from(pieces + FRAME) * DESCRIPTOR as u32,
                flags: flag::INDIRECT,
                next: 0,
            };
            whole.store(&self.ring.driver, slot.into());
        }
    }

    /// Writes descriptor `index` of a slot's table.
    #[inline]
    pub(super) fn describe(&self, slot: u16, index: u16, bus: u64, len: u32, flags: u16) {
        let first = usize::from(slot) * usize::from(self.table);
        // Numbers count from where the device's table begins.
        let (table, base) = match &self.tables {
            Some(tables) => (tables, 0),
            None => (&self.ring.driver, first as u16),
        };
        let descriptor = Descriptor {
            bus,
            len,
            flags,
            next: if flags & flag::NEXT == 0 {
                0
            } else {
                base + index + 1
            },
        };
        descriptor.store(table, first + usize::from(index));
    }

    /// The number by which the ring knows a slot.
    #[inline]
    pub(super) fn head(&self, slot: u16) -> u16 {
        match self.tables {
            Some(_) => slot,
            None => slot * self.table,
        }
    }
}
