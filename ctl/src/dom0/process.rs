//! Programs that are run: each in a process group of its own, with a time limit, and no longer than
//! the user is willing to wait.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Dom0;
use crate::host::{Call, Failed};

/// How long a program that was killed may take to end, or one that has ended, to close its output.
const DEATH: Duration = Duration::from_secs(5);
/// The longest output that is taken: more than xenstore's quotas let a domain show.
const MOST_OUTPUT: u64 = 64 << 20;
/// Where Xen's tools are looked for before PATH, which `su` leaves as the user had it.
const PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Dom0 {
    /// Runs a program, for no longer than it may take.
    ///
    /// # Errors
    /// As `Host::run`.
    pub(super) fn execute(&mut self, call: &Call) -> Result<String, Failed> {
        let failed = |how: String, said: &str| Failed {
            call: call.to_string(),
            how,
            said: said.to_string(),
        };
        if let Some((earlier, child)) = &mut self.stuck {
            if !matches!(child.try_wait(), Ok(Some(_))) {
                let how = format!("was not begun: `{earlier}` (PID {}) still runs", child.id());
                return Err(failed(how, ""));
            }
            self.stuck = None;
        }
        let mut child = self.spawn(call).map_err(|error| Failed {
            call: call.program.clone(),
            how: "cannot be run".into(),
            said: format!("{error}; this needs dom0 with Xen's tools (xen-utils)"),
        })?;
        let (out, said) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let deadline = Instant::now() + call.limit;
        let mut pause = Duration::from_millis(1);
        let mut killed = None;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => {
                    return Err(failed("cannot be waited for".into(), &error.to_string()));
                }
            }
            let now = Instant::now();
            let hurried = self.hurried(call);
            match killed {
                None if hurried || now >= deadline => {
                    // A failure means that it has just ended.
                    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                    killed = Some((now + DEATH, hurried));
                }
                Some((end, _)) if now >= end => {
                    let how = "does not end, even when killed; it may still take effect";
                    self.stuck = Some((call.to_string(), child));
                    return Err(failed(how.into(), ""));
                }
                _ => {}
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let out = out.recv_timeout(DEATH);
        let said = said.recv_timeout(DEATH).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let how = match (&out, killed) {
            (_, Some((_, true))) => "was killed when you asked again".into(),
            (_, Some((_, false))) => format!("was killed after {} s", call.limit.as_secs()),
            (Ok(out), None) if out.len() as u64 == MOST_OUTPUT => "prints without end".into(),
            (_, None) if !status.success() => format!("failed ({status})"),
            (Err(_), None) => "has ended, but not what it prints".into(),
            (Ok(out), None) => return Ok(String::from_utf8_lossy(out).into_owned()),
        };
        Err(failed(how, &said))
    }

    /// Whether another signal has come than the first, while this call runs.
    fn hurried(&mut self, call: &Call) -> bool {
        if !self.signalled.swap(false, Ordering::Relaxed) {
            return false;
        }
        let again = self.stopping;
        self.stopping = true;
        if !again {
            // Who asked may be gone, with the terminal.
            let _ = writeln!(
                io::stderr(),
                "+ stopping once `{call}` has ended; again kills it"
            );
        }
        again
    }

    fn spawn(&mut self, call: &Call) -> io::Result<Child> {
        let path = std::env::var("PATH").unwrap_or_default();
        let input = match &self.lock {
            // An empty file, whose lock lasts as long as a process has it open.
            Some(lock) => lock.try_clone()?.into(),
            None => Stdio::null(),
        };
        Command::new(&call.program)
            .args(&call.arguments)
            .envs(call.environment.iter().map(|(name, value)| (name, value)))
            // What tools say is looked at.
            .env("LC_ALL", "C")
            .env("PATH", format!("{PLACES}:{path}"))
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us to act on; it must not cut a tool off in the middle.
            .process_group(0)
            .spawn()
    }
}

/// All that comes out of a pipe, once it ends.
fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before a failure is all there is to it.
            let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes);
            // Too late if the program took too long.
            let _ = send.send(bytes);
        });
    }
    receive
}
