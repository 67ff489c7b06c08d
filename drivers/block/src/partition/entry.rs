//! What a partition table of any kind says of a partition, and what must hold of that.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// The number of what no partition may cover, and is none itself.
pub(super) const LINK: u32 = 0;
/// Entries that a note names.
const NAMED: usize = 8;

/// A partition.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its number, from 1, or [`LINK`].
    pub(super) number: u32,
    /// First and last block.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) uuid: Option<String>,
    /// `None` if it has none, or one that is not Unicode.
    pub(super) label: Option<String>,
}

impl Entry {
    /// One without a name, at these blocks.
    pub(super) fn new(number: u32, (first, last): (u64, u64)) -> Self {
        Self {
            number,
            first,
            last,
            uuid: None,
            label: None,
        }
    }
}

/// The entries that are in their place: within the blocks from `floor` to `ceiling`, and apart from all
/// others. Two that overlap are both left out, since nothing tells which of them is right.
pub(super) fn usable(
    mut entries: Vec<Entry>,
    (floor, ceiling): (u64, u64),
    notes: &mut Vec<String>,
) -> Vec<Entry> {
    let is_inside = |it: &Entry| floor <= it.first && it.first <= it.last && it.last <= ceiling;
    let outside = entries.iter().filter(|it| !is_inside(it));
    let outside: Vec<u32> = outside.map(|it| it.number).collect();
    entries.retain(is_inside);
    let torn = overlaps(&entries);
    let mut torn = torn.into_iter();
    let mut overlapping = Vec::new();
    entries.retain(|entry| {
        let torn = torn.next() == Some(true);
        if torn && entry.number != LINK {
            overlapping.push(entry.number);
        }
        !torn
    });
    tell(notes, "beyond the usable blocks", &outside);
    tell(notes, "overlapping", &overlapping);
    entries
}

/// Which of the entries share blocks with another one.
fn overlaps(entries: &[Entry]) -> Vec<bool> {
    // Put in order by hand: the library's sort would be a hundredth of the kernel.
    let mut order: Vec<usize> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let place = order.partition_point(|&other| entries[other].first <= entry.first);
        order.insert(place, index);
    }
    let mut torn = vec![false; entries.len()];
    // Of those that begin no later, the one that ends last.
    let mut reach: Option<usize> = None;
    for index in order {
        let before = reach.filter(|&before| entries[before].last >= entries[index].first);
        if let Some(before) = before {
            (torn[before], torn[index]) = (true, true);
        }
        if before.is_none_or(|before| entries[before].last <= entries[index].last) {
            reach = Some(index);
        }
    }
    torn
}

fn tell(notes: &mut Vec<String>, what: &str, numbers: &[u32]) {
    if numbers.is_empty() {
        return;
    }
    let named: Vec<_> = numbers.iter().take(NAMED).map(u32::to_string).collect();
    let more = if numbers.len() > NAMED { " ..." } else { "" };
    notes.push(format!(
        "partitions refused as {what}: {}{more}",
        named.join(", ")
    ));
}
