//! The command line: commands, options, their defaults and limits.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

use crate::crash::{self, How};
use crate::generate::Generated;
use crate::plan::Route;

/// The longest time that can be waited for, in seconds: a day.
const DAY: u64 = 24 * 60 * 60;

/// Create, destroy and watch Spindle storage domains. Runs in dom0, as root.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// Print data as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print tables whole, however narrow the terminal is.
    #[arg(long, global = true)]
    pub(crate) wide: bool,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create a Spindle domain with its disks, and wait until it serves. If a step fails, or on
    /// Ctrl-C, everything is restored to what it was.
    Create(CreateArgs),
    /// Shut a Spindle domain down and return its disks to dom0's drivers; also cleans up after a
    /// domain that ended by itself. Disks that guests still use are not returned.
    Destroy(DestroyArgs),
    /// Replace a Spindle domain that `create` made, whether it runs or not, by a new one, and print
    /// how its guests get their disks back. If it fails, it can be tried again: the disks stay with
    /// xen-pciback meanwhile.
    Restart(RestartArgs),
    /// Have another image follow the one that runs in a Spindle domain, in place: its guests notice a
    /// pause. If the image does not serve, the one before it goes on.
    Update(UpdateArgs),
    /// Have a running Spindle look at its disks again, for one that was lost, replaced or formatted, for
    /// new namespaces, and for partitions and logical volumes that others have changed, and print the
    /// state of each. What a guest has open grows if it has; else it stays as it was, with the reason.
    Rescan(RescanArgs),
    /// Set or show the limits and the weight of a guest's disk, or of a group of disks. They hold until
    /// the disk is detached, also over a death or an update of the kernel, and are of a group's until
    /// the domain ends.
    Limit(LimitArgs),
    /// Make, extend, remove, rename or list logical volumes of the groups that a Spindle serves. LVM takes
    /// what is written for its own.
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Set options of a Spindle while it runs: log and poll_us. They hold over a death or an update of the
    /// kernel, until the domain ends.
    Set(SetArgs),
    /// Give a running guest a disk of a Spindle, under the first free name unless another is asked for, and
    /// wait until it is connected. A target is named as in a disk line, or by how its name begins.
    Attach(AttachArgs),
    /// Take a disk from its guest, and wait until it is gone.
    Detach(DetachArgs),
    /// Have the kernel of a Spindle die, to see that it starts again in its own domain and that guests
    /// notice no more than a pause. It must have been created with the option drill=on.
    Crash(CrashArgs),
    /// List Spindle domains, their disks, and the guests that use them. The exit status is 7 if one that
    /// spindlectl made has ended or shows nothing.
    List,
    /// Ask Spindle domains whether they do their work: each answers at once if it does. The exit status is 7
    /// if one does not.
    Health(HealthArgs),
    /// Watch over a Spindle domain, for a service of the host: have a kernel that hangs start again in place,
    /// by an NMI, and put a new domain in the place of one that has ended. Ends with Ctrl-C.
    Watch(WatchArgs),
    /// Print the counters of all disks and cores.
    Stat(StatArgs),
    /// Show the rates of all disks and cores, again and again: on a terminal as a screen, ordered by any
    /// column, with its keys on the last line; else as tables, with the time.
    Top(Top),
    /// Print the counters of disks and cores in the format of Prometheus, for the textfile collector
    /// of its node exporter.
    Metrics,
    /// Say what a guest's disk waits for, why it was refused, what its guest and Spindle have agreed on, and
    /// what would make it faster.
    Why(WhyArgs),
    /// Print what happened last to a guest's disk: connections, refused and failed requests, limits, losses;
    /// also from before a death of the kernel. News take up to 5 seconds.
    Trace(WhyArgs),
    /// Print an NVMe controller's SMART log, as `nvme smart-log` does. Nothing but reading is asked of it.
    Smart(NvmeArgs),
    /// Print what an NVMe controller is and can, as `nvme id-ctrl` does.
    IdCtrl(NvmeArgs),
    /// Print what a namespace of an NVMe controller is, as `nvme id-ns` does.
    IdNs(NvmeArgs),
    /// Print the errors that an NVMe controller has recorded, as `nvme error-log` does, but only entries that
    /// hold something.
    ErrorLog(ErrorLogArgs),
    /// Print what a Spindle has written to its console, also one that has ended.
    Log(LogArgs),
    /// Look whether this host is fit for Spindle, and what to do where it is not.
    Check(CheckArgs),
    /// Print completions of shells, manual pages, and tables of what is published.
    Generate(GenerateArgs),
}

// No documentation comment: clap would take it for what the command does.
#[derive(Args)]
pub(crate) struct LockArgs {
    /// Seconds to wait for another spindlectl that changes something.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) lock_timeout: u64,
}

#[derive(Args)]
pub(crate) struct CreateArgs {
    /// A configuration file as for xl, in which pci= is allowed with type="pvh", too.
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
    /// Number of vCPUs: the first is the control core, each further one a ring core [default: 3].
    #[arg(long)]
    pub(crate) vcpus: Option<u64>,
    /// A disk's PCI address, as `lspci -D` prints it; may be repeated.
    #[arg(long, value_name = "BDF")]
    pub(crate) pci: Vec<String>,
    /// Spindle's image [default: /usr/lib/spindle/spindle.elf].
    #[arg(long, value_name = "PATH")]
    pub(crate) image: Option<String>,
    /// An option for Spindle itself, such as poll_us=50; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) knobs: Vec<String>,
    /// The preload library for the PVH route [default: beside spindlectl, or in /usr/lib/spindle].
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<String>,
    /// Seconds to wait until the domain serves.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
    /// Leave a domain that fails as it is, so that it can be examined.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Check everything and print the commands, but change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
pub(crate) struct DestroyArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Destroy it even if guests use its disks, or if that cannot be determined. Disks that guests
    /// still use afterwards stay with xen-pciback.
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave the disks with xen-pciback, so that dom0 does not read what guests have written to them.
    #[arg(long)]
    pub(crate) keep_disk: bool,
    /// Seconds that the domain has to shut down, before it is destroyed.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct RestartArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Restart it even if guests use its disks, or if that cannot be determined: I/O that is in
    /// flight is lost, and those guests wait for it without end.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do nothing if it runs by then: for one that was seen to have ended.
    #[arg(long, conflicts_with = "force")]
    pub(crate) unless_runs: bool,
    /// The preload library for the PVH route [default: beside spindlectl, or in /usr/lib/spindle].
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<String>,
    /// Seconds to wait until the old domain has ended, and again until the new one serves.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct UpdateArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// The image [default: /usr/lib/spindle/spindle.elf]. The domain's configuration keeps the file that
    /// it names: the next start of the domain, also by `xl reboot`, takes that.
    #[arg(long, value_name = "PATH")]
    pub(crate) image: Option<String>,
    /// Have the image checked, here and by the domain, but change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Seconds that the image has to serve all that is connected, before it is ended so that the one
    /// before it goes on. A disk that starts slowly may need 30.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct RescanArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Print only the state of this controller or disk, such as nvme0.
    pub(crate) disk: Option<String>,
    /// Seconds to wait for the answer, for which a controller that starts slowly may need 30.
    #[arg(long, default_value_t = 40, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
}

#[derive(Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume. Its blocks hold what they held before.
    Create(SizedVolume),
    /// Make a volume larger; a guest that has it open sees that at once.
    Extend(SizedVolume),
    /// Take a volume that no guest has open out of its group.
    Remove(NamedVolume),
    /// Give a volume that no guest has open another name.
    Rename(RenamedVolume),
    /// List volumes and who has them.
    List(ListedVolumes),
}

#[derive(Args)]
pub(crate) struct SizedVolume {
    #[command(flatten)]
    pub(crate) volume: NamedVolume,
    /// Its size with a unit, such as 10G: K, M, G or T. To extend it, +SIZE adds that much.
    pub(crate) size: String,
}

#[derive(Args)]
pub(crate) struct RenamedVolume {
    #[command(flatten)]
    pub(crate) volume: NamedVolume,
    /// Its new name, with its group's or without.
    pub(crate) to: String,
}

#[derive(Args)]
pub(crate) struct NamedVolume {
    /// The domain's name.
    pub(crate) name: String,
    /// The volume: GROUP/VOLUME, such as vg0/web.
    pub(crate) volume: String,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct ListedVolumes {
    /// The domain's name.
    pub(crate) name: String,
    /// List only those of this group.
    pub(crate) group: Option<String>,
}

#[derive(Args)]
pub(crate) struct LimitArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Whose limits: GUEST/DISK, such as web/xvda, or @GROUP.
    pub(crate) whose: String,
    /// What is to be other than it is: iops=N and bandwidth=BYTES a second, each also with -read or
    /// -write, burst=MS, weight=1..64, group=NAME; none for no limit or no group. Without any, what holds
    /// is printed.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) words: Vec<String>,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct SetArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// What is to be other than it is: log=off, error, warn, info, debug or trace; poll_us=MICROSECONDS or
    /// always. Without any, what was set so is printed.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) words: Vec<String>,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct AttachArgs {
    /// The guest, by name or number.
    pub(crate) guest: String,
    /// What it is to be given, such as nvme0n1p1, vg0/web or PARTLABEL=web; with limits or shared: before it
    /// as in a disk line.
    pub(crate) target: String,
    /// What the guest is to call it [default: the first of xvda to xvdp that it has not].
    #[arg(long)]
    pub(crate) vdev: Option<String>,
    /// Let the guest only read it.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The domain that has it, if several do.
    #[arg(long, value_name = "NAME")]
    pub(crate) from: Option<String>,
    /// Seconds to wait until it is connected.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct DetachArgs {
    /// The guest and what it calls the disk, such as web/xvda; one of them where that is enough.
    pub(crate) device: String,
    /// Cut it off even if the guest uses it, which has I/O errors there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Seconds to wait until it is gone.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) lock: LockArgs,
}

#[derive(Args)]
pub(crate) struct CrashArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// What it is to die of.
    #[arg(long, value_enum, default_value_t = How::Panic)]
    pub(crate) how: How,
    /// The core that is to die: 0 is the control core, the others are ring cores.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(..crash::CORES))]
    pub(crate) core: u32,
    /// Seconds to wait until it serves again; a hang alone takes 20 to be noticed.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
}

#[derive(Args)]
pub(crate) struct StatArgs {
    /// Print every counter on a line of its own, with what it means.
    #[arg(long)]
    pub(crate) explain: bool,
}

#[derive(Args)]
pub(crate) struct WhyArgs {
    /// The guest and what it calls the disk, such as web/xvda; one of them where that is enough.
    pub(crate) device: String,
}

#[derive(Args)]
pub(crate) struct HealthArgs {
    /// The domain's name [default: all].
    pub(crate) name: Option<String>,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=DAY))]
    pub(crate) timeout: u64,
}

#[derive(Args)]
pub(crate) struct WatchArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=DAY))]
    pub(crate) every: u64,
    /// Seconds to wait for an answer; three in a row have to be missed before anything is done.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=DAY))]
    pub(crate) timeout: u64,
}

#[derive(Args)]
pub(crate) struct NvmeArgs {
    /// The disk, such as nvme0 or nvme0n1.
    pub(crate) disk: String,
    /// The domain that has it, if several do.
    #[arg(long, value_name = "NAME")]
    pub(crate) from: Option<String>,
    /// Seconds to wait for each part of the answer.
    #[arg(long, default_value_t = 15, value_parser = value_parser!(u64).range(..=DAY))]
    pub(crate) timeout: u64,
}

#[derive(Args)]
pub(crate) struct ErrorLogArgs {
    #[command(flatten)]
    pub(crate) disk: NvmeArgs,
    /// How many entries to read, of those that the log has.
    #[arg(long, short = 'e', value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=64))]
    pub(crate) entries: u32,
}

#[derive(Args)]
pub(crate) struct LogArgs {
    /// The domain's name.
    pub(crate) name: String,
    /// How many lines to begin with, of the last 256 KiB.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub(crate) lines: usize,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The PCI address of a disk that Spindle is to have; may be repeated [default: all disks there are].
    #[arg(long, value_name = "BDF")]
    pub(crate) pci: Vec<String>,
}

#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// What to generate.
    #[arg(value_enum)]
    pub(crate) what: Generated,
    /// Write into files of this folder, instead of to standard output.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) into: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Top {
    /// Seconds between two lines; Spindle publishes its counters every 5 seconds.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=DAY))]
    pub(crate) every: u64,
    /// End after this many lines for each disk and core; implies --batch.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Order the rows by the column of this heading, the highest first [default: reads].
    #[arg(long, value_name = "COLUMN")]
    pub(crate) sort: Option<String>,
    /// Print one table after the other, also on a terminal.
    #[arg(long, short)]
    pub(crate) batch: bool,
}
