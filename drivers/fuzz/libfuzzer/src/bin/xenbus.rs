//! The target `xenbus` under libFuzzer.
#![no_main]

spindle_libfuzzer::target!(xenbus);
