//! Disks with a write cache that a power cut empties: an NBD server for each, in this process. What
//! is written stays in its memory until a flush puts it into the image; what was not flushed is
//! lost with the connection.
//!
//! An image that QEMU has opened itself shows nothing of that kind: what QEMU has written is in the
//! host's page cache, and outlives QEMU whether it was flushed or not.

mod cache;
mod nbd;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use self::cache::Cache;
use crate::ui;

/// The end of a socket's name in the logs folder; the beginning is the drive's name.
const SOCKET: &str = ".nbd";

/// The server of one drive, until its client is gone.
pub(super) struct Lossy {
    logs: PathBuf,
    name: String,
    server: Option<JoinHandle<()>>,
}

impl Lossy {
    /// Serves `image` to one client, at the socket of the drive `name` in `logs`.
    ///
    /// # Errors
    /// The image cannot be opened, or there is no socket to be had.
    pub(super) fn serve(logs: &Path, name: &str, image: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(image);
        let file = file.with_context(|| format!("open {}", image.display()))?;
        let cache = Cache::new(file).with_context(|| format!("size of {}", image.display()))?;
        let (folder, path) = address(logs, name)?;
        let listener = UnixListener::bind(path).context("a socket for a disk")?;
        drop(folder);
        let drive = name.to_string();
        let server = thread::spawn(move || {
            let served = listener
                .accept()
                .and_then(|(client, _)| nbd::serve(client, cache));
            match served {
                Ok(lost) if lost > 0 => {
                    ui::step("rig", &format!("{lost} KiB of {drive} were not flushed"));
                }
                Ok(_) => {}
                Err(error) => ui::step("rig", &format!("the disk {drive}: {error}")),
            }
        });
        Ok(Self {
            logs: logs.to_path_buf(),
            name: name.to_string(),
            server: Some(server),
        })
    }

    /// What QEMU calls the socket of a drive; its working directory is the logs folder.
    pub(super) fn socket(name: &str) -> String {
        format!("{name}{SOCKET}")
    }
}

impl Drop for Lossy {
    /// Waits until the client is gone; its QEMU has ended already. The image is what it stays then.
    fn drop(&mut self) {
        if let Ok((_folder, path)) = address(&self.logs, &self.name) {
            // Ends the server if no client ever came: this one goes at once.
            let _ = UnixStream::connect(path);
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// A path for the socket that is not too long, as long as the folder is open.
fn address(logs: &Path, name: &str) -> io::Result<(File, String)> {
    let folder = File::open(logs)?;
    let path = format!("/proc/self/fd/{}/{name}{SOCKET}", folder.as_raw_fd());
    Ok((folder, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_no_client_came_to_ends() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("spindle-lossy-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let image = dir.join("disk.img");
        File::create(&image)?.set_len(4096)?;
        drop(Lossy::serve(&dir, "disk", &image)?);
        assert!(Lossy::serve(&dir, "other", &dir.join("nosuch.img")).is_err());
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
