//! The emulated machine: QEMU with SVM, an AMD IOMMU and an NVMe disk, booted into Xen and
//! dom0, which then runs one scenario after another on command.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::channel::{self, Mark};
use super::monitor::Monitor;
use super::{Backend, Images, Suite, drives, payload, wish};
use crate::ui::{self, Progress};

/// TCG's SVM has no next-RIP and mishandles some features under Xen: with these off, Xen,
/// dom0 and the guests run stably.
const CPU: &str = "EPYC,+svm,+npt,-smap,-smep,-monitor,-xsave,-avx,-avx2,-fma,-f16c,-rdtscp";

/// One emulated CPU each for dom0, the driver domain and a guest.
const CPUS: u32 = 3;

/// With more than one dom0 CPU, dom0 rarely dies at boot in code patching. What guards against
/// speculation costs much where nothing speculates. A lock for each processor's run queue: the
/// host may take away the processor that holds one for all.
const XEN: &str = "com1=115200,8n1 console=com1 dom0_mem=2G,max:2G dom0_max_vcpus=1 \
                   guest_loglvl=all loglvl=all spec-ctrl=no credit2_runqueue=cpu";

/// Xen and dom0 need 11 to 25 s on an idle machine of two cores.
const BOOT_TIMEOUT: Duration = Duration::from_secs(150);

/// A booted rig.
pub(crate) struct Machine {
    qemu: Child,
    commands: ChildStdin,
    monitor: Monitor,
    marks: Receiver<Mark>,
    /// Where this boot's logs are.
    pub(crate) logs: PathBuf,
    /// The raw image of the first NVMe namespace.
    pub(crate) nvme: PathBuf,
}

/// How a scenario ended.
pub(crate) struct Outcome {
    /// Everything dom0 reported while it ran.
    pub(crate) marks: Vec<Mark>,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    /// The first mark of this name.
    pub(crate) fn mark(&self, name: &str) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.name == name)
    }
}

impl Machine {
    /// Boots the rig with an empty disk. A boot that dies early is tried once more: now and
    /// then emulation kills Xen or dom0 before anything of ours runs.
    pub(crate) fn boot(
        suite: Suite,
        images: &Images,
        kernel: Option<&Path>,
        backend: Backend,
    ) -> Result<Self> {
        Self::boot_with(suite, images, kernel, backend, CPUS)
    }

    /// The same with another number of emulated CPUs.
    pub(crate) fn boot_with(
        suite: Suite,
        images: &Images,
        kernel: Option<&Path>,
        backend: Backend,
        cpus: u32,
    ) -> Result<Self> {
        match Self::boot_once(suite, images, kernel, backend, cpus) {
            Ok(machine) => Ok(machine),
            Err(error) => {
                ui::step(
                    "rig",
                    &format!("retry: the machine did not come up ({error:#})"),
                );
                Self::boot_once(suite, images, kernel, backend, cpus)
            }
        }
    }

    fn boot_once(
        suite: Suite,
        images: &Images,
        kernel: Option<&Path>,
        backend: Backend,
        cpus: u32,
    ) -> Result<Self> {
        let logs = fresh_logs(suite)?;
        let initrd = suite.dir().join("initrd.cpio");
        drives::create(&suite.dir(), backend)?;
        payload::append(suite, &images.dom0, kernel, &initrd)?;
        let progress = Progress::start("rig", &format!("booting Xen {} and dom0", suite.xen()));
        let began = Instant::now();
        let mut command = command(images, &initrd, &suite.dir(), &logs, backend);
        let monitor = Monitor::add(&mut command, &logs);
        let mut qemu = command
            .args(["-smp", &cpus.to_string()])
            .stderr(fs::File::create(logs.join("qemu.log"))?)
            .spawn()
            .context("start qemu-system-x86_64")?;
        let (Some(output), Some(commands)) = (qemu.stdout.take(), qemu.stdin.take()) else {
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
            commands,
            monitor,
            marks,
            logs,
            nvme: drives::image(&suite.dir(), "nvme"),
        };
        machine.wait("ready", Instant::now() + BOOT_TIMEOUT, &mut Vec::new())?;
        drop(progress);
        ui::step(
            "rig",
            &format!(
                "Xen and dom0 are up after {:.1} s",
                began.elapsed().as_secs_f64()
            ),
        );
        Ok(machine)
    }

    /// Has dom0 run a scenario and waits for its end.
    ///
    /// # Errors
    /// The machine died or does not answer; a scenario that merely failed is an `Outcome`.
    pub(crate) fn run(&mut self, scenario: &str, timeout: Duration) -> Result<Outcome> {
        self.start(scenario, timeout)?;
        self.finish(Instant::now() + timeout, |_, _| {})
    }

    /// Waits for the end of the scenario under way, which dom0 brings about by `deadline`, and
    /// shows each mark to `look` as it comes.
    ///
    /// # Errors
    /// As for [`Machine::run`].
    pub(crate) fn finish(
        &mut self,
        deadline: Instant,
        mut look: impl FnMut(&Self, &Mark),
    ) -> Result<Outcome> {
        let mut marks = Vec::new();
        // Some time for saying that it took too long.
        let deadline = deadline + Duration::from_secs(60);
        let end = loop {
            let mark = self.next(deadline).context("wait for the scenario's end")?;
            if mark.name == "end" {
                break mark;
            }
            if mark.name == "note" {
                ui::step("dom0", mark.get("text"));
            }
            if mark.name == "host" {
                self.grant(&mark)?;
            }
            look(self, &mark);
            marks.push(mark);
        };
        // A script may say that it fails in a subshell, and go on.
        let said = marks.iter().find(|mark| mark.name == "fail");
        let failure = match (said, end.get("rc")) {
            (Some(mark), _) => Some(mark.get("why").to_string()),
            (None, "0") => None,
            (None, status) => Some(format!("the script ended with status {status}")),
        };
        Ok(Outcome { marks, failure })
    }

    /// Has dom0 start a scenario.
    pub(crate) fn start(&mut self, scenario: &str, timeout: Duration) -> Result<()> {
        self.start_with(scenario, timeout, "")
    }

    /// The same with settings, `NAME=value ...`, for the scenario's environment.
    pub(crate) fn start_with(
        &mut self,
        scenario: &str,
        timeout: Duration,
        settings: &str,
    ) -> Result<()> {
        writeln!(
            self.commands,
            "run {scenario} {} {settings}",
            timeout.as_secs()
        )
        .context("send dom0 a command")?;
        self.commands.flush().context("send dom0 a command")
    }

    /// Waits for a mark of this name, keeping those before it.
    pub(crate) fn wait(
        &mut self,
        name: &str,
        deadline: Instant,
        seen: &mut Vec<Mark>,
    ) -> Result<Mark> {
        loop {
            let mark = self
                .next(deadline)
                .with_context(|| format!("wait for `{name}`"))?;
            if mark.name == name {
                return Ok(mark);
            }
            if mark.name == "note" {
                ui::step("dom0", mark.get("text"));
            }
            seen.push(mark);
        }
    }

    /// Waits for whatever dom0 reports next.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Mark> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.marks.recv_timeout(left) {
            Ok(mark) => Ok(mark),
            Err(RecvTimeoutError::Timeout) => bail!("nothing from dom0 in time"),
            Err(RecvTimeoutError::Disconnected) => bail!("the machine died: {}", self.epitaph()),
        }
    }

    /// Does what dom0 asks of the host, and answers.
    fn grant(&mut self, mark: &Mark) -> Result<()> {
        let dir = self.nvme.parent().context("images have a folder")?;
        let (word, text) = match wish::grant(mark, &self.monitor, dir, &self.logs) {
            Ok(answer) => ("granted", answer),
            Err(error) => ("refused", format!("{error:#}")),
        };
        let text = text.replace(['\r', '\n'], " ");
        writeln!(self.commands, "{word} {text}")
            .and_then(|()| self.commands.flush())
            .context("answer dom0")
    }

    /// The raw image of the disk of this name.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.nvme.with_file_name(format!("{name}.img"))
    }

    /// Ends the machine in order.
    pub(crate) fn power_off(mut self) -> Result<()> {
        writeln!(self.commands, "poweroff")?;
        // Drop kills what does not want to go.
        self.end_within(Duration::from_secs(40)).map(drop)
    }

    /// Waits until QEMU ends; `None` if it does not within `time`.
    fn end_within(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if let Some(status) = self.qemu.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(None)
    }

    /// Ends the machine as a power cut would: at once, with nothing written back by the guest.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.qemu.kill()?;
        Ok(self.qemu.wait()?)
    }

    fn epitaph(&mut self) -> String {
        let status = self.end_within(Duration::from_secs(5)).map_or_else(
            |error| error.to_string(),
            |status| match status.map(|status| (status.signal(), status.code())) {
                Some((Some(signal), _)) => format!("QEMU ended by signal {signal}"),
                Some((None, code)) => {
                    format!("QEMU ended with status {}", code.unwrap_or_default())
                }
                // Such as when the host has no room for logs.
                None => "QEMU goes on, but the line to dom0 is lost".to_string(),
            },
        );
        format!("{status}; see {}", self.logs.join("xen-dom0.log").display())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's command line. `setpriv` ends QEMU should this process die.
fn command(images: &Images, initrd: &Path, dir: &Path, logs: &Path, backend: Backend) -> Command {
    let name = match backend {
        Backend::Spindle => "spindle",
        Backend::Dom0 => "dom0",
        Backend::Bench => "bench",
    };
    let mut command = Command::new("setpriv");
    command
        .args([
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
        ])
        .args(["-machine", "q35", "-cpu", CPU, "-m", "5G"])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ])
        .args([
            "-serial",
            &format!("file:{}", logs.join("xen-dom0.log").display()),
        ])
        .args([
            "-chardev",
            "stdio,id=channel,signal=off",
            "-serial",
            "chardev:channel",
        ])
        .arg("-kernel")
        .arg(&images.xen)
        .args(["-append", XEN, "-initrd"])
        .arg(format!(
            "{} console=hvc0 rdinit=/init loglevel=4 mitigations=off backend={name},{}",
            images.linux.display(),
            initrd.display()
        ))
        .args(["-device", "amd-iommu"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    drives::add(&mut command, dir, backend);
    command
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
