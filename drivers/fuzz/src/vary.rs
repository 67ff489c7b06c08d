//! Inputs made of a corpus without knowing what they reach: what a stable compiler can do. The same
//! seed and number make the same input, everywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A source of inputs for one target.
#[derive(Debug)]
pub struct Vary {
    kept: Vec<Vec<u8>>,
}

/// The files of a target's corpus, in the order of their names.
///
/// # Errors
/// If they cannot be read.
pub fn corpus(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(directory.join("corpus").join(name))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    files.sort();
    files.iter().map(fs::read).collect()
}

impl Vary {
    /// Inputs like these.
    #[must_use]
    pub fn new(kept: Vec<Vec<u8>>) -> Self {
        Self { kept }
    }

    /// Input `number` of the run that `seed` stands for.
    #[must_use]
    pub fn input(&self, seed: u64, number: u64) -> Vec<u8> {
        let mut noise = Noise::new(seed, number);
        if self.kept.is_empty() || noise.below(4) == 0 {
            return (0..noise.below(400)).map(|_| noise.byte()).collect();
        }
        let mut input = self.pick(&mut noise).to_vec();
        for _ in 0..noise.below(6) {
            self.change(&mut input, &mut noise);
        }
        input
    }

    fn pick(&self, noise: &mut Noise) -> &[u8] {
        &self.kept[noise.below(self.kept.len())]
    }

    fn change(&self, input: &mut Vec<u8>, noise: &mut Noise) {
        let at = noise.below(input.len());
        match noise.below(8) {
            // A part is left out, or comes twice.
            0 => drop(input.drain(at..at + noise.below(input.len() - at))),
            1 => {
                let part = input[at..at + noise.below((input.len() - at).min(64))].to_vec();
                let to = noise.below(input.len());
                input.splice(to..to, part);
            }
            // It goes on as another does.
            2 => {
                let other = self.pick(noise);
                let from = noise.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            3 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << noise.below(8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = noise.byte();
                }
            }
        }
    }
}

/// xorshift64*.
struct Noise(u64);

impl Noise {
    fn new(seed: u64, number: u64) -> Self {
        // Neighbouring numbers are to have nothing in common (splitmix64).
        let mut state = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ state >> 31) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 16) % end.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_depends_on_seed_and_number_and_nothing_else() {
        let vary = Vary::new(vec![vec![7; 300], (0..200).collect()]);
        let inputs = |seed| (0..50).map(|n| vary.input(seed, n)).collect::<Vec<_>>();
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        let mut distinct = inputs(1);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 40, "{} of 50 differ", distinct.len());
    }

    #[test]
    fn an_empty_file_in_the_corpus_does_no_harm() {
        let vary = Vary::new(vec![Vec::new()]);
        for number in 0..1000 {
            assert!(vary.input(3, number).len() < 400);
        }
    }
}
