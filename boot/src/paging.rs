//! Four-level page tables, identity-mapped, with large pages where they fit (Intel SDM vol. 3A
//! §4.5, AMD APM vol. 2 §5.3).
//!
//! Memory for the tables is reached through [`TableMemory`], so that the rules can be tested
//! without a processor.

use core::ops::Range;

use thiserror::Error;

use crate::PAGE;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE_PAGE: u64 = 2 << 20;
/// The end of the lower half of the address space, in which identity mapping can work.
pub const LIMIT: u64 = 1 << 47;

/// What memory is mapped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Code: read-only, executable.
    Text,
    /// Constants: read-only.
    ReadOnly,
    /// Memory of any sort, ours or granted: write-back, writable.
    Memory,
    /// Device registers: uncached, writable.
    Mmio,
}

impl MemoryKind {
    /// Accessed and dirty are set from the start, which spares the processor writing them.
    const fn bits(self) -> u64 {
        match self {
            Self::Text => PRESENT | ACCESSED,
            Self::ReadOnly => PRESENT | ACCESSED | NO_EXECUTE,
            Self::Memory => PRESENT | ACCESSED | DIRTY | WRITABLE | NO_EXECUTE,
            Self::Mmio => Self::Memory.bits() | CACHE_DISABLE | WRITE_THROUGH,
        }
    }
}

/// Why memory cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// Not whole pages, backwards, or beyond the lower half of the address space.
    #[error("bad range {0:#x}..{1:#x}")]
    Range(u64, u64),
    /// No memory for another table.
    #[error("out of memory for page tables")]
    OutOfTables,
    /// Mapped already, as something else.
    #[error("{0:#x} is mapped already")]
    Occupied(u64),
}

/// The memory that tables are made of.
pub trait TableMemory {
    /// Reads entry `index` (below 512) of the table at physical address `table`.
    fn load(&self, table: u64, index: usize) -> u64;
    /// Writes it.
    fn store(&mut self, table: u64, index: usize, entry: u64);
    /// A new table: a zeroed page's physical address.
    fn allocate(&mut self) -> Option<u64>;
    /// Makes the processor forget what it knew about the page at `address`.
    fn flush(&mut self, address: u64);
}

/// A tree of page tables.
#[derive(Debug)]
pub struct PageTables<M> {
    root: u64,
    memory: M,
}

impl<M: TableMemory> PageTables<M> {
    /// An empty tree.
    ///
    /// # Errors
    /// Without memory for the root.
    pub fn new(mut memory: M) -> Result<Self, MapError> {
        let root = memory.allocate().ok_or(MapError::OutOfTables)?;
        Ok(Self { root, memory })
    }

    /// The tree whose root is at physical address `root`.
    pub const fn from_root(root: u64, memory: M) -> Self {
        Self { root, memory }
    }

    /// Physical address of the root.
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Maps `range` to itself. Mapping the same again is no error.
    ///
    /// # Errors
    /// If the range is not whole pages, is mapped as something else already (what lies before
    /// that page is mapped then), or no memory is left for tables.
    pub fn map(&mut self, range: Range<u64>, kind: MemoryKind) -> Result<(), MapError> {
        check(&range)?;
        let mut at = range.start;
        while at < range.end {
            let large = at.is_multiple_of(LARGE_PAGE) && range.end - at >= LARGE_PAGE;
            at += self.map_one(at, kind, large)?;
        }
        Ok(())
    }

    /// Takes `range` out, whatever it was.
    ///
    /// # Errors
    /// If the range is not whole pages, or no memory is left for splitting a large page.
    pub fn unmap(&mut self, range: Range<u64>) -> Result<(), MapError> {
        check(&range)?;
        let mut at = range.start;
        while at < range.end {
            at += self.unmap_one(at, range.end)?;
        }
        Ok(())
    }

    /// Whether the page at `address` is mapped.
    pub fn is_mapped(&self, address: u64) -> bool {
        if address >= LIMIT {
            return false;
        }
        let mut table = self.root;
        for level in (0..4).rev() {
            let entry = self.memory.load(table, index(address, level));
            if entry & PRESENT == 0 {
                return false;
            }
            if level == 0 || entry & LARGE != 0 {
                return true;
            }
            table = entry & ADDRESS;
        }
        false
    }

    /// Maps one page, large if asked and possible, and returns its size.
    fn map_one(&mut self, at: u64, kind: MemoryKind, large: bool) -> Result<u64, MapError> {
        let directory = self.directory(at)?;
        let slot = index(at, 1);
        let entry = self.memory.load(directory, slot);
        if entry & (PRESENT | LARGE) == PRESENT | LARGE {
            let base = at & !(LARGE_PAGE - 1);
            return if entry == base | kind.bits() | LARGE {
                Ok(base + LARGE_PAGE - at)
            } else {
                Err(MapError::Occupied(at))
            };
        }
        if entry & PRESENT == 0 && large {
            self.memory.store(directory, slot, at | kind.bits() | LARGE);
            return Ok(LARGE_PAGE);
        }
        let table = self.descend(directory, slot)?;
        let old = self.memory.load(table, index(at, 0));
        let new = at | kind.bits();
        if old & PRESENT != 0 && old != new {
            return Err(MapError::Occupied(at));
        }
        self.memory.store(table, index(at, 0), new);
        Ok(PAGE)
    }

    fn unmap_one(&mut self, at: u64, end: u64) -> Result<u64, MapError> {
        let directory = self.directory(at)?;
        let slot = index(at, 1);
        let entry = self.memory.load(directory, slot);
        let base = at & !(LARGE_PAGE - 1);
        if entry & PRESENT == 0 {
            return Ok((base + LARGE_PAGE).min(end) - at);
        }
        if entry & LARGE != 0 {
            if at == base && end - at >= LARGE_PAGE {
                self.memory.store(directory, slot, 0);
                self.memory.flush(at);
                return Ok(LARGE_PAGE);
            }
            let table = self.memory.allocate().ok_or(MapError::OutOfTables)?;
            for i in 0..512 {
                self.memory
                    .store(table, i, (entry & !LARGE) + i as u64 * PAGE);
            }
            self.memory
                .store(directory, slot, table | PRESENT | WRITABLE | ACCESSED);
            self.memory.flush(at);
        }
        let table = self.descend(directory, slot)?;
        self.memory.store(table, index(at, 0), 0);
        self.memory.flush(at);
        Ok(PAGE)
    }

    /// The page directory (level 2 of 4) that covers `at`.
    fn directory(&mut self, at: u64) -> Result<u64, MapError> {
        let pointers = self.descend(self.root, index(at, 3))?;
        self.descend(pointers, index(at, 2))
    }

    /// The table below `slot`, made if there is none. Nothing here makes pages larger than 2 MiB,
    /// so an entry above the last two levels is always a table.
    fn descend(&mut self, table: u64, slot: usize) -> Result<u64, MapError> {
        let entry = self.memory.load(table, slot);
        if entry & PRESENT != 0 {
            return Ok(entry & ADDRESS);
        }
        let new = self.memory.allocate().ok_or(MapError::OutOfTables)?;
        self.memory
            .store(table, slot, new | PRESENT | WRITABLE | ACCESSED);
        Ok(new)
    }
}

fn check(range: &Range<u64>) -> Result<(), MapError> {
    let whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
    if whole && range.start <= range.end && range.end <= LIMIT {
        Ok(())
    } else {
        Err(MapError::Range(range.start, range.end))
    }
}

const fn index(address: u64, level: u32) -> usize {
    ((address >> (12 + 9 * level)) & 511) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Fake {
        entries: HashMap<(u64, usize), u64>,
        tables: u64,
        limit: u64,
    }

    impl TableMemory for Fake {
        fn load(&self, table: u64, index: usize) -> u64 {
            assert!(index < 512);
            self.entries.get(&(table, index)).copied().unwrap_or(0)
        }
        fn store(&mut self, table: u64, index: usize, entry: u64) {
            assert!(index < 512);
            self.entries.insert((table, index), entry);
        }
        fn allocate(&mut self) -> Option<u64> {
            self.tables += 1;
            (self.tables <= self.limit).then_some(self.tables * PAGE)
        }
        fn flush(&mut self, _: u64) {}
    }

    fn tables(limit: u64) -> PageTables<Fake> {
        PageTables::new(Fake {
            limit,
            ..Fake::default()
        })
        .unwrap()
    }

    /// The leaf entry for `at` as a processor would find it, and the size of its page.
    fn walk(t: &PageTables<Fake>, at: u64) -> Option<(u64, u64)> {
        let mut table = t.root;
        for level in (0..4).rev() {
            let entry = t.memory.load(table, index(at, level));
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || entry & LARGE != 0 {
                return Some((entry, PAGE << (9 * level)));
            }
            table = entry & ADDRESS;
        }
        None
    }

    #[test]
    fn large_pages_are_used_where_they_fit() {
        let mut t = tables(16);
        t.map(0x10_0000..0x40_3000, MemoryKind::Memory).unwrap();
        assert_eq!(
            walk(&t, 0x10_0000),
            Some((0x10_0000 | MemoryKind::Memory.bits(), PAGE))
        );
        assert_eq!(
            walk(&t, 0x20_0000),
            Some((0x20_0000 | MemoryKind::Memory.bits() | LARGE, LARGE_PAGE))
        );
        assert_eq!(walk(&t, 0x40_2000).unwrap().1, PAGE);
        assert_eq!(walk(&t, 0x40_3000), None);
        assert_eq!(walk(&t, 0x0f_f000), None);
    }

    #[test]
    fn nothing_is_both_writable_and_executable() {
        for kind in [
            MemoryKind::Text,
            MemoryKind::ReadOnly,
            MemoryKind::Memory,
            MemoryKind::Mmio,
        ] {
            let bits = kind.bits();
            assert!(bits & WRITABLE == 0 || bits & NO_EXECUTE != 0);
            assert_eq!(bits & NO_EXECUTE == 0, kind == MemoryKind::Text);
        }
        assert_eq!(
            MemoryKind::Mmio.bits() & (CACHE_DISABLE | WRITE_THROUGH),
            CACHE_DISABLE | WRITE_THROUGH
        );
    }

    #[test]
    fn a_guard_page_splits_a_large_page_and_leaves_its_neighbours() {
        let mut t = tables(16);
        t.map(0x20_0000..0x60_0000, MemoryKind::Memory).unwrap();
        t.unmap(0x2f_f000..0x30_0000).unwrap();
        assert!(!t.is_mapped(0x2f_f123));
        assert_eq!(
            walk(&t, 0x2f_e000),
            Some((0x2f_e000 | MemoryKind::Memory.bits(), PAGE))
        );
        assert_eq!(walk(&t, 0x30_0000).unwrap().0 & ADDRESS, 0x30_0000);
        assert!(t.is_mapped(0x40_0000));
        t.unmap(0x20_0000..0x60_0000).unwrap();
        assert!(!t.is_mapped(0x40_0000) && !t.is_mapped(0x20_0000));
    }

    #[test]
    fn mapping_again_is_fine_as_the_same_and_refused_as_another() {
        let mut t = tables(16);
        t.map(0xfe00_0000..0xfe40_1000, MemoryKind::Mmio).unwrap();
        t.map(0xfe00_1000..0xfe40_1000, MemoryKind::Mmio).unwrap();
        assert_eq!(
            t.map(0xfe00_1000..0xfe00_2000, MemoryKind::Memory),
            Err(MapError::Occupied(0xfe00_1000))
        );
        assert_eq!(
            t.map(0xfe40_0000..0xfe40_1000, MemoryKind::Text),
            Err(MapError::Occupied(0xfe40_0000))
        );
    }

    #[test]
    fn bad_ranges_and_lack_of_memory_are_errors() {
        let mut t = tables(3);
        for range in [
            1..4096,
            0..4097,
            LIMIT - PAGE..LIMIT + PAGE,
            u64::MAX - 4095..u64::MAX,
        ] {
            assert_eq!(
                t.map(range.clone(), MemoryKind::Memory),
                Err(MapError::Range(range.start, range.end))
            );
        }
        #[expect(clippy::reversed_empty_ranges)]
        let backwards = 8192..4096;
        assert_eq!(t.unmap(backwards), Err(MapError::Range(8192, 4096)));
        assert_eq!(
            t.map(0x1000..0x2000, MemoryKind::Memory),
            Err(MapError::OutOfTables)
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_flat_table(
            steps in prop::collection::vec((any::<bool>(), 0u64..2048, 1u64..1024), 1..12),
        ) {
            let mut t = tables(64);
            let mut model = vec![false; 4096];
            for (add, first, count) in steps {
                let range = first * PAGE..(first + count) * PAGE;
                if add { t.map(range, MemoryKind::Memory).unwrap() } else { t.unmap(range).unwrap() }
                model[first as usize..(first + count) as usize].fill(add);
            }
            for (page, mapped) in model.into_iter().enumerate() {
                let at = page as u64 * PAGE;
                let leaf = walk(&t, at);
                prop_assert_eq!(leaf.is_some(), mapped);
                prop_assert_eq!(t.is_mapped(at), mapped);
                if let Some((entry, size)) = leaf {
                    prop_assert_eq!(entry & ADDRESS, at & !(size - 1));
                }
            }
        }
    }
}
