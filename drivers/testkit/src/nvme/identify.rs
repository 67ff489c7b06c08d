//! Identify pages (5.15).

use spindle_nvme::Status;

use super::ring::Entry;
use super::{Fault, Shared};

impl Shared {
    pub(super) fn identify(&self, entry: Entry) -> Result<u32, Status> {
        let page = match entry.dword(10) & 0xff {
            0 => self.identify_namespace(entry.namespace())?,
            1 => self.identify_controller(),
            2 if self.config.version >= 0x0001_0100 => self.active_namespaces(entry.namespace()),
            3 if self.config.version >= 0x0001_0300 => self.descriptors(entry.namespace())?,
            6 if self.config.version >= 0x0001_0400 => self.limits(),
            _ => return Err(Status::INVALID_FIELD),
        };
        if !entry.prp1().is_multiple_of(4096) {
            self.violation("Identify into the middle of a page");
        }
        if self.bus.write(entry.prp1(), &page) {
            Ok(0)
        } else {
            Err(Status::DATA_TRANSFER)
        }
    }

    fn identify_controller(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(4, b"SPINDLE-0001        ");
        if self.has(Fault::OtherSerial) {
            put(4, b"SPINDLE-0002        ");
        }
        put(24, b"Fake NVMe controller                    ");
        put(64, b"1.0     ");
        put(76, &[self.config.cmic]);
        put(77, &[self.mdts()]);
        put(80, &self.config.version.to_le_bytes());
        put(92, &0x100u32.to_le_bytes());
        for (at, delay) in [128, 130, 132].into_iter().zip(self.config.retry_delays) {
            put(at, &delay.to_le_bytes());
        }
        put(512, &[self.config.entry_sizes, 0x44]);
        let highest = self.stores.iter().map(|s| s.id).max().unwrap_or(0);
        put(516, &highest.to_le_bytes());
        put(
            520,
            &(u16::from(self.discards().is_some()) << 2).to_le_bytes(),
        );
        for (at, bytes) in self.host_memory_wanted() {
            put(at, &bytes);
        }
        put(525, &[u8::from(self.config.write_cache)]);
        put(528, &self.config.atomic_blocks.to_le_bytes());
        page
    }

    fn active_namespaces(&self, after: u32) -> Vec<u8> {
        let mut ids: Vec<u32> = self
            .stores
            .iter()
            .filter(|store| store.id > after && store.size() > 0)
            .map(|store| store.id)
            .collect();
        ids.sort_unstable();
        ids.truncate(1024);
        let mut page: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
        page.resize(4096, 0);
        page
    }

    /// Namespace Identification Descriptors.
    fn descriptors(&self, id: u32) -> Result<Vec<u8>, Status> {
        let store = self.store(id).ok_or(Status::INVALID_FIELD)?;
        let (config, nguid, uuid) = (&store.config, store.nguid(), store.uuid());
        let command_set = [config.command_set];
        let ids: [(u8, &[u8]); 4] = [
            (1, &config.eui64),
            (2, &nguid),
            (3, &uuid),
            (4, &command_set),
        ];
        let mut page = Vec::new();
        for (kind, id) in ids.into_iter().filter(|(_, id)| id.iter().any(|&b| b != 0)) {
            page.extend([kind, id.len() as u8, 0, 0]);
            page.extend(id);
        }
        page.resize(4096, 0);
        Ok(page)
    }

    /// Limits of the NVM command set.
    fn limits(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        if let Some(discards) = self.discards() {
            page[3] = discards.ranges;
            page[4..8].copy_from_slice(&discards.range_blocks.to_le_bytes());
            page[8..16].copy_from_slice(&discards.total_blocks.to_le_bytes());
        }
        page
    }

    fn identify_namespace(&self, id: u32) -> Result<Vec<u8>, Status> {
        let highest = self.stores.iter().map(|s| s.id).max().unwrap_or(0);
        if id == 0 || id > highest {
            return Err(Status(0x0b | Status::DO_NOT_RETRY));
        }
        let mut page = vec![0; 4096];
        let Some(store) = self.store(id).filter(|store| store.size() > 0) else {
            return Ok(page);
        };
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let config = &store.config;
        for at in [0, 8, 16] {
            put(at, &store.size().to_le_bytes());
        }
        if let Some(granularity) = config.granularity {
            put(24, &[0x10]);
            put(64, &granularity.to_le_bytes());
            put(68, &config.discard_granularity.to_le_bytes());
        }
        // Two formats, of which the second is in use.
        put(25, &[1, 1]);
        put(32, &[store.format_progress()]);
        put(46, &self.config.quirks.boundary(id).to_le_bytes());
        put(99, &[u8::from(config.read_only)]);
        put(104, &store.nguid());
        put(120, &config.eui64);
        put(130, &[9]);
        put(132, &config.metadata.to_le_bytes());
        put(134, &[store.tell_shift()]);
        Ok(page)
    }
}
