//! What can be set of a device or a group, and how it is written: `key=value`, with colons or spaces
//! between. It stands before a target in a guest's disk line, in an option, and in orders of
//! `spindlectl limit`, and is published in the same words.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::ops::RangeInclusive;

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RateKind {
    /// Requests: reads, writes, flushes and discards.
    Requests,
    /// Reads.
    Reads,
    /// Writes.
    Writes,
    /// Bytes read and written.
    Bytes,
    /// Bytes read.
    BytesRead,
    /// Bytes written.
    BytesWritten,
}

impl RateKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Requests,
        Self::Reads,
        Self::Writes,
        Self::Bytes,
        Self::BytesRead,
        Self::BytesWritten,
    ];

    /// Whether it counts bytes rather than requests.
    #[must_use]
    pub const fn is_of_bytes(self) -> bool {
        matches!(self, Self::Bytes | Self::BytesRead | Self::BytesWritten)
    }
}

/// The weight of what has none given.
pub const DEFAULT_WEIGHT: u8 = 8;
/// The greatest weight.
pub const MAX_WEIGHT: u8 = 64;
/// For so long in the past a device may make up for what it did not use, unless it is said otherwise.
const DEFAULT_BURST_MS: u32 = 10;
/// The longest such time.
const MAX_BURST_MS: u64 = 60_000;
/// Requests in a second.
const IOPS: RangeInclusive<u64> = 1..=100_000_000;
/// Bytes in a second.
const BYTES: RangeInclusive<u64> = 4096..=1 << 40;
/// The longest name of a group, in bytes.
const MAX_NAME: usize = 15;

/// The keys of what is a number: first those of [`RateKind::ALL`].
const KEYS: [&str; 8] = [
    "iops",
    "iops-read",
    "iops-write",
    "bandwidth",
    "bandwidth-read",
    "bandwidth-write",
    "burst",
    "weight",
];
/// In place of a number: it is not given.
const UNSET: u64 = u64::MAX;
const RATES: usize = RateKind::ALL.len();
const BURST: usize = 6;
const WEIGHT: usize = 7;

/// What was given of a device or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoLimits {
    /// In the order of [`KEYS`], or [`UNSET`]. A rate of 0: expressly without a limit.
    numbers: [u64; KEYS.len()],
    /// The empty name: expressly in none.
    group: Option<String>,
}

/// Why limits cannot be set: a sentence for who wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLimit(String);

impl fmt::Display for BadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for BadLimit {}

impl Default for IoLimits {
    fn default() -> Self {
        Self {
            numbers: [UNSET; KEYS.len()],
            group: None,
        }
    }
}

impl IoLimits {
    /// Takes a setting off the beginning of a target: gives it, and what follows its colon. `None` if
    /// the target begins with no key of a limit.
    #[must_use]
    pub fn prefix(target: &str) -> Option<(&str, &str)> {
        let (word, rest) = target.split_once(':')?;
        let (key, _) = word.split_once('=')?;
        (key == "group" || KEYS.contains(&key)).then_some((word, rest))
    }

    /// Sets all that stands in `words`, with colons or white space between.
    ///
    /// # Errors
    /// If any of it is no setting; nothing is changed then.
    pub fn set_all(&mut self, words: &str) -> Result<(), BadLimit> {
        let mut new = self.clone();
        let is_between = |c: char| c == ':' || c.is_ascii_whitespace();
        for word in words.split(is_between).filter(|word| !word.is_empty()) {
            new.set(word)?;
        }
        *self = new;
        Ok(())
    }

    fn set(&mut self, word: &str) -> Result<(), BadLimit> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let at = KEYS.iter().position(|known| *known == key);
        let (allowed, unit, expected) = match at {
            Some(..3) => (
                IOPS,
                false,
                "none, or requests a second from 1 to 100000000",
            ),
            Some(..RATES) => (
                BYTES,
                true,
                "none, or bytes a second from 4K to 1024G, such as 50M",
            ),
            Some(BURST) => (0..=MAX_BURST_MS, false, "milliseconds from 0 to 60000"),
            Some(_) => (1..=MAX_WEIGHT as u64, false, "a number from 1 to 64"),
            None if key == "group" => (
                0..=0,
                false,
                "none, or a name of at most 15 letters, digits, - and _",
            ),
            None => {
                let text = format!(
                    "\"{key}\" is no limit: there are iops, bandwidth, each also with -read or \
                     -write, burst, weight and group"
                );
                return Err(BadLimit(text));
            }
        };
        let known = match at {
            Some(at) => {
                let none = (at < RATES && value == "none").then_some(0);
                let number = none.or_else(|| number(value, unit, &allowed));
                number.map(|number| self.numbers[at] = number)
            }
            None => {
                let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                let is_name = (1..=MAX_NAME).contains(&value.len()) && value.bytes().all(letter);
                let name = if value == "none" { "" } else { value };
                is_name.then(|| self.group = Some(String::from(name)))
            }
        };
        known.ok_or_else(|| {
            BadLimit(format!(
                "\"{value}\" is no value for {key}: expected {expected}"
            ))
        })
    }

    /// The same with `others` for what is not given.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        let mut all = self.clone();
        for (number, other) in all.numbers.iter_mut().zip(others.numbers) {
            if *number == UNSET {
                *number = other;
            }
        }
        if all.group.is_none() {
            all.group.clone_from(&others.group);
        }
        all
    }

    /// The rates that there are, in requests or bytes a second.
    pub fn limited(&self) -> impl Iterator<Item = (RateKind, u64)> {
        let rates = RateKind::ALL.into_iter().zip(self.numbers);
        rates.filter(|&(_, rate)| !matches!(rate, 0 | UNSET))
    }

    /// For how many milliseconds in the past may be made up.
    #[must_use]
    pub fn burst_ms(&self) -> u32 {
        match self.numbers[BURST] {
            UNSET => DEFAULT_BURST_MS,
            burst => burst as u32,
        }
    }

    /// The weight, 1 to [`MAX_WEIGHT`].
    #[must_use]
    pub fn weight(&self) -> u8 {
        match self.numbers[WEIGHT] {
            UNSET => DEFAULT_WEIGHT,
            weight => weight as u8,
        }
    }

    /// The group, if it is in one.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether anything is said of a group.
    #[must_use]
    pub fn names_group(&self) -> bool {
        self.group.is_some()
    }
}

/// As [`IoLimits::set_all`] reads it.
impl fmt::Display for IoLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (at, (key, number)) in KEYS.iter().zip(self.numbers).enumerate() {
            match number {
                UNSET => continue,
                0 if at < RATES => write!(f, "{between}{key}=none")?,
                number => write!(f, "{between}{key}={number}")?,
            }
            between = ":";
        }
        match self.group.as_deref() {
            None => Ok(()),
            Some("") => write!(f, "{between}group=none"),
            Some(name) => write!(f, "{between}group={name}"),
        }
    }
}

/// Digits; with `unit`, perhaps followed by `K`, `M` or `G` (powers of 1024), as xl writes sizes.
fn number(text: &str, unit: bool, allowed: &RangeInclusive<u64>) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' if unit => (&text[..text.len() - 1], 10),
        b'M' | b'm' if unit => (&text[..text.len() - 1], 20),
        b'G' | b'g' if unit => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    allowed.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn of(words: &str) -> IoLimits {
        let mut limits = IoLimits::default();
        limits.set_all(words).expect(words);
        limits
    }

    #[test]
    fn words_set_limits_and_the_last_one_wins() {
        let limits =
            of("iops=500 bandwidth=50M:bandwidth-read=4K\nburst=0 weight=64:iops=7:group=db-1");
        let rates = [
            (RateKind::Requests, 7),
            (RateKind::Bytes, 50 << 20),
            (RateKind::BytesRead, 4096),
        ];
        assert_eq!((limits.limited().eq(rates), limits.burst_ms()), (true, 0));
        assert_eq!((limits.weight(), limits.group()), (64, Some("db-1")));
        let none = of("iops=none:group=none");
        assert_eq!((none.limited().count(), none.group()), (0, None));
        assert_eq!((none.weight(), none.burst_ms()), (8, 10));
    }

    #[test]
    fn what_is_no_limit_is_named_and_changes_nothing() {
        let before = of("iops=500:weight=2");
        for (words, text) in [
            (
                "iops=0",
                "\"0\" is no value for iops: expected none, or requests a second from 1",
            ),
            ("iops", "\"\" is no value for iops"),
            ("iops-write=100000001", "no value for iops-write"),
            ("iops=5k", "\"5k\" is no value for iops"),
            ("iops=+5", "\"+5\" is no value for iops"),
            ("bandwidth=4095", "expected none, or bytes a second from 4K"),
            ("bandwidth=1025G", "\"1025G\" is no value for bandwidth"),
            (
                "bandwidth-write=99999999999999999999G",
                "no value for bandwidth-write",
            ),
            ("bandwidth=M", "\"M\" is no value for bandwidth"),
            ("burst=60001", "milliseconds from 0 to 60000"),
            ("weight=0", "a number from 1 to 64"),
            ("weight=65", "a number from 1 to 64"),
            ("group=", "a name of at most 15 letters"),
            ("group=sixteen-letters-", "a name of at most 15 letters"),
            ("group=a.b", "\"a.b\" is no value for group"),
            ("group=a/b", "\"a/b\" is no value for group"),
            ("iop=5", "\"iop\" is no limit: there are iops, bandwidth"),
        ] {
            let mut limits = before.clone();
            let error = limits.set_all(&format!("weight=3 {words}")).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(limits, before, "{words}");
        }
    }

    #[test]
    fn settings_are_taken_off_a_target_and_nothing_else_is() {
        let mut target = "iops=500:bandwidth-read=5M:group=a:PARTLABEL=weight=2:x";
        let mut words = alloc::vec::Vec::new();
        while let Some((word, rest)) = IoLimits::prefix(target) {
            words.push(word);
            target = rest;
        }
        assert_eq!(words, ["iops=500", "bandwidth-read=5M", "group=a"]);
        assert_eq!(target, "PARTLABEL=weight=2:x");
        for other in [
            "nvme0n1",
            "iops:nvme0n1",
            "iops=5",
            "PARTUUID=1:2",
            "iop=5:nvme0n1",
        ] {
            assert_eq!(IoLimits::prefix(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_given_is_taken_from_others() {
        let own = of("iops=none:weight=2");
        let all = own.or(&of("iops=500:bandwidth=1M:burst=5:group=g"));
        assert_eq!(all, of("iops=none:bandwidth=1M:burst=5:weight=2:group=g"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(
            numbers in prop::array::uniform8(prop::option::of(4096..60_000u64)),
            none in prop::array::uniform8(any::<bool>()),
            weight in prop::option::of(1..64u64),
            group in prop::option::of("[a-z]{0,5}"),
        ) {
            let numbers = numbers.map(|number| number.unwrap_or(UNSET));
            let mut limits = IoLimits { numbers, group };
            for (number, none) in limits.numbers.iter_mut().zip(none) {
                *number = if none { 0 } else { *number };
            }
            limits.numbers[WEIGHT] = weight.unwrap_or(UNSET);
            prop_assume!(limits.group.as_deref() != Some("none"));
            prop_assert_eq!(of(&limits.to_string()), limits);
        }

        #[test]
        fn no_words_make_it_panic(words: String) {
            let _ = IoLimits::prefix(&words);
            let _ = IoLimits::default().set_all(&words);
        }
    }
}
