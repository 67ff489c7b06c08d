//! QEMU's monitor: how the host acts on the emulated machine while it runs. The machine protocol
//! (QMP) over a socket in the boot's logs folder.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The socket's name in the logs folder.
const SOCKET: &str = "monitor";

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the monitor of a machine is.
#[derive(Debug)]
pub(super) struct Monitor {
    logs: PathBuf,
}

impl Monitor {
    /// Has the QEMU that `command` starts listen in `logs`, which becomes its working directory:
    /// the path of a socket must not be long.
    pub(super) fn add(command: &mut Command, logs: &Path) -> Self {
        let socket = format!("socket,id=monitor,path={SOCKET},server=on,wait=off");
        command.current_dir(logs).args(["-chardev", &socket]);
        command.args(["-mon", "chardev=monitor,mode=control"]);
        Self {
            logs: logs.to_path_buf(),
        }
    }

    /// Gives a drive another size in bytes.
    pub(super) fn resize(&self, drive: &str, bytes: u64) -> Result<()> {
        let arguments = json!({"device": drive, "size": bytes});
        self.execute("block_resize", &arguments).map(drop)
    }

    /// Has a drive move at most so many bytes in a second, beyond its first request; 0: as many as
    /// it can.
    pub(super) fn throttle(&self, drive: &str, bytes: u64) -> Result<()> {
        let arguments = json!({
            "device": drive, "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0,
            "iops_wr": 0,
        });
        self.execute("block_set_io_throttle", &arguments).map(drop)
    }

    /// Sets the critical warnings in a controller's SMART log; each new one is an event.
    pub(super) fn warn(&self, controller: &str, bits: u8) -> Result<()> {
        let arguments = json!({
            "path": format!("/machine/peripheral/{controller}"),
            "property": "smart_critical_warning",
            "value": bits,
        });
        self.execute("qom-set", &arguments).map(drop)
    }

    /// Pulls a device out of the machine, as by surprise: dom0 is not asked. Reads of its registers
    /// give zeroes then, where on real machines they give ones.
    pub(super) fn pull(&self, device: &str) -> Result<()> {
        let arguments = json!({
            "path": format!("/machine/peripheral/{device}"),
            "property": "realized",
            "value": false,
        });
        self.execute("qom-set", &arguments).map(drop)
    }

    /// Keeps back the next write to a drive with the layer for that, while all others go on. QEMU
    /// itself waits, and does nothing else, should the controller be reset meanwhile.
    pub(super) fn hold(&self, drive: &str) -> Result<()> {
        self.control(drive, "break write_aio held")
    }

    /// Lets the write that was kept back go on.
    pub(super) fn release(&self, drive: &str) -> Result<()> {
        self.control(drive, "resume held")
    }

    /// Has QEMU's tool for block devices do something with a drive.
    fn control(&self, drive: &str, command: &str) -> Result<()> {
        let said = self.say(&format!("qemu-io {drive} \"{command}\""))?;
        ensure!(said.is_empty(), "QEMU's qemu-io: {}", said.trim());
        Ok(())
    }

    /// Gives what QEMU's interactive monitor says to a command, such as `info lapic 1`.
    pub(super) fn say(&self, command: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": command }))?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }

    fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let stream = connect(&self.logs, SOCKET).context("connect to QEMU's monitor")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answers = BufReader::new(&stream);
        // QEMU takes commands only after this one.
        ask(
            &stream,
            &mut answers,
            &json!({"execute": "qmp_capabilities"}),
        )?;
        let order = json!({"execute": command, "arguments": arguments});
        ask(&stream, &mut answers, &order).with_context(|| format!("QEMU's {command}"))
    }
}

/// Connects to a socket in the logs folder, whose own path may be too long for the address.
pub(super) fn connect(logs: &Path, name: &str) -> Result<UnixStream> {
    let folder = File::open(logs)?;
    let socket = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    Ok(UnixStream::connect(socket)?)
}

/// Sends a command and waits for what it returns.
fn ask(mut to: impl Write, from: &mut impl BufRead, command: &Value) -> Result<Value> {
    writeln!(to, "{command}")?;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).context("no answer")? == 0 {
            bail!("QEMU hung up");
        }
        // Anything else is its greeting or an event.
        let mut answer: Value = serde_json::from_str(&line).context("no JSON")?;
        if let Some(value) = answer.get_mut("return") {
            return Ok(value.take());
        }
        if answer.get("error").is_some() {
            bail!("{}", line.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_between_greeting_and_events() {
        let mut input: &[u8] = b"{\"QMP\": {}}\r\n{\"timestamp\": {}, \"event\": \"RESUME\"}\r\n\
            {\"return\": \"CPU#0\\r\\nRIP=0\"}\r\n\
            {\"error\": {\"class\": \"GenericError\", \"desc\": \"no disk\"}}\r\n";
        let mut sent = Vec::new();
        let answer = ask(&mut sent, &mut input, &json!("first")).expect("it is done");
        assert_eq!(answer, "CPU#0\r\nRIP=0");
        let error = ask(&mut sent, &mut input, &json!("second")).expect_err("it is refused");
        assert!(error.to_string().contains("no disk"), "{error}");
        assert_eq!(sent, b"\"first\"\n\"second\"\n");
        let error = ask(&mut sent, &mut input, &json!("third")).expect_err("QEMU is gone");
        assert_eq!(error.to_string(), "QEMU hung up");
    }
}
