//! RAM disks over the lives of the kernel: each is found again with what it holds, or is empty and
//! described as another one, so that no device of a former life goes on with it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use log::{info, warn};
use spindle_block::{RamController, RamDisk, RamMemory};
use spindle_config::DiskSize;
use spindle_hw::Retake;
use spindle_kept::{RAM_DISKS, RamRecord, RamRecords};

/// Makes the RAM disks of a life, and has those of the life before.
#[derive(Debug)]
pub struct RamDisks<M> {
    memory: M,
    /// `None` in a domain whose kernel cannot start again.
    records: Option<RamRecords>,
    life: u64,
    former: Vec<(RamRecord, RamMemory)>,
}

impl<M: Retake> RamDisks<M> {
    /// Takes up the memory of the RAM disks that are on record. Nothing may have been had from `memory`
    /// in this life, which is number `life`, 1 for the first.
    pub fn take_up(records: Option<RamRecords>, memory: M, life: u64) -> Self {
        let mut former = Vec::new();
        for record in records
            .iter()
            .flat_map(|records| (0..RAM_DISKS as u8).filter_map(|number| records.read(number)))
        {
            match RamMemory::again(&record.runs, &memory) {
                Some(found) => former.push((record, found)),
                None => warn!("ram{}: its memory is not free any more", record.number),
            }
        }
        Self {
            memory,
            records,
            life,
            former,
        }
    }

    /// Gives back the memory of all disks but the `wanted` ones. Called before any is made.
    pub fn keep_only(&mut self, wanted: &[DiskSize]) {
        let is_wanted = |record: &RamRecord| {
            let mut same = wanted.iter().filter(|disk| disk.number == record.number);
            same.any(|disk| mib(disk.bytes) == mib(record.bytes()))
        };
        for (record, memory) in core::mem::take(&mut self.former) {
            if is_wanted(&record) {
                self.former.push((record, memory));
                continue;
            }
            warn!("ram{}: it is not asked for any more", record.number);
            // Off the record first: the memory may be anything's then.
            if let Some(records) = &self.records {
                records.remove(record.number);
            }
            memory.give_back(&self.memory);
        }
    }

    /// The disk that an option asks for, whose queues reach their submitters' memory through `bus`.
    ///
    /// # Errors
    /// The reason, if there is not the memory.
    pub fn make<B>(&mut self, wanted: DiskSize, bus: B) -> Result<RamController<B>, String> {
        let DiskSize { number, bytes } = wanted;
        let name = format!("ram{number}");
        let at = self.former.iter().position(|(it, _)| it.number == number);
        let (made_in, memory) = match at.map(|at| self.former.remove(at)) {
            Some((record, memory)) => {
                info!("{name}: holds what it held in the last life");
                (record.life, memory)
            }
            None => {
                if self.life > 1 {
                    warn!("{name}: begins empty, nothing of a former life is found");
                }
                let memory = RamMemory::new(bytes, &self.memory);
                let memory = memory.ok_or_else(|| format!("no memory for {} MiB", bytes >> 20))?;
                self.put_on_record(number, &memory);
                (self.life, memory)
            }
        };
        let disk = RamDisk::over(memory);
        Ok(RamController::new(name, disk, bus).made_in(made_in))
    }

    fn put_on_record(&self, number: u8, memory: &RamMemory) {
        let Some(records) = &self.records else {
            return;
        };
        records.remove(number);
        let mut runs = heapless::Vec::new();
        let fit = memory.runs().all(|run| runs.push(run).is_ok());
        let life = self.life;
        let written = fit && records.write(&RamRecord { number, life, runs });
        if !written {
            warn!("ram{number}: a death empties it: its memory is in too many pieces");
        }
    }
}

/// The size of a disk, which is whole MiB.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
