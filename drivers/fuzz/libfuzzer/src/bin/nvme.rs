//! The target `nvme` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(nvme);
