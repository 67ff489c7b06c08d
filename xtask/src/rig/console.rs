//! Xen's serial console: what Xen and dom0 print goes to `xen-dom0.log`, and the host can press
//! Xen's debug keys on it, which works when dom0 does not answer any more.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::monitor::connect;

/// The log's name in the logs folder.
pub(super) const LOG: &str = "xen-dom0.log";

/// The socket's name in the logs folder.
const SOCKET: &str = "console";

/// Ctrl-A three times takes the console's input from dom0 to Xen, and back.
const SWITCH: &[u8] = b"\x01\x01\x01";

/// What a key prints has ended when nothing has come for this long.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest that a key may print.
const LIMIT: Duration = Duration::from_secs(15);

/// Where the console of a machine is.
#[derive(Debug)]
pub(super) struct Console {
    logs: PathBuf,
}

impl Console {
    /// Gives the QEMU that `command` starts, in the folder `logs`, its first serial port. Everything
    /// on it is logged, whether the socket is connected or not.
    pub(super) fn add(command: &mut Command, logs: &Path) -> Self {
        let socket = format!("socket,id=xen,path={SOCKET},server=on,wait=off,logfile={LOG}");
        command.args(["-chardev", &socket, "-serial", "chardev:xen"]);
        Self {
            logs: logs.to_path_buf(),
        }
    }

    /// Presses Xen's debug keys one after the other; what they print is in the log then.
    ///
    /// # Errors
    /// QEMU does not answer, or Xen prints nothing.
    pub(super) fn press(&self, keys: &str) -> Result<()> {
        let mut line = connect(&self.logs, SOCKET).context("connect to Xen's console")?;
        line.set_read_timeout(Some(PAUSE))?;
        line.write_all(SWITCH)?;
        let mut printed = drain(&mut line, LIMIT)?;
        for key in keys.bytes() {
            line.write_all(&[key])?;
            printed += drain(&mut line, LIMIT)?;
        }
        line.write_all(SWITCH)?;
        printed += drain(&mut line, LIMIT)?;
        if printed == 0 {
            bail!("Xen does not react to its debug keys");
        }
        Ok(())
    }
}

/// Takes what is printed until a pause, or for `limit`: QEMU waits for a reader that is slow. Gives
/// the number of bytes.
fn drain(line: &mut UnixStream, limit: Duration) -> Result<usize> {
    let deadline = Instant::now() + limit;
    let (mut printed, mut buffer) = (0, [0; 4096]);
    while Instant::now() < deadline {
        match line.read(&mut buffer) {
            Ok(0) => bail!("QEMU hung up"),
            Ok(length) => printed += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // With a time limit it is not begun again by itself where a signal comes.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Presses keys on the console of a Xen that prints `flood` bytes for each `q`; gives what Xen
    /// has read, and how it went.
    fn press(name: &str, flood: usize) -> (Vec<u8>, Result<()>) {
        let logs = std::env::temp_dir().join(format!("spindle-{name}-{}", std::process::id()));
        fs::create_dir_all(&logs).expect("a folder");
        let listener = UnixListener::bind(logs.join(SOCKET)).expect("a socket");
        let xen = thread::spawn(move || {
            let (mut line, _) = listener.accept().expect("a connection");
            let (mut read, mut byte) = (Vec::new(), [0]);
            while line.read(&mut byte).is_ok_and(|length| length == 1) {
                read.push(byte[0]);
                if byte == *b"q" {
                    line.write_all(&vec![b'.'; flood]).expect("printed");
                }
            }
            read
        });
        let pressed = Console::add(&mut Command::new("qemu"), &logs).press("qe");
        let read = xen.join().expect("Xen ends");
        fs::remove_dir_all(&logs).expect("removed");
        (read, pressed)
    }

    #[test]
    fn keys_are_pressed_while_the_input_is_xens_and_what_they_print_is_taken() {
        // More than a socket holds.
        let (read, pressed) = press("console", 4 << 20);
        pressed.expect("the keys are pressed");
        assert_eq!(read, b"\x01\x01\x01qe\x01\x01\x01");
    }

    #[test]
    fn a_xen_that_prints_nothing_is_an_error() {
        let (_, pressed) = press("silent-console", 0);
        let error = pressed.expect_err("nothing is printed");
        assert!(error.to_string().contains("does not react"), "{error}");
    }
}
