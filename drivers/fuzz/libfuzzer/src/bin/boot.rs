//! The target `boot` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(boot);
