//! QEMU's monitor: how the host acts on the emulated machine while it runs. The machine protocol
//! (QMP) over a socket in the boot's logs folder.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

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
        self.execute(
            "block_resize",
            &format!(r#"{{"device":"{drive}","size":{bytes}}}"#),
        )
    }

    /// Has a drive move at most so many bytes in a second, beyond its first request; 0: as many as
    /// it can.
    pub(super) fn throttle(&self, drive: &str, bytes: u64) -> Result<()> {
        self.execute(
            "block_set_io_throttle",
            &format!(
                r#"{{"device":"{drive}","bps":{bytes},"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0}}"#
            ),
        )
    }

    /// Sets the critical warnings in a controller's SMART log; each new one is an event.
    pub(super) fn warn(&self, controller: &str, bits: u8) -> Result<()> {
        self.execute(
            "qom-set",
            &format!(
                r#"{{"path":"/machine/peripheral/{controller}","property":"smart_critical_warning","value":{bits}}}"#
            ),
        )
    }

    fn execute(&self, command: &str, arguments: &str) -> Result<()> {
        let folder = File::open(&self.logs)?;
        let socket = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        let stream = UnixStream::connect(socket).context("connect to QEMU's monitor")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answers = BufReader::new(&stream);
        // QEMU takes commands only after this one.
        ask(&stream, &mut answers, r#"{"execute":"qmp_capabilities"}"#)?;
        let line = format!(r#"{{"execute":"{command}","arguments":{arguments}}}"#);
        ask(&stream, &mut answers, &line).with_context(|| format!("QEMU's {command}"))
    }
}

/// Sends a command and waits for its end.
fn ask(mut to: impl Write, from: &mut impl BufRead, command: &str) -> Result<()> {
    writeln!(to, "{command}")?;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).context("no answer")? == 0 {
            bail!("QEMU hung up");
        }
        // Anything else is its greeting or an event.
        if line.starts_with(r#"{"return""#) {
            return Ok(());
        }
        if line.starts_with(r#"{"error""#) {
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
            {\"return\": {}}\r\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no disk\"}}\r\n";
        let mut sent = Vec::new();
        ask(&mut sent, &mut input, "first").expect("it is done");
        let error = ask(&mut sent, &mut input, "second").expect_err("it is refused");
        assert!(error.to_string().contains("no disk"), "{error}");
        assert_eq!(sent, b"first\nsecond\n");
        let error = ask(&mut sent, &mut input, "third").expect_err("nobody is there");
        assert_eq!(error.to_string(), "QEMU hung up");
    }
}
