//! The command line: what there is to say, and its limits.

use clap::{Args, Parser, Subcommand, value_parser};

use crate::plan::Route;

/// The longest time that can be waited for, in seconds: a day.
const DAY: u64 = 24 * 60 * 60;

/// Create, destroy and watch Spindle storage domains. Runs in dom0, as root.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create a Spindle domain with its disks, and wait until it serves. If anything fails, or on
    /// Ctrl-C, everything is put back as it was.
    Create(CreateArgs),
    /// Shut a Spindle domain down and give its disks back to dom0's drivers; also cleans up after
    /// one that ended by itself. Disks that guests still have are not given back.
    Destroy(DestroyArgs),
    /// Put a new Spindle domain in the place of one that `create` made, be it dead or alive, and
    /// tell how its guests get their disks back. One that fails can be tried again: the disks stay
    /// with xen-pciback meanwhile.
    Restart(RestartArgs),
    /// List Spindle domains, what they serve, and to whom.
    List,
    /// Print the counters of all disks and cores.
    Stat,
    /// Show live rates of all disks and cores.
    Top(Top),
    /// Print the counters of disks and cores for Prometheus (for the textfile collector of its node
    /// exporter).
    Metrics,
}

#[derive(Args)]
pub(crate) struct CreateArgs {
    /// A configuration as for xl; with type="pvh", pci= is allowed here.
    pub(crate) config: Option<String>,
    /// How the disks are passed through [default: what the configuration's type says, or hvm].
    #[arg(long, value_enum)]
    pub(crate) route: Option<Route>,
    /// The domain's name [default: spindle].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Memory in MiB [default: 64].
    #[arg(long)]
    pub(crate) memory: Option<u64>,
    /// One for control, each further one polls rings [default: 3].
    #[arg(long)]
    pub(crate) vcpus: Option<u64>,
    /// A disk's PCI address, as `lspci -D` prints it; may be repeated.
    #[arg(long, value_name = "BDF")]
    pub(crate) pci: Vec<String>,
    /// Spindle's image [default: /usr/lib/spindle/spindle.elf].
    #[arg(long, value_name = "PATH")]
    pub(crate) image: Option<String>,
    /// A knob for Spindle; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) knobs: Vec<String>,
    /// The preload library for the PVH route [default: beside spindlectl, or in /usr/lib/spindle].
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<String>,
    /// Seconds to wait until it serves.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    /// Seconds to wait for another spindlectl that changes something.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) lock_timeout: u64,
    /// Leave a domain that fails as it is, to look at it.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Check everything, print what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
pub(crate) struct DestroyArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Even if guests use its disks, or if that cannot be found out. Disks that guests still have
    /// afterwards stay with xen-pciback.
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave the disks with xen-pciback, where dom0 does not read what guests have written to them.
    #[arg(long)]
    pub(crate) keep_disk: bool,
    /// Seconds to wait for it to shut down, before it is destroyed.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    /// Seconds to wait for another spindlectl that changes something.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) lock_timeout: u64,
}

#[derive(Args)]
pub(crate) struct RestartArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Even if guests use its disks, or if that cannot be found out: they lose what is in flight,
    /// and wait for it without end.
    #[arg(long)]
    pub(crate) force: bool,
    /// The preload library for the PVH route [default: beside spindlectl, or in /usr/lib/spindle].
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<String>,
    /// Seconds to wait for each, the end of the old one and the new one to serve.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    /// Seconds to wait for another spindlectl that changes something.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) lock_timeout: u64,
}

#[derive(Args)]
pub(crate) struct Top {
    /// Seconds between two looks; Spindle publishes every 5 seconds.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=DAY))]
    pub(crate) every: u64,
    /// End after so many looks.
    #[arg(long)]
    pub(crate) count: Option<u64>,
}
