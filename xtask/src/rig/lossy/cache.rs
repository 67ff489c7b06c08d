//! A disk image with a write cache in front of it, which holds all that was written since the last
//! flush.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a page of the cache.
const PAGE: usize = 4096;

/// The image and its cache.
pub(super) struct Cache {
    image: File,
    bytes: u64,
    /// What was written and not flushed, by the number of the page.
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Cache {
    /// With nothing in the cache.
    ///
    /// # Errors
    /// The image's size is not to be had.
    pub(super) fn new(image: File) -> io::Result<Self> {
        let bytes = image.metadata()?.len();
        Ok(Self {
            image,
            bytes,
            pages: BTreeMap::new(),
        })
    }

    /// Bytes of the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// KiB that a power cut would lose.
    pub(super) fn unflushed(&self) -> usize {
        self.pages.len() * PAGE / 1024
    }

    /// Reads what was written last, flushed or not.
    ///
    /// # Errors
    /// Beyond the disk's end, or the image cannot be read.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        self.image.read_exact_at(data, offset)?;
        for (page, at, part) in parts(offset, data.len()) {
            if let Some(cached) = self.pages.get(&page) {
                data[part.clone()].copy_from_slice(&cached[at..at + part.len()]);
            }
        }
        Ok(())
    }

    /// Writes into the cache.
    ///
    /// # Errors
    /// Beyond the disk's end, or the image cannot be read.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        for (page, at, part) in parts(offset, data.len()) {
            if !self.pages.contains_key(&page) {
                let mut old = Box::new([0; PAGE]);
                let start = page * PAGE as u64;
                // The last page may not be a whole one.
                let len = PAGE.min(usize::try_from(self.bytes - start).unwrap_or(PAGE));
                self.image.read_exact_at(&mut old[..len], start)?;
                self.pages.insert(page, old);
            }
            if let Some(cached) = self.pages.get_mut(&page) {
                cached[at..at + part.len()].copy_from_slice(&data[part]);
            }
        }
        Ok(())
    }

    /// Puts into the image what is in the cache.
    ///
    /// # Errors
    /// The image cannot be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some((page, cached)) = self.pages.pop_first() {
            let start = page * PAGE as u64;
            let len = PAGE.min(usize::try_from(self.bytes - start).unwrap_or(PAGE));
            self.image.write_all_at(&cached[..len], start)?;
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// The pages that a range lies in: their numbers, where in them it begins, and which part of the
/// range each is.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = offset + done as u64;
        let at = (position % PAGE as u64) as usize;
        let part = done..len.min(done + PAGE - at);
        done = part.end;
        (!part.is_empty()).then(|| (position / PAGE as u64, at, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 9,000 bytes, whose last page is not whole, and another look at its image.
    fn disk(name: &str) -> io::Result<(Cache, File)> {
        let path = std::env::temp_dir().join(format!("spindle-{name}-{}", std::process::id()));
        let options = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path)
        };
        let (image, other) = (options()?, options()?);
        std::fs::remove_file(&path)?;
        image.set_len(9000)?;
        image.write_all_at(&[7; 9000], 0)?;
        Ok((Cache::new(image)?, other))
    }

    #[test]
    fn what_is_not_flushed_is_read_back_and_not_in_the_image() -> io::Result<()> {
        let (mut cache, image) = disk("cache-write")?;
        let mut data = [0; 6000];
        cache.write(100, &[1; 5000])?;
        cache.write(8999, &[2])?;
        cache.read(0, &mut data)?;
        assert_eq!((data[99], data[100], data[5099], data[5100]), (7, 1, 1, 7));
        let mut last = [0; 2];
        cache.read(8998, &mut last)?;
        assert_eq!(last, [7, 2]);
        assert_eq!(cache.unflushed(), 12);
        image.read_exact_at(&mut data, 0)?;
        assert_eq!(data, [7; 6000]);
        cache.flush()?;
        assert_eq!(cache.unflushed(), 0);
        image.read_exact_at(&mut data, 0)?;
        assert_eq!((data[99], data[100], data[5099], data[5100]), (7, 1, 1, 7));
        image.read_exact_at(&mut last, 8998)?;
        assert_eq!((last, image.metadata()?.len()), ([7, 2], 9000));
        Ok(())
    }

    #[test]
    fn nothing_beyond_the_end_is_read_or_written() -> io::Result<()> {
        let (mut cache, _) = disk("cache-end")?;
        assert!(cache.read(8999, &mut [0; 2]).is_err());
        assert!(cache.write(8999, &[0; 2]).is_err());
        assert!(cache.write(u64::MAX, &[0; 2]).is_err());
        assert_eq!(cache.unflushed(), 0);
        Ok(())
    }
}
