//! `run`: the whole road once, and a report about it.

use anyhow::{Result, bail};

use crate::rig::{self, Backend, Machine, Suite};
use crate::scenario::{self, FileTree};
use crate::{kernel, ui};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which Debian the rig is made of.
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    /// Who serves the disk; `dom0` is Linux' own backend, for comparison.
    #[arg(long, value_enum, default_value = "spindle", hide = true)]
    backend: Backend,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let _lock = rig::lock()?;
    let image = match args.backend {
        Backend::Spindle | Backend::Bench => Some(kernel::build()?),
        Backend::Dom0 => None,
    };
    let images = rig::prepare(args.suite)?;
    let kernel = image.as_ref().map(|image| image.path.as_path());
    let mut machine = Machine::boot(args.suite, &images, kernel, args.backend)?;
    let logs = machine.logs.clone();
    ui::step(
        "run",
        "a guest writes files, a second one checks them (2 to 3 minutes)",
    );
    let report = match scenario::file_tree(&mut machine) {
        Ok(report) => report,
        Err(error) => bail!("{error:#}\nlogs: {}", logs.display()),
    };
    machine.power_off()?;
    print(args.suite, &report, image.as_ref());
    match report.failure {
        None => Ok(()),
        Some(why) => bail!("{why}\nlogs: {}", logs.display()),
    }
}

/// The report; what did not happen is left out.
fn print(suite: Suite, report: &FileTree, image: Option<&kernel::Image>) {
    let mut table = ui::report();
    let mut row = |what: &str, value: String| {
        table.add_row([what.to_string(), value]);
    };
    row("rig", format!("{}, Xen {}", suite.name(), suite.xen()));
    if let Some(spindle) = report.mark("spindle") {
        let (create, unpause) = (spindle.number("create"), spindle.number("unpause"));
        let total = create.unwrap_or_default() + unpause.unwrap_or_default();
        row("xl create to ready", format!("{total:.2} s"));
        row(
            "  of it xl create -p",
            format!("{} s", spindle.get("create")),
        );
        row(
            "  of it xl unpause to ready",
            format!("{} s", spindle.get("unpause")),
        );
        row("first console line", spindle.get("line").to_string());
        row("disks", spindle.get("disks").to_string());
        row("memory", format!("{} MiB", spindle.get("memory")));
    }
    if let Some(image) = image {
        row("image", format!("{:.1} KiB", image.size as f64 / 1024.0));
    }
    if let Some(written) = report.mark("written") {
        let mib = written.number("kib").unwrap_or_default() / 1024.0;
        let text = format!(
            "{} files, {mib:.0} MiB, in {} s",
            written.get("files"),
            written.get("seconds")
        );
        row("first guest wrote", text);
    }
    if let Some(checked) = report.mark("checked") {
        let text = format!(
            "{} files, in {} s",
            checked.get("files"),
            checked.get("seconds")
        );
        row("second guest checked", text);
    }
    if let Some(down) = report.mark("spindle-down") {
        row("xl shutdown", format!("{} s", down.get("seconds")));
    }
    if !report.e2fsck.is_empty() {
        row("host: e2fsck", report.e2fsck.clone());
        row("host: checksums equal", format!("{} files", report.equal));
    }
    row(
        "result",
        report
            .failure
            .as_deref()
            .map_or("PASS", |_| "FAIL")
            .to_string(),
    );
    println!("{table}");
}
