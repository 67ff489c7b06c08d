//! What many runs of the same thing come to: how many failed, for which reasons, and how long they
//! took.

use std::cmp::Reverse;
use std::time::Duration;

use crate::spread::Spread;

/// Many runs of the same thing.
#[derive(Default)]
pub(crate) struct Tally {
    runs: usize,
    seconds: Vec<f64>,
    reasons: Vec<Reason>,
}

/// Why runs failed.
struct Reason {
    /// What is the same each time.
    shape: String,
    /// As it was the first time.
    first: String,
    runs: usize,
}

impl Tally {
    /// Adds a run; `failure` is why it failed, if it did.
    pub(crate) fn add(&mut self, took: Duration, failure: Option<&str>) {
        self.runs += 1;
        self.seconds.push(took.as_secs_f64());
        let Some(why) = failure else { return };
        let shape = shape(why);
        match self.reasons.iter_mut().find(|known| known.shape == shape) {
            Some(known) => known.runs += 1,
            None => self.reasons.push(Reason {
                shape,
                first: why.to_string(),
                runs: 1,
            }),
        }
    }

    /// The number of runs.
    pub(crate) fn runs(&self) -> usize {
        self.runs
    }

    /// The number of those that failed.
    pub(crate) fn failed(&self) -> usize {
        self.reasons.iter().map(|reason| reason.runs).sum()
    }

    /// How many seconds a run took: median, least and most.
    pub(crate) fn seconds(&self) -> String {
        let spread = Spread::of(self.seconds.iter().copied());
        spread.map_or_else(String::new, |spread| spread.text(0))
    }

    /// How often runs failed for which reason, one a line, the most frequent first. Reasons that
    /// differ in numbers only are one, shown as it was the first time.
    pub(crate) fn reasons(&self) -> String {
        let mut reasons: Vec<&Reason> = self.reasons.iter().collect();
        reasons.sort_by_key(|reason| Reverse(reason.runs));
        let lines = reasons
            .iter()
            .map(|reason| format!("{}x {}", reason.runs, shorten(&reason.first)));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A reason without what differs from run to run: numbers, also hexadecimal ones, and the width of
/// spaces.
fn shape(why: &str) -> String {
    let words = why.split_whitespace().map(|word| {
        let (mut shape, mut rest) = (String::new(), word);
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            shape += &rest[..start];
            shape.push('#');
            rest = &rest[start..];
            rest = match rest.strip_prefix("0x") {
                Some(digits) => digits.trim_start_matches(|c: char| c.is_ascii_hexdigit()),
                None => rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'),
            };
        }
        shape + rest
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Fits a text into a cell of a table; the logs have it in full.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.replace(['\r', '\n'], " ");
    if line.chars().count() <= MOST {
        return line;
    }
    line.chars().take(MOST).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(runs: &[(u64, Option<&str>)]) -> Tally {
        let mut tally = Tally::default();
        for (seconds, failure) in runs {
            tally.add(Duration::from_secs(*seconds), *failure);
        }
        tally
    }

    #[test]
    fn reasons_that_differ_in_numbers_only_are_one() {
        let tally = tally(&[
            (10, None),
            (40, Some("no end after 30 s")),
            (20, Some("create checker: Domain 7: 0x1f failed [   10.25]")),
            (30, Some("create checker: Domain 12: 0xbeef failed [ 9.5]")),
            (30, Some("create writer: Domain 7: 0x1f failed [   10.25]")),
        ]);
        assert_eq!((tally.runs(), tally.failed()), (5, 4));
        assert_eq!(
            tally.reasons(),
            "2x create checker: Domain 7: 0x1f failed [   10.25]\n\
             1x no end after 30 s\n\
             1x create writer: Domain 7: 0x1f failed [   10.25]"
        );
        assert_eq!(tally.seconds(), "30 (10–40)");
    }

    #[test]
    fn runs_that_all_passed_have_no_reasons() {
        let tally = tally(&[(10, None), (12, None)]);
        assert_eq!((tally.runs(), tally.failed()), (2, 0));
        assert_eq!(tally.reasons(), "");
    }

    #[test]
    fn shapes_keep_the_words_around_numbers() {
        assert_eq!(shape("vbd 2/51712: 0.25s, 0xfg"), "vbd #/#: #s, #g");
        assert_eq!(shape("a  b\tc1.5"), "a b c#");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = shorten(&"ä\n".repeat(300));
        assert_eq!(text.chars().count(), 301);
        assert!(text.ends_with("ä …"), "{text}");
    }
}
