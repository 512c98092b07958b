//! What a process costs, and a process of one's own: maybe on a core of its own, and ended when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program under test: what `LATEBIND_BENCH_BINARY` names, such as the one that ships, or else the one that was built
/// with the benchmark.
pub fn under_test(built: &str) -> PathBuf {
    std::env::var_os("LATEBIND_BENCH_BINARY").map_or_else(|| built.into(), PathBuf::from)
}

/// What a process costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Resident memory in MiB.
    pub memory: f64,
    /// CPU time since its start in seconds.
    pub seconds: f64,
}

impl Cost {
    /// Reads the texts of `/proc/PID/status` and `/proc/PID/stat`, wherever they come from.
    pub fn read(status: &str, stat: &str) -> Option<Self> {
        // The command's name is in parentheses and may have any character. Behind it utime and stime are the 12th and 13th,
        // in hundredths of a second on every Linux that we run on.
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
        Some(Self { memory: memory(status, "VmRSS")?, seconds: ticks / 100.0 })
    }

    /// The same for a process that is visible here.
    pub fn of(pid: u32) -> Option<Self> {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        Self::read(&text("status")?, &text("stat")?)
    }
}

/// What a process has in memory, in MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// All that is resident, its program too.
    pub resident: f64,
    /// What it has allocated.
    pub anonymous: f64,
}

impl Memory {
    /// Of a process that is visible here. `None` when it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self { resident: memory(&status, "VmRSS")?, anonymous: memory(&status, "RssAnon")? })
    }
}

/// An amount in the text of a `/proc/PID/status`, in MiB.
fn memory(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// A child process.
pub struct Process(pub Child);

impl Process {
    /// An amount of `/proc/PID/status` in MiB.
    pub fn memory(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        memory(&status, field).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// `taskset` becomes the command, so the child's PID is the command's.
pub fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program).stdin(Stdio::null());
    command
}
