//! Carrying out I/O commands (6).

use std::sync::atomic::Ordering;

use spindle_nvme::Status;

use super::dma::BadPrp;
use super::ring::{Entry, Queue};
use super::store::Store;
use super::{Fault, Shared};

const FLUSH: u8 = 0;
const WRITE: u8 = 1;
const READ: u8 = 2;
const ALL_NAMESPACES: u32 = u32::MAX;

impl Shared {
    /// Carries out what is in a queue, as far as there is room for completions.
    pub(super) fn run_io(&self, queue: &mut Queue) -> usize {
        let Some(ring) = queue.ring.as_mut() else {
            return 0;
        };
        if self.vanished.load(Ordering::Acquire) {
            return 0;
        }
        let mut count = 0;
        if self.config.out_of_order {
            let mut batch = Vec::new();
            while (batch.len() as u32) < ring.room()
                && let Some(entry) = ring.fetch()
            {
                batch.push(entry);
            }
            // Every third first, backwards: as good as any other order.
            let (odd, even): (Vec<_>, Vec<_>) =
                batch.into_iter().enumerate().partition(|(i, _)| i % 3 == 1);
            for (_, entry) in even.into_iter().rev().chain(odd) {
                count += 1;
                if let Some(status) = self.execute(entry) {
                    ring.post(entry.cid(), status.0, 0);
                }
            }
        } else {
            while ring.room() > 0
                && let Some(entry) = ring.fetch()
            {
                count += 1;
                if let Some(status) = self.execute(entry) {
                    ring.post(entry.cid(), status.0, 0);
                }
            }
        }
        count
    }

    /// The outcome of a command, or `None` if it is not to be answered.
    fn execute(&self, entry: Entry) -> Option<Status> {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let opcode = entry.opcode();
        if self
            .once(|fault| (fault == Fault::SwallowIo(opcode)).then_some(()))
            .is_some()
        {
            return None;
        }
        let failed = self.once(|fault| match fault {
            Fault::FailIo(which, status) if which == opcode => Some(Status(status)),
            _ => None,
        });
        Some(failed.unwrap_or_else(|| self.command(entry)))
    }

    fn command(&self, entry: Entry) -> Status {
        let opcode = entry.opcode();
        let unused = [2, 3, 4, 5, 13, 14, 15]
            .iter()
            .any(|&n| entry.dword(n) != 0);
        if entry.0[0] & 0xff00 != 0 || unused || entry.dword(12) >> 16 != 0 {
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
            WRITE if store.config.read_only => Status::WRITE_PROTECTED,
            WRITE => self.transfer(entry, store),
            _ => Status::INVALID_OPCODE,
        }
    }

    fn transfer(&self, entry: Entry, store: &Store) -> Status {
        let block = u64::from(entry.dword(11)) << 32 | u64::from(entry.dword(10));
        let count = u64::from(entry.dword(12) & 0xffff) + 1;
        if !store.covers(block, count) {
            return Status(Status::LBA_RANGE.0 | Status::DO_NOT_RETRY);
        }
        let shift = store.config.block_shift;
        let bytes = count << shift;
        if self.config.mdts != 0 && bytes > 4096 << self.config.mdts {
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
            Ok(()) => Status::SUCCESS,
            Err(BadPrp::Offset) => {
                self.violation(format!("bad PRP offset in {entry:x?}"));
                Status::PRP_OFFSET
            }
            Err(BadPrp::NoMemory) => Status::DATA_TRANSFER,
        }
    }
}
