//! What the host writes down about the machine at a failure or a second try: the processors' state
//! as QEMU has it, and, when dom0 does not answer, what Xen's debug keys print.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::console::Console;
use super::monitor::Monitor;

/// The log's name in the logs folder.
pub(super) const LOG: &str = "processors.log";

/// Domains and vCPUs, event channels, run queues, timers; at last each processor's registers, for
/// which Xen sends interrupts that wake those which sleep.
const KEYS: &str = "qerad";

/// Appends the state of each processor and its local APIC to the log. Reading it disturbs nothing:
/// no processor of the machine is woken or stopped.
///
/// # Errors
/// QEMU does not answer, or the log cannot be written.
pub(super) fn processors(monitor: &Monitor, cpus: u32, logs: &Path, why: &str) -> Result<()> {
    let mut text = format!("\n==== {why}\n");
    let lapics = (0..cpus).map(|cpu| format!("info lapic {cpu}"));
    let rest = ["info registers -a", "info pic"].map(String::from);
    for command in lapics.chain(rest) {
        writeln!(text, "---- {command}\n{}", monitor.say(&command)?)?;
    }
    let path = logs.join(LOG);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    log.and_then(|mut log| log.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

/// The same twice, so that one sees what moves, and then Xen's debug keys: for a machine whose dom0
/// does not answer.
///
/// # Errors
/// As for [`processors`], or Xen does not react either.
pub(super) fn silence(monitor: &Monitor, console: &Console, cpus: u32, logs: &Path) -> Result<()> {
    processors(monitor, cpus, logs, "dom0 does not answer")?;
    thread::sleep(Duration::from_secs(1));
    processors(monitor, cpus, logs, "a second later")?;
    console.press(KEYS)
}
