//! What a counter is: its word in a line, how those of several rings are taken together, its unit, its
//! column, its metric, and what it means.

use alloc::format;
use alloc::string::String;

/// How the values of several rings become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// They are added.
    Sum,
    /// The highest counts.
    Highest,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatUnit {
    /// Times, requests, grants: a number of something.
    Count,
    /// Sectors of 512 bytes; bytes in metrics.
    Sectors,
    /// Nanoseconds; seconds in metrics.
    Nanoseconds,
    /// Units of 1,024 ns; seconds in metrics.
    Ns1024,
}

impl StatUnit {
    /// What one of it is in metrics.
    #[must_use]
    pub const fn scale(self) -> f64 {
        match self {
            Self::Count => 1.0,
            Self::Sectors => 512.0,
            Self::Nanoseconds => 1e-9,
            Self::Ns1024 => 1024e-9,
        }
    }
}

/// A word of a line of counters, as far as writing and reading it needs.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// How several become one.
    pub merge: Merge,
    /// The node of a device that it is in.
    pub node: StatNode,
}

/// The nodes of a device's counters, as one could not hold them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatNode {
    /// [`crate::path::STAT`], or the only node of a core.
    Stat,
    /// [`crate::path::DELAYS`].
    Delays,
}

/// A counter or histogram, for people and for Prometheus.
#[derive(Clone, Copy, Debug)]
pub struct Statistic {
    /// Its word.
    pub key: Key,
    /// How many places its histogram has; 1 for a counter.
    pub places: usize,
    /// What it is in.
    pub unit: StatUnit,
    /// The heading of its column in `stat` and `top`.
    pub heading: &'static str,
    /// The metric, without the prefix that says of what, and without `_total`.
    pub family: &'static str,
    /// A label and its value, where several counters are one metric.
    pub label: Option<(&'static str, &'static str)>,
    /// It is the sum of what the histogram of the same metric counts.
    pub is_sum: bool,
    /// What it means.
    pub help: &'static str,
}

impl Statistic {
    /// One that goes up, by its word, heading and metric.
    #[must_use]
    pub const fn sum(name: &'static str, heading: &'static str, family: &'static str) -> Self {
        Self {
            key: Key {
                name,
                merge: Merge::Sum,
                node: StatNode::Stat,
            },
            places: 1,
            unit: StatUnit::Count,
            heading,
            family,
            label: None,
            is_sum: false,
            help: "",
        }
    }

    /// The sum of what the histogram of this metric counts, which has no column of its own.
    #[must_use]
    pub const fn sum_of(name: &'static str, family: &'static str) -> Self {
        let mut sum = Self::sum(name, "", family);
        sum.is_sum = true;
        sum
    }

    /// One whose highest value counts.
    #[must_use]
    pub const fn highest(name: &'static str, heading: &'static str, family: &'static str) -> Self {
        let mut highest = Self::sum(name, heading, family);
        highest.key.merge = Merge::Highest;
        highest
    }

    /// The same in this unit.
    #[must_use]
    pub const fn unit(mut self, unit: StatUnit) -> Self {
        self.unit = unit;
        self
    }

    /// The same in another node.
    #[must_use]
    pub const fn within(mut self, node: StatNode) -> Self {
        self.key.node = node;
        self
    }

    /// The same as one of several of a metric.
    #[must_use]
    pub const fn label(mut self, name: &'static str, value: &'static str) -> Self {
        self.label = Some((name, value));
        self
    }

    /// The same with its number of places and what it means.
    #[must_use]
    pub(crate) const fn with(mut self, places: usize, help: &'static str) -> Self {
        (self.places, self.help) = (places, help);
        self
    }

    /// Its metric: `spindle_`, of what it is (`disk`, `core`), its family, and `_total` where it only grows.
    #[must_use]
    pub fn metric(&self, of: &str) -> String {
        let end = match self.key.merge {
            _ if self.is_sum => "_sum",
            Merge::Sum if !self.is_histogram() => "_total",
            _ => "",
        };
        format!("spindle_{of}_{}{end}", self.family)
    }

    /// The type of its metric.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.key.merge {
            _ if self.is_histogram() => "histogram",
            Merge::Sum => "counter",
            Merge::Highest => "gauge",
        }
    }

    /// Whether it is a histogram.
    #[must_use]
    pub const fn is_histogram(&self) -> bool {
        self.places > 1
    }
}
