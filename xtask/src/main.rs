//! `cargo xtask`: builds Spindle, boots it under nested Xen and tests it there.
//!
//! One file or folder per task (`kernel`, `run`, `test`, `bench`, `interop`, `fuzz`, `miri`, `mutants`,
//! `simulate`, `ci`, `shell`, `lvm`, `flask`, `package`, `size`); `rig` holds the machine they share, `scenario` what is done with it; `freshness`
//! compares results with the sources of now.

#![forbid(unsafe_code)]

mod bench;
mod ci;
#[cfg(test)]
mod contract;
mod ctl;
mod deny;
mod flask;
mod freshness;
mod fuzz;
mod history;
mod interop;
mod kernel;
#[cfg(test)]
mod limits;
mod lvm;
mod miri;
mod mutants;
mod package;
mod rig;
mod run;
mod scenario;
mod shell;
mod simulate;
mod size;
mod spread;
mod tally;
mod test;
mod tools;
mod ui;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run and test Spindle, the storage driver domain.
///
/// Everything that is only logic is tested on the host. The rest runs under a nested Xen: QEMU
/// emulates a machine with an IOMMU and an NVMe disk, Debian's Xen and Linux boot on it, Spindle
/// takes the disk by PCI passthrough and serves it to Linux guests. No hardware virtualisation is
/// needed; root is, for Debian's packages. Images and logs are kept under target/rig/.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the bootable image, target/spindle.elf, and print its size.
    Build,
    /// Show the whole road once: a Linux guest puts files on an NVMe disk through Spindle,
    /// a second guest and then this host check them.
    Run(run::Args),
    /// Run every test: the host's first, then the scenarios under nested Xen.
    Test(test::Args),
    /// What CI does: formatting, lints, documentation, licences, advisories, mutants, models, fuzz
    /// targets, Miri, then `test` on both suites, with half of the scenarios beyond the core.
    Ci(ci::Args),
    /// Compare Spindle with Linux' xen-blkback, and measure its hot path on the host.
    Bench(bench::Args),
    /// Make the table of frontends, disks and data paths that work together (20 minutes).
    Interop(interop::Args),
    /// Feed hostile input to everything that others have a say in (`run` needs a nightly
    /// compiler).
    #[command(subcommand)]
    Fuzz(fuzz::Action),
    /// Run the host's tests under Miri, which finds undefined behaviour (needs a nightly
    /// compiler; half an hour).
    Miri(miri::Args),
    /// Check the rings' hold-off and the mailboxes under every interleaving.
    Loom,
    /// Check the rig's shell scripts with shellcheck, which is installed if it is missing.
    Shellcheck,
    /// Change the code in one place at a time and see whether the tests notice (hours; with
    /// --changed only in what a change touches).
    Mutants(mutants::Args),
    /// Run simulated domains in virtual time, in which everything that can go wrong does (see
    /// `cargo xtask simulate --help` for its options).
    #[command(disable_help_flag = true)]
    Simulate(simulate::Args),
    /// Compare the reader and the writer of LVM2 metadata with LVM itself, on volume groups that both
    /// change at random (root; a second for each group).
    Lvm(lvm::Args),
    /// Check the FLASK policy module in ctl/flask with checkpolicy, which is installed if it is missing.
    Flask(flask::Args),
    /// Make a Debian package of the image, the tool and its systemd unit, with a list of what it is made of.
    Package(package::Args),
    /// Print the size of the image and of each crate (lines, `unsafe` blocks).
    Size,
}

/// The top folder of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Build => kernel::build().map(|_| ()),
        Task::Run(args) => run::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Ci(args) => ci::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Interop(args) => interop::run(&args),
        Task::Fuzz(action) => fuzz::run(&action),
        Task::Miri(args) => miri::run(&args),
        Task::Loom => miri::loom(),
        Task::Shellcheck => shell::run(),
        Task::Mutants(args) => mutants::run(&args),
        Task::Simulate(args) => simulate::run(&args),
        Task::Lvm(args) => lvm::run(&args),
        Task::Flask(args) => flask::run(&args),
        Task::Package(args) => package::run(&args),
        Task::Size => size::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
