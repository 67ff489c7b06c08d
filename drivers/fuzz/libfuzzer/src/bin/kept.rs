//! The target `kept` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(kept);
