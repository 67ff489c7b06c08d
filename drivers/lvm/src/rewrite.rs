//! Writing the next metadata of a group to all of its metadata areas, so that a power cut after any sector
//! leaves either the one or the other.
//!
//! First the text goes to the part of each area that the present one leaves free, and all disks write
//! their caches out; then the header of each area is written, a single sector, which makes the new text
//! count. Of areas with different texts the newer one counts, for Spindle as for LVM.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::area::{AreaError, AreaHeader, MAX_AREAS, MAX_TEXT, read_header, read_text};
use crate::change::change;
use crate::label::read_label;
use crate::{Group, SECTOR, SectorSource, VolumeChange, has_room};

/// The most bytes of a write, and what writes do not cross a multiple of.
const PIECE: u64 = 4096;

/// An area and where its next text goes.
struct AreaRewrite {
    pv: usize,
    header: AreaHeader,
    offset: u64,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum RewriteStep {
    /// Write these whole sectors, which are within 4 KiB, to a physical volume of the group.
    Write {
        /// Which one, by its place in [`Group::physical`].
        pv: usize,
        /// The first sector.
        first: u64,
        /// Their contents.
        data: Vec<u8>,
        /// What must have stood there, if anything: or else another has changed the group meanwhile.
        instead_of: Option<Vec<u8>>,
    },
    /// Have all of its physical volumes write their caches out.
    Flush,
}

/// The writes that change a group.
pub struct Rewrite {
    text: Vec<u8>,
    areas: Vec<AreaRewrite>,
    /// The area that is next, and how many bytes of the text it has.
    next: (usize, u64),
    committing: bool,
    group: Group,
}

/// Why a group is not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// Reading ends here, for now or for good.
    Stop,
    /// For this reason.
    Refused(String),
}

impl From<&str> for Unchanged {
    fn from(reason: &str) -> Self {
        Self::Refused(reason.to_string())
    }
}

impl Rewrite {
    /// Reads what `group` has on its physical volumes, which are `pvs` in its order, and makes ready to
    /// change its volume `name`. `salt` is to be another number each time.
    ///
    /// # Errors
    /// See [`Unchanged`].
    pub fn plan(
        group: &Group,
        pvs: &mut [&mut dyn SectorSource],
        name: &str,
        what: &VolumeChange,
        salt: u64,
    ) -> Result<Self, Unchanged> {
        let mut refused = group.physical.iter().map(|pv| pv.refused);
        if let Some(reason) = group.refused.or_else(|| refused.find_map(|reason| reason)) {
            return Err(reason.into());
        }
        let (mut areas, mut text) = (Vec::new(), None);
        for (pv, source) in pvs.iter_mut().enumerate() {
            let label = read_label(*source).map_err(|_| Unchanged::Stop)?;
            let known = label.filter(|(uuid, _)| *uuid == group.physical[pv].uuid);
            let (_, places) = known.ok_or("a physical volume is not what it was")?;
            if places.len() >= MAX_AREAS {
                return Err("a physical volume has too many metadata areas".into());
            }
            for place in places {
                let damaged = |error| match error {
                    AreaError::Stop => Unchanged::Stop,
                    AreaError::Damaged(reason) => {
                        let help = "see vgck --updatemetadata";
                        Unchanged::Refused(format!("{reason}; {help}"))
                    }
                };
                let header = read_header(*source, &place).map_err(damaged)?;
                if header.ignored {
                    continue;
                }
                let is_newest = header.offset > 0 && header.checksum == group.checksum;
                if text.is_none() && is_newest {
                    text = Some(read_text(*source, &header).map_err(damaged)?);
                }
                areas.push(AreaRewrite {
                    pv,
                    header,
                    offset: 0,
                });
            }
        }
        let text = text.ok_or("its group has been changed since it was read: rescan the disks")?;
        // What a text takes while it is read, twice.
        if !has_room((54 * text.len()).min(5 << 20) + (128 << 10)) {
            return Err("there is no memory for the metadata".into());
        }
        let (text, group) = change(&text, name, what, salt).map_err(Unchanged::Refused)?;
        for area in &mut areas {
            let place = area.header.place_for(text.len() as u64);
            area.offset = place.ok_or("a metadata area has no room for the next version")?;
        }
        Ok(Self {
            text,
            areas,
            next: (0, 0),
            committing: false,
            group,
        })
    }

    /// What the group is after that.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What is to be done next; `None` when all has been done.
    pub fn step(&mut self) -> Option<RewriteStep> {
        let (at, done) = self.next;
        let Some(area) = self.areas.get(at) else {
            if self.committing && at > self.areas.len() {
                return None;
            }
            // After the texts come the headers, after these nothing.
            self.next = if self.committing {
                (usize::MAX, 0)
            } else {
                (0, 0)
            };
            self.committing = true;
            return Some(RewriteStep::Flush);
        };
        let header = &area.header;
        if self.committing {
            self.next = (at + 1, 0);
            return Some(RewriteStep::Write {
                pv: area.pv,
                first: header.start / SECTOR,
                data: header.committing(area.offset, &self.text),
                instead_of: Some(header.sector.clone()),
            });
        }
        let length = self.text.len() as u64;
        let before_end = header.size - area.offset;
        // Behind the end it goes on behind the header.
        let (from, room) = match done.checked_sub(before_end) {
            None => (header.start + area.offset + done, before_end - done),
            Some(wrapped) => (header.start + SECTOR + wrapped, u64::MAX),
        };
        let padded = (length - done).next_multiple_of(SECTOR);
        let count = padded.min(room).min(PIECE - from % PIECE);
        let mut data = vec![0; count as usize];
        let behind = (done + count).min(length);
        let piece = &self.text[done as usize..behind as usize];
        data[..piece.len()].copy_from_slice(piece);
        self.next = if behind == length {
            (at + 1, 0)
        } else {
            (at, behind)
        };
        Some(RewriteStep::Write {
            pv: area.pv,
            first: from / SECTOR,
            data,
            instead_of: None,
        })
    }
}

impl AreaHeader {
    /// Where a text of so many bytes goes, which the present one leaves free.
    fn place_for(&self, length: u64) -> Option<u64> {
        let (room, sectors) = (self.room(), |bytes: u64| bytes.div_ceil(SECTOR));
        let whole = (self.start | self.size).is_multiple_of(SECTOR);
        if !whole || length > room / 2 || length > MAX_TEXT {
            return None;
        }
        if self.offset == 0 {
            return Some(SECTOR);
        }
        if self.offset < SECTOR || self.offset >= self.size || self.length > room {
            return None;
        }
        let before = self.offset % SECTOR;
        let taken = sectors(before + self.length);
        if taken + sectors(length) > room / SECTOR {
            return None;
        }
        let behind = self.offset - before - SECTOR + taken * SECTOR;
        Some(SECTOR + behind % room)
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
