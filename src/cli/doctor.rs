//! `adtally doctor`: what adtally needs of this machine, checked one by one, with what to do about each finding.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::Exit;
use super::output::Output;
use crate::config::{Bytes, Config};
use crate::log::embedded;

/// Free space under which a data folder is a finding: what the streams and the store may need on a busy day.
const ENOUGH_DISK: u64 = 20 << 30;
/// And under which nothing works for long.
const LEAST_DISK: u64 = 1 << 30;
/// Open files under which many connections and shards get in each other's way.
const ENOUGH_FILES: u64 = 16_384;
/// And under which `serve` cannot hold its shards open.
const LEAST_FILES: u64 = 1_024;
/// Median fsync over which every answer waits noticeably.
const SLOW_FSYNC: Duration = Duration::from_millis(10);
/// Fsyncs that are measured.
const FSYNCS: usize = 50;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

fn finding(
    check: &'static str,
    verdict: Verdict,
    found: impl Into<String>,
    advice: &str,
) -> Finding {
    let advice = if verdict == Verdict::Ok {
        String::new()
    } else {
        advice.into()
    };
    Finding {
        check,
        verdict,
        found: found.into(),
        advice,
    }
}

/// Runs every check; [`Exit::No`] when one fails.
pub fn run(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let mut folder = config.data_dir.as_path();
    while !folder.exists() {
        folder = match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    let findings = [
        version(),
        processor(),
        nats_server(),
        disk(folder),
        fsync(folder),
        open_files(),
    ];
    output.rows(&["check", "", "found", "what to do"], &findings, |f| {
        let verdict = match f.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        vec![
            f.check.into(),
            verdict.into(),
            f.found.clone(),
            f.advice.clone(),
        ]
    })?;
    let worst = findings
        .iter()
        .map(|f| f.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    Ok(if worst == Verdict::Fail {
        Exit::No
    } else {
        Exit::Done
    })
}

fn version() -> Finding {
    let found = format!(
        "adtally {} on {}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    finding("version", Verdict::Ok, found, "")
}

fn processor() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let verdict = if cores >= 2 {
        Verdict::Ok
    } else {
        Verdict::Warn
    };
    finding(
        "cores",
        verdict,
        cores.to_string(),
        "one core serves collector, broker and fold in turns: expect less",
    )
}

fn nats_server() -> Finding {
    let advice = "run `make setup`, or set ADTALLY_NATS_SERVER to a nats-server 2.12 or later";
    let path = match embedded::find_program() {
        Ok(path) => path,
        Err(error) => return finding("nats-server", Verdict::Fail, error.to_string(), advice),
    };
    match Command::new(&path).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
            finding(
                "nats-server",
                Verdict::Ok,
                format!("{text} at {}", path.display()),
                "",
            )
        }
        Ok(output) => finding(
            "nats-server",
            Verdict::Fail,
            format!("{} ended with {}", path.display(), output.status),
            advice,
        ),
        Err(error) => finding(
            "nats-server",
            Verdict::Fail,
            format!("{}: {error}", path.display()),
            advice,
        ),
    }
}

fn disk(folder: &Path) -> Finding {
    let place = folder.display();
    match statvfs(folder) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let verdict = match free {
                n if n < LEAST_DISK => Verdict::Fail,
                n if n < ENOUGH_DISK => Verdict::Warn,
                _ => Verdict::Ok,
            };
            let found = format!(
                "{:.1} GiB free in {place}",
                free as f64 / (1u64 << 30) as f64
            );
            let advice = format!("the streams alone may take {} each", Bytes(8 << 30));
            finding("disk", verdict, found, &advice)
        }
        Err(error) => finding(
            "disk",
            Verdict::Fail,
            format!("{place}: {error}"),
            "choose another --data-dir",
        ),
    }
}

fn fsync(folder: &Path) -> Finding {
    match fsync_times(folder, FSYNCS) {
        Ok(mut times) => {
            times.sort();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            let verdict = if median > SLOW_FSYNC {
                Verdict::Warn
            } else {
                Verdict::Ok
            };
            let found = format!("median {:.2} ms, worst {:.2} ms", ms(median), ms(worst));
            finding(
                "fsync",
                verdict,
                found,
                "every answer waits for one: a local SSD answers in under a millisecond",
            )
        }
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            finding(
                "fsync",
                Verdict::Fail,
                found,
                "the folder must be writable: choose another --data-dir",
            )
        }
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1_000.0
}

/// Times of appending 4 KiB and syncing, one after the other, in a file that is gone afterwards.
fn fsync_times(folder: &Path, n: usize) -> std::io::Result<Vec<Duration>> {
    let path = folder.join(format!(".adtally-doctor-{}", std::process::id()));
    let mut file = std::fs::File::create(&path)?;
    let block = [7u8; 4_096];
    let times = (0..n)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            Ok(began.elapsed())
        })
        .collect();
    std::fs::remove_file(&path)?;
    times
}

fn open_files() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let verdict = match soft {
                n if n < LEAST_FILES => Verdict::Fail,
                n if n < ENOUGH_FILES => Verdict::Warn,
                _ => Verdict::Ok,
            };
            let advice = format!(
                "`ulimit -n {}` before the start, or LimitNOFILE= in the unit",
                hard.min(65_536)
            );
            finding("open files", verdict, soft.to_string(), &advice)
        }
        Err(error) => finding(
            "open files",
            Verdict::Warn,
            error.to_string(),
            "check `ulimit -n`",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_fsync_is_measured_and_leaves_nothing_behind() {
        let folder = tempfile::TempDir::new().unwrap();
        let times = fsync_times(folder.path(), 3).unwrap();
        assert_eq!(times.len(), 3);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
