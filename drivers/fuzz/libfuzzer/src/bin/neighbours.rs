//! The target `neighbours` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(neighbours);
