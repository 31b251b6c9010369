//! The check `lines` of the broker's parsers, with inputs from libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leftoff_fuzz::run(leftoff::fuzzing::lines, input));
