//! The target `mbr` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(mbr);
