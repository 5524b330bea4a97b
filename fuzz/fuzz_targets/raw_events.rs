//! Events as publishers send them, JSON or MessagePack, up to admission and the frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| adtally_streams::fuzzing::raw_event(bytes));
