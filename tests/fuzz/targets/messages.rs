//! The check `messages` of the broker's parsers, with inputs from libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leftoff_fuzz::run(leftoff::fuzzing::messages, input));
