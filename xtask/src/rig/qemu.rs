//! QEMU: what it emulates, what Xen and dom0 are started with, and its end.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::machine::Setup;
use super::{Backend, drives};

/// TCG's SVM has no next-RIP and mishandles some features under Xen: with these off, Xen,
/// dom0 and the guests run stably.
const CPU: &str = "EPYC,+svm,+npt,-smap,-smep,-monitor,-xsave,-avx,-avx2,-fma,-f16c,-rdtscp";

/// One emulated CPU each for dom0, the driver domain and a guest.
pub(super) const CPUS: u32 = 3;

/// With more than one dom0 CPU, dom0 rarely dies at boot in code patching. What guards against
/// speculation costs much where nothing speculates. A lock for each processor's run queue: the
/// host may take away the processor that holds one for all. Memory is zero as QEMU gives it; to
/// scrub it keeps the processors from dom0's start.
const XEN: &str = "com1=115200,8n1 console=com1 dom0_mem=2G,max:2G dom0_max_vcpus=1 \
                   guest_loglvl=all loglvl=all spec-ctrl=no credit2_runqueue=cpu \
                   bootscrub=no";

/// Linux in dom0; guests have the same from `rig/dom0-lib.sh`. Address space randomisation is off:
/// QEMU 7.2 translates a page of a program anew for each address that it is mapped at, and Xen's
/// scrubbing of such a page then keeps a processor for minutes. Nor does Linux use `cmpxchg16b` (CPU
/// feature 141), which QEMU 7.2 sets flags wrongly for (`xtask/README.md`).
const LINUX: &str = "mitigations=off norandmaps clearcpuid=141";

/// QEMU's command line, but for the serial ports and the monitor. `setpriv` ends QEMU should this
/// process die.
pub(super) fn command(setup: &Setup, initrd: &Path) -> Command {
    let backend = setup.backend;
    let name = match backend {
        Backend::Spindle => "spindle",
        Backend::Dom0 => "dom0",
        Backend::Bench => "bench",
    };
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    setup.images.emulator.add(&mut command);
    command
        .args(["-accel", "tcg,thread=multi"])
        .args(["-machine", "q35", "-cpu", CPU, "-m", "5G"])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ])
        .arg("-kernel")
        .arg(&setup.images.xen)
        .args(["-append", &format!("{XEN} {}", setup.variant.xen())])
        .arg("-initrd")
        .arg(format!(
            "{} console=hvc0 rdinit=/init loglevel=4 {LINUX} backend={name},{}",
            setup.images.linux.display(),
            initrd.display()
        ))
        .args(["-device", setup.variant.iommu()])
        .args(["-smp", &setup.cpus.to_string()]);
    drives::add(&mut command, &setup.suite.dir(), setup);
    command
}

/// A QEMU that runs; it ends with this value.
pub(super) struct Qemu(pub(super) Child);

impl Qemu {
    /// Whether it runs.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Waits until it ends; `None` if it does not within `time`.
    pub(super) fn end_within(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(None)
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) -> Result<ExitStatus> {
        self.0.kill()?;
        Ok(self.0.wait()?)
    }

    /// How it ended.
    pub(super) fn epitaph(&mut self) -> String {
        self.end_within(Duration::from_secs(5)).map_or_else(
            |error| error.to_string(),
            |status| match status.map(|status| (status.signal(), status.code())) {
                Some((Some(signal), _)) => format!("QEMU ended by signal {signal}"),
                Some((None, code)) => {
                    format!("QEMU ended with status {}", code.unwrap_or_default())
                }
                // Such as when the host has no room for logs.
                None => "QEMU goes on, but the line to dom0 is lost".to_string(),
            },
        )
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
