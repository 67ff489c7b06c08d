//! The emulated machine: QEMU with SVM, an IOMMU and NVMe disks, booted into Xen and dom0, which
//! then runs one scenario after another on command (`talk`).

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::channel::{self, Mark};
use super::console::Console;
use super::ends::Ends;
use super::lossy::Lossy;
use super::monitor::Monitor;
use super::qemu::{self, Qemu};
use super::{Backend, Images, Suite, Variant, drives, payload};
use crate::ui::{self, Progress};

/// Xen and dom0 need 11 to 25 s on an idle machine of two cores.
const BOOT_TIMEOUT: Duration = Duration::from_secs(150);

/// What a machine is made of.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Which Debian.
    pub(crate) suite: Suite,
    /// The suite's images.
    pub(crate) images: &'a Images,
    /// Spindle, if it takes part.
    pub(crate) kernel: Option<&'a Path>,
    /// Who serves the disk.
    pub(crate) backend: Backend,
    /// The number of emulated CPUs.
    pub(crate) cpus: u32,
    /// What else is unlike the usual machine.
    pub(crate) variant: Variant,
}

impl<'a> Setup<'a> {
    /// The usual machine.
    pub(crate) fn new(
        suite: Suite,
        images: &'a Images,
        kernel: Option<&'a Path>,
        backend: Backend,
    ) -> Self {
        Self {
            suite,
            images,
            kernel,
            backend,
            cpus: qemu::CPUS,
            variant: Variant::Usual,
        }
    }
}

/// Why something was tried a second time, each time that it was; a copy sees what comes later.
#[derive(Clone, Default)]
pub(crate) struct Retries(Rc<RefCell<Vec<String>>>);

impl Retries {
    /// Takes those until now.
    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }

    pub(super) fn add(&self, why: &str) {
        ui::step("rig", &format!("second try: {why}"));
        self.0.borrow_mut().push(why.to_string());
    }
}

/// A booted rig.
pub(crate) struct Machine {
    pub(super) qemu: Qemu,
    /// The disks that lose what was not flushed; dropped after QEMU, and wait for its end.
    _lossy: Vec<Lossy>,
    pub(super) cpus: u32,
    pub(super) commands: ChildStdin,
    pub(super) monitor: Monitor,
    pub(super) console: Console,
    pub(super) marks: Receiver<Mark>,
    /// When dom0 said something last; not where it has no time for that.
    pub(super) heard: Option<Instant>,
    /// What was tried again since the machine's start.
    pub(crate) retries: Retries,
    /// The guests that the emulator has ended.
    pub(crate) ends: Ends,
    /// Whether dom0 may try something again; if not, the scenario fails there.
    pub(crate) may_retry: bool,
    /// What scenarios have in their environment, `NAME=value ...`.
    pub(crate) settings: String,
    /// Where this boot's logs are.
    pub(crate) logs: PathBuf,
    /// The raw image of the first NVMe namespace.
    pub(crate) nvme: PathBuf,
}

impl Machine {
    /// Boots the rig with an empty disk. A boot that fails is tried once more, which counts as a
    /// second try.
    ///
    /// # Errors
    /// The machine did not come up either time.
    pub(crate) fn boot_or_retry(setup: &Setup) -> Result<Self> {
        Self::boot(setup).or_else(|error| {
            let retries = Retries::default();
            retries.add(&format!("the machine did not come up: {error:#}"));
            let mut machine = Self::boot(setup)?;
            machine.retries = retries;
            Ok(machine)
        })
    }

    /// Boots the rig with an empty disk.
    ///
    /// # Errors
    /// The machine did not come up.
    pub(crate) fn boot(setup: &Setup) -> Result<Self> {
        let dir = setup.suite.dir();
        let logs = fresh_logs(setup.suite)?;
        let initrd = dir.join("initrd.cpio");
        drives::create(&dir, setup.backend, setup.variant)?;
        payload::append(setup.suite, &setup.images.dom0, setup.kernel, &initrd)?;
        let lossy = drives::serve(&dir, &logs, setup.backend)?;
        let xen = setup.suite.xen();
        let progress = Progress::start("rig", &format!("booting Xen {xen} and dom0"));
        let began = Instant::now();
        let mut command = qemu::command(setup, &initrd);
        let console = Console::add(&mut command, &logs);
        let monitor = Monitor::add(&mut command, &logs);
        command.args(["-chardev", "stdio,id=channel,signal=off"]);
        let mut qemu = command
            .args(["-serial", "chardev:channel"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(logs.join("qemu.log"))?)
            .spawn()
            .map(Qemu)
            .context("start qemu-system-x86_64")?;
        let (Some(output), Some(commands)) = (qemu.0.stdout.take(), qemu.0.stdin.take()) else {
            bail!("QEMU has no standard input and output");
        };
        let (sender, marks) = channel();
        let folder = logs.clone();
        thread::spawn(move || {
            if let Err(error) = channel::receive(output, &folder, &sender) {
                ui::step("rig", &format!("lost the line to dom0: {error}"));
            }
        });
        let mut machine = Self {
            qemu,
            _lossy: lossy,
            cpus: setup.cpus,
            commands,
            monitor,
            console,
            marks,
            heard: None,
            retries: Retries::default(),
            ends: Ends::new(&logs),
            may_retry: true,
            settings: String::new(),
            logs,
            nvme: drives::image(&dir, "nvme"),
        };
        machine.wait("ready", began + BOOT_TIMEOUT, &mut Vec::new())?;
        // While backends are compared, dom0 does nothing else.
        machine.heard = (setup.backend != Backend::Bench).then(Instant::now);
        drop(progress);
        let took = began.elapsed().as_secs_f64();
        ui::step("rig", &format!("Xen and dom0 are up after {took:.1} s"));
        Ok(machine)
    }

    /// The raw image of the disk of this name.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.nvme.with_file_name(format!("{name}.img"))
    }

    /// Ends the machine in order.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.send("poweroff")?;
        // Drop kills what does not want to go.
        self.qemu.end_within(Duration::from_secs(40)).map(drop)
    }

    /// Ends the machine as a power cut would: at once, with nothing written back by the guest, and
    /// what its disks had in their write caches lost.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.qemu.kill()
    }
}

/// A new folder for a boot's logs; `last` points to it.
fn fresh_logs(suite: Suite) -> Result<PathBuf> {
    let all = suite.dir().join("logs");
    fs::create_dir_all(&all)?;
    let number = 1 + fs::read_dir(&all)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .unwrap_or(0);
    let logs = all.join(format!("{number:04}"));
    fs::create_dir(&logs)?;
    let last = all.join("last");
    let _ = fs::remove_file(&last);
    std::os::unix::fs::symlink(&logs, &last)?;
    Ok(logs)
}
