//! The rig: a machine in QEMU that boots Debian's Xen and Linux, with NVMe and virtio disks and
//! an IOMMU, so that Spindle can be tried by `xl` as on real hardware.
//!
//! `images`, `grub` and `guests` make what is booted, out of packages of `debian`; `machine` boots
//! it in `qemu` with its `drives`, as the usual machine or another `variant`. `talk` is the
//! conversation with dom0 over `channel`, `outcome` how a scenario ends, `host_action` what it
//! asks of the host. `lossy` serves disks that lose what was not flushed. `monitor` is the line to
//! QEMU, `console` the one to Xen, `evidence` what is written down over them when something fails.
//! `places` says where the image's file is changed to have another image. `ends` knows the guests that the emulator has ended, from what `triple_fault` finds in logs.
//! `disk` looks at a disk from outside.

mod channel;
mod console;
mod cpio;
mod debian;
pub(crate) mod disk;
mod drives;
mod emulator;
mod ends;
mod evidence;
mod grub;
mod guests;
mod host_action;
mod images;
mod lossy;
mod machine;
mod mend;
mod monitor;
pub(crate) mod outcome;
pub(crate) mod packages;
mod payload;
mod places;
mod qemu;
mod stamp;
mod talk;
mod tree;
mod triple_fault;
mod variant;

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub(crate) use channel::Mark;
pub(crate) use ends::{End, MOST_TRIES, is_emulator};
pub(crate) use images::{Images, prepare};
pub(crate) use machine::{Machine, Retries, Setup};
pub(crate) use outcome::Outcome;
pub(crate) use payload::scripts;
pub(crate) use variant::Variant;

use crate::root;

/// Which Debian the rig is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Debian 12: Xen 4.17, Linux 6.1, and in dom0 QEMU 7.2.
    Bookworm,
    /// Debian 13: Xen 4.20, Linux 6.12, and in dom0 QEMU 10.0.
    Trixie,
}

impl Suite {
    /// Debian's name of the suite.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// The Xen release that the suite carries.
    pub(crate) fn xen(self) -> &'static str {
        match self {
            Self::Bookworm => "4.17",
            Self::Trixie => "4.20",
        }
    }

    /// Where the suite's images, disk and logs are kept.
    pub(crate) fn dir(self) -> PathBuf {
        root().join("target/rig").join(self.name())
    }
}

/// Who serves the guests' disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Spindle, with the NVMe disk passed through.
    Spindle,
    /// Linux' xen-blkback in dom0: checks the rig itself, and is what Spindle is compared to.
    Dom0,
    /// All guests at once, each with a disk of its own, to be compared by `bench`.
    #[value(skip)]
    Bench,
}

/// Held while a rig runs: two at once on one machine slow each other to a crawl.
pub(crate) struct Lock {
    _file: File,
}

/// Takes the rig for this process.
///
/// # Errors
/// Another process holds it.
pub(crate) fn lock() -> Result<Lock> {
    let path = root().join("target/rig/lock");
    fs::create_dir_all(root().join("target/rig"))?;
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another rig is running (it holds {}); wait for it to end",
                path.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).context("lock the rig"),
    }
}
