//! Counters of one ring: written by its core alone, read by the control core at any time.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a ring has done since it was attached. Counters never go down.
        #[derive(Debug, Default)]
        #[repr(align(64))]
        pub struct RingStats { $($(#[$doc])* pub $name: Counter),* }

        /// A copy of [`RingStats`] at one moment; the counters are read one after the other.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64),* }

        impl RingStats {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get()),* }
            }
        }
    };
}

counters! {
    /// Times that a request had to wait for room: in the buffer pool, the disk queue or a batch.
    out_of_room,
    /// Read requests accepted.
    reads,
    /// Write requests accepted.
    writes,
    /// Flush requests accepted.
    flushes,
    /// Requests answered with anything but success.
    errors,
    /// 512-byte sectors asked to be read.
    sectors_read,
    /// 512-byte sectors asked to be written.
    sectors_written,
    /// Most requests that were ever between ring and response at once.
    in_flight_peak,
    /// Visits that found requests; requests divided by this is the batch size.
    batches,
    /// Notifications sent to the frontend.
    notifications,
    /// Grants mapped into the cache.
    grants_mapped,
    /// Grants unmapped to make room.
    grants_evicted,
    /// Requests whose data went through the buffer pool.
    copied_requests,
    /// Frames of the window lost because an unmap failed.
    frames_lost,
}

/// A counter with one writer, so that no read-modify-write is needed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds `n`; only for the one writer.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Raises the value to at least `n`; only for the one writer.
    #[inline]
    pub(crate) fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }
}
