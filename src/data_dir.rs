//! The data folder: who holds it, and the addresses that a running `serve` leaves in it.
//!
//! One process at a time holds the lock. The addresses are written whole or not at all, so that a program which
//! waits for them never reads half of one.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The file that is locked; it holds the process id of whoever holds it.
const LOCK: &str = "lock";
/// Address of the embedded nats-server, or of the one that `serve` was given where it needs no secret.
const NATS_URL: &str = "nats-url";
/// Address of the HTTP server.
const HTTP_URL: &str = "http-url";
/// The most bytes of an address that are read.
const MAX_ADDRESS_BYTES: u64 = 4_096;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds it.
    #[error("the data folder {path} is in use{}; stop that one, or take another with --data-dir", holder(*.pid))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, where it could be read.
        pid: Option<u32>,
    },
    /// There is none.
    #[error(
        "there is no deployment in {path}: name the folder of one with --data-dir, or its NATS with --server"
    )]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The system refused.
    #[error("data folder {path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|p| format!(" by process {p}")).unwrap_or_default()
}

/// A folder that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// What the folder says when another process holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of the NATS server; none when `serve` was given one that takes more than its address.
    pub nats: Option<String>,
    /// Of the HTTP server.
    pub http: Option<String>,
}

impl DataDir {
    /// Makes the folder where it is missing, and takes it.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let io = |p: &Path| {
            let path = p.to_path_buf();
            move |source| DataDirError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(io(path))?;
        let name = path.join(LOCK);
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&name)
            .map_err(io(&name))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse {
                    path: path.into(),
                    pid: pid_in(&mut lock),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(DataDirError::Io { path: name, source });
            }
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(io(&name))?;
        let dir = Self {
            path: path.into(),
            _lock: lock,
        };
        dir.forget(NATS_URL)?;
        dir.forget(HTTP_URL)?;
        Ok(dir)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says where the NATS server is.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when the folder cannot be written.
    pub fn write_nats_url(&self, url: &str) -> Result<(), DataDirError> {
        self.write(NATS_URL, url)
    }

    /// Says where the HTTP server is.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when the folder cannot be written.
    pub fn write_http_url(&self, url: &str) -> Result<(), DataDirError> {
        self.write(HTTP_URL, url)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        let (path, partial) = (self.path.join(name), self.path.join(format!("{name}.new")));
        fs::write(&partial, format!("{text}\n"))
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|source| DataDirError::Io { path, source })
    }

    fn forget(&self, name: &str) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DataDirError::Io { path, source })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        for name in [NATS_URL, HTTP_URL] {
            if let Err(error) = self.forget(name) {
                tracing::warn!(%error, "a stale address is left behind");
            }
        }
    }
}

/// Whether a deployment was ever made there.
pub fn exists(path: &Path) -> bool {
    path.join(LOCK).is_file()
}

/// The process that holds the folder, where its lock names one.
pub fn holder_of(path: &Path) -> Option<u32> {
    pid_in(&mut File::open(path.join(LOCK)).ok()?)
}

/// The addresses that the folder's holder has written.
pub fn addresses(path: &Path) -> Addresses {
    let read = |name: &str| {
        let mut text = String::new();
        File::open(path.join(name))
            .ok()?
            .take(MAX_ADDRESS_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_string())
    };
    Addresses {
        nats: read(NATS_URL),
        http: read(HTTP_URL),
    }
}

fn pid_in(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(MAX_ADDRESS_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_and_forgets_its_addresses() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("new");
        assert!(!exists(&path));
        let held = DataDir::take(&path).unwrap();
        held.write_http_url("http://127.0.0.1:1").unwrap();
        let error = DataDir::take(&path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        assert_eq!(
            addresses(&path),
            Addresses {
                nats: None,
                http: Some("http://127.0.0.1:1".into())
            }
        );
        drop(held);
        assert_eq!(addresses(&path), Addresses::default());
        assert!(exists(&path));
        DataDir::take(&path).unwrap();
    }
}
