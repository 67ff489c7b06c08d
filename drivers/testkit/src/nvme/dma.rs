//! Finding a command's memory by its PRP entries (4.3), strictly.

use spindle_hw::PAGE_SIZE;

use super::Shared;
use super::ring::Entry;

const PAGE: u64 = PAGE_SIZE as u64;

/// Why memory could not be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadPrp {
    /// An offset where none may be, or one that is not aligned.
    Offset,
    /// A list that is not in memory.
    NoMemory,
}

impl Shared {
    /// Calls `piece` on the bus address and length of each piece of the `bytes` bytes that the
    /// command's PRP entries describe.
    pub(super) fn walk(
        &self,
        entry: Entry,
        bytes: u64,
        mut piece: impl FnMut(u64, usize) -> Result<(), BadPrp>,
    ) -> Result<(), BadPrp> {
        let (first, second) = (entry.prp1(), entry.prp2());
        if !first.is_multiple_of(4) {
            return Err(BadPrp::Offset);
        }
        let len = bytes.min(PAGE - first % PAGE);
        piece(first, len as usize)?;
        let mut left = bytes - len;
        if left == 0 {
            return Ok(());
        }
        if left <= PAGE {
            if !second.is_multiple_of(PAGE) {
                return Err(BadPrp::Offset);
            }
            return piece(second, left as usize);
        }
        let mut list = second;
        if !list.is_multiple_of(8) {
            return Err(BadPrp::Offset);
        }
        while left > 0 {
            let mut word = [0; 8];
            if !self.bus.read(list, &mut word) {
                return Err(BadPrp::NoMemory);
            }
            let address = u64::from_le_bytes(word);
            if !address.is_multiple_of(PAGE) {
                return Err(BadPrp::Offset);
            }
            // The last entry of a list page leads to the next one if more than a page is left.
            if list % PAGE == PAGE - 8 && left > PAGE {
                list = address;
                continue;
            }
            let len = left.min(PAGE);
            piece(address, len as usize)?;
            left -= len;
            list += 8;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, FakeNvme};
    use super::*;
    use crate::mem::FakeBus;
    use spindle_hw::DmaAlloc;
    use std::sync::Arc;

    #[test]
    fn a_list_is_chained_by_its_last_entry() {
        let bus = Arc::new(FakeBus::new());
        let lists = bus.alloc(2).unwrap();
        let put = |at: usize, value: u64| lists.write_bytes(at, &value.to_le_bytes());
        put(4080, 0x1000);
        put(4088, lists.bus() + PAGE);
        put(4096, 0x2000);
        put(4104, 0x3000);
        let model = FakeNvme::new(bus.clone(), Config::default());
        let mut words = [0; 8];
        words[3] = 0x7000;
        words[4] = lists.bus() + 4080;
        let mut pieces = Vec::new();
        let walked = model.0.walk(Entry(words), 4 * PAGE, |address, len| {
            pieces.push((address, len));
            Ok(())
        });
        assert_eq!(walked, Ok(()));
        let expected = [0x7000, 0x1000, 0x2000, 0x3000].map(|page| (page, PAGE_SIZE));
        assert_eq!(pieces, expected);
        // With one page less to go, the last entry is a page itself.
        let mut last = 0;
        let walked = model.0.walk(Entry(words), 3 * PAGE, |address, _| {
            last = address;
            Ok(())
        });
        assert_eq!((walked, last), (Ok(()), lists.bus() + PAGE));
    }
}
