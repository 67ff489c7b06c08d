//! The target `store` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(store);
