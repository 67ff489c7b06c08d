//! What a ring and a core have done, in the words of `spindle_status`.

pub use spindle_status::stats::{
    BATCH_PLACES, CoreSnapshot, CoreStats, Counter, Counts, DelayLine, Histogram, LATENCY_PLACES,
    RingSnapshot, RingStats,
};
