//! A writer for the `newc` cpio format: how scripts and kernels reach a machine that boots
//! from an initramfs. Linux unpacks archives that stand one after another, the later one
//! on top, so a small archive made here is appended to a big cached one.

/// An archive under construction.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a folder (its parents must have been added, or be in an earlier archive).
    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds a file; every file may be executed.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, content);
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        // Fields of the header: inode, mode, uid, gid, links, mtime, size, four device
        // numbers, length of the name with its zero, checksum (unused).
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0,
            0,
            0,
            0,
            u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_a_trailer_ends_the_archive() {
        let mut archive = Archive::default();
        archive.folder("spindle");
        archive.file("spindle/a", b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let headers: Vec<usize> = (0..bytes.len() - 6)
            .filter(|&at| &bytes[at..at + 6] == b"070701")
            .collect();
        assert_eq!(headers.len(), 3);
        assert!(headers.iter().all(|at| at % 4 == 0));
        assert_eq!(&bytes[headers[1] + 54..headers[1] + 62], b"00000005");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("spindle/a\0") && text.contains("TRAILER!!!"));
    }
}
