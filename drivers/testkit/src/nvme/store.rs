//! A namespace's blocks, with a cache that forgets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::NamespaceConfig;
use crate::medium::Medium;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) id: u32,
    pub(super) config: NamespaceConfig,
    write_cache: bool,
    size: AtomicU64,
    format_progress: AtomicU8,
    shift: AtomicU8,
    /// The same when a driver last asked.
    known_shift: AtomicU8,
    nguid: Mutex<[u8; 16]>,
    uuid: Mutex<[u8; 16]>,
    blocks: Mutex<Medium>,
}

impl Store {
    pub(super) fn new(config: &NamespaceConfig, write_cache: bool) -> Self {
        // Formats that a driver must refuse are never read or written.
        let plain = !config.null && matches!(config.block_shift, 9 | 12);
        let bytes = if plain {
            config.blocks << config.block_shift
        } else {
            0
        };
        Self {
            id: config.id,
            config: config.clone(),
            write_cache,
            size: AtomicU64::new(config.blocks),
            format_progress: AtomicU8::new(config.format_progress),
            shift: AtomicU8::new(config.block_shift),
            known_shift: AtomicU8::new(config.block_shift),
            nguid: Mutex::new(config.nguid),
            uuid: Mutex::new(config.uuid),
            blocks: Mutex::new(Medium::new(bytes as usize)),
        }
    }

    /// Blocks there are now.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// FPI now.
    pub(super) fn format_progress(&self) -> u8 {
        self.format_progress.load(Ordering::Acquire)
    }

    /// Sets FPI.
    pub(super) fn set_format_progress(&self, progress: u8) {
        self.format_progress.store(progress, Ordering::Release);
    }

    /// Its NGUID now.
    pub(super) fn nguid(&self) -> [u8; 16] {
        *self.nguid.lock().unwrap()
    }

    /// Makes it another one, with this NGUID.
    pub(super) fn replace(&self, nguid: [u8; 16]) {
        *self.nguid.lock().unwrap() = nguid;
    }

    /// Its UUID now.
    pub(super) fn uuid(&self) -> [u8; 16] {
        *self.uuid.lock().unwrap()
    }

    /// Makes it another one, with this UUID.
    pub(super) fn replace_uuid(&self, uuid: [u8; 16]) {
        *self.uuid.lock().unwrap() = uuid;
    }

    /// log2 of the size of its blocks now.
    pub(super) fn shift(&self) -> u8 {
        self.shift.load(Ordering::Acquire)
    }

    /// log2 of the size of its blocks as a driver may know it.
    pub(super) fn known_shift(&self) -> u8 {
        self.known_shift.load(Ordering::Acquire)
    }

    /// A driver asks for the size of its blocks.
    pub(super) fn tell_shift(&self) -> u8 {
        let shift = self.shift();
        self.known_shift.store(shift, Ordering::Release);
        shift
    }

    /// Formats it with blocks of this size: as many bytes as before, all zero.
    pub(super) fn reformat(&self, shift: u8) {
        let bytes = self.size() << self.shift();
        *self.blocks.lock().unwrap() = Medium::new(bytes as usize);
        self.shift.store(shift, Ordering::Release);
        self.size.store(bytes >> shift, Ordering::Release);
    }

    /// Gives it another size.
    pub(super) fn resize(&self, blocks: u64) {
        let bytes = (blocks << self.shift()) as usize;
        self.blocks.lock().unwrap().resize(bytes);
        self.size.store(blocks, Ordering::Release);
    }

    /// Whether `count` blocks from `block` on exist.
    pub(super) fn covers(&self, block: u64, count: u64) -> bool {
        block
            .checked_add(count)
            .is_some_and(|end| end <= self.size())
    }

    /// Calls `with` on `len` bytes from byte `at` on, which are inside.
    pub(super) fn read<T>(&self, at: u64, len: usize, with: impl FnOnce(&[u8]) -> T) -> T {
        with(&self.blocks.lock().unwrap().bytes()[at as usize..][..len])
    }

    /// Calls `with` on `len` bytes from byte `at` on, to be overwritten.
    pub(super) fn write<T>(&self, at: u64, len: usize, with: impl FnOnce(&mut [u8]) -> T) -> T {
        let (mut blocks, range) = (self.blocks.lock().unwrap(), at as usize..at as usize + len);
        let written = with(blocks.write(range));
        if !self.write_cache {
            blocks.flush();
        }
        written
    }

    /// Puts blocks on the medium.
    pub(super) fn write_through(&self, block: u64, count: u64) {
        let byte = |block: u64| (block << self.shift()) as usize;
        let range = byte(block)..byte(block + count);
        self.blocks.lock().unwrap().put_through(range);
    }

    pub(super) fn flush(&self) {
        self.blocks.lock().unwrap().flush();
    }

    pub(super) fn power_cut(&self) {
        self.blocks.lock().unwrap().power_cut();
    }

    /// Puts `bytes` on the medium, from the first block on.
    pub(super) fn fill(&self, bytes: &[u8]) {
        self.blocks.lock().unwrap().fill(bytes);
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        self.blocks.lock().unwrap().bytes().to_vec()
    }
}
