//! nats-servers of a test's own, apart from adtally's: one, or a cluster of three.

use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{get, nats_server, wait_for};

/// Where the ports of test servers lie.
const PORTS: Range<u16> = 20_000..32_000;

/// How many servers a test's broker has where the test does not say: `ADTALLY_TEST_SERVERS`, 1 or 3.
pub fn servers() -> usize {
    match std::env::var("ADTALLY_TEST_SERVERS").as_deref() {
        Err(_) | Ok("" | "1") => 1,
        Ok("3") => 3,
        Ok(other) => panic!("ADTALLY_TEST_SERVERS is {other:?}: 1 or 3"),
    }
}

/// A broker that may be killed apart from adtally, as a whole or a server at a time.
pub struct Broker {
    folder: tempfile::TempDir,
    servers: Vec<One>,
}

struct One {
    port: u16,
    monitor: u16,
    config: PathBuf,
    process: Option<Child>,
}

impl Broker {
    /// One of as many servers as this run has.
    pub fn start() -> Broker {
        Broker::with("")
    }

    /// Likewise, whose configuration goes on with `more`.
    pub fn with(more: &str) -> Broker {
        Broker::of(servers(), more)
    }

    /// One of that many servers, on each of which streams may hold that much together.
    pub fn of_room(count: usize, max_file_store: &str) -> Broker {
        let room = format!(", max_file_store: {max_file_store}");
        let mut broker = Broker::made(count, count, "", &room);
        broker.run();
        broker
    }

    /// One of three servers, of which none runs yet: the first two are a cluster by themselves, which the third joins.
    /// (Where each knows of all three, nobody is elected the first time before all are there.)
    pub fn growing() -> Broker {
        Broker::made(3, 2, "", "")
    }

    /// One of that many servers.
    pub fn of(count: usize, more: &str) -> Broker {
        let mut broker = Broker::made(count, count, more, "");
        broker.run();
        broker
    }

    /// The `first` servers know of each other only, those after them of all.
    fn made(count: usize, first: usize, more: &str, more_jetstream: &str) -> Broker {
        let folder = tempfile::TempDir::with_prefix("adtally-broker-").unwrap();
        let ports = free_ports(3 * count);
        let route_to = |n: usize| format!("\"nats-route://127.0.0.1:{}\"", ports[3 * n + 2]);
        let servers = (0..count).map(|n| {
            let [port, monitor, route] = [ports[3 * n], ports[3 * n + 1], ports[3 * n + 2]];
            let store = folder.path().join(format!("n{}", n + 1));
            let mut text = format!(
                "server_name: n{}\nlisten: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
                 jetstream {{ store_dir: \"{}\", sync_interval: always{more_jetstream} }}\n",
                n + 1,
                store.display()
            );
            if count > 1 {
                let known = if n < first { first } else { count };
                let routes: Vec<_> = (0..known).map(route_to).collect();
                text += &format!(
                    "cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                    routes.join(", ")
                );
            }
            let config = folder.path().join(format!("n{}.conf", n + 1));
            std::fs::write(&config, text + more).unwrap();
            One {
                port,
                monitor,
                config,
                process: None,
            }
        });
        Broker {
            servers: servers.collect(),
            folder,
        }
    }

    /// Starts what does not run, and waits until JetStream can be used.
    pub fn run(&mut self) {
        for server in &mut self.servers {
            server.run();
        }
        for server in &self.servers {
            server.wait(self.servers.len() > 1);
        }
    }

    /// Starts one server again; the others need not run.
    pub fn run_one(&mut self, name: &str) {
        let server = self.named(name);
        server.run();
        server.wait(false);
    }

    /// kill -9 of all.
    pub fn kill(&mut self) {
        self.servers.iter_mut().for_each(One::kill);
    }

    /// kill -9 of one, by its name: n1, n2, n3.
    pub fn kill_one(&mut self, name: &str) {
        self.named(name).kill();
    }

    /// SIGTERM to all: each writes its index, and takes what its blocks hold for granted at the next start.
    pub fn stop(&mut self) {
        self.servers.iter_mut().for_each(One::stop);
    }

    /// The files in which a broker of one server keeps a stream's messages.
    pub fn blocks(&self, stream: &str) -> Vec<PathBuf> {
        let streams = self.folder.path().join("n1/jetstream/$G/streams");
        let files = std::fs::read_dir(streams.join(stream).join("msgs")).unwrap();
        let blocks = files.map(|f| f.unwrap().path());
        blocks
            .filter(|f| f.extension().is_some_and(|e| e == "blk"))
            .collect()
    }

    fn named(&mut self, name: &str) -> &mut One {
        let index: usize = name.strip_prefix('n').unwrap().parse().unwrap();
        &mut self.servers[index - 1]
    }

    /// The addresses of all servers, by comma.
    pub fn url(&self) -> String {
        let urls = self
            .servers
            .iter()
            .map(|s| format!("nats://127.0.0.1:{}", s.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// How many copies of a stream this broker can hold.
    pub fn replicas(&self) -> usize {
        self.servers.len()
    }
}

impl One {
    fn run(&mut self) {
        if self.process.is_some() {
            return;
        }
        let mut command = Command::new(nats_server());
        command
            .arg("-c")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    fn wait(&self, in_cluster: bool) {
        wait_for("nats-server", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        if in_cluster {
            wait_for("a leader of JetStream that sees the others", || {
                let (_, page) = get(&format!("http://127.0.0.1:{}/jsz", self.monitor));
                let page: serde_json::Value = serde_json::from_str(&page).ok()?;
                let meta = &page["meta_cluster"];
                meta["leader"].as_str()?;
                // Only the leader lists the others. One that it calls offline gets no copy of a stream.
                let others = meta["replicas"].as_array().into_iter().flatten();
                let mut others = others.map(|peer| peer["offline"] != true);
                others.all(|is_there| is_there).then_some(())
            });
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
            let _ = process.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that were free a moment ago, all different, and given out once only by this process.
///
/// They lie below those that the system hands to outgoing connections and to whoever binds port 0: one of those may
/// be taken before the server that it is meant for listens, or while that server is dead.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() * 97));
    let candidates = std::iter::repeat_with(|| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
        PORTS.start + u16::try_from(n).expect("less than there are ports")
    });
    candidates
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(count)
        .collect()
}

/// A deployment's data folder, which outlives its processes; in a run on three servers with the cluster that its
/// streams lie on, otherwise its nats-server is `serve`'s own.
pub struct Folder {
    dir: tempfile::TempDir,
    broker: Option<Broker>,
}

impl Folder {
    /// A new one.
    pub fn new() -> Folder {
        let mut folder = Folder::bare();
        folder.broker = (servers() > 1).then(Broker::start);
        folder
    }

    /// One whose broker the test chooses.
    pub fn bare() -> Folder {
        Folder {
            dir: tempfile::TempDir::with_prefix("adtally-test-").unwrap(),
            broker: None,
        }
    }

    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// What a command needs besides the folder to find the broker.
    pub fn broker_env(&self) -> Vec<(&'static str, String)> {
        self.broker.as_ref().map_or_else(Vec::new, |broker| {
            vec![
                ("NATS_URL", broker.url()),
                ("ADTALLY_STREAMS_REPLICAS", broker.replicas().to_string()),
            ]
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        super::end_nats_server(self.path());
    }
}
