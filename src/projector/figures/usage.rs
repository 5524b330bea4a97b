//! What the process has used so far, as the system counts it.

use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};

/// Processor time of the whole process.
pub fn process_cpu() -> Duration {
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| cpu(&usage))
}

/// Processor time of the calling thread; where the system does not tell, that of the process.
pub fn thread_cpu() -> Duration {
    #[cfg(target_os = "linux")]
    let who = UsageWho::RUSAGE_THREAD;
    #[cfg(not(target_os = "linux"))]
    let who = UsageWho::RUSAGE_SELF;
    getrusage(who).map_or(Duration::ZERO, |usage| cpu(&usage))
}

fn cpu(usage: &Usage) -> Duration {
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(t.tv_sec().max(0) as u64)
            + Duration::from_micros(t.tv_usec().max(0) as u64)
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Bytes that the process has handed to `write`, from Linux's `/proc`; none elsewhere.
pub fn written_bytes() -> Option<u64> {
    field("/proc/self/io", "wchar:")
}

/// The most memory that the process ever had resident, likewise.
pub fn peak_memory_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:").map(|kib| kib * 1_024)
}

/// The memory that the process has resident now, likewise.
pub fn memory_bytes() -> Option<u64> {
    field("/proc/self/status", "VmRSS:").map(|kib| kib * 1_024)
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
