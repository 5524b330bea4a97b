//! The programs that redirects are measured with: wrk as the client of both servers, nginx as the yardstick.
//!
//! A client that is not ours is the same to both sides, and takes little of the cores that it shares with them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::usage::Usage;

/// The requests, in wrk's language.
const SCRIPT: &str = include_str!("click.lua");
/// Threads of wrk, as nginx has worker processes: one a core of the smallest machine that is measured.
const THREADS: usize = 2;
/// How long nginx may take to listen.
const NGINX_WITHIN: Duration = Duration::from_secs(5);

/// The two programs.
pub struct Programs {
    wrk: PathBuf,
    nginx: PathBuf,
}

impl Programs {
    /// Looks for them on the PATH, and where distributions put servers; says which are missing.
    pub fn find() -> Result<Self, String> {
        let found = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
                .map(|folder| folder.join(name))
                .find(|file| file.is_file())
        };
        match (found("wrk"), found("nginx")) {
            (Some(wrk), Some(nginx)) => Ok(Self { wrk, nginx }),
            (wrk, nginx) => {
                let missing = [("wrk", wrk), ("nginx", nginx)];
                let missing: Vec<&str> = missing
                    .iter()
                    .filter(|(_, found)| found.is_none())
                    .map(|(name, _)| *name)
                    .collect();
                Err(format!("{} not found", missing.join(" and ")))
            }
        }
    }

    /// Starts nginx, which answers every request with 302, in a folder of its own.
    pub fn nginx(&self, folder: &Path) -> anyhow::Result<Nginx> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, nginx_config(&folder, address))?;
        let child = Command::new(&self.nginx)
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.nginx.display()))?;
        let nginx = Nginx { child, address };
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            anyhow::ensure!(
                began.elapsed() < NGINX_WITHIN,
                "nginx does not listen on {address}; see {}",
                folder.join("error.log").display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nginx)
    }

    /// Runs wrk against a server. With `wait` every connection waits that long between two requests.
    pub fn run(
        &self,
        folder: &Path,
        address: SocketAddr,
        ads: &[String],
        connections: usize,
        wait: Duration,
        time: Duration,
    ) -> anyhow::Result<Reached> {
        let script = folder.join("click.lua");
        std::fs::write(&script, SCRIPT)?;
        let output = Command::new(&self.wrk)
            .args(["--latency", "--timeout", "10s"])
            .arg(format!("-t{THREADS}"))
            .arg(format!("-c{connections}"))
            .arg(format!("-d{}s", time.as_secs().max(1)))
            .arg("-s")
            .arg(&script)
            .arg(format!("http://{address}"))
            .args(["--", &ads.join(","), &wait.as_millis().to_string()])
            .output()
            .with_context(|| format!("starting {}", self.wrk.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Reached::read(&said).with_context(|| {
            let complained = String::from_utf8_lossy(&output.stderr);
            format!("wrk said: {said}{complained}")
        })
    }
}

fn nginx_config(folder: &Path, address: SocketAddr) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("  {what}_temp_path {folder}/{what};\n"))
        .collect();
    format!(
        "worker_processes auto;\ndaemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log crit;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n{temporary}\
         \x20 keepalive_timeout 600s;\n  keepalive_requests 1000000000;\n\
         \x20 server {{ listen {address} reuseport; location / {{ return 302 https://shop.example/landing; }} }}\n}}\n"
    )
}

/// A running nginx; it ends when this is dropped.
pub struct Nginx {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It ends its workers when it is told to; one that is gone already needs no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// What wrk says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reached {
    /// Answers a second.
    pub per_s: f64,
    /// Median of the time to the answer, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, likewise.
    pub p99_ms: f64,
    /// Answers other than 2xx and 3xx, and broken connections.
    pub failed: u64,
}

impl Reached {
    fn read(said: &str) -> anyhow::Result<Self> {
        let after = |label: &str| {
            let line = said
                .lines()
                .find_map(|line| line.trim().strip_prefix(label));
            line.map(str::trim)
                .with_context(|| format!("no line with `{label}`"))
        };
        let percentile = |label: &str| after(label).and_then(milliseconds);
        let answers = after("Non-2xx or 3xx responses:").map_or(Ok(0), str::parse)?;
        let broken = after("Socket errors:").map_or(0, |line| {
            line.split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<u64>().ok())
                .sum()
        });
        Ok(Self {
            per_s: after("Requests/sec:")?.parse()?,
            p50_ms: percentile("50%")?,
            p99_ms: percentile("99%")?,
            failed: answers + broken,
        })
    }
}

/// A time as wrk writes it: `1.25ms`, `873.00us`, `1.02s`.
fn milliseconds(text: &str) -> anyhow::Result<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => anyhow::bail!("`{text}` is no time"),
    };
    Ok(number.parse::<f64>()? * factor)
}

/// What this process has used for each answer, in microseconds of processor time.
pub fn cpu_us_each(before: Usage, reached: Reached, time: Duration) -> f64 {
    let answers = reached.per_s * time.as_secs_f64().max(1.0);
    Usage::own().since(before).cpu_us_per(answers as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        // As wrk 4.1.0 prints it, shortened.
        let said = "Running 4s test @ http://127.0.0.1:18081
  2 threads and 256 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    21.40ms   12.02ms  91.30ms   70.34%
    Req/Sec     6.07k     1.41k   10.12k    68.75%
  Latency Distribution
     50%  873.00us
     75%   27.77ms
     90%   36.82ms
     99%    1.06s
  48341 requests in 4.02s, 11.20MB read
  Socket errors: connect 0, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 7
Requests/sec:  12013.60
Transfer/sec:      2.78MB
";
        let expected = Reached {
            per_s: 12_013.60,
            p50_ms: 0.873,
            p99_ms: 1_060.0,
            failed: 12,
        };
        assert_eq!(Reached::read(said).unwrap(), expected);
        let plain = said.replace("  Non-2xx or 3xx responses: 7\n", "");
        assert_eq!(Reached::read(&plain).unwrap().failed, 5);
        assert!(Reached::read("unable to connect").is_err());
    }
}
