//! Fuzz target; what it checks stands in `tests/fuzz-checks`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| latebind_fuzz_checks::in_time(latebind_fuzz_checks::manifests, data));
