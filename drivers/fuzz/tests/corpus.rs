//! The corpus as an ordinary test: every file kept, variations of them, and noise.

use spindle_fuzz::vary::{Vary, corpus};
use spindle_fuzz::{Run, TARGETS};

/// Variations and noise for each target, the same at every run.
const VARIATIONS: u64 = if cfg!(miri) { 4 } else { 150 };

/// Runs one target over everything; a failure is preceded by the input.
fn play(name: &str) {
    let (_, run): &(_, Run) = TARGETS.iter().find(|(n, _)| *n == name).unwrap();
    let kept = corpus(name).expect("every target has a corpus");
    assert!(!kept.is_empty());
    let vary = Vary::new(kept.clone());
    let varied = (0..VARIATIONS).map(|number| vary.input(0x5eed, number));
    for input in kept.iter().cloned().chain(varied) {
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

targets!(
    boot, config, image, kept, lvm, mbr, neighbours, nvme, partitions, recovery, ring, store,
    virtio, xenbus
);
