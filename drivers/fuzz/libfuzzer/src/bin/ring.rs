//! The target `ring` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(ring);
