//! A nats-server of a test's own, apart from adtally's.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{nats_server, wait_for};

/// A nats-server of the test's own, which may be killed apart from adtally.
pub struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Broker {
    pub fn start() -> Broker {
        Broker::with("")
    }

    /// One whose configuration goes on with `more`.
    pub fn with(more: &str) -> Broker {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut broker = Broker {
            folder: tempfile::TempDir::new().unwrap(),
            port,
            process: None,
        };
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}/store\", sync_interval: always }}\n{more}",
            broker.folder.path().display()
        );
        std::fs::write(broker.config(), config).unwrap();
        broker.run();
        broker
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("nats.conf")
    }

    pub fn run(&mut self) {
        let mut command = Command::new(nats_server());
        command
            .arg("-c")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let port = self.port;
        wait_for("nats-server", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
