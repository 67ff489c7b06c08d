//! The connection to xenstored when the kernel starts again in place: xenstored goes on where the
//! last life was in both byte streams, which may be in the middle of a message.
//!
//! [`KeptStream`] is the little that outlives the kernel: where the message ends that is being
//! written or read, and the bytes of the former. [`Resume`] makes use of it: it completes the request
//! that was cut off, has xenstored forget the watches and transactions of the last life, and drops
//! all that xenstored still sends for it.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_hw::SharedPages;
use zerocopy::FromBytes;

use super::wire::{self, Assembler, HEADER_LEN, Header, MessageType, PAYLOAD_MAX};
use super::{Ring, RingError};

/// Pages that a [`KeptStream`] takes.
pub const KEPT_STREAM_PAGES: usize = 2;

/// The ring indices at which the message ends that is being written, and read; the bytes of the
/// former.
const TX_END: usize = 0;
const RX_END: usize = 4;
const TX_LEN: usize = 8;
const TX: usize = 16;
const MESSAGE_MAX: usize = HEADER_LEN + PAYLOAD_MAX;
/// The request that ends what belongs to the last life; clients count from 1.
const RESET: u32 = u32::MAX;

/// What has to be known of the connection after a death: in memory that no start touches.
#[derive(Debug)]
pub struct KeptStream {
    pages: SharedPages,
}

impl KeptStream {
    /// Takes up what is kept in `pages`, [`KEPT_STREAM_PAGES`] of them.
    #[must_use]
    pub const fn new(pages: SharedPages) -> Self {
        Self { pages }
    }

    /// Begins with a connection that is between two messages both ways.
    pub(super) fn begin(&self, req_prod: u32, rsp_cons: u32) {
        self.pages.u32_at(TX_LEN).store(0, Relaxed);
        self.pages.u32_at(TX_END).store(req_prod, Release);
        self.pages.u32_at(RX_END).store(rsp_cons, Release);
    }

    /// Bytes left of the message that is being written at index `at`; if that is where one begins,
    /// it is the first of `data`, which holds all of it, and it is kept before its first byte is
    /// in the ring.
    pub(super) fn outgoing(&self, at: u32, data: &[u8]) -> usize {
        let end = self.pages.u32_at(TX_END).load(Relaxed);
        if end != at {
            return end.wrapping_sub(at) as usize;
        }
        let len = message_len(data).map_or(data.len(), |len| len.min(data.len()));
        let len = len.min(MESSAGE_MAX);
        self.pages.write_bytes(TX, &data[..len]);
        self.pages.u32_at(TX_LEN).store(len as u32, Relaxed);
        self.pages
            .u32_at(TX_END)
            .store(at.wrapping_add(len as u32), Release);
        len
    }

    /// Bytes left of the message that is being read at index `at`. Where one begins, `header` is
    /// asked for it, and the message's end is kept before any of it is taken; 0 if it is not there
    /// yet.
    pub(super) fn incoming(
        &self,
        at: u32,
        header: impl FnOnce() -> Option<[u8; HEADER_LEN]>,
    ) -> usize {
        let end = self.pages.u32_at(RX_END).load(Relaxed);
        if end != at {
            return end.wrapping_sub(at) as usize;
        }
        let Some(len) = header().and_then(|header| message_len(&header)) else {
            return 0;
        };
        self.pages
            .u32_at(RX_END)
            .store(at.wrapping_add(len as u32), Release);
        len
    }

    /// The bytes that xenstored waits for, when the ring's index is `at`.
    fn unwritten(&self, at: u32) -> Option<Vec<u8>> {
        let end = self.pages.u32_at(TX_END).load(Acquire);
        let len = self.pages.u32_at(TX_LEN).load(Relaxed) as usize;
        let left = end.wrapping_sub(at) as usize;
        if len > MESSAGE_MAX || left > len {
            return None;
        }
        let mut rest = vec![0; left];
        self.pages.read_bytes(TX + len - left, &mut rest);
        Some(rest)
    }

    /// How many bytes belong to a message that was read in part.
    fn unread(&self, at: u32) -> Option<usize> {
        let left = self.pages.u32_at(RX_END).load(Acquire).wrapping_sub(at) as usize;
        (left <= MESSAGE_MAX).then_some(left)
    }
}

fn message_len(data: &[u8]) -> Option<usize> {
    let (header, _) = Header::read_from_prefix(data).ok()?;
    // What is longer than a message may be is found by who puts it together.
    Some(HEADER_LEN + (header.len as usize).min(PAYLOAD_MAX))
}

/// Why a connection cannot be taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// What was kept does not fit the ring.
    #[error("what was kept of the connection to xenstored makes no sense")]
    Kept,
    /// The ring makes no sense.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The byte stream makes no sense.
    #[error(transparent)]
    Stream(#[from] wire::Oversized),
}

/// Takes up the connection of an earlier life.
#[derive(Debug)]
pub struct Resume {
    out: Vec<u8>,
    skip: usize,
    assembler: Assembler,
}

impl Resume {
    /// Begins on a ring that was made by [`Ring::keeping`].
    ///
    /// # Errors
    /// [`ResumeError::Kept`].
    pub fn new(ring: &Ring) -> Result<Self, ResumeError> {
        let (kept, req_prod, rsp_cons) = ring.kept().ok_or(ResumeError::Kept)?;
        let mut out = kept.unwritten(req_prod).ok_or(ResumeError::Kept)?;
        let skip = kept.unread(rsp_cons).ok_or(ResumeError::Kept)?;
        // Never too long.
        wire::encode(&mut out, MessageType::RESET_WATCHES, RESET, 0, &[b"\0"]);
        Ok(Self {
            out,
            skip,
            assembler: Assembler::default(),
        })
    }

    /// Goes on; true once the connection is as a new one. Otherwise xenstored is to be notified if
    /// [`Ring::take_notify`] says so, and this to be called again after its event.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub fn poll(&mut self, ring: &mut Ring) -> Result<bool, ResumeError> {
        loop {
            let sent = ring.write(&self.out)?;
            self.out.drain(..sent);
            let mut bytes = [0; 256];
            let wanted = match self.skip {
                0 => self.assembler.wanted()?,
                left => left,
            };
            let read = ring.read(&mut bytes[..wanted.min(256)])?;
            if self.skip > 0 {
                self.skip -= read;
            } else {
                self.assembler.push(&bytes[..read]);
            }
            if let Some((header, _)) = self.assembler.take()?
                && header.request == RESET
                && header.message != MessageType::WATCH_EVENT
            {
                return Ok(true);
            }
            if sent == 0 && read == 0 {
                return Ok(false);
            }
        }
    }
}
