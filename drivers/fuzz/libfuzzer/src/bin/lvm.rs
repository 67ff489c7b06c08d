//! The target `lvm` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(lvm);
