//! The target `recovery` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(recovery);
