//! The target `partitions` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(partitions);
