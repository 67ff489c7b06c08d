//! The page shared with xenstored: `struct xenstore_domain_interface` in `public/io/xs_wire.h`.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_hw::SharedPages;

use super::kept::KeptStream;
use super::wire::HEADER_LEN;

/// Bytes in each of the two rings.
const RING_SIZE: u32 = 1024;
const REQ: usize = 0;
const RSP: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;

/// The other side's index is impossible: the ring is corrupt, and with it the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("xenstore ring corrupt: producer {producer:#x}, consumer {consumer:#x}")]
pub struct RingError {
    /// The producer's index.
    pub producer: u32,
    /// The consumer's index.
    pub consumer: u32,
}

/// Our end of the rings: requests go out, replies and watch events come in.
///
/// Our own indices are kept privately, so that the peer cannot move them.
#[derive(Debug)]
pub struct Ring {
    page: SharedPages,
    req_prod: u32,
    rsp_cons: u32,
    notify: bool,
    kept: Option<KeptStream>,
}

impl Ring {
    /// Takes up the connection as it stands in `page`, which is one page.
    #[must_use]
    pub fn new(page: SharedPages) -> Self {
        let req_prod = page.u32_at(REQ_PROD).load(Acquire);
        let rsp_cons = page.u32_at(RSP_CONS).load(Acquire);
        Self {
            page,
            req_prod,
            rsp_cons,
            notify: false,
            kept: None,
        }
    }

    /// The same, with what a later life has to know of it noted in `kept`. With `again` an earlier
    /// life did so, and [`Resume`](super::Resume) comes first.
    #[must_use]
    pub fn keeping(page: SharedPages, kept: KeptStream, again: bool) -> Self {
        let mut ring = Self::new(page);
        if !again {
            kept.begin(ring.req_prod, ring.rsp_cons);
        }
        ring.kept = Some(kept);
        ring
    }

    /// What is kept, and our indices.
    pub(super) const fn kept(&self) -> Option<(&KeptStream, u32, u32)> {
        match &self.kept {
            Some(kept) => Some((kept, self.req_prod, self.rsp_cons)),
            None => None,
        }
    }

    /// Whether xenstored has to be notified of what was done since the last time this was asked.
    #[must_use]
    pub fn take_notify(&mut self) -> bool {
        core::mem::take(&mut self.notify)
    }

    /// Whether there is anything to read, for a last look before going to sleep.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.page.u32_at(RSP_PROD).load(Acquire) != self.rsp_cons
    }

    /// Reads what is there, at most `out.len()` bytes, and returns how much that was.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, RingError> {
        let producer = self.page.u32_at(RSP_PROD).load(Acquire);
        let available = used(producer, self.rsp_cons)?;
        let mut done = 0;
        while done < out.len() && done < available {
            let offset = (self.rsp_cons % RING_SIZE) as usize;
            let count = (RING_SIZE as usize - offset)
                .min(out.len() - done)
                .min(available - done)
                .min(self.incoming(available - done));
            if count == 0 {
                break;
            }
            self.page
                .read_bytes(RSP + offset, &mut out[done..done + count]);
            self.rsp_cons = self.rsp_cons.wrapping_add(count as u32);
            done += count;
            // No later than the end of the next message is kept in place of this one's.
            self.page.u32_at(RSP_CONS).store(self.rsp_cons, Release);
            self.notify = true;
        }
        Ok(done)
    }

    /// Writes what fits of `data` and returns how much that was.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn write(&mut self, data: &[u8]) -> Result<usize, RingError> {
        let consumer = self.page.u32_at(REQ_CONS).load(Acquire);
        let room = RING_SIZE as usize - used(self.req_prod, consumer)?;
        let mut done = 0;
        while done < data.len() && done < room {
            let offset = (self.req_prod % RING_SIZE) as usize;
            let kept = self.kept.as_ref();
            let message = kept.map(|kept| kept.outgoing(self.req_prod, &data[done..]));
            let count = (RING_SIZE as usize - offset)
                .min(data.len() - done)
                .min(room - done)
                .min(message.unwrap_or(usize::MAX));
            self.page
                .write_bytes(REQ + offset, &data[done..done + count]);
            self.req_prod = self.req_prod.wrapping_add(count as u32);
            done += count;
            // No later than the next message is kept in place of this one.
            self.page.u32_at(REQ_PROD).store(self.req_prod, Release);
            self.notify = true;
        }
        Ok(done)
    }

    /// How much of the message may be read that is next in the ring, of which `available` bytes are
    /// there. Its header is read at once or not at all if that has to be kept.
    fn incoming(&self, available: usize) -> usize {
        let Some(kept) = &self.kept else {
            return available;
        };
        kept.incoming(self.rsp_cons, || {
            (available >= HEADER_LEN).then(|| {
                core::array::from_fn(|index| {
                    let at = self.rsp_cons.wrapping_add(index as u32) % RING_SIZE;
                    self.page.u8_at(RSP + at as usize).load(Relaxed)
                })
            })
        })
    }

    /// Whether xenstored has taken everything written.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.page.u32_at(REQ_CONS).load(Relaxed) == self.req_prod
    }
}

fn used(producer: u32, consumer: u32) -> Result<usize, RingError> {
    let used = producer.wrapping_sub(consumer);
    if used > RING_SIZE {
        return Err(RingError { producer, consumer });
    }
    Ok(used as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_round_the_end_and_indices_wrap() {
        let page = SharedPages::host(1, 0);
        let start = u32::MAX - 10;
        for at in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            page.u32_at(at).store(start, Relaxed);
        }
        let theirs = page.alias();
        let mut ring = Ring::new(page);
        let data: alloc::vec::Vec<u8> = (0..2000).map(|i| i as u8).collect();
        assert_eq!(ring.write(&data), Ok(1024));
        assert_eq!(ring.write(&data), Ok(0));
        assert!(ring.take_notify() && !ring.take_notify());
        assert_eq!(
            theirs.u32_at(REQ_PROD).load(Relaxed),
            start.wrapping_add(1024)
        );
        let mut first = [0];
        theirs.read_bytes(REQ + (start % RING_SIZE) as usize, &mut first);
        assert_eq!(first[0], 0);

        theirs.write_bytes(RSP + (start % RING_SIZE) as usize, b"hello");
        theirs
            .u32_at(RSP_PROD)
            .store(start.wrapping_add(5), Relaxed);
        let mut out = [0; 8];
        assert_eq!(ring.read(&mut out), Ok(5));
        assert_eq!(&out[..5], b"hello");
        assert_eq!(ring.read(&mut out), Ok(0));
        assert!(ring.take_notify());
    }

    #[test]
    fn impossible_indices_are_an_error() {
        let page = SharedPages::host(1, 0);
        let theirs = page.alias();
        let mut ring = Ring::new(page);
        theirs.u32_at(RSP_PROD).store(1025, Relaxed);
        assert!(ring.read(&mut [0; 4]).is_err());
        theirs.u32_at(REQ_CONS).store(1, Relaxed);
        assert!(ring.write(b"x").is_err());
    }
}
