//! Paths in xenstore. Those of nodes are relative to the home of Spindle's domain (`/local/domain/<id>`).

use alloc::format;
use alloc::string::String;
use core::fmt::Display;

macro_rules! nodes {
    ($($(#[doc = $help:literal])+ $name:ident = $leaf:literal, $shown:literal, $writer:ident;)*) => {
        $($(#[doc = $help])+ pub const $name: &str = concat!("data/spindle/", $leaf);)*

        /// All nodes below [`ROOT`], for people.
        pub const NODES: &[NodeInfo] = &[$(NodeInfo {
            path: $name,
            shown: $shown,
            writer: NodeWriter::$writer,
            help: concat!($($help),+),
        }),*];
    };
}

/// Where everything that Spindle publishes is.
pub const ROOT: &str = "data/spindle";

/// Who writes a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeWriter {
    /// Spindle.
    Spindle,
    /// Dom0.
    Dom0,
}

/// What a node is for.
#[derive(Clone, Copy, Debug)]
pub struct NodeInfo {
    /// Its path, or that of the folder of such nodes.
    pub path: &'static str,
    /// Its path below [`ROOT`] with what varies in angle brackets.
    pub shown: &'static str,
    /// Who writes it.
    pub writer: NodeWriter,
    /// What it holds, in Markdown.
    pub help: &'static str,
}

nodes! {
    /// Spindle's own options, as on its command line; written between `xl create -p` and `xl unpause`.
    CONFIG = "config", "config", Dom0;
    /// `1` when it serves.
    READY = "ready", "ready", Spindle;
    /// The version and the commit.
    VERSION = "version", "version", Spindle;
    /// A line for each whole disk, as many as 1,792 bytes hold: name, sectors of 512 bytes, block size in
    /// bytes, mode, model and serial number.
    DISKS = "disks", "disks", Spindle;
    /// A line for the disk, each partition, and each logical volume that begins there: name, sectors of 512
    /// bytes, block size in bytes, `r` or `w` (`-` as long as it is lost), who has it (`<guest>/<device>:w`
    /// or `-`), other names; 1,792 bytes at most. What is more is at `targets/<disk>-1` and so on.
    TARGETS = "targets", "targets/<disk>", Spindle;
    /// How many times the kernel has started in this domain.
    LIFE = "life", "life", Spindle;
    /// When the kernel started last (`at=`, seconds since 1970) and how long after the last death it served
    /// (`down_us=`, 0 for the first life); how often it has died (`deaths=`).
    START = "start", "start", Spindle;
    /// What ended the last life: `<cause> core=<n> <message>`.
    DEATH = "death", "death", Spindle;
    /// `on` or `off`: the option `drill`.
    DRILL = "drill", "drill", Spindle;
    /// With `drill=on`: have the kernel die of `panic`, `exception`, `hang` or `heap`, and on which core.
    CRASH = "crash", "crash", Dom0;
    /// Look at the disks again.
    RESCAN = "rescan", "rescan", Dom0;
    /// The answer: how many were given so far, and a line for each controller or disk.
    RESCANNED = "rescanned", "rescanned", Spindle;
    /// Written by `spindlectl update`: a number, the grant of the page that says where the image is, `check`
    /// if it is only to be checked.
    UPDATE = "update", "update", Dom0;
    /// What became of an update: the number, and `fits:`, `refused:`, `done:` or `failed:` with more.
    UPDATED = "updated", "updated", Spindle;
    /// Set limits: a word that the answer repeats, `<guest>/<device>` or `@<group>`, and limits with colons
    /// between.
    LIMIT = "limit", "limit", Dom0;
    /// What became of that: the word, and `done`, or `refused:` and why.
    LIMITED = "limited", "limited", Spindle;
    /// Change a logical volume: a word that the answer repeats, `create`, `extend`, `remove` or `rename`,
    /// `<group>/<volume>`, and what it takes.
    VOLUME = "volume", "volume", Dom0;
    /// What became of that: the word, and `done`, perhaps with a remark, or `refused:` and why.
    VOLUME_DONE = "volume-done", "volume-done", Spindle;
    /// Set an option while Spindle runs: a word that the answer repeats, and `KEY=VALUE`.
    SETTING = "setting", "setting", Dom0;
    /// What became of that: the word, and `done`, or `refused:` and why.
    SET = "set", "set", Spindle;
    /// The options that were set like that: they hold over a death and an update of the kernel, which reads
    /// them after all others.
    SETTINGS = "settings", "settings", Dom0;
    /// Ask an NVMe controller what it says of itself, which changes nothing: a word that the answer repeats,
    /// `smart`, `error-log`, `id-ctrl` or `id-ns`, the controller, how many entries or which namespace, and
    /// the byte to begin with.
    INSPECT = "inspect", "inspect", Dom0;
    /// What it says: the word, `done,` and 800 bytes from there on as hexadecimal digits, or `refused:` and why.
    INSPECTED = "inspected", "inspected", Spindle;
    /// The limits and the weight of a device or a group that has any.
    LIMITS = "limits", "limits/<guest>-<device>, limits/@<group>", Spindle;
    /// Counters of a device, summed over its rings, every 5 s; named as blkback's.
    STAT = "stat", "stat/<guest>-<device>", Spindle;
    /// How long a device's requests waited for Spindle, for the disk and for their limits, every 5 s.
    DELAYS = "delays", "delays/<guest>-<device>", Spindle;
    /// The last events of a core, also of former lives, for `spindlectl trace`; every 5 s if there are new ones.
    TRACE = "trace", "trace/<n>", Spindle;
    /// `nvme<n>`: a controller's SMART log, once a minute while it is in use, and when it warns; how often it
    /// was reset (`resets`) and had commands aborted (`aborts`); of a virtio disk as well,
    /// `spurious_completions`: how many answers it gave that nothing was waiting for, which are ignored.
    HEALTH = "disk", "disk/<controller>", Spindle;
    /// A ring core's busy share, poll iterations and sleeps, every 5 s.
    CORE = "core", "core/<n>", Spindle;
}

/// Folders of nodes that come and go with what they are about.
pub const FOLDERS: [&str; 7] = [TARGETS, STAT, DELAYS, CORE, TRACE, HEALTH, LIMITS];

/// Where a device's counters are.
#[must_use]
pub fn stat(guest: impl Display, device: impl Display) -> String {
    format!("{STAT}/{guest}-{device}")
}

/// Where a device's further counters are, those of delays.
#[must_use]
pub fn delays(guest: impl Display, device: impl Display) -> String {
    format!("{DELAYS}/{guest}-{device}")
}

/// Where a device's limits are.
#[must_use]
pub fn limits(guest: impl Display, device: impl Display) -> String {
    format!("{LIMITS}/{guest}-{device}")
}

/// Where a group's limits are.
#[must_use]
pub fn group_limits(name: impl Display) -> String {
    format!("{LIMITS}/@{name}")
}

/// The guest and the device of a path below [`STAT`], given without that folder.
#[must_use]
pub fn parse_stat(leaf: &str) -> Option<(u32, u32)> {
    let (guest, device) = leaf.split_once('-')?;
    Some((guest.parse().ok()?, device.parse().ok()?))
}

/// Where a ring core's counters are.
#[must_use]
pub fn core(number: impl Display) -> String {
    below(CORE, number)
}

/// Where the last events of a core are; the control core is number 0.
#[must_use]
pub fn trace(core: impl Display) -> String {
    below(TRACE, core)
}

/// Where a disk and its partitions are listed: the page of this number, from 0.
#[must_use]
pub fn targets(disk: &str, page: usize) -> String {
    match page {
        0 => below(TARGETS, disk),
        page => below(TARGETS, format_args!("{disk}-{page}")),
    }
}

/// Where a controller's own account of its health is.
#[must_use]
pub fn health(controller: &str) -> String {
    below(HEALTH, controller)
}

fn below(folder: &str, leaf: impl Display) -> String {
    format!("{folder}/{leaf}")
}
