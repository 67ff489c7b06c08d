//! How long a disk takes, or a guest thinks.

/// Times, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Always the same.
    Fixed(u64),
    /// Exponential around this mean: how long it has lasted says nothing of what is left.
    Exponential(u64),
    /// The first, but in so many of a hundred cases the second.
    Bimodal(u64, u64, u64),
    /// Of reads the first, of writes the second, which come by turns.
    ByTurns(u64, u64),
}

impl Times {
    /// That of a read or of a write.
    pub(super) fn draw(self, random: &mut Random, write: bool) -> u64 {
        match self {
            Self::Fixed(time) => time,
            Self::Exponential(mean) => (-random.next().ln() * mean as f64) as u64,
            Self::Bimodal(_, slow, percent) if random.next() * 100.0 <= percent as f64 => slow,
            Self::Bimodal(fast, ..) => fast,
            Self::ByTurns(_, time) if write => time,
            Self::ByTurns(time, _) => time,
        }
    }
}

/// The same numbers in every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// More than 0, at most 1 (xorshift64*).
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits + 1) as f64 / (1u64 << 53) as f64
    }
}
