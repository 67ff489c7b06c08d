//! Which programs have a device open: the open files of all processes, by device number, whatever
//! path they went by, in whatever container.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::host::{Node, Opener};

/// What errno(3) says of a process that has ended while it was looked at.
const ENDED: i32 = 3;

/// Every program but this one that has one of `nodes` open.
///
/// # Errors
/// If none is found, but a process cannot be looked at that has not ended meanwhile.
pub(super) fn of(nodes: &[Node]) -> io::Result<Vec<Opener>> {
    let mut openers = Vec::new();
    let mut unseen = None;
    for process in fs::read_dir("/proc")? {
        let name = process?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if id == std::process::id() {
            continue;
        }
        match there(opened(id, nodes)) {
            Ok(found) => openers.extend(found.flatten()),
            Err(error) => unseen = Some(error),
        }
    }
    match unseen {
        Some(error) if openers.is_empty() => Err(error),
        _ => Ok(openers),
    }
}

/// Whether a process has one of `nodes` open.
fn opened(id: u32, nodes: &[Node]) -> io::Result<Option<Opener>> {
    for file in fs::read_dir(format!("/proc/{id}/fd"))? {
        // It may be closed by now.
        let Some(about) = there(fs::metadata(file?.path()))? else {
            continue;
        };
        let kind = about.file_type();
        let node = Node {
            block: kind.is_block_device(),
            major: rustix::fs::major(about.rdev()),
            minor: rustix::fs::minor(about.rdev()),
        };
        if (node.block || kind.is_char_device()) && nodes.contains(&node) {
            let program = there(fs::read_to_string(format!("/proc/{id}/comm")))?;
            let program = program.unwrap_or_default().trim_end().to_string();
            return Ok(Some(Opener { node, program, id }));
        }
    }
    Ok(None)
}

/// What was looked at; `None` if it has gone meanwhile.
fn there<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(ENDED) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By errno(3): ENOENT and ESRCH, as of a process that ends, and EACCES.
    #[test]
    fn what_has_gone_is_not_there_and_what_is_hidden_is_not_known() {
        let looked = |error| there::<()>(Err(io::Error::from_raw_os_error(error)));
        assert!(matches!(looked(2), Ok(None)));
        assert!(matches!(looked(3), Ok(None)));
        assert!(looked(13).is_err());
        assert!(matches!(there(Ok(7)), Ok(Some(7))));
    }
}
