//! The lock that lets one `spindlectl` at a time change something: of two at once, each would take
//! for its own, and undo, what the other does.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::fault::FaultKind;
use crate::host::Host;

/// How often to look whether it is free.
const LOOK: Duration = Duration::from_millis(100);
/// The longest note about a holder that is read.
const NOTE: u64 = 256;

/// Locks the file at `path`, which is made if need be, until the result and all its copies are
/// closed. Waits for `patience` if another has it, and calls `wait` with who that is. `me` is noted
/// for those who come later.
///
/// Only root can open the file: whoever can open a file can lock it.
///
/// # Errors
/// If the file cannot be made or locked, or is locked for too long.
pub(crate) fn lock(
    host: &mut impl Host,
    path: &Path,
    patience: Duration,
    me: &str,
    wait: impl FnOnce(&str),
) -> Result<File> {
    let shown = path.display();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    // Not emptied: it says who has it.
    let file = options.truncate(false).open(path);
    let mut file = file.with_context(|| format!("cannot open {shown}"))?;
    let about = file.metadata()?;
    ensure!(
        about.uid() == host.user(),
        "{shown} belongs to user {}\nremove it",
        about.uid()
    );
    if about.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let deadline = host.now().saturating_add(patience);
    let mut wait = Some(wait);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => bail!("cannot lock {shown}: {error}"),
        }
        let holder = holder(host, &mut file);
        ensure!(
            host.now() < deadline,
            FaultKind::Late.error(format!(
                "{holder} still works after {} s of waiting; nothing was done\n`fuser -v {shown}` \
                 shows what holds the lock; try again once that has ended, or with a longer \
                 --lock-timeout",
                patience.as_secs()
            ))
        );
        ensure!(!host.interrupted(), "interrupted while {holder} worked");
        if let Some(wait) = wait.take() {
            wait(&holder);
        }
        host.sleep(LOOK);
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{} {me}", std::process::id()).with_context(|| format!("cannot write {shown}"))?;
    Ok(file)
}

/// Who has the lock, by the note in the file.
fn holder(host: &mut impl Host, file: &mut File) -> String {
    let mut note = String::new();
    // Without a note that can be read, it is another program all the same.
    let read = file
        .rewind()
        .and_then(|()| file.take(NOTE).read_to_string(&mut note));
    let noted = read.ok().and_then(|_| note.split_once(' '));
    let Some((pid, what)) = noted.filter(|(pid, _)| pid.parse::<u32>().is_ok()) else {
        return "another program".into();
    };
    match host.exists(&format!("/proc/{pid}")) {
        Ok(false) => format!("what `spindlectl {what}` (PID {pid}, gone) has started"),
        _ => format!("`spindlectl {what}` (PID {pid})"),
    }
}
