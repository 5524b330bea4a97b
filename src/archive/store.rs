//! Where the archive lies: a folder, or a bucket of S3.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adtally_archive::manifest::FileRef;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
};
use sha2::{Digest, Sha256};

use super::ArchiveError;
use crate::config::Config;

/// How often a request to S3 is made again.
const RETRIES: usize = 4;
/// And for how long: the archiver tries again by itself, and an end of the process waits for what is under way.
const RETRY_FOR: Duration = Duration::from_secs(20);
/// What was being written for this long is left over from a crash.
const STAGED_FOR: Duration = Duration::from_secs(3_600);
/// Folder of an archive in the data folder.
const FOLDER: &str = "archive";

/// Where the settings say that the archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// `s3://BUCKET/PREFIX`, with endpoint, region and credentials from the variables `AWS_…`.
    S3(String),
}

impl Place {
    /// Where that configuration says.
    ///
    /// # Errors
    /// [`ArchiveError::Url`] when it is neither a folder nor S3.
    pub fn of(config: &Config) -> Result<Self, ArchiveError> {
        let Some(url) = &config.archive.url else {
            return Ok(Place::Folder(config.data_dir.join(FOLDER)));
        };
        let bad = |why: &str| ArchiveError::Url {
            url: url.clone(),
            why: why.to_owned(),
        };
        let parsed = url::Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        match parsed.scheme() {
            "s3" if parsed.host_str().is_some_and(|bucket| !bucket.is_empty()) => {
                Ok(Place::S3(url.trim_end_matches('/').to_owned()))
            }
            "s3" => Err(bad("it names no bucket")),
            "file" => parsed
                .to_file_path()
                .map(Place::Folder)
                .map_err(|()| bad("it is no path of a folder")),
            _ => Err(bad("there is no store of that kind here")),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Folder(folder) => write!(f, "{}", folder.display()),
            Place::S3(url) => f.write_str(url),
        }
    }
}

/// The archive's store, whichever it is.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    place: Arc<str>,
    folder: Option<Arc<Path>>,
}

/// What `object_store` writes before it links a file to its name has that in its own.
const STAGED: &str = "#";

/// SHA-256 as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Store {
    /// Opens it to write, and makes a folder that is not there.
    ///
    /// # Errors
    /// [`ArchiveError`] when it cannot be.
    pub fn open(place: &Place) -> Result<Self, ArchiveError> {
        if let Place::Folder(folder) = place {
            make_folder(folder).map_err(|source| {
                failed(
                    &place.to_string(),
                    "making the folder",
                    object_error(source),
                )
            })?;
        }
        Self::open_there(place)
    }

    /// Opens it to read; none where nothing was ever archived.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_if_there(place: &Place) -> Result<Option<Self>, ArchiveError> {
        match place {
            Place::Folder(folder) if !folder.is_dir() => Ok(None),
            place => Self::open_there(place).map(Some),
        }
    }

    fn open_there(place: &Place) -> Result<Self, ArchiveError> {
        let name = place.to_string();
        let opening = |source| failed(&name, "opening it", source);
        let objects: Arc<dyn ObjectStore> = match place {
            Place::Folder(folder) => {
                let local = LocalFileSystem::new_with_prefix(folder).map_err(opening)?;
                // A purge follows what was written here, so it is on disk before it counts.
                Arc::new(local.with_fsync(true))
            }
            Place::S3(url) => {
                crate::tls::provide();
                let s3 = AmazonS3Builder::from_env()
                    .with_url(url)
                    .with_retry(RetryConfig {
                        max_retries: RETRIES,
                        retry_timeout: RETRY_FOR,
                        ..RetryConfig::default()
                    });
                let s3 = s3.build().map_err(opening)?;
                let parsed = url::Url::parse(url).map_err(|error| ArchiveError::Url {
                    url: url.clone(),
                    why: error.to_string(),
                })?;
                let prefix = parsed.path().trim_matches('/').to_owned();
                Arc::new(PrefixStore::new(s3, prefix))
            }
        };
        let folder = match place {
            Place::Folder(folder) => Some(Arc::from(folder.as_path())),
            Place::S3(_) => None,
        };
        Ok(Self {
            objects,
            place: name.into(),
            folder,
        })
    }

    /// Where it is, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Puts an object where none is. Answers false, and changes nothing, where one is.
    ///
    /// # Errors
    /// [`ArchiveError::Store`] when the store does not answer, or says no.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<bool, ArchiveError> {
        let options = PutOptions::from(PutMode::Create);
        let at = ObjectPath::from(path);
        match self.objects.put_opts(&at, bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(self.failed(&format!("writing {path}"), source)),
        }
    }

    /// All of an object; none where there is none.
    ///
    /// # Errors
    /// [`ArchiveError::Store`] when the store does not answer, or says no.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, ArchiveError> {
        let reading = async {
            self.objects
                .get(&ObjectPath::from(path))
                .await?
                .bytes()
                .await
        };
        match reading.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed(&format!("reading {path}"), source)),
        }
    }

    /// A file of the manifest, checked: what the store gives is what was once put there.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] when it is not, and [`ArchiveError::Store`].
    pub async fn get_verified(&self, file: &FileRef) -> Result<Bytes, ArchiveError> {
        let damaged = |why: String| ArchiveError::Damaged {
            place: self.place.to_string(),
            path: file.path.clone(),
            why,
        };
        let Some(bytes) = self.get(&file.path).await? else {
            return Err(damaged("is missing".to_owned()));
        };
        if bytes.len() as u64 != file.bytes {
            let (found, said) = (bytes.len(), file.bytes);
            return Err(damaged(format!(
                "has {found} bytes, and the manifest says {said}"
            )));
        }
        let found = sha256(&bytes);
        if found != file.sha256 {
            let said = &file.sha256;
            return Err(damaged(format!(
                "has SHA-256 {found}, and the manifest says {said}"
            )));
        }
        Ok(bytes)
    }

    /// The objects below a folder.
    ///
    /// # Errors
    /// [`ArchiveError::Store`] when the store does not answer, or says no.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, ArchiveError> {
        let prefix = ObjectPath::from(folder);
        let listing = self.objects.list(Some(&prefix)).try_collect();
        listing
            .await
            .map_err(|source| self.failed(&format!("listing {folder}"), source))
    }

    /// The objects below a folder whose paths come after that one.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_after(
        &self,
        folder: &str,
        path: &str,
    ) -> Result<Vec<ObjectMeta>, ArchiveError> {
        let (prefix, offset) = (ObjectPath::from(folder), ObjectPath::from(path));
        let listing = self.objects.list_with_offset(Some(&prefix), &offset);
        let listing = listing.try_collect().await;
        listing.map_err(|source| self.failed(&format!("listing {folder}"), source))
    }

    /// Removes an object; one that is not there is gone already.
    ///
    /// # Errors
    /// [`ArchiveError::Store`] when the store does not answer, or says no.
    pub async fn remove(&self, path: &str) -> Result<(), ArchiveError> {
        match self.objects.delete(&ObjectPath::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed(&format!("removing {path}"), source)),
        }
    }

    /// Removes what writers that were killed have left half written in a folder. In S3 there is no such thing.
    pub fn remove_staged(&self, below: &str) {
        let Some(folder) = &self.folder else {
            return;
        };
        let mut waiting = vec![folder.join(below)];
        while let Some(folder) = waiting.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let old = |entry: &std::fs::DirEntry| {
                    let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
                    Some(age >= STAGED_FOR)
                };
                if entry.path().is_dir() {
                    waiting.push(entry.path());
                } else if name.to_string_lossy().contains(STAGED) && old(&entry) == Some(true) {
                    // It is tried again at the next sweep.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    fn failed(&self, doing: &str, source: object_store::Error) -> ArchiveError {
        failed(&self.place, doing, source)
    }
}

fn failed(place: &str, doing: &str, source: object_store::Error) -> ArchiveError {
    ArchiveError::Store {
        place: place.to_owned(),
        doing: doing.to_owned(),
        source,
    }
}

fn object_error(source: std::io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "folder",
        source: Box::new(source),
    }
}

/// Makes a folder, durably: a power cut after the first purge must not take the folder's own name with it.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    match folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
