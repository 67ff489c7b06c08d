//! The knobs themselves: names, defaults, and how a word sets one.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::LevelFilter;

use crate::value::{nearest, size};

/// Every key, for the message about an unknown one. `ramN` stands for `ram0`, `ram1`, ...
const KEYS: [&str; 2] = ["log", "ramN"];

/// Most RAM disks.
const MAX_RAM_DISKS: usize = 16;

/// A RAM disk to make: `ramN=SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamDiskSize {
    /// N.
    pub number: u8,
    /// Size in bytes.
    pub bytes: u64,
}

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `log=`: the least severe messages that are still written.
    pub log: LevelFilter,
    /// `ramN=`: RAM disks, by number.
    pub ram_disks: Vec<RamDiskSize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LevelFilter::Info,
            ram_disks: Vec::new(),
        }
    }
}

/// Why a word was skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such key.
    #[error("unknown knob \"{0}\"{hint}", hint = hint(.1))]
    UnknownKey(String, Option<&'static str>),
    /// A known key with a value that is none.
    #[error("\"{value}\" is no value for {key}: expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would be one.
        expected: &'static str,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| {
        alloc::format!("; did you mean \"{key}\"?")
    })
}

impl Config {
    /// Sets one knob. `value` is `None` for a word without `=`.
    ///
    /// # Errors
    /// If there is no such knob or no such value; nothing is changed then.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), ConfigError> {
        let value = value.unwrap_or("");
        let bad = |expected| ConfigError::BadValue {
            key: key.to_string(),
            value: value.to_string(),
            expected,
        };
        if key == "log" {
            self.log = value
                .parse()
                .map_err(|_| bad("off, error, warn, info, debug or trace"))?;
            return Ok(());
        }
        let number = key
            .strip_prefix("ram")
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if let Some(Ok(number)) = number.map(str::parse::<u8>)
            && usize::from(number) < MAX_RAM_DISKS
        {
            let bytes = size(value).filter(|&bytes| bytes > 0);
            let bytes = bytes.ok_or_else(|| bad("a size such as 64M or 1G"))?;
            self.ram_disks.retain(|disk| disk.number != number);
            self.ram_disks.push(RamDiskSize { number, bytes });
            self.ram_disks.sort_by_key(|disk| disk.number);
            return Ok(());
        }
        Err(ConfigError::UnknownKey(
            key.to_string(),
            nearest(key, &KEYS),
        ))
    }

    /// Sets every knob in a text of words separated by white space, as in xenstore, and hands
    /// what could not be set to `complain`.
    pub fn set_all(&mut self, text: &str, mut complain: impl FnMut(ConfigError)) {
        for word in text.split_ascii_whitespace() {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word, None),
            };
            if let Err(error) = self.set(key, value) {
                complain(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_set_knobs_and_the_last_one_wins() {
        let mut config = Config::default();
        config.set_all("ram1=1G log=debug ram0=64M\nram1=2M", |error| {
            panic!("{error}")
        });
        assert_eq!(config.log, LevelFilter::Debug);
        let disks = [
            RamDiskSize {
                number: 0,
                bytes: 64 << 20,
            },
            RamDiskSize {
                number: 1,
                bytes: 2 << 20,
            },
        ];
        assert_eq!(config.ram_disks, disks);
    }

    #[test]
    fn a_bad_word_is_explained_and_leaves_the_rest_alone() {
        let mut config = Config::default();
        let mut complaints = Vec::new();
        config.set_all("lgo=debug log=loud ram0=0 ram99=1M ram1=1M", |error| {
            complaints.push(error.to_string());
        });
        let expected = [
            "unknown knob \"lgo\"; did you mean \"log\"?",
            "\"loud\" is no value for log: expected off, error, warn, info, debug or trace",
            "\"0\" is no value for ram0: expected a size such as 64M or 1G",
            "unknown knob \"ram99\"; did you mean \"ramN\"?",
        ];
        assert_eq!(complaints, expected);
        assert_eq!(
            config.ram_disks,
            [RamDiskSize {
                number: 1,
                bytes: 1 << 20
            }]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            Config::default().set_all(&text, |error| drop(error.to_string()));
        }
    }
}
