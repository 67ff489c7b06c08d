//! Partition tables, and LVM2's metadata on disks and partitions: those of the disks that are there at the
//! start, read before any guest is served, and those of disks that come later, or that an administrator
//! has looked at again.
//!
//! The latter are read by ring cores, one page at a time, while all else goes on. A disk is
//! offered before that, so that nothing depends on its table; its partitions follow. Logical volumes are
//! put together when all tables have been read that are to be, as what one group says may be on several
//! disks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_blkif::BlockAccess;
use spindle_block::{
    MayGrow, Op, ReadError, Redescribed, Table, TableReader, TableStep, Unit, Volume,
};
use spindle_hw::SharedPages;

use super::Disks;
use super::care::Care;

/// Partitions of all disks together, at most: each takes about a KiB.
const MOST: usize = 512;
/// How often a core is asked for blocks that it does not read.
pub(super) const MOST_TRIES: usize = 32;
/// For how long a core is looked for at short intervals that has been asked for blocks.
const PROMPT_NS: u64 = 1_000_000_000;
/// When the log has it that it has not answered.
const WARN_NS: u64 = 90_000_000_000;

/// Where pages come from that disks reach.
pub type PageSource = Box<dyn FnMut() -> Option<SharedPages>>;

/// The tables that are to be read.
#[derive(Default)]
pub(super) struct Tables {
    /// `None` if no partitions are served.
    pages: Option<PageSource>,
    /// The page that is read to, as long as no core has it.
    page: Option<SharedPages>,
    /// Those that are to be read, the one that is being read first.
    readers: Vec<Reader>,
    /// A core has been asked for blocks.
    asked: Option<Asked>,
    /// A table has been read since logical volumes were put together.
    read: bool,
    /// The token of the last reader.
    token: u64,
}

/// A table that is to be read.
struct Reader {
    token: u64,
    reader: TableReader,
    begun: bool,
    /// How often a core did not take it.
    tries: usize,
}

/// Blocks that a core has been asked for.
#[derive(Clone, Copy)]
struct Asked {
    since: u64,
    /// The log has it that the core is late.
    warned: bool,
}

impl Tables {
    /// A token that no other has.
    pub(super) fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    /// A core has been asked for something.
    fn note_asked(&mut self, now: u64) {
        let (since, warned) = (now, false);
        self.asked = Some(Asked { since, warned });
    }

    /// A page that disks reach.
    pub(super) fn take_page(&mut self) -> Option<SharedPages> {
        let (page, pages) = (self.page.take(), self.pages.as_mut());
        page.or_else(|| pages?())
    }
}

/// Takes as many partitions as there is room for, beside `have` others, and reports them in the log.
pub(super) fn take(disk: &Volume, mut table: Table, have: usize) -> Vec<Volume> {
    table.limit(MOST.saturating_sub(have));
    let name = &disk.name;
    for note in &table.notes {
        warn!("disk {name}: {note}");
    }
    for partition in &table.partitions {
        let (name, mib) = (&partition.name, partition.sectors >> 11);
        info!("partition {name}: {mib} MiB from block {}", partition.start);
    }
    table.partitions
}

impl<Q> Disks<Q> {
    /// Has the tables of disks be read that come from now on, to a page of `pages`.
    pub fn read_tables(&mut self, pages: PageSource) {
        self.tables.pages = Some(pages);
    }

    /// A disk has come: its table is to be read.
    pub(super) fn look_for_partitions(&mut self, disk: Volume) {
        self.drop_tables(disk.disk, disk.unit);
        let tables = &mut self.tables;
        if tables.pages.is_some() {
            let token = tables.next_token();
            tables.readers.push(Reader {
                token,
                reader: TableReader::new(disk),
                begun: false,
                tries: 0,
            });
        }
    }

    /// All tables are to be read again that no guest may be writing.
    pub(super) fn look_for_all_partitions(&mut self) {
        let disks: Vec<Volume> = self.targets.disks().cloned().collect();
        for disk in disks {
            self.look_for_partitions(disk);
        }
    }

    /// A disk has gone.
    pub(super) fn drop_tables(&mut self, disk: usize, unit: Unit) {
        let is_its = |it: &Reader| (it.reader.disk().disk, it.reader.disk().unit) == (disk, unit);
        self.tables.readers.retain(|reader| !is_its(reader));
    }

    /// Goes on with the tables: what a core is to read next, if anything, and how many cores have not
    /// taken it. `care` has what has changed; a volume that a guest has open grows if it `may_grow`.
    pub(crate) fn next_read(
        &mut self,
        now: u64,
        may_grow: MayGrow<'_>,
        care: &mut Care,
    ) -> Option<(Box<BlockAccess>, usize)> {
        while self.tables.asked.is_none() {
            if let Some(next) = self.next_of_edit() {
                self.tables.note_asked(now);
                return Some(next);
            }
            // What a lost twin may still write could be the table.
            let settled = |it: &Reader| {
                let Volume { disk, unit, .. } = *it.reader.disk();
                self.lost(disk).is_none() && !self.targets.awaits_writer(disk, unit)
            };
            let Some(at) = self.tables.readers.iter().position(settled) else {
                if core::mem::take(&mut self.tables.read) {
                    let changed = self.look_for_logical(may_grow);
                    self.note_changed(changed, care);
                }
                self.settle_edit();
                return None;
            };
            let mut reader = self.tables.readers.remove(at);
            let (disk, unit) = (reader.reader.disk().disk, reader.reader.disk().unit);
            if !reader.begun
                && let Err(reason) = self.targets.begin_table(disk, unit)
            {
                // Where there is nothing else on it, nothing is missed either.
                let name = &reader.reader.disk().name;
                let mut volumes = self.targets.volumes();
                if volumes.any(|it| it.name != *name && it.is_on_unit(disk, unit)) {
                    info!("disk {name}: its partition table is not read: {reason}");
                    self.rescan.note(name, &reason);
                }
                continue;
            }
            reader.begun = true;
            match reader.reader.step() {
                TableStep::Read { first, bytes } => {
                    let Some(page) = self.tables.take_page() else {
                        self.finish(&reader.reader, Err(ReadError::NoMemory), may_grow, care);
                        continue;
                    };
                    let volume = reader.reader.disk();
                    let read = BlockAccess {
                        token: reader.token,
                        op: Op::Read,
                        disk,
                        unit,
                        block_shift: volume.block_shift,
                        block: volume.start + first,
                        bytes: bytes as u32,
                        page: Some(page),
                        outcome: Err(ReadError::Pending),
                    };
                    let tries = reader.tries;
                    self.tables.readers.insert(0, reader);
                    self.tables.note_asked(now);
                    return Some((Box::new(read), tries));
                }
                TableStep::Done(read) => self.finish(&reader.reader, read, may_grow, care),
            }
        }
        None
    }

    /// A core has read what it was asked for, or could not.
    pub(crate) fn has_read(&mut self, read: BlockAccess) {
        let lost = self.lost(read.disk).is_some();
        self.tables.asked = None;
        if self.has_edited(&read) {
            self.tables.page = read.page;
            return;
        }
        let tables = &mut self.tables;
        let mut readers = tables.readers.iter_mut();
        let reader = readers.find(|it| it.token == read.token);
        // Whatever became of it on a disk that is lost, it is asked for again when that is back. A core
        // may not have its queue yet on one that is back.
        let again = |it: &mut Reader| {
            let refused = matches!(read.outcome, Err(ReadError::NotTaken(_)));
            it.tries += usize::from(refused && !lost);
            lost || refused && it.tries < MOST_TRIES
        };
        if let Some(reader) = reader
            && !again(reader)
        {
            let bytes = |page: &SharedPages| {
                let mut bytes = alloc::vec![0; read.bytes as usize];
                page.read_bytes(0, &mut bytes);
                bytes
            };
            let page = read.page.as_ref().ok_or(ReadError::TimedOut);
            reader.reader.add(read.outcome.and(page.map(bytes)));
        }
        tables.page = read.page;
    }

    /// Whether a core is waited for that reads blocks, and has been for a short time only.
    pub(crate) fn is_reading(&mut self, now: u64) -> bool {
        let Some(asked) = &mut self.tables.asked else {
            return false;
        };
        let waited = now.saturating_sub(asked.since);
        if waited >= WARN_NS && !core::mem::replace(&mut asked.warned, true) {
            warn!(
                "a ring core has not read a partition table, or written one of LVM's, for 90 s: others wait"
            );
        }
        waited < PROMPT_NS
    }

    /// A table has been read, or cannot be.
    fn finish(
        &mut self,
        reader: &TableReader,
        read: Result<Table, ReadError>,
        may_grow: MayGrow<'_>,
        care: &mut Care,
    ) {
        let disk = reader.disk();
        match read {
            Ok(mut table) => {
                let physical = core::mem::take(&mut table.physical);
                let all = self.targets.partition_count();
                let others = all - self.targets.partition_count_of(disk.disk, disk.unit);
                let partitions = take(disk, table, others);
                let divided = self
                    .targets
                    .divide(disk.disk, disk.unit, partitions, may_grow);
                if let Some(changed) = divided {
                    self.note_changed(changed, care);
                    self.physical.set(disk.disk, disk.unit, physical);
                    self.tables.read = true;
                }
            }
            Err(error) => {
                let name = &disk.name;
                error!("disk {name}: its partition table cannot be read: {error}");
                self.rescan.note(name, &error);
            }
        }
    }

    /// Passes on what tables or metadata have changed.
    fn note_changed(&mut self, changed: Redescribed, care: &mut Care) {
        care.listed |= changed.any;
        care.grown.extend(changed.grown);
        for (name, reason) in changed.kept {
            warn!("volume {name} stays what it was, since a guest has it open: {reason}");
        }
    }
}
