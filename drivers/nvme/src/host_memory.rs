//! The host memory buffer (8.9): memory of ours that a controller without much of its own works with.
//! For the control core.
//!
//! It is given where the controller asks for it, in pieces as large as there are and the controller
//! takes, and given again after each reset, which ends its use. The pages stay allocated until the
//! controller is disabled, or has said that it does not use them.

use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, Registers, SharedPages};
use zerocopy::IntoBytes;

use crate::command::{Entry, admin as opcode};
use crate::identify::IdentifyController;
use crate::{Controller, Error};

/// Host Memory Buffer (5.21.1.13).
const FEATURE: u64 = 0x0d;
/// EHM in doubleword 11: the controller may use the buffer.
const ENABLE: u64 = 1;
/// Bytes of an entry in the list of pieces: address, length in pages, four unused ones.
const ENTRY: usize = 16;
/// Pieces that a list of one page has room for.
const MOST_PIECES: usize = PAGE_SIZE / ENTRY;

/// What a controller asks for, by Identify Controller (5.15.2.2), in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// HMPRE: how many it would like, 0 if it wants none.
    preferred: u32,
    /// HMMIN: with fewer it can do nothing.
    least: u32,
    /// HMMINDS: the least in one piece, 0 if it does not matter.
    piece: u32,
    /// HMMAXD: the most pieces, 0 if it does not matter.
    pieces: u16,
}

impl Request {
    pub(crate) fn new(data: &IdentifyController) -> Self {
        let bytes = data.as_bytes();
        let word = |at: usize| {
            let word = bytes[at..].first_chunk().copied();
            word.map_or(0, u32::from_le_bytes)
        };
        Self {
            preferred: word(272),
            least: word(276),
            piece: word(332),
            pieces: word(336) as u16,
        }
    }

    /// The least in one piece.
    fn piece(self) -> usize {
        self.piece.max(1) as usize
    }

    /// The most pieces.
    fn pieces(self) -> usize {
        match self.pieces {
            0 => MOST_PIECES,
            pieces => MOST_PIECES.min(pieces.into()),
        }
    }
}

/// What a controller asks for and has.
#[derive(Debug, Default)]
pub(crate) struct HostMemory {
    pub(crate) request: Request,
    buffer: Option<Buffer>,
}

/// Memory for a controller.
#[derive(Debug)]
struct Buffer {
    list: SharedPages,
    pieces: Vec<SharedPages>,
    /// The controller has its addresses and may use it.
    in_use: bool,
}

impl Buffer {
    /// As much as a controller asks for, but `most` pages at most and in no smaller pieces than it
    /// takes; `None` if that is not enough for it.
    fn allocate(memory: &impl DmaAlloc, request: Request, most: u64) -> Option<Self> {
        let mut wanted = usize::try_from(most.min(request.preferred.into())).ok()?;
        let least = request.least.max(1) as usize;
        if wanted < least {
            return None;
        }
        let mut buffer = Self {
            list: memory.alloc(1)?,
            pieces: Vec::new(),
            in_use: false,
        };
        let enough = wanted - least;
        let mut size = wanted;
        while buffer.pieces.len() < request.pieces() {
            size = size.min(wanted);
            if size < request.piece() {
                break;
            }
            match memory.alloc(size) {
                Some(piece) => {
                    buffer.add(piece);
                    wanted -= size;
                }
                // There may be two halves in two places.
                None => size /= 2,
            }
        }
        if wanted > enough {
            buffer.free(memory);
            return None;
        }
        Some(buffer)
    }

    fn add(&mut self, piece: SharedPages) {
        let at = self.pieces.len() * ENTRY;
        self.list.write_bytes(at, &piece.bus().to_le_bytes());
        let pages = (piece.len() / PAGE_SIZE) as u64;
        self.list.write_bytes(at + 8, &pages.to_le_bytes());
        self.pieces.push(piece);
    }

    fn bytes(&self) -> usize {
        self.pieces.iter().map(SharedPages::len).sum()
    }

    fn free(self, memory: &impl DmaAlloc) {
        memory.free(self.list);
        for piece in self.pieces {
            memory.free(piece);
        }
    }
}

impl HostMemory {
    /// The controller has been disabled, and uses nothing any longer.
    pub(crate) fn is_disabled(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.in_use = false;
        }
    }

    /// Whether the controller may use it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.in_use)
    }

    /// Gives the memory back. The controller must be disabled.
    pub(crate) fn free(self, memory: &impl DmaAlloc) {
        if let Some(buffer) = self.buffer {
            buffer.free(memory);
        }
    }
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Gives the controller memory to work with, if it asks for some: `most` bytes at most. Gives
    /// how many bytes it has got; it has them until it is shut down. To be called once, before
    /// there are queues.
    ///
    /// # Errors
    /// [`Error::Command`] if it does not take what it asked for, and works without. After any other
    /// error it has to be reset before it has queues, which [`Controller::recover`] does.
    pub fn lend(&mut self, most: u64) -> Result<usize, Error> {
        let request = self.host_memory.request;
        if request.preferred == 0 || self.host_memory.buffer.is_some() {
            return Ok(0);
        }
        if !self.is_running() {
            return Err(Error::NotRunning);
        }
        let pages = most / PAGE_SIZE as u64;
        self.host_memory.buffer = Buffer::allocate(&self.memory, request, pages);
        let lent = self.lend_again()?;
        let kib = |pages: u32| u64::from(pages) * (PAGE_SIZE as u64 >> 10);
        log::info!(
            "nvme {}: has {} KiB of our memory; it asks for {} KiB, and for {} KiB at least",
            self.identity.serial,
            lent >> 10,
            kib(request.preferred),
            kib(request.least)
        );
        Ok(lent)
    }

    /// Tells the controller of its buffer, if it has one, as after each reset. Gives its bytes.
    #[inline(never)]
    pub(crate) fn lend_again(&mut self) -> Result<usize, Error> {
        let request = self.host_memory.request;
        let Some(buffer) = &mut self.host_memory.buffer else {
            return Ok(0);
        };
        let bytes = buffer.bytes();
        let pages = (bytes / PAGE_SIZE) as u32;
        if request.preferred == 0 || pages < request.least {
            // Another firmware has other needs. What it had is kept until the end.
            return Ok(0);
        }
        let list = buffer.list.bus();
        let pieces = buffer.pieces.len() as u32;
        // Whatever becomes of the command, it may have been carried out.
        buffer.in_use = true;
        let more = [list as u32, (list >> 32) as u32, pieces];
        match self.set_buffer(ENABLE, pages, more) {
            Ok(()) => Ok(bytes),
            Err(error @ Error::Command { .. }) => {
                if let Some(buffer) = self.host_memory.buffer.take() {
                    buffer.free(&self.memory);
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Has the controller use its buffer no longer, before it is shut down: it brings home what it
    /// has there.
    #[inline(never)]
    pub(crate) fn take_back(&mut self) -> Result<(), Error> {
        if !self.host_memory.is_in_use() {
            return Ok(());
        }
        self.set_buffer(0, 0, [0; 3])?;
        self.host_memory.is_disabled();
        Ok(())
    }

    fn set_buffer(&mut self, enable: u64, pages: u32, more: [u32; 3]) -> Result<(), Error> {
        self.admin.with_more(more);
        let entry = Entry {
            opcode: opcode::SET_FEATURES,
            cdw10: FEATURE | enable << 32,
            cdw12: pages,
            ..Entry::default()
        };
        let done = self.execute(entry);
        // Not submitted at all, perhaps: no other command may get these.
        self.admin.with_more([0; 3]);
        done.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::blank;

    #[test]
    fn what_is_asked_for_is_read_from_its_place() {
        let mut data = blank::<IdentifyController>().unwrap();
        assert_eq!(Request::new(&data), Request::default());
        let page = data.as_mut_bytes();
        page[272..280].copy_from_slice(&[1, 2, 0, 0, 3, 4, 0, 0]);
        page[332..338].copy_from_slice(&[5, 6, 0, 0, 7, 8]);
        page[338..340].copy_from_slice(&[0xff; 2]);
        let request = Request::new(&data);
        assert_eq!((request.preferred, request.least), (0x201, 0x403));
        assert_eq!((request.piece, request.pieces), (0x605, 0x807));
        assert_eq!(request.pieces(), MOST_PIECES);
    }
}
