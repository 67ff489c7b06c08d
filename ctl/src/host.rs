//! The machine that `spindlectl` works on, behind a trait: programs, files in sysfs and xenstore's
//! tools. Tests put a dom0 of their own in its place.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What is done to and learnt from dom0.
pub(crate) trait Host {
    /// Runs a program with more environment variables than our own; gives its standard output.
    ///
    /// # Errors
    /// If it cannot be started, or fails: then with what it said.
    fn run(&mut self, call: &Call) -> Result<String>;

    /// The content of a small file.
    fn read(&mut self, path: &str) -> io::Result<String>;

    /// Whether there is a file.
    fn exists(&mut self, path: &str) -> bool;

    /// The names in a folder.
    fn list(&mut self, path: &str) -> io::Result<Vec<String>>;

    /// The last name of where a symbolic link points to; `None` if there is no such link.
    fn link(&mut self, path: &str) -> Option<String>;

    /// Makes a file, and its folder, or replaces it.
    fn write(&mut self, path: &str, text: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Changes some bytes of a file.
    fn patch(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Whether something in the kernel has the block device at `path` to itself: a file system, swap
    /// space, RAID, a program that asked for that.
    fn is_taken(&mut self, path: &str) -> bool;

    /// The user we act as; 0 is root.
    fn user(&mut self) -> u32;

    /// Time since the start of this program.
    fn now(&mut self) -> Duration;

    /// Waits.
    fn sleep(&mut self, time: Duration);
}

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The program.
    pub(crate) program: String,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Environment variables set for it.
    pub(crate) environment: Vec<(String, String)>,
}

impl Call {
    /// A program with these arguments.
    pub(crate) fn new<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            program: program.to_string(),
            arguments: arguments.into_iter().map(str::to_string).collect(),
            environment: Vec::new(),
        }
    }

    /// `xl` with these arguments.
    pub(crate) fn xl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new("xl", arguments)
    }

    /// The same with an environment variable.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// As a shell would take it.
impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&self.program)?;
        for argument in &self.arguments {
            f.write_char(' ')?;
            f.write_str(&quoted(argument))?;
        }
        Ok(())
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The real dom0.
pub(crate) struct Dom0 {
    started: Instant,
}

impl Dom0 {
    /// This machine.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Host for Dom0 {
    fn run(&mut self, call: &Call) -> Result<String> {
        let output = Command::new(&call.program)
            .args(&call.arguments)
            .envs(call.environment.iter().map(|(name, value)| (name, value)))
            .output();
        let output = output.with_context(|| {
            let program = &call.program;
            format!("cannot run {program}; this needs dom0 with Xen's tools (xen-utils) in PATH")
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{call}` failed ({}): {}", output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn read(&mut self, path: &str) -> io::Result<String> {
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn exists(&mut self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir(path)?.map(name).collect()
    }

    fn link(&mut self, path: &str) -> Option<String> {
        let target = fs::read_link(path).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn patch(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn is_taken(&mut self, path: &str) -> bool {
        // O_EXCL without O_CREAT: of a block device, for itself (open(2)).
        const EXCLUSIVE: i32 = 0o200;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(EXCLUSIVE)
            .open(path);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
    }

    fn user(&mut self) -> u32 {
        fs::metadata("/proc/self").map_or(u32::MAX, |about| about.uid())
    }

    fn now(&mut self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Locks the file at `path`, which is made if need be, until the result is dropped. Calls `wait`
/// first if somebody else has it, and waits for him.
///
/// # Errors
/// If the file cannot be made or locked.
pub(crate) fn lock(path: &Path, wait: impl FnOnce()) -> io::Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            wait();
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn who_comes_second_is_told_and_waits() {
        let path = std::env::temp_dir().join(format!("spindlectl-lock-{}", std::process::id()));
        let first = lock(&path, || panic!("nobody else has it")).expect("locked");
        let (waits, told) = channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || lock(&path, || waits.send(()).expect("told")).map(drop)
        });
        told.recv().expect("the second waits");
        assert!(!second.is_finished());
        drop(first);
        second.join().expect("no panic").expect("locked");
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn a_call_is_shown_as_a_shell_takes_it() {
        let call = Call::new("xenstore-write", ["/a", "b c", "it's", ""]).with("X", "1;2");
        let expected = r"X='1;2' xenstore-write /a 'b c' 'it'\''s' ''";
        assert_eq!(call.to_string(), expected);
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_an_error_with_its_words() {
        let mut host = Dom0::new();
        let failed = host.run(&Call::new("sh", ["-c", "echo no luck >&2; exit 3"]));
        let text = failed.expect_err("it failed").to_string();
        assert!(text.contains("no luck") && text.contains('3'), "{text}");
        let missing = host.run(&Call::new("no-such-program-here", []));
        let text = missing.expect_err("it is missing").to_string();
        assert!(text.contains("xen-utils"), "{text}");
        let ran = host.run(&Call::new("sh", ["-c", "echo $A"]).with("A", "b"));
        assert_eq!(ran.expect("it ran"), "b\n");
    }
}
