//! A nats-server of one's own, for whoever gives no NATS options: `serve` and `demo` need nothing else.
//!
//! Its store, configuration, log and port stand in the data folder. It is a process of its own group, so that a
//! ctrl-C reaches it last; it is started again when it dies; and one that a killed `adtally` left behind is ended
//! before another opens the same store.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::{NatsOptions, connect};
use super::streams::jetstream_answers;

/// How long a server may take until JetStream answers; it reads its store first.
const START_WAIT: Duration = Duration::from_secs(60);
/// How often it is asked meanwhile.
const START_POLL: Duration = Duration::from_millis(100);
/// How long a server may take to end after SIGINT before it is killed, which loses nothing: it syncs every write.
const STOP_WAIT: Duration = Duration::from_secs(15);
/// The first pause before a server that died is started again; it doubles.
const RESTART_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A server that ran this long starts with the shortest pause again.
const RESTART_RESET: Duration = Duration::from_secs(60);
/// What JetStream may promise to streams. Only what they hold takes disk; their own maxima bound that.
const STORE_MAX: &str = "1TB";

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No program was found.
    #[error(
        "no nats-server was found: not in ADTALLY_NATS_SERVER, on the PATH, beside this program or in {cache}. `make setup` brings one; or give --server to use a NATS that runs already"
    )]
    NoProgram {
        /// The cache folder that was searched.
        cache: String,
    },
    /// A file of the server cannot be written or read.
    #[error("{what}: {source}")]
    File {
        /// What was to be done with which file.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The program does not start.
    #[error("{program} does not start: {why}. Its log is {log}")]
    Start {
        /// The program.
        program: String,
        /// What happened.
        why: String,
        /// Its log file.
        log: String,
    },
    /// A server that was left behind does not end.
    #[error(
        "a nats-server of an earlier run (process {0}) still holds the store and does not end: end it by hand"
    )]
    Stale(u32),
}

/// A running server. Dropped without [`NatsServer::stop`], it is killed, which loses nothing.
#[derive(Debug)]
pub struct NatsServer {
    url: String,
    pid: Arc<AtomicU32>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

/// Where everything of the server stands.
#[derive(Clone, Debug)]
struct Place {
    program: PathBuf,
    /// `<data-dir>/nats`, absolute.
    folder: PathBuf,
}

impl Place {
    fn conf(&self) -> PathBuf {
        self.folder.join("nats.conf")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("nats.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("nats.pid")
    }

    fn port_file(&self) -> PathBuf {
        self.folder.join("port")
    }

    fn failed(&self, why: impl Into<String>) -> EmbeddedError {
        EmbeddedError::Start {
            program: self.program.display().to_string(),
            why: why.into(),
            log: self.log().display().to_string(),
        }
    }
}

fn file_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> EmbeddedError {
    let what = what.into();
    move |source| EmbeddedError::File { what, source }
}

impl NatsServer {
    /// Starts a server with its store under `<data_dir>/nats`, waits until JetStream answers, and writes its URL to
    /// `<data_dir>/nats-url`. Whoever calls this holds the data folder's lock.
    pub async fn start(data_dir: &Path) -> Result<NatsServer, EmbeddedError> {
        let folder = data_dir.join("nats");
        std::fs::create_dir_all(&folder)
            .map_err(file_error(format!("making {}", folder.display())))?;
        let folder = folder
            .canonicalize()
            .map_err(file_error(format!("finding {}", folder.display())))?;
        let place = Place {
            program: find_program()?,
            folder,
        };
        end_stale(&place).await?;
        let port = port(&place)?;
        write_conf(&place, port)?;
        let url = format!("nats://127.0.0.1:{port}");
        let mut child = spawn(&place)?;
        if let Err(error) = wait_until_ready(&place, &url, &mut child).await {
            end(&mut child).await;
            return Err(error);
        }
        write_atomically(&data_dir.join("nats-url"), &format!("{url}\n"))?;
        let pid = Arc::new(AtomicU32::new(child.id().unwrap_or(0)));
        let stop = CancellationToken::new();
        tracing::info!(%url, pid = pid.load(Ordering::Relaxed), "a nats-server of our own is running");
        let supervisor = tokio::spawn(supervise(place, child, Arc::clone(&pid), stop.clone()));
        Ok(NatsServer {
            url,
            pid,
            stop,
            supervisor,
        })
    }

    /// Where it listens; the same over restarts, as long as the port is free.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process; none while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Ends it, and waits until it has ended.
    pub async fn stop(self) {
        tracing::info!(
            pid = self.pid.load(Ordering::Relaxed),
            "the nats-server of our own is ended"
        );
        self.stop.cancel();
        if self.supervisor.await.is_err() {
            tracing::error!("the supervisor of the nats-server panicked");
        }
    }
}

/// The folder in which the set-up keeps what it fetched.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("ADTALLY_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("adtally")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/adtally")))
}

/// Finds the program: as told, on the PATH, beside this one, in the set-up's cache.
pub fn find_program() -> Result<PathBuf, EmbeddedError> {
    if let Some(told) = std::env::var_os("ADTALLY_NATS_SERVER").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(told));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("nats-server"));
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("nats-server")));
    let cache = cache_folder();
    let mut cached: Vec<PathBuf> = cache
        .as_ref()
        .and_then(|dir| std::fs::read_dir(dir).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("nats-server"))
        })
        .map(|path| path.join("nats-server"))
        .collect();
    cached.sort_unstable();
    on_path
        .chain(beside)
        .chain(cached.into_iter().rev())
        .find(|path| path.is_file())
        .ok_or_else(|| EmbeddedError::NoProgram {
            cache: cache.map_or_else(
                || "a cache folder".to_owned(),
                |dir| dir.display().to_string(),
            ),
        })
}

/// The remembered port while it is free, else another one, which is then remembered.
fn port(place: &Place) -> Result<u16, EmbeddedError> {
    let file = place.port_file();
    let remembered = std::fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok());
    if let Some(port) = remembered {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
        tracing::warn!(
            port,
            "another program listens on the port that the nats-server had; it gets a new one"
        );
    }
    let free =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let port = free.map_err(file_error("finding a free port"))?.port();
    write_atomically(&file, &format!("{port}\n"))?;
    Ok(port)
}

/// A path as the server's configuration quotes it.
fn quoted(path: &Path) -> String {
    format!(
        "\"{}\"",
        path.display()
            .to_string()
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
    )
}

fn write_conf(place: &Place, port: u16) -> Result<(), EmbeddedError> {
    let text = format!(
        "# Written by adtally at every start; changes are lost. For a server of your own see nats/single.conf.\n\
         server_name: adtally\n\
         listen: \"127.0.0.1:{port}\"\n\
         max_payload: 1MB\n\
         pid_file: {pid}\n\
         log_file: {log}\n\
         logfile_size_limit: 16MB\n\
         logfile_max_num: 3\n\
         jetstream {{\n\
         \x20 store_dir: {store}\n\
         \x20 max_file_store: {STORE_MAX}\n\
         \x20 max_memory_store: 256MB\n\
         \x20 sync_interval: always\n\
         }}\n",
        pid = quoted(&place.pid_file()),
        log = quoted(&place.log()),
        store = quoted(&place.folder.join("jetstream")),
    );
    write_atomically(&place.conf(), &text)
}

fn write_atomically(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    let beside = path.with_extension("new");
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(file_error(format!("writing {}", path.display())))
}

fn spawn(place: &Place) -> Result<Child, EmbeddedError> {
    Command::new(&place.program)
        .arg("-c")
        .arg(place.conf())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A ctrl-C goes to the whole group: the server must outlive whoever still ships events to it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| place.failed(e.to_string()))
}

async fn wait_until_ready(
    place: &Place,
    url: &str,
    child: &mut Child,
) -> Result<(), EmbeddedError> {
    let until = Instant::now() + START_WAIT;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(place.failed(format!(
                "it ended with {status}; {}",
                last_line(&place.log())
            )));
        }
        if let Ok(client) = connect(&NatsOptions::of_url(url), "adtally start").await
            && jetstream_answers(&jetstream::new(client)).await.is_ok()
        {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(place.failed(format!(
                "JetStream does not answer within {} s",
                START_WAIT.as_secs()
            )));
        }
        tokio::time::sleep(START_POLL).await;
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .rev()
        .find(|line| line.contains("[FTL]"))
        .or_else(|| text.lines().last())
        .unwrap_or("")
        .to_owned()
}

/// Starts the server again whenever it dies, until it is to end.
async fn supervise(place: Place, mut child: Child, pid: Arc<AtomicU32>, stop: CancellationToken) {
    let mut pause = RESTART_MIN;
    loop {
        let since = Instant::now();
        let status = tokio::select! {
            () = stop.cancelled() => {
                end(&mut child).await;
                pid.store(0, Ordering::Relaxed);
                return;
            }
            status = child.wait() => status,
        };
        pid.store(0, Ordering::Relaxed);
        if since.elapsed() >= RESTART_RESET {
            pause = RESTART_MIN;
        }
        tracing::error!(?status, ?pause, log = %place.log().display(), "the nats-server ended by itself and is started again");
        metrics::counter!("adtally_nats_restarts_total").increment(1);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RESTART_MAX);
            match spawn(&place) {
                Ok(again) => {
                    child = again;
                    break;
                }
                Err(error) => tracing::error!(%error, "the nats-server does not start again"),
            }
        }
        pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
    }
}

/// Asks the process to end, and kills it when it takes too long.
async fn end(child: &mut Child) {
    if let Some(id) = child.id() {
        // An error means that it has ended already.
        let _ = kill(Pid::from_raw(id as i32), Signal::SIGINT);
    }
    if tokio::time::timeout(STOP_WAIT, child.wait()).await.is_err() {
        tracing::warn!(
            "the nats-server takes too long to end and is killed; it syncs every write, so nothing is lost"
        );
        if let Err(error) = child.kill().await {
            tracing::error!(%error, "the nats-server could not be killed");
        }
    }
}

/// The command line of a process, where there is such a process.
fn command_line(pid: u32) -> Option<String> {
    let proc_file = PathBuf::from(format!("/proc/{pid}/cmdline"));
    if let Ok(bytes) = std::fs::read(proc_file) {
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
            .filter(|text| !text.is_empty());
    }
    let listed = std::process::Command::new("ps")
        .args(["-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&listed.stdout).into_owned())
        .filter(|text| !text.trim().is_empty())
}

/// Ends a server that a killed run left behind: only the process of the pid file, and only while its command line
/// names this very configuration.
async fn end_stale(place: &Place) -> Result<(), EmbeddedError> {
    let Some(pid) = std::fs::read_to_string(place.pid_file())
        .ok()
        .and_then(|t| t.trim().parse::<u32>().ok())
    else {
        return Ok(());
    };
    let conf = place.conf().display().to_string();
    let is_ours = || {
        command_line(pid).is_some_and(|line| line.contains("nats-server") && line.contains(&conf))
    };
    if pid <= 1 || !is_ours() {
        return Ok(());
    }
    tracing::info!(
        pid,
        "a nats-server of an earlier run is still there and is ended"
    );
    for (signal, wait) in [(Signal::SIGINT, STOP_WAIT), (Signal::SIGKILL, STOP_WAIT)] {
        // An error means that it has ended meanwhile.
        let _ = kill(Pid::from_raw(pid as i32), signal);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if !is_ours() {
                return Ok(());
            }
            tokio::time::sleep(START_POLL).await;
        }
    }
    Err(EmbeddedError::Stale(pid))
}
