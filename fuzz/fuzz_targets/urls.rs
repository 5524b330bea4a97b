//! Landing URLs with their macros, and the query strings of the collector's paths.
#![no_main]

#[path = "../../src/collector/query.rs"]
#[allow(dead_code, reason = "the collector uses the rest")]
mod query;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    adtally_streams::fuzzing::landing_url(bytes);
    query::agrees_with_the_url_standard(bytes);
});
