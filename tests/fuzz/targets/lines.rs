//! The check `lines` of the broker's parsers, for inputs that libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leftoff_fuzz::run(leftoff::fuzzing::lines, input));
