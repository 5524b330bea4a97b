//! What a process has used of the machine, as the kernel counts it: processor time and bytes handed to the disk.
//!
//! Only Linux says; elsewhere everything is zero and the figures say nothing of it.

use std::collections::BTreeMap;
use std::time::Duration;

/// The kernel's ticks a second in `/proc/<pid>/stat`, which programs are told as 100 on every architecture.
const TICKS_PER_S: f64 = 100.0;

/// Used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time of all threads.
    pub cpu: Duration,
    /// Bytes that the process caused to be written to a disk.
    pub written_bytes: u64,
}

impl Usage {
    /// What this process has used.
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    /// What the process of that id has used.
    pub fn of(pid: u32) -> Self {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
        Self {
            cpu: read("stat").map_or(Duration::ZERO, |text| cpu_of(&text)),
            written_bytes: read("io").map_or(0, |text| written_of(&text)),
        }
    }

    /// What was used since then.
    pub fn since(&self, then: Usage) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(then.cpu),
            written_bytes: self.written_bytes.saturating_sub(then.written_bytes),
        }
    }

    /// Microseconds of processor time for each of `events`.
    pub fn cpu_us_per(&self, events: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / events.max(1) as f64
    }

    /// Bytes written for each of `events`.
    pub fn written_per(&self, events: u64) -> f64 {
        self.written_bytes as f64 / events.max(1) as f64
    }
}

/// Processor time of this process's threads, added up by their names without numbers. Threads that have ended are
/// not among them.
pub fn by_thread() -> BTreeMap<String, Duration> {
    let mut threads = BTreeMap::new();
    let tasks = std::fs::read_dir("/proc/self/task");
    for task in tasks.into_iter().flatten().flatten() {
        let read = |what: &str| std::fs::read_to_string(task.path().join(what)).unwrap_or_default();
        let name = read("comm");
        let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit());
        *threads.entry(name.to_owned()).or_default() += cpu_of(&read("stat"));
    }
    threads
}

/// Fields 14 and 15 of `/proc/<pid>/stat`; the second field is a name in parentheses and may hold blanks.
fn cpu_of(stat: &str) -> Duration {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = behind_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_secs_f64(ticks as f64 / TICKS_PER_S)
}

fn written_of(io: &str) -> u64 {
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From proc_pid_stat(5): utime and stime are fields 14 and 15.
    #[test]
    fn the_kernels_files_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_of(stat), Duration::from_secs(3));
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n";
        assert_eq!(written_of(io), 4_096);
        assert_eq!((cpu_of(""), written_of("")), (Duration::ZERO, 0));
    }
}
