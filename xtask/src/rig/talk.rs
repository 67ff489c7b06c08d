//! The conversation with dom0: it runs a scenario on command and reports by marks until the end.

use std::io::Write;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::channel::Mark;
use super::machine::Machine;
use super::outcome::{self, Outcome};
use super::{console, evidence, host_action};
use crate::ui;

/// How long dom0 may say nothing, not even that it is alive (every ten seconds or so, when it can).
const SILENCE: Duration = Duration::from_secs(120);

impl Machine {
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
        // Some time for saying that it took too long, and for looking around.
        let deadline = deadline + Duration::from_secs(120);
        loop {
            let mark = match self.next(deadline) {
                Ok(mark) => mark,
                Err(error) => return Err(outcome::why(error, &marks)),
            };
            if mark.name == "end" {
                return Ok(Outcome::of(marks, &mark));
            }
            if mark.name == "note" {
                ui::step("dom0", mark.get("text"));
            }
            look(self, &mark);
            marks.push(mark);
        }
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
        let retry = if self.may_retry { "yes" } else { "no" };
        let (seconds, given) = (timeout.as_secs(), &self.settings);
        self.send(&format!(
            "run {scenario} {seconds} RETRY={retry} {given} {settings}"
        ))
    }

    /// Waits for a mark of this name, keeping those before it.
    ///
    /// # Errors
    /// As for [`Machine::run`], or the scenario ended without it.
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
            let ended = mark.name == "end";
            seen.push(mark);
            if ended {
                bail!("the scenario ended before `{name}`");
            }
        }
    }

    /// Waits for whatever dom0 reports next, and does what it asks of the host meanwhile. What the
    /// processors do is written down when that is a failure, a second try, or nothing at all.
    ///
    /// # Errors
    /// Nothing came until `deadline`, or dom0 does not even say that it is alive, or QEMU ended.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Mark> {
        loop {
            let silence = self.heard.map_or(deadline, |heard| heard + SILENCE);
            let left = deadline.min(silence);
            match self
                .marks
                .recv_timeout(left.saturating_duration_since(Instant::now()))
            {
                Ok(mark) => {
                    self.heard = self.heard.and(Some(Instant::now()));
                    match mark.name.as_str() {
                        "alive" => continue,
                        "host" => {
                            self.grant(&mark)?;
                            continue;
                        }
                        "retry" => self.retries.add(mark.get("why")),
                        "fail" => {}
                        _ => return Ok(mark),
                    }
                    let (cpus, logs) = (self.cpus, &self.logs);
                    said(evidence::processors(
                        &self.monitor,
                        cpus,
                        logs,
                        &mark.to_string(),
                    ));
                    return Ok(mark);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.qemu.runs() {
                        let Self {
                            monitor,
                            console,
                            cpus,
                            logs,
                            ..
                        } = &*self;
                        said(evidence::silence(monitor, console, *cpus, logs));
                    }
                    if Instant::now() < deadline {
                        bail!("dom0 has said nothing for {} s", SILENCE.as_secs());
                    }
                    bail!("nothing from dom0 in time");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let log = self.logs.join(console::LOG);
                    bail!(
                        "the machine died: {}; see {}",
                        self.qemu.epitaph(),
                        log.display()
                    );
                }
            }
        }
    }

    /// Does what dom0 asks of the host, and answers.
    fn grant(&mut self, mark: &Mark) -> Result<()> {
        let guest = mark.get("guest");
        match mark.get("action") {
            "ended" => return self.send(granted(self.ends.has(guest))),
            "restart" => return self.send(granted(self.restart(guest))),
            _ => {}
        }
        let dir = self.nvme.parent().context("images have a folder")?;
        let (word, text) = match host_action::perform(mark, &self.monitor, dir, &self.logs) {
            Ok(answer) => ("granted", answer),
            Err(error) => ("refused", format!("{error:#}")),
        };
        let text = text.replace(['\r', '\n'], " ");
        self.send(&format!("{word} {text}"))
    }

    /// Whether it was the emulator that ended a guest, which dom0 then starts again: it has done
    /// nothing yet. Such an end is shown and counted, but is no second try.
    fn restart(&self, guest: &str) -> bool {
        let end = self.ends.restart(guest);
        if let Some(end) = &end {
            let text = format!("before it came up: {end}; it is started again");
            ui::step("rig", &text);
        }
        end.is_some()
    }

    pub(super) fn send(&mut self, line: &str) -> Result<()> {
        writeln!(self.commands, "{line}")
            .and_then(|()| self.commands.flush())
            .context("send dom0 a command")
    }
}

/// Who ended a guest, for dom0.
fn granted(by_emulator: bool) -> &'static str {
    match by_emulator {
        true => "granted emulator",
        false => "granted other",
    }
}

/// Evidence that cannot be had is no failure of its own.
fn said(evidence: Result<()>) {
    if let Err(error) = evidence {
        ui::step("rig", &format!("evidence: {error:#}"));
    }
}
