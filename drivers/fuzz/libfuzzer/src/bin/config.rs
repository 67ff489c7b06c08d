//! The target `config` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(config);
