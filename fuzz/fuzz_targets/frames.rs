//! Messages of an EVENTS stream, from anybody who can write there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| adtally_streams::fuzzing::message(bytes));
