//! The real dom0: programs with a time limit, files that a dead disk cannot hold us up with, and
//! the signals that ask to stop.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::host::{Call, Failed, Host};

/// How long a file operation may take: a disk that does not answer can hold up an open.
const FILE: Duration = Duration::from_secs(60);
/// How long a program that was killed may take to end, or one that has ended, to close its output.
const DEATH: Duration = Duration::from_secs(5);
/// The longest output that is taken: more than xenstore's quotas let a domain show.
const MOST_OUTPUT: u64 = 64 << 20;
/// Where Xen's tools are looked for before PATH, which `su` leaves as the user had it.
const PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// This machine.
pub(crate) struct Dom0 {
    started: Instant,
    /// Held by us and by whatever we run, until both have ended.
    lock: Option<File>,
    /// A signal has come that was not acted on yet.
    signalled: Arc<AtomicBool>,
    /// The user has asked to stop.
    stopping: bool,
    /// A program that did not end when it was killed: what it does may still take effect.
    stuck: Option<(String, Child)>,
}

impl Dom0 {
    /// This machine.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            lock: None,
            signalled: Arc::default(),
            stopping: false,
            stuck: None,
        }
    }

    /// Has all programs that are run hold this lock, too: if we are killed, whoever comes next waits
    /// until what we have started has ended.
    pub(crate) fn hold(&mut self, lock: File) {
        self.lock = Some(lock);
    }

    /// From now on, Ctrl-C and SIGTERM no longer end this program at once. The first one has no new
    /// step begun, each further one kills what runs at the time. A terminal that goes away does not
    /// matter.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub(crate) fn catch_signals(&mut self) -> io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&self.signalled))?;
        }
        signal_hook::flag::register(SIGHUP, Arc::default()).map(drop)
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
            // An empty file, whose lock lasts as long as somebody has it open.
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

impl Host for Dom0 {
    fn run(&mut self, call: &Call) -> Result<String, Failed> {
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

    fn read(&mut self, path: &str) -> io::Result<String> {
        let path = path.to_string();
        within(FILE, move || {
            let mut bytes = Vec::new();
            File::open(path)?
                .take(MOST_OUTPUT)
                .read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    fn size(&mut self, path: &str) -> io::Result<u64> {
        let path = path.to_string();
        within(FILE, move || fs::metadata(path).map(|about| about.len()))
    }

    fn tail(&mut self, path: &str, from: u64, most: u64) -> io::Result<String> {
        let path = path.to_string();
        within(FILE, move || {
            let mut file = File::open(path)?;
            let size = file.metadata()?.len();
            let from = if size < from { 0 } else { from };
            file.seek(SeekFrom::Start(from.max(size.saturating_sub(most))))?;
            let mut bytes = Vec::new();
            file.take(most).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    fn exists(&mut self, path: &str) -> io::Result<bool> {
        let path = path.to_string();
        within(FILE, move || Path::new(&path).try_exists())
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let path = path.to_string();
        within(FILE, move || {
            let name = |entry: io::Result<fs::DirEntry>| {
                entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
            };
            fs::read_dir(path)?.map(name).collect()
        })
    }

    fn link(&mut self, path: &str) -> io::Result<Option<String>> {
        let path = path.to_string();
        let target = within(FILE, move || fs::read_link(path));
        match target {
            Ok(target) => Ok(target.file_name().map(|n| n.to_string_lossy().into_owned())),
            // There is a file, which is no link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn real(&mut self, path: &str) -> io::Result<String> {
        let path = path.to_string();
        let real = within(FILE, move || fs::canonicalize(path))?;
        Ok(real.to_string_lossy().into_owned())
    }

    fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            own_folder(folder)?;
        }
        let new = format!("{path}.new");
        // Whatever is there was left by one that was killed in the middle.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(new, path)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn patch(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn is_taken(&mut self, path: &str) -> io::Result<bool> {
        // O_EXCL without O_CREAT: of a block device, for itself (open(2)).
        const EXCLUSIVE: i32 = 0o200;
        // ENXIO and ENODEV (errno(3)): a node without a device.
        const NO_DEVICE: [i32; 2] = [6, 19];
        let path = path.to_string();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(EXCLUSIVE);
        match within(FILE, move || options.open(path)) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.raw_os_error().is_some_and(|e| NO_DEVICE.contains(&e)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn user(&mut self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn now(&mut self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn interrupted(&mut self) -> bool {
        self.stopping |= self.signalled.swap(false, Ordering::Relaxed);
        self.stopping
    }
}

/// Makes a folder that only we can look into, or makes it so.
fn own_folder(folder: &str) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let about = fs::metadata(folder)?;
    if about.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("{folder} belongs to user {}; remove it", about.uid());
        return Err(io::Error::other(text));
    }
    if about.mode() & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// All that comes out of a pipe, once it ends.
fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before a failure is all there is to it.
            let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes);
            // Nobody listens any more if the program took too long.
            let _ = send.send(bytes);
        });
    }
    receive
}

/// Does something with a file that may never come back, and waits for it no longer than this.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        // Too late for whoever asked.
        let _ = send.send(work());
    });
    receive
        .recv_timeout(limit)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
