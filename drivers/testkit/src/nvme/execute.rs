//! Carrying out I/O commands (6).

use std::sync::atomic::Ordering;

use spindle_nvme::Status;

use super::dma::BadPrp;
use super::ring::{Entry, Queue};
use super::store::Store;
use super::{Access, Fault, Quirk, Shared, Stuck};

const FLUSH: u8 = 0;
const WRITE: u8 = 1;
const READ: u8 = 2;
const DATASET_MANAGEMENT: u8 = 9;
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
const ALL_NAMESPACES: u32 = u32::MAX;

impl Shared {
    /// Carries out what is in a queue, as far as there is room for completions, and at most `most`
    /// commands of it.
    pub(super) fn run_io(&self, id: u16, queue: &mut Queue, most: usize) -> usize {
        let Some(ring) = queue.ring.as_mut() else {
            return 0;
        };
        let lost = self.vanished.load(Ordering::Acquire) || self.hung.load(Ordering::Acquire);
        if lost || self.has(Fault::Deaf) {
            return 0;
        }
        self.use_lent();
        let mut count = 0;
        let well = || !self.hung.load(Ordering::Acquire);
        if self.config.out_of_order {
            let mut batch = Vec::new();
            while (batch.len() as u32) < ring.room()
                && batch.len() < most
                && let Some(entry) = ring.fetch()
            {
                batch.push(entry);
            }
            // Every third first, backwards: as good as any other order.
            let (odd, even): (Vec<_>, Vec<_>) =
                batch.into_iter().enumerate().partition(|(i, _)| i % 3 == 1);
            let all = even.into_iter().rev().chain(odd);
            for (_, entry) in all.take_while(|_| well()) {
                count += 1;
                if let Some(status) = self.execute(id, entry) {
                    ring.post(entry.cid(), status.0, 0);
                }
            }
        } else {
            while ring.room() > 0
                && count < most
                && well()
                && let Some(entry) = ring.fetch()
            {
                count += 1;
                if let Some(status) = self.execute(id, entry) {
                    ring.post(entry.cid(), status.0, 0);
                }
            }
        }
        count
    }

    /// The outcome of a command, or `None` if it is not to be answered.
    fn execute(&self, id: u16, entry: Entry) -> Option<Status> {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let opcode = entry.opcode();
        if matches!(opcode, READ | WRITE) && self.is_fatal(entry) {
            return None;
        }
        if self
            .once(|fault| (fault == Fault::SwallowIo(opcode)).then_some(()))
            .is_some()
        {
            self.stuck.lock().unwrap().push(Stuck {
                queue: id,
                cid: entry.cid(),
            });
            return None;
        }
        if self
            .once(|fault| (fault == Fault::LoseIo(opcode)).then_some(()))
            .is_some()
        {
            self.command(entry);
            return None;
        }
        let failed = self.once(|fault| match fault {
            Fault::FailIo(which, status) if which == opcode => Some(Status(status)),
            _ => None,
        });
        Some(failed.unwrap_or_else(|| self.command(entry)))
    }

    /// Whether the controller fails over a read or write, in its own way.
    fn is_fatal(&self, entry: Entry) -> bool {
        let block = u64::from(entry.dword(11)) << 32 | u64::from(entry.dword(10));
        let quirks = &self.config.quirks;
        if quirks.has(Quirk::Crash(block)) {
            self.hung.store(true, Ordering::Release);
            self.crashed.store(true, Ordering::Release);
            return true;
        }
        quirks.has(Quirk::Poison(block))
    }

    fn command(&self, entry: Entry) -> Status {
        let opcode = entry.opcode();
        let unused = [2, 3, 4, 5, 13, 14, 15]
            .iter()
            .any(|&n| entry.dword(n) != 0);
        let flags = if opcode == WRITE {
            FORCE_UNIT_ACCESS
        } else {
            0
        };
        if entry.0[0] & 0xff00 != 0 || unused || entry.dword(12) & !flags >> 16 << 16 != 0 {
            self.violation(format!("unused fields are set in {entry:x?}"));
        }
        if opcode == FLUSH && entry.namespace() == ALL_NAMESPACES {
            self.stores.iter().for_each(Store::flush);
            return Status::SUCCESS;
        }
        let Some(store) = self.store(entry.namespace()) else {
            return Status(0x0b | Status::DO_NOT_RETRY);
        };
        match opcode {
            FLUSH => {
                store.flush();
                Status::SUCCESS
            }
            READ => self.transfer(entry, store),
            WRITE | DATASET_MANAGEMENT if store.config.read_only => Status::WRITE_PROTECTED,
            WRITE => self.transfer(entry, store),
            DATASET_MANAGEMENT => self.deallocate(entry, store),
            _ => Status::INVALID_OPCODE,
        }
    }

    fn transfer(&self, entry: Entry, store: &Store) -> Status {
        let block = u64::from(entry.dword(11)) << 32 | u64::from(entry.dword(10));
        let count = u64::from(entry.dword(12) & 0xffff) + 1;
        self.note_access(entry, block, count);
        if !store.covers(block, count) {
            return Status(Status::LBA_RANGE.0 | Status::DO_NOT_RETRY);
        }
        let shift = store.shift();
        let bytes = count << shift;
        let boundary = u64::from(self.config.quirks.boundary(store.id));
        if boundary << shift >= 16 << 10
            && block / boundary != block.saturating_add(count - 1) / boundary
        {
            self.violation(format!(
                "{count} blocks at {block} cross a boundary of {boundary}"
            ));
        }
        if self.mdts() != 0 && bytes > 4096 << self.mdts() {
            // Not if the driver cannot know yet that it has other blocks.
            if count << store.known_shift() <= 4096 << self.mdts() {
                return Status(Status::INVALID_FIELD.0 | Status::DO_NOT_RETRY);
            }
            self.violation(format!("{bytes} bytes are more than MDTS allows"));
            return Status(Status::INVALID_FIELD.0 | Status::DO_NOT_RETRY);
        }
        if store.config.null {
            return Status::SUCCESS;
        }
        let mut at = block << shift;
        let walked = self.walk(entry, bytes, |address, len| {
            let moved = if entry.opcode() == READ {
                store.read(at, len, |data| self.bus.write(address, data))
            } else {
                store.write(at, len, |data| self.bus.read(address, data))
            };
            at += len as u64;
            if moved { Ok(()) } else { Err(BadPrp::NoMemory) }
        });
        match walked {
            Ok(()) => {
                if entry.dword(12) & FORCE_UNIT_ACCESS != 0 {
                    store.write_through(block, count);
                }
                Status::SUCCESS
            }
            Err(error) => self.bad_memory(entry, error),
        }
    }

    /// Keeps what a command is for, if that is asked for.
    fn note_access(&self, entry: Entry, block: u64, blocks: u64) {
        if let Some(accesses) = self.accesses.lock().unwrap().as_mut() {
            accesses.push(Access {
                opcode: entry.opcode(),
                namespace: entry.namespace(),
                block,
                blocks,
            });
        }
    }

    fn bad_memory(&self, entry: Entry, error: BadPrp) -> Status {
        match error {
            BadPrp::Offset => {
                self.violation(format!("bad PRP offset in {entry:x?}"));
                Status::PRP_OFFSET
            }
            BadPrp::NoMemory => {
                self.strays.fetch_add(1, Ordering::Relaxed);
                Status::DATA_TRANSFER
            }
        }
    }

    /// Dataset Management (6.7); deallocated blocks read as zeroes.
    fn deallocate(&self, entry: Entry, store: &Store) -> Status {
        let Some(limits) = self.discards() else {
            return Status::INVALID_OPCODE;
        };
        let count = u64::from(entry.dword(10) & 0xff) + 1;
        if entry.dword(10) >> 8 != 0 || entry.dword(11) != 4 || entry.dword(12) != 0 {
            self.violation(format!("not a plain deallocation: {entry:x?}"));
        }
        let mut ranges = Vec::new();
        let walked = self.walk(entry, count * 16, |address, len| {
            let at = ranges.len();
            ranges.resize(at + len, 0);
            let there = self.bus.read(address, &mut ranges[at..]);
            if there { Ok(()) } else { Err(BadPrp::NoMemory) }
        });
        if let Err(error) = walked {
            return self.bad_memory(entry, error);
        }
        let word =
            |range: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|i| range[at + i]));
        let ranges = ranges.chunks_exact(16);
        let ranges: Vec<_> = ranges
            .map(|range| (word(range, 8), word(range, 0) >> 32))
            .collect();
        for &(block, blocks) in &ranges {
            self.note_access(entry, block, blocks);
        }
        let within = |limit: u64, value: u64| limit == 0 || value <= limit;
        let total = ranges.iter().map(|(_, len)| len).sum();
        let longest = ranges.iter().map(|(_, len)| *len).max().unwrap_or(0);
        if !within(limits.ranges.into(), count)
            || !within(limits.range_blocks.into(), longest)
            || !within(limits.total_blocks, total)
        {
            self.violation(format!("more than the limits allow: {ranges:?}"));
        }
        if ranges
            .iter()
            .any(|&(at, len)| len == 0 || !store.covers(at, len))
        {
            return Status(Status::LBA_RANGE.0 | Status::DO_NOT_RETRY);
        }
        if !store.config.null {
            let shift = store.shift();
            for (at, len) in ranges {
                store.write(at << shift, (len << shift) as usize, |data| data.fill(0));
            }
        }
        Status::SUCCESS
    }
}
