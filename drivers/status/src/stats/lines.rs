//! Lines of counters: how their words are written, read and taken together, whatever they count.

use core::fmt;

use super::RingSnapshot;
use crate::counter::Counts;
use crate::statistic::{Key, Merge, StatNode};
use crate::words::{value, words};

/// Writes those in this node as `name=value` words with blanks between.
pub(super) fn emit(
    keys: &[Key],
    readings: &[&[u64]],
    node: StatNode,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut before = "";
    let all = keys.iter().zip(readings);
    for (key, reading) in all.filter(|(key, _)| key.node == node) {
        write!(f, "{before}{}=", key.name)?;
        match reading {
            [number] => write!(f, "{number}")?,
            places => histogram(places, f)?,
        }
        before = " ";
    }
    Ok(())
}

/// `lowest value of the place:count`, with commas, without the empty places; `-` if all are.
fn histogram(places: &[u64], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut before = "";
    for (place, &count) in places.iter().enumerate().filter(|(_, count)| **count > 0) {
        write!(f, "{before}{}:{count}", lowest(place))?;
        before = ",";
    }
    f.write_str(if before.is_empty() { "-" } else { "" })
}

/// As the word of a line has it.
impl<const N: usize> fmt::Display for Counts<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        histogram(&self.0, f)
    }
}

/// The lowest value that is counted in a place.
const fn lowest(place: usize) -> u64 {
    (1u64 << place) >> 1
}

/// Reads such words.
pub(super) fn parse(keys: &[Key], readings: &mut [&mut [u64]], line: &str) {
    for (name, value) in words(line) {
        let found = keys.iter().position(|key| key.name == name);
        match found.and_then(|at| readings.get_mut(at)) {
            Some([number]) => *number = value.parse().unwrap_or(*number),
            Some(places) => {
                for (lowest, count) in value.split(',').filter_map(|word| word.split_once(':')) {
                    let (Ok(lowest), Ok(count)) = (lowest.parse::<u64>(), count.parse()) else {
                        continue;
                    };
                    // What is beyond, as of a version with more places, is in the last.
                    let place = u64::BITS - lowest.leading_zeros();
                    let last = places.len() - 1;
                    if let Some(place) = places.get_mut(last.min(place as usize)) {
                        *place = place.wrapping_add(count);
                    }
                }
            }
            None => {}
        }
    }
}

/// Adds `from` to `to`, but where the highest value counts.
pub(super) fn merge(keys: &[Key], to: &mut [&mut [u64]], from: &[&[u64]]) {
    for ((key, to), from) in keys.iter().zip(to).zip(from) {
        for (to, &from) in to.iter_mut().zip(*from) {
            *to = match key.merge {
                Merge::Sum => to.wrapping_add(from),
                Merge::Highest => from.max(*to),
            };
        }
    }
}

/// The node [`crate::path::stat`]: what a device's rings have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLine {
    /// How many rings the device has.
    pub rings: u64,
    /// What they have done together.
    pub counters: RingSnapshot,
}

impl DeviceLine {
    /// Reads a line as [`RingSnapshot::parse`] does.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        Self {
            rings: value(line, "rings").unwrap_or(0),
            counters: RingSnapshot::parse(line),
        }
    }
}

impl fmt::Display for DeviceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rings={} {}", self.rings, self.counters)
    }
}

/// The node [`crate::path::delays`]: how long a device's requests waited, and for what. What
/// [`DeviceLine::parse`] is given may have both lines, with a blank between.
#[derive(Clone, Copy, Debug)]
pub struct DelayLine(pub RingSnapshot);

impl fmt::Display for DelayLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        emit(&RingSnapshot::KEYS, &self.0.readings(), StatNode::Delays, f)
    }
}
