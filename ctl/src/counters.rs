//! The lines of counters that Spindle publishes: `name=value` words, histograms among them.

use std::collections::BTreeMap;

/// Length of the unit in which latencies are counted, in seconds.
const LATENCY_UNIT: f64 = 1024e-9;
/// The lowest latency, in units, of the last place of the histogram, which has no upper bound.
const LATENCY_LAST: u64 = 1 << 22;

/// Counters by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    values: BTreeMap<String, u64>,
    /// Lowest value of a place, and how many fell there.
    latencies: BTreeMap<u64, u64>,
}

impl Counters {
    /// Reads a line; words that are no counters are skipped.
    pub(crate) fn parse(line: &str) -> Self {
        let mut counters = Self::default();
        for (name, value) in line.split_whitespace().filter_map(|w| w.split_once('=')) {
            if name == "lat_us" {
                let place = |text: &str| {
                    let (lowest, count) = text.split_once(':')?;
                    Some((lowest.parse().ok()?, count.parse().ok()?))
                };
                counters.latencies = value.split(',').filter_map(place).collect();
            } else if let Ok(value) = value.parse() {
                counters.values.insert(name.into(), value);
            }
        }
        counters
    }

    /// The value of a counter, 0 if it is missing.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or(0)
    }

    /// What was counted since `before`; from zero if a counter went back, as after a new start.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            values: difference(&self.values, &before.values),
            latencies: difference(&self.latencies, &before.latencies),
        }
    }

    /// An upper bound, in seconds, for the latency of this share of the requests; `None` without
    /// any, infinite beyond the histogram.
    pub(crate) fn latency(&self, share: f64) -> Option<f64> {
        let total: u64 = self
            .latencies
            .values()
            .fold(0, |sum, n| sum.saturating_add(*n));
        if total == 0 {
            return None;
        }
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0u64;
        let place = self.latencies.iter().find(|(_, count)| {
            seen = seen.saturating_add(**count);
            seen >= wanted
        });
        place.map(|(&lowest, _)| upper_bound(lowest))
    }

    /// The histogram of latencies as Prometheus has them: upper bounds in seconds, the same ones
    /// always, and how many requests took no longer.
    pub(crate) fn latency_buckets(&self) -> Vec<(f64, u64)> {
        let places = std::iter::once(0).chain((0..=22).map(|shift| 1 << shift));
        let mut sum = 0u64;
        places
            .map(|lowest| {
                let count = self.latencies.get(&lowest).copied().unwrap_or(0);
                sum = sum.saturating_add(count);
                (upper_bound(lowest), sum)
            })
            .collect()
    }
}

fn difference<K: Ord + Clone>(
    now: &BTreeMap<K, u64>,
    before: &BTreeMap<K, u64>,
) -> BTreeMap<K, u64> {
    let less = |(key, &now): (&K, &u64)| {
        let before = before.get(key).copied().unwrap_or(0);
        (key.clone(), now.checked_sub(before).unwrap_or(now))
    };
    now.iter().map(less).collect()
}

/// The upper bound of the place that begins at `lowest` units.
fn upper_bound(lowest: u64) -> f64 {
    match lowest {
        0 => LATENCY_UNIT,
        LATENCY_LAST.. => f64::INFINITY,
        _ => lowest as f64 * 2.0 * LATENCY_UNIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "rings=2 rd_req=100 wr_req=7 err=0 batch=1:3,2:4 lat_us=0:50,4:49,64:1";

    #[test]
    fn a_line_of_counters_is_read_and_nonsense_skipped() {
        let counters = Counters::parse(LINE);
        assert_eq!((counters.get("rd_req"), counters.get("nosuch")), (100, 0));
        let odd = Counters::parse("x rd_req=-1 wr_req= busy=1.5% f_req=3 lat_us=a:b,:,4:1,-");
        assert_eq!((odd.get("rd_req"), odd.get("f_req")), (0, 3));
        assert_eq!(odd.latencies, BTreeMap::from([(4, 1)]));
    }

    #[test]
    fn latencies_are_told_by_upper_bounds() {
        let counters = Counters::parse(LINE);
        assert_eq!(counters.latency(0.5), Some(1024e-9));
        assert_eq!(counters.latency(0.99), Some(8.0 * 1024e-9));
        assert_eq!(counters.latency(1.0), Some(128.0 * 1024e-9));
        assert_eq!(Counters::default().latency(0.5), None);
        let slow = Counters::parse("lat_us=4194304:1");
        assert_eq!(slow.latency(0.5), Some(f64::INFINITY));
        let buckets = counters.latency_buckets();
        assert_eq!((buckets.len(), buckets[0].1), (24, 50));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 100)));
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
    }

    #[test]
    fn a_difference_starts_from_zero_when_counters_went_back() {
        let before = Counters::parse("rd_req=10 wr_req=5 lat_us=1:5");
        let now = Counters::parse("rd_req=15 wr_req=2 lat_us=1:6,2:1");
        let difference = now.since(&before);
        assert_eq!((difference.get("rd_req"), difference.get("wr_req")), (5, 2));
        assert_eq!(difference.latencies, BTreeMap::from([(1, 1), (2, 1)]));
    }
}
