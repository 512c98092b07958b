//! When and where a page of results was made.

/// `2026-11-29`
pub fn today() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// `a virtual machine with 2 cores and 24 GiB`
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
    format!("a virtual machine with {cores} cores and {} GiB", kib.div_ceil(1 << 20))
}
