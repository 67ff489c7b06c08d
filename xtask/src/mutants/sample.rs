//! A sample of a crate's mutants, for crates all of whose mutants take hours: every Nth one.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

/// Of `of` parts of a crate's mutants, one: the mutant of this number and every `of`th after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    number: u64,
    of: u64,
}

impl Part {
    /// Those of this part.
    pub(super) fn take<T>(self, all: Vec<T>) -> Vec<T> {
        let is_in = |(at, _): &(u64, T)| at % self.of == self.number;
        (0..).zip(all).filter(is_in).map(|(_, one)| one).collect()
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, of) = text.split_once('/').context("K/N is meant")?;
        let (number, of): (u64, u64) = (number.parse()?, of.parse()?);
        ensure!(
            number < of,
            "of {of} parts the last is {}",
            of.saturating_sub(1)
        );
        Ok(Self { number, of })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// How a sample is drawn.
#[derive(Clone, Copy)]
pub(super) enum Sample {
    Given(Part),
    /// About so many, beginning with one that a number decides which each commit has another of.
    Drawn {
        size: usize,
        by: u64,
    },
}

impl Sample {
    /// The part of this sample, of so many mutants.
    pub(super) fn of(self, mutants: usize) -> Part {
        match self {
            Self::Given(part) => part,
            Self::Drawn { size, by } => {
                let of = mutants.div_ceil(size.max(1)).max(1) as u64;
                Part {
                    number: by % of,
                    of,
                }
            }
        }
    }
}

/// The rate, in percent, that the whole has at least, with 95 % confidence, if so many of a sample were
/// killed: the lower end of Wilson's interval. Samples are too small for more than this.
pub(super) fn at_least(killed: u32, viable: u32) -> f64 {
    /// What a normal variable exceeds in 5 % of all cases.
    const Z: f64 = 1.645;
    if viable == 0 {
        return 0.0;
    }
    let n = f64::from(viable);
    let rate = f64::from(killed) / n;
    let spread = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    100.0 * (rate + Z * Z / (2.0 * n) - spread) / (1.0 + Z * Z / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_one_of_those_that_there_are() {
        let part = |text: &str| text.parse::<Part>().map(|part| part.to_string()).ok();
        assert_eq!(part("0/1").as_deref(), Some("0/1"));
        assert_eq!(part("4/5").as_deref(), Some("4/5"));
        for wrong in ["5/5", "0/0", "1", "a/2", "-1/2", ""] {
            assert_eq!(part(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_parts_are_all_and_none_twice() -> Result<()> {
        let part = |text: &str| Ok::<_, Error>(text.parse::<Part>()?.take(vec![10, 11, 12, 13]));
        assert_eq!(part("0/3")?, [10, 13]);
        assert_eq!(part("1/3")?, [11]);
        assert_eq!(part("2/3")?, [12]);
        Ok(())
    }

    #[test]
    fn a_drawn_sample_is_no_larger_than_asked_for_and_another_at_other_commits() {
        let drawn = |size, by, mutants| Sample::Drawn { size, by }.of(mutants).to_string();
        assert_eq!(drawn(25, 3, 100), "3/4");
        assert_eq!(drawn(25, 4, 100), "0/4");
        assert_eq!(drawn(25, 4, 101), "4/5");
        assert_eq!(drawn(25, 7, 7), "0/1");
        assert_eq!(drawn(0, 1, 2), "1/2");
        assert_eq!(drawn(25, 1, 0), "0/1");
    }

    /// The rates at which this many would be 1.645 standard deviations above the mean, found by bisection.
    #[test]
    fn a_small_sample_promises_less_than_a_large_one() {
        let near = |killed, viable, percent: f64| {
            assert!(
                (at_least(killed, viable) - percent).abs() < 0.1,
                "{killed}/{viable}"
            );
        };
        near(0, 0, 0.0);
        near(25, 25, 90.2);
        near(24, 25, 83.9);
        near(95, 100, 90.0);
        near(0, 10, 0.0);
    }
}
