//! The corpus as an ordinary test: every file kept, variations of them, and noise.

use std::fs;
use std::path::Path;

use spindle_fuzz::{Run, TARGETS};

/// Variations and noise for each target.
const VARIATIONS: u64 = if cfg!(miri) { 4 } else { 150 };

/// xorshift64*: the same inputs at every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input: Vec<u8> = (0..self.below(400)).map(|_| self.next() as u8).collect();
        if !seeds.is_empty() && !self.next().is_multiple_of(4) {
            input.clone_from(&seeds[self.below(seeds.len())]);
            for _ in 0..self.below(6) {
                let at = self.below(input.len());
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.next() as u8;
                }
            }
        }
        input
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(directory)
        .expect("every target has a corpus")
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs one target over everything; a failure is preceded by the input.
fn play(name: &str) {
    let (_, run): &(_, Run) = TARGETS.iter().find(|(n, _)| *n == name).unwrap();
    let seeds = corpus(name);
    assert!(!seeds.is_empty());
    let mut noise = Noise(0x5eed);
    let varied = (0..VARIATIONS).map(|_| noise.input(&seeds));
    for input in seeds.iter().cloned().chain(varied) {
        let shown = Shown(&input);
        run(&input);
        std::mem::forget(shown);
    }
}

struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("input: {}", self.0.escape_ascii());
    }
}

macro_rules! targets {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            play(stringify!($name));
        }
    )*

    #[test]
    fn no_target_is_left_out() {
        let mut here = [$(stringify!($name)),*];
        here.sort_unstable();
        assert_eq!(here, TARGETS.map(|(name, _)| name));
    }};
}

targets!(boot, config, nvme, partitions, ring, store, virtio, xenbus);
