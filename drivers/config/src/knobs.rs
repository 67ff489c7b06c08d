//! The options themselves: names, defaults, and how a word sets one.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use log::LevelFilter;
use spindle_limits::IoLimits;

use crate::value::{frames, nearest, size};

/// Every key, for the message about an unknown one. `ramN` stands for `ram0`, `ram1`, ...
const KEYS: [&str; 13] = [
    "log",
    "drill",
    "partitions",
    "poll_us",
    "path",
    "queues",
    "ring_order",
    "io_timeout",
    "limits",
    "group",
    "ramN",
    "nullN",
    "nvmeN",
];

/// Most disks of a type that an option makes, and most placed controllers.
const MAX_NUMBERED: usize = 16;

/// A disk to make, by an option such as `ramN=SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSize {
    /// N.
    pub number: u8,
    /// Size in bytes.
    pub bytes: u64,
}

/// The registers of an NVMe controller in a domain without PCI: `nvmeN=GFN,PAGES`, both in
/// hexadecimal, as they stand in xl's `iomem=[ "MFN,PAGES@GFN" ]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedController {
    /// N.
    pub number: u8,
    /// The first guest frame (page number) of BAR 0.
    pub frame: u64,
    /// How many pages of it there are.
    pub pages: u64,
}

/// `poll_us=`: how long a core goes on polling without finding work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollUs {
    /// So many microseconds; 0 = sleep at once.
    For(u32),
    /// Without an end.
    Always,
}

impl PollUs {
    /// The time in nanoseconds; `None` without an end.
    #[must_use]
    pub const fn ns(self) -> Option<u64> {
        match self {
            Self::For(us) => Some(us as u64 * 1000),
            Self::Always => None,
        }
    }
}

/// `path=`: how guests' data is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// Persistent grants of frontends that have them; others' data is copied.
    Auto,
    /// Persistent grants of frontends that have them; others' are mapped for each request.
    Persistent,
    /// Everything is copied, and persistent grants are not offered.
    Copy,
    /// Everything is mapped for each request, and persistent grants are not offered.
    Map,
}

impl DataPath {
    /// Whether persistent grants are offered.
    #[must_use]
    pub const fn offers_persistent(self) -> bool {
        matches!(self, Self::Auto | Self::Persistent)
    }

    /// Whether grants of a frontend are mapped, `persistent` or not.
    #[must_use]
    pub const fn maps(self, persistent: bool) -> bool {
        match self {
            Self::Auto => persistent,
            Self::Persistent | Self::Map => true,
            Self::Copy => false,
        }
    }
}

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `log=`: the least severe messages that are still written.
    pub log: LevelFilter,
    /// `poll_us=`: how long a ring core polls before it sleeps.
    pub poll: PollUs,
    /// `queues=`: at most so many queues are offered to a frontend, fewer where there are fewer
    /// ring cores.
    pub queues: u32,
    /// `path=`: how guests' data is reached.
    pub path: DataPath,
    /// `ring_order=`: log2 of the pages that a ring may have, 0 to 4.
    pub ring_order: u32,
    /// `partitions=`: whether partition tables are read.
    pub partitions: bool,
    /// `io_timeout=`: seconds that an NVMe command may take before it is aborted, and as many
    /// again before the controller is reset; or a virtio command before its disk is given up.
    pub io_timeout: u32,
    /// `limits=`: those of a device, for what its disk line does not say.
    pub limits: IoLimits,
    /// `group=NAME:...`: the limits of groups of devices, by name.
    pub groups: Vec<(String, IoLimits)>,
    /// `drill=`: whether an operator may have the kernel die, to see it start again.
    pub drill: bool,
    /// `ramN=`: RAM disks, by number.
    pub ram_disks: Vec<DiskSize>,
    /// `nullN=`: disks that store nothing and answer at once, by number.
    pub null_disks: Vec<DiskSize>,
    /// `nvmeN=`: controllers that dom0 placed into guest memory, by number.
    pub placed_controllers: Vec<PlacedController>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LevelFilter::Info,
            poll: PollUs::For(100),
            queues: u32::MAX,
            path: DataPath::Auto,
            ring_order: 4,
            partitions: true,
            io_timeout: 30,
            limits: IoLimits::default(),
            groups: Vec::new(),
            drill: false,
            ram_disks: Vec::new(),
            null_disks: Vec::new(),
            placed_controllers: Vec::new(),
        }
    }
}

impl Config {
    /// How many ring cores a domain of so many vCPUs has: all but the first, and no more than
    /// [`Config::queues`]. The only vCPU is one, too.
    #[must_use]
    pub fn ring_cores(&self, vcpus: usize) -> usize {
        let most = vcpus.saturating_sub(1).max(1);
        usize::try_from(self.queues).map_or(most, |queues| queues.min(most))
    }

    /// [`Config::io_timeout`].
    #[must_use]
    pub fn command_timeout(&self) -> Duration {
        Duration::from_secs(self.io_timeout.into())
    }
}

/// Why a word was skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such key.
    #[error("unknown option \"{0}\"{hint}", hint = hint(.1))]
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
    /// Sets one option. `value` is `None` for a word without `=`.
    ///
    /// # Errors
    /// If there is no such option or no such value; nothing is changed then.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), ConfigError> {
        let value = value.unwrap_or("");
        let bad = |expected| ConfigError::BadValue {
            key: key.to_string(),
            value: value.to_string(),
            expected,
        };
        let number = |expected, allowed: core::ops::RangeInclusive<u32>| {
            let number = value.parse().ok().filter(|n| allowed.contains(n));
            number.ok_or_else(|| bad(expected))
        };
        match key {
            "log" => {
                let expected = "off, error, warn, info, debug or trace";
                self.log = value.parse().map_err(|_| bad(expected))?;
            }
            "partitions" => self.partitions = switch(value).ok_or_else(|| bad("on or off"))?,
            "drill" => self.drill = switch(value).ok_or_else(|| bad("on or off"))?,
            "poll_us" if value == "always" => self.poll = PollUs::Always,
            "poll_us" => {
                let expected = "a number of microseconds or always";
                self.poll = PollUs::For(number(expected, 0..=u32::MAX)?);
            }
            "path" => {
                self.path = match value {
                    "auto" => DataPath::Auto,
                    "persistent" => DataPath::Persistent,
                    "copy" => DataPath::Copy,
                    "map" => DataPath::Map,
                    _ => return Err(bad("auto, persistent, copy or map")),
                }
            }
            "queues" => self.queues = number("a number from 1 on", 1..=u32::MAX)?,
            "io_timeout" => self.io_timeout = number("seconds from 1 to 3600", 1..=3600)?,
            "limits" => {
                let mut limits = IoLimits::default();
                let set = limits.set_all(value);
                set.map_err(|_| bad("limits such as iops=500:bandwidth=50M:weight=4"))?;
                self.limits = limits;
            }
            "group" => {
                let group = named(value);
                let expected = "a name and limits such as db:iops=500:weight=4";
                let (name, limits) = group.ok_or_else(|| bad(expected))?;
                self.groups.retain(|(other, _)| *other != name);
                self.groups.push((name, limits));
            }
            "ring_order" => self.ring_order = number("a number from 0 to 4", 0..=4)?,
            _ => {
                if let Some((number, disks)) = self.made(key) {
                    let bytes = size(value).filter(|&bytes| bytes > 0);
                    let bytes = bytes.ok_or_else(|| bad("a size such as 64M or 1G"))?;
                    disks.retain(|disk| disk.number != number);
                    let place = disks.partition_point(|disk| disk.number < number);
                    disks.insert(place, DiskSize { number, bytes });
                } else if let Some(number) = numbered(key, "nvme") {
                    let expected = "GFN,PAGES in hexadecimal, such as e0000,4";
                    let (frame, pages) = frames(value).ok_or_else(|| bad(expected))?;
                    let placed = &mut self.placed_controllers;
                    placed.retain(|controller| controller.number != number);
                    let controller = PlacedController {
                        number,
                        frame,
                        pages,
                    };
                    let place = placed.partition_point(|other| other.number < number);
                    placed.insert(place, controller);
                } else {
                    let hint = nearest(key, &KEYS);
                    return Err(ConfigError::UnknownKey(key.to_string(), hint));
                }
            }
        }
        Ok(())
    }

    /// N of a key that makes a disk, such as `ram0`, and where the disks of that type are noted.
    fn made(&mut self, key: &str) -> Option<(u8, &mut Vec<DiskSize>)> {
        let types = [("ram", &mut self.ram_disks), ("null", &mut self.null_disks)];
        types
            .into_iter()
            .find_map(|(name, disks)| Some((numbered(key, name)?, disks)))
    }

    /// Sets every option in a text of words separated by white space, as in xenstore, and hands
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

/// A group's name, and its limits.
fn named(value: &str) -> Option<(String, IoLimits)> {
    let (name, words) = value.split_once(':').unwrap_or((value, ""));
    let (mut member, mut limits) = (IoLimits::default(), IoLimits::default());
    member.set_all(&alloc::format!("group={name}")).ok()?;
    limits.set_all(words).ok()?;
    let name = member.group().filter(|_| !limits.names_group())?;
    Some((name.to_string(), limits))
}

/// `on` or `off`.
fn switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// N of a key such as `ramN`.
fn numbered(key: &str, name: &str) -> Option<u8> {
    let digits = key.strip_prefix(name)?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| plain)?;
    (usize::from(number) < MAX_NUMBERED).then_some(number)
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
            DiskSize {
                number: 0,
                bytes: 64 << 20,
            },
            DiskSize {
                number: 1,
                bytes: 2 << 20,
            },
        ];
        assert_eq!(config.ram_disks, disks);
    }

    #[test]
    fn polling_and_ring_limits_are_set_within_their_bounds() {
        let mut config = Config::default();
        config.set_all("poll_us=always queues=2 ring_order=0", |error| {
            panic!("{error}")
        });
        assert_eq!(
            (config.poll, config.queues, config.ring_order),
            (PollUs::Always, 2, 0)
        );
        let mut complaints = 0;
        let bad = "poll_us=-1 queues=0 ring_order=5 io_timeout=0";
        config.set_all(bad, |_| complaints += 1);
        assert_eq!((complaints, config.io_timeout), (4, 30));
        config.set_all("io_timeout=5", |error| panic!("{error}"));
        assert_eq!(config.io_timeout, 5);
        assert_eq!(
            (config.poll, config.queues, config.ring_order),
            (PollUs::Always, 2, 0)
        );
        config.set_all("poll_us=0", |error| panic!("{error}"));
        assert_eq!(config.poll, PollUs::For(0));
    }

    #[test]
    fn limits_are_set_of_devices_and_of_groups_and_bad_ones_change_nothing() {
        let mut config = Config::default();
        let words = "limits=iops=500:weight=4 group=db:bandwidth=1M group=web group=db:iops=7";
        config.set_all(words, |error| panic!("{error}"));
        assert_eq!(config.limits.to_string(), "iops=500:weight=4");
        let groups: Vec<_> = config
            .groups
            .iter()
            .map(|(name, limits)| (name.as_str(), limits.to_string()))
            .collect();
        assert_eq!(groups, [("web", String::new()), ("db", "iops=7".into())]);
        let before = config.clone();
        let mut complaints = Vec::new();
        let bad =
            "limits=iops=0 limits=x group=none:iops=5 group=a/b group=db:group=c group=db:iops=x";
        config.set_all(bad, |error| complaints.push(error.to_string()));
        assert_eq!((complaints.len(), &config), (6, &before));
        let expected = "\"iops=0\" is no value for limits: expected limits such as \
                        iops=500:bandwidth=50M:weight=4";
        assert_eq!(complaints[0], expected);
    }

    #[test]
    fn a_placed_controller_is_given_by_frames_in_hexadecimal() {
        let mut config = Config::default();
        config.set_all("nvme1=e0010,2 nvme0=e0000,4 nvme1=F0000,10", |error| {
            panic!("{error}")
        });
        let placed = |number, frame, pages| PlacedController {
            number,
            frame,
            pages,
        };
        let expected = [placed(0, 0xe0000, 4), placed(1, 0xf0000, 0x10)];
        assert_eq!(config.placed_controllers, expected);
        let mut complaints = Vec::new();
        config.set_all("nvme0=febf8 nvme16=e0000,4", |error| {
            complaints.push(error.to_string());
        });
        let expected_complaints = [
            "\"febf8\" is no value for nvme0: expected GFN,PAGES in hexadecimal, such as e0000,4",
            "unknown option \"nvme16\"; did you mean \"nvmeN\"?",
        ];
        assert_eq!(complaints, expected_complaints);
        assert_eq!(config.placed_controllers, expected);
    }

    #[test]
    fn partition_tables_are_read_unless_that_is_switched_off() {
        let mut config = Config::default();
        assert!(config.partitions);
        config.set_all("partitions=off", |error| panic!("{error}"));
        assert!(!config.partitions);
        let mut complaints = Vec::new();
        config.set_all("drill=on drill=off drill=on", |error| panic!("{error}"));
        assert!(config.drill && !Config::default().drill);
        config.set_all("partitions=yes partition=on", |error| {
            complaints.push(error.to_string());
        });
        let expected = [
            "\"yes\" is no value for partitions: expected on or off",
            "unknown option \"partition\"; did you mean \"partitions\"?",
        ];
        assert_eq!(complaints, expected);
        assert!(!config.partitions);
    }

    #[test]
    fn a_bad_word_is_explained_and_leaves_the_rest_alone() {
        let mut config = Config::default();
        let mut complaints = Vec::new();
        config.set_all("lgo=debug log=loud ram0=0 ram99=1M ram1=1M", |error| {
            complaints.push(error.to_string());
        });
        let expected = [
            "unknown option \"lgo\"; did you mean \"log\"?",
            "\"loud\" is no value for log: expected off, error, warn, info, debug or trace",
            "\"0\" is no value for ram0: expected a size such as 64M or 1G",
            "unknown option \"ram99\"; did you mean \"ramN\"?",
        ];
        assert_eq!(complaints, expected);
        assert_eq!(
            config.ram_disks,
            [DiskSize {
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
