//! The target `virtio` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(virtio);
