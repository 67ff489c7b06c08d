//! What the domain builder hands over: start_info, checked and copied out before anything can
//! overwrite it.

use core::ops::Range;

use heapless::{String, Vec};
use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::start_info::{MemoryEntry, Module, START_INFO_MAGIC, StartInfo};
use crate::{MemoryType, PAGE, Regions};

/// Entries that a memory map may have.
pub const MAP_MAX: usize = 128;
/// Bytes that a command line may have.
pub const COMMAND_LINE_MAX: usize = 2048;
/// Boot modules that are looked at; more are ignored.
pub const MODULES_MAX: usize = 8;
/// RAM below this address is left alone: whatever stands there is firmware's or nothing at all.
const LOW_MEMORY: u64 = 1 << 20;
/// RAM above this address is not used: one top-level page table entry's worth.
const RAM_LIMIT: u64 = 512 << 30;

/// Read access to physical memory.
pub trait PhysRead {
    /// Fills `out` from physical address `from`; false if any of it cannot be read.
    #[must_use]
    fn read(&self, from: u64, out: &mut [u8]) -> bool;
}

/// Why the domain builder's information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// Not a start_info.
    #[error("start_info has magic {0:#x}")]
    Magic(u32),
    /// A start_info without a memory map (Xen before 4.11).
    #[error("start_info has version {0} and no memory map")]
    Version(u32),
    /// A table lies where nothing can be read.
    #[error("cannot read boot information at {0:#x}")]
    Unreadable(u64),
    /// More than [`MAP_MAX`] entries, of which none may be overlooked.
    #[error("memory map has {0} entries")]
    MapTooLong(u32),
    /// More than [`COMMAND_LINE_MAX`] bytes.
    #[error("command line is longer than {COMMAND_LINE_MAX} bytes")]
    CommandLineTooLong,
    /// The memory map has no RAM where the image was loaded.
    #[error("the image is not in RAM according to the memory map")]
    ImageNotInRam,
    /// The page tables did not fit into memory.
    #[error("page tables: {0}")]
    Tables(#[from] crate::MapError),
}

/// One entry of the memory map as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What is there.
    pub kind: MemoryType,
}

/// What the domain builder hands over.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// The memory map as given: in any order, overlaps and nonsense included.
    pub map: Vec<MapEntry, MAP_MAX>,
    /// RAM in whole pages from 1 MiB on, without what any other entry claims.
    pub ram: Regions,
    /// The command line, other than ASCII replaced by `?`; empty if there is none.
    pub command_line: String<COMMAND_LINE_MAX>,
    /// Boot modules that lie in RAM; others are ignored.
    pub modules: Vec<Range<u64>, MODULES_MAX>,
    /// Address of ACPI's root pointer, if there is ACPI.
    pub rsdp: Option<u64>,
    /// The pages that all of this was read from. A kernel that is to start again must leave them
    /// as they are.
    pub sources: Regions,
}

impl BootInfo {
    /// Reads the start_info at physical address `at` and all that it points to.
    ///
    /// # Errors
    /// If it is none, or if something that it points to cannot be read or is too long.
    pub fn read(memory: &impl PhysRead, at: u64) -> Result<Self, BootError> {
        let info: StartInfo = copy(memory, at)?;
        if info.magic != START_INFO_MAGIC {
            return Err(BootError::Magic(info.magic));
        }
        if info.version < 1 || info.memmap == 0 {
            return Err(BootError::Version(info.version));
        }
        let map = read_map(memory, info.memmap, info.memmap_entries)?;
        let ram = usable(&map);
        let modules = read_modules(memory, info.modlist, info.nr_modules, &ram);
        let command_line = read_line(memory, info.cmdline)?;
        let listed = u64::from(info.nr_modules.min(MODULES_MAX as u32));
        let sources = pages(&[
            (at, size_of::<StartInfo>() as u64),
            (
                info.memmap,
                u64::from(info.memmap_entries) * size_of::<MemoryEntry>() as u64,
            ),
            (info.modlist, listed * size_of::<Module>() as u64),
            (info.cmdline, command_line.len() as u64 + 1),
        ]);
        Ok(Self {
            map,
            ram,
            command_line,
            modules,
            rsdp: (info.rsdp != 0).then_some(info.rsdp),
            sources,
        })
    }
}

/// The whole pages that cover these addresses and lengths.
fn pages(parts: &[(u64, u64)]) -> Regions {
    let mut pages = Regions::new();
    for &(start, len) in parts {
        let end = start.saturating_add(len);
        pages.insert(start & !(PAGE - 1)..end.checked_next_multiple_of(PAGE).unwrap_or(end));
    }
    pages
}

fn copy<T: FromBytes + FromZeros + IntoBytes>(
    memory: &impl PhysRead,
    at: u64,
) -> Result<T, BootError> {
    let mut value = T::new_zeroed();
    if memory.read(at, value.as_mut_bytes()) {
        Ok(value)
    } else {
        Err(BootError::Unreadable(at))
    }
}

/// Address of entry `index` of a table; an overflow ends up where nothing can be read.
fn entry_at<T>(table: u64, index: u32) -> u64 {
    table.saturating_add(u64::from(index) * size_of::<T>() as u64)
}

fn read_map(
    memory: &impl PhysRead,
    table: u64,
    entries: u32,
) -> Result<Vec<MapEntry, MAP_MAX>, BootError> {
    let mut map = Vec::new();
    for i in 0..entries {
        let entry: MemoryEntry = copy(memory, entry_at::<MemoryEntry>(table, i))?;
        map.push(MapEntry {
            start: entry.start,
            size: entry.size,
            kind: entry.kind,
        })
        .map_err(|_| BootError::MapTooLong(entries))?;
    }
    Ok(map)
}

fn usable(map: &[MapEntry]) -> Regions {
    let mut ram = Regions::new();
    for e in map.iter().filter(|e| e.kind == MemoryType::RAM) {
        ram.insert(e.start..e.start.saturating_add(e.size).min(RAM_LIMIT));
    }
    for e in map.iter().filter(|e| e.kind != MemoryType::RAM) {
        ram.remove(&(e.start..e.start.saturating_add(e.size)));
    }
    ram.remove(&(0..LOW_MEMORY));
    ram.aligned(PAGE)
}

/// A module that cannot be read or is not in RAM is none of ours: libxl lists the firmware's size
/// at address 0 when an HVM container is entered without its firmware.
fn read_modules(
    memory: &impl PhysRead,
    table: u64,
    entries: u32,
    ram: &Regions,
) -> Vec<Range<u64>, MODULES_MAX> {
    let mut modules = Vec::new();
    for i in 0..entries.min(MODULES_MAX as u32) {
        let Ok(module) = copy::<Module>(memory, entry_at::<Module>(table, i)) else {
            break;
        };
        let range = module.start..module.start.saturating_add(module.size);
        if ram.contains(&range) {
            // There is room: the loop's bound is the array's.
            let _ = modules.push(range);
        }
    }
    modules
}

fn read_line(memory: &impl PhysRead, at: u64) -> Result<String<COMMAND_LINE_MAX>, BootError> {
    let mut line = String::new();
    if at == 0 {
        return Ok(line);
    }
    for i in 0.. {
        let from = at.saturating_add(i);
        match copy::<u8>(memory, from)? {
            0 => break,
            byte if byte.is_ascii() => line.push(char::from(byte)),
            _ => line.push('?'),
        }
        .map_err(|_| BootError::CommandLineTooLong)?;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u64 = 0x20_0000;

    /// Memory that starts at `BASE`; everything else cannot be read.
    struct Fake(std::vec::Vec<u8>);

    impl PhysRead for Fake {
        fn read(&self, from: u64, out: &mut [u8]) -> bool {
            let Some(offset) = from.checked_sub(BASE).and_then(|o| usize::try_from(o).ok()) else {
                return false;
            };
            let Some(end) = offset.checked_add(out.len()) else {
                return false;
            };
            self.0
                .get(offset..end)
                .map(|from| out.copy_from_slice(from))
                .is_some()
        }
    }

    struct Domain {
        info: StartInfo,
        map: std::vec::Vec<(u64, u64, u32)>,
        modules: std::vec::Vec<(u64, u64)>,
        line: Option<&'static [u8]>,
    }

    fn domain(map: &[(u64, u64, u32)]) -> Domain {
        let mut info = StartInfo::new_zeroed();
        info.magic = START_INFO_MAGIC;
        info.version = 1;
        Domain {
            info,
            map: map.to_vec(),
            modules: vec![],
            line: None,
        }
    }

    impl Domain {
        fn read(mut self) -> Result<BootInfo, BootError> {
            let mut tail = std::vec::Vec::new();
            let next = |tail: &std::vec::Vec<u8>| BASE + 56 + tail.len() as u64;
            self.info.memmap = next(&tail);
            self.info.memmap_entries = self.map.len() as u32;
            for (start, size, kind) in self.map {
                let kind = MemoryType(kind);
                tail.extend_from_slice(
                    MemoryEntry {
                        start,
                        size,
                        kind,
                        reserved: 0,
                    }
                    .as_bytes(),
                );
            }
            self.info.modlist = next(&tail);
            self.info.nr_modules = self.modules.len() as u32;
            for (start, size) in self.modules {
                tail.extend_from_slice(
                    Module {
                        start,
                        size,
                        cmdline: 0,
                        reserved: 0,
                    }
                    .as_bytes(),
                );
            }
            if let Some(line) = self.line {
                self.info.cmdline = next(&tail);
                tail.extend_from_slice(line);
            }
            let mut memory = self.info.as_bytes().to_vec();
            memory.extend(tail);
            BootInfo::read(&Fake(memory), BASE)
        }
    }

    #[test]
    fn a_pvh_domain_is_understood() {
        let mut d = domain(&[(0, 0x200_0000, 1), (0xfeff_8000, 0x8000, 2)]);
        d.line = Some(b"console=hvc0 log=\"x y\"\0");
        d.info.rsdp = 0xfc00_8000;
        d.modules = vec![(0x100_0000, 0x1000)];
        let info = d.read().unwrap();
        assert_eq!(info.ram.largest(), Some(0x10_0000..0x200_0000));
        assert_eq!(info.ram.iter().count(), 1);
        assert_eq!(info.command_line, "console=hvc0 log=\"x y\"");
        assert_eq!(info.modules.len(), 1);
        assert_eq!(info.modules[0], 0x100_0000..0x100_1000);
        assert_eq!(info.rsdp, Some(0xfc00_8000));
    }

    #[test]
    fn the_pages_that_were_read_are_named() {
        let mut d = domain(&[(0, 0x200_0000, 1); 100]);
        d.line = Some(b"word\0");
        let info = d.read().unwrap();
        // 56 bytes of start_info, 2,400 of map and a line that fits into the first page behind them.
        assert_eq!(info.sources.largest(), Some(BASE..BASE + PAGE));
        assert_eq!(info.sources.total(), PAGE);
        let mut d = domain(&[(0, 0x200_0000, 1); 100]);
        let line = [&[b'x'; 2000][..], b"\0"].concat();
        d.line = Some(line.leak());
        let sources = d.read().unwrap().sources;
        assert_eq!(sources.largest(), Some(BASE..BASE + 2 * PAGE));
        assert_eq!(sources.total(), 2 * PAGE);
    }

    #[test]
    fn an_hvm_container_without_firmware_is_understood() {
        let mut d = domain(&[(0x10_0000, 0x7f0_0000, 1)]);
        d.modules = vec![(0, 0x4_0000)];
        let info = d.read().unwrap();
        assert_eq!(info.ram.total(), 0x7f0_0000);
        assert_eq!(info.command_line, "");
        assert!(info.modules.is_empty());
        assert_eq!(info.rsdp, None);
    }

    #[test]
    fn other_claims_beat_ram_whatever_the_order() {
        let holes = [
            (0x30_0800, 0x100, 2),
            (0x10_0000, 0x40_0000, 1),
            (0x40_0000, u64::MAX, 5),
            (0x10_0000, 0x20_0000, 1),
        ];
        let info = domain(&holes).read().unwrap();
        assert_eq!(
            info.ram.iter().collect::<std::vec::Vec<_>>(),
            [0x10_0000..0x30_0000, 0x30_1000..0x40_0000]
        );
    }

    #[test]
    fn bad_start_infos_are_refused_with_the_reason() {
        let mut d = domain(&[]);
        d.info.magic = 1;
        assert_eq!(d.read().unwrap_err(), BootError::Magic(1));
        let mut d = domain(&[]);
        d.info.version = 0;
        assert_eq!(d.read().unwrap_err(), BootError::Version(0));
        let many = [(0, 1, 2); MAP_MAX + 1];
        assert_eq!(
            domain(&many).read().unwrap_err(),
            BootError::MapTooLong(129)
        );
        let mut d = domain(&[]);
        d.line = Some(&[b'a'; COMMAND_LINE_MAX + 1]);
        assert_eq!(d.read().unwrap_err(), BootError::CommandLineTooLong);
        assert_eq!(
            BootInfo::read(&Fake(vec![]), BASE).unwrap_err(),
            BootError::Unreadable(BASE)
        );
    }

    #[test]
    fn more_modules_than_fit_are_ignored() {
        let mut d = domain(&[(0x10_0000, 0x100_0000, 1)]);
        d.modules = vec![(0x20_0000, 0x1000); MODULES_MAX + 3];
        assert_eq!(d.read().unwrap().modules.len(), MODULES_MAX);
        let mut d = domain(&[(0x10_0000, 0x100_0000, 1)]);
        d.modules = vec![
            (0x20_0000, 0),
            (u64::MAX, u64::MAX),
            (0x100_0000, 0x20_0000),
        ];
        assert!(d.read().unwrap().modules.is_empty());
    }

    proptest! {
        #[test]
        fn hostile_maps_never_panic_and_ram_is_never_claimed_twice(
            map in prop::collection::vec((any::<u64>(), any::<u64>(), 0u32..4), 0..MAP_MAX),
            modules in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20),
        ) {
            let mut d = domain(&map);
            d.modules = modules;
            let info = d.read().unwrap();
            for r in info.ram.iter() {
                prop_assert!(r.start >= LOW_MEMORY && r.end <= RAM_LIMIT);
                prop_assert!(r.start % PAGE == 0 && r.end % PAGE == 0);
                for (start, size, kind) in &map {
                    let end = start.saturating_add(*size);
                    prop_assert!(*kind == 1 || *size == 0 || end <= r.start || *start >= r.end);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            pointers in prop::array::uniform3(0u64..0x200),
            counts in prop::array::uniform2(any::<u32>()),
        ) {
            if bytes.len() >= 56 {
                bytes[..4].copy_from_slice(&START_INFO_MAGIC.to_le_bytes());
                bytes[4] = 1;
                bytes[12..16].copy_from_slice(&counts[0].to_le_bytes());
                bytes[48..52].copy_from_slice(&counts[1].to_le_bytes());
                for (at, p) in [16, 24, 40].into_iter().zip(pointers) {
                    bytes[at..at + 8].copy_from_slice(&(BASE + p).to_le_bytes());
                }
            }
            let _ = BootInfo::read(&Fake(bytes), BASE);
        }
    }
}
