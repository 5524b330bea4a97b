//! What every test stands on: a real `adtally serve` with a real nats-server and a store of its own.

#![allow(missing_docs)]

mod broker;
pub mod http;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub use broker::{Broker, Folder, free_ports};

/// The binary under test.
pub const ADTALLY: &str = env!("CARGO_BIN_EXE_adtally");

/// How long anything may take to become true before a test gives up; generous, since two cores serve many tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The nats-server that `make setup` brought, or the one on the PATH.
pub fn nats_server() -> PathBuf {
    std::env::var_os("ADTALLY_NATS_SERVER")
        .map_or_else(|| PathBuf::from("nats-server"), PathBuf::from)
}

/// A running `adtally serve`. Dropped, it is killed and its folder goes away.
pub struct Server {
    pub url: String,
    pub data_dir: PathBuf,
    process: Child,
    _folder: Option<Folder>,
}

/// How a server is started.
#[derive(Default)]
pub struct Options {
    /// More arguments of `serve`.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// A data folder that outlives the server.
    pub data_dir: Option<PathBuf>,
}

impl Options {
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn data_dir(mut self, folder: &Folder) -> Self {
        self.data_dir = Some(folder.path().to_path_buf());
        for (name, value) in folder.broker_env() {
            self = self.env(name, &value);
        }
        self
    }

    /// A folder for a server that was given none; with a broker, unless the test has said which.
    fn folder(&mut self) -> Option<Folder> {
        if self.data_dir.is_some() {
            return None;
        }
        let folder = if self.args.iter().any(|arg| arg == "--server") {
            Folder::bare()
        } else {
            Folder::new()
        };
        *self = std::mem::take(self).data_dir(&folder);
        Some(folder)
    }
}

impl Server {
    /// Starts one with its own nats-server, on a free port, and waits until it is ready.
    pub fn start(options: Options) -> Server {
        let mut server = Server::spawn(options);
        server.wait_ready();
        server
    }

    /// Starts one without waiting for more than its address.
    pub fn spawn(mut options: Options) -> Server {
        let folder = options.folder();
        let data_dir = options.data_dir.expect("given, or made just now");
        let _ = std::fs::remove_file(data_dir.join("http-url"));
        let log = File::options()
            .append(true)
            .create(true)
            .open(data_dir.join("serve.log"))
            .unwrap();
        let process = Command::new(ADTALLY)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data_dir)
            .args(&options.args)
            .env_remove("NATS_URL")
            .envs(options.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server {
            url: String::new(),
            data_dir,
            process,
            _folder: folder,
        };
        server.url = wait_for("the address in http-url", || {
            server.still_runs();
            let url = std::fs::read_to_string(server.data_dir.join("http-url")).ok()?;
            (!url.trim().is_empty()).then(|| url.trim().to_owned())
        });
        server
    }

    fn still_runs(&mut self) {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("adtally ended with {status}:\n{}", self.log());
        }
    }

    /// Waits for /readyz to say 200.
    pub fn wait_ready(&mut self) {
        let url = format!("{}/readyz", self.url);
        let began = Instant::now();
        loop {
            self.still_runs();
            let (status, body) = get(&url);
            if status == 200 {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "not ready: {status} {body}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A nats-server of its broker.
    pub fn nats_url(&self) -> String {
        let urls = std::fs::read_to_string(self.data_dir.join("nats-url")).unwrap();
        urls.trim().split(',').next().unwrap().to_owned()
    }

    /// Everything it has said.
    pub fn log(&self) -> String {
        let mut text = String::new();
        let _ = File::open(self.data_dir.join("serve.log"))
            .and_then(|mut f| f.read_to_string(&mut text));
        text
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> Option<i32> {
        let _ = kill(self.pid(), Signal::SIGTERM);
        wait_for("the server to stop", || self.process.try_wait().unwrap()).code()
    }

    /// How it has ended, once it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// A subcommand against this server's data folder.
    pub fn cli(&self, args: &[&str]) -> Output {
        run_cli(&self.data_dir, &[], args)
    }

    /// JSON of a GET that must answer 200.
    pub fn json(&self, path: &str) -> Value {
        let (status, body) = get(&format!("{}{path}", self.url));
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Applies a catalogue through the command line.
    pub fn apply_catalogue(&self, catalogue: &Value) {
        let file = self.data_dir.join("catalogue-under-test.json");
        std::fs::write(&file, catalogue.to_string()).unwrap();
        ok(&self.cli(&["catalog", "apply", file.to_str().unwrap()]));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log());
        }
        if self.process.try_wait().is_ok_and(|s| s.is_none()) {
            // A clean stop takes its nats-server along; a killed one leaves it to the next start of that folder.
            let _ = kill(self.pid(), Signal::SIGTERM);
            let began = Instant::now();
            while began.elapsed() < PATIENCE && self.process.try_wait().is_ok_and(|s| s.is_none()) {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.kill();
        }
    }
}

/// Ends the nats-server of a killed `serve`: whoever keeps the folder would find it at the next start, but the folder
/// goes away.
pub fn end_nats_server(data_dir: &Path) {
    let pid = std::fs::read_to_string(data_dir.join("nats/nats.pid"))
        .ok()
        .and_then(|p| p.trim().parse().ok());
    let Some(pid) = pid else { return };
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command.contains(&*data_dir.to_string_lossy()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Runs a subcommand with a data folder that no server may hold.
pub fn cli(folder: &Folder, args: &[&str]) -> Output {
    run_cli(folder.path(), &folder.broker_env(), args)
}

/// Runs a subcommand that is told of the folder and of no broker.
pub fn cli_on_disk(folder: &Folder, args: &[&str]) -> Output {
    run_cli(folder.path(), &[], args)
}

fn run_cli(data_dir: &Path, env: &[(&str, String)], args: &[&str]) -> Output {
    Command::new(ADTALLY)
        .args(args)
        .arg("--data-dir")
        .arg(data_dir)
        .env_remove("NATS_URL")
        .envs(env.iter().map(|(name, value)| (*name, value)))
        .output()
        .unwrap()
}

/// What a command printed, after checking that it went well.
pub fn ok(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One runtime for the blocking helpers.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A client that follows no redirect.
pub fn client() -> reqwest::Client {
    // An error says that another test has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

/// Status and body of a GET; status 0 where nothing answered.
pub fn get(url: &str) -> (u16, String) {
    block_on(async {
        match client().get(url).send().await {
            Ok(answer) => (
                answer.status().as_u16(),
                answer.text().await.unwrap_or_default(),
            ),
            Err(e) => (0, e.to_string()),
        }
    })
}

/// A small catalogue: one advertiser in New York, one campaign by click at 0.25, one ad.
pub fn small_catalogue() -> Value {
    serde_json::json!({
        "advertisers": [{"advertiser_id": "acme", "name": "Acme", "currency_code": "USD", "time_zone": "America/New_York"}],
        "campaigns": [{
            "campaign_id": "spring", "advertiser_id": "acme", "name": "Spring", "status": "active",
            "pricing": {"model": "cpc", "price_micros": 250_000}, "daily_budget_micros": 10_000_000
        }],
        "ads": [{"ad_id": "banner", "campaign_id": "spring", "landing_url": "https://shop.example/?c={click_id}", "status": "active"}]
    })
}
