//! Fuzz target; what it checks is said in `properties.rs`.

#![no_main]

#[allow(dead_code, reason = "each target checks one of them")]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::config(data));
