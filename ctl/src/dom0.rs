//! The real dom0: files that a dead disk cannot hold us up with, the signals that ask to stop,
//! programs with a time limit, in `process`, and who has a device open, in `openers`.

mod openers;
mod process;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spindlectl_grants::GrantedBytes;

use crate::host::{Call, Failed, Host, Node, Opener};

/// How long a file operation may take: a disk that does not answer can hold up an open.
const FILE: Duration = Duration::from_secs(60);
/// The most of a file that is read.
const MOST: u64 = 16 << 20;

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
    /// What domains may read.
    granted: Vec<GrantedBytes>,
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
            granted: Vec::new(),
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
}

impl Host for Dom0 {
    fn run(&mut self, call: &Call) -> Result<String, Failed> {
        self.execute(call)
    }

    fn read(&mut self, path: &str) -> io::Result<String> {
        let bytes = self.bytes(path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let path = path.to_string();
        within(FILE, move || {
            let mut bytes = Vec::new();
            File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    fn grant(&mut self, domain: u32, bytes: &[u8]) -> io::Result<Vec<u32>> {
        let domain = u16::try_from(domain).map_err(io::Error::other)?;
        let granted = GrantedBytes::new(domain, bytes)?;
        let refs = granted.refs().to_vec();
        self.granted.push(granted);
        Ok(refs)
    }

    fn stamp(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos() as u64)
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

    fn openers(&mut self, nodes: &[Node]) -> io::Result<Vec<Opener>> {
        let nodes = nodes.to_vec();
        within(FILE, move || openers::of(&nodes))
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
