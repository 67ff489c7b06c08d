//! The target `image` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(image);
