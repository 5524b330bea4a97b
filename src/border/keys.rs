//! Day keys: what turns an address into a hash that nobody can turn back once its key is gone.
//!
//! Each UTC day has one random key, agreed on through a KV bucket (the first process to create it wins) and kept
//! on disk, so that a restart without a broker hashes on. Thirty days after its day a key is deleted everywhere.
//! Invariant: a key is never made up locally. Two processes with keys of their own would give one visitor two
//! hashes; an event without a hash carries a flag instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use adtally_streams::names::{CATALOG_STREAM, DAY_KEYS_BUCKET};
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use futures_util::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use super::address::hashed_bytes;
use super::keys_file;

/// Days after its own for which a key is kept.
pub const KEY_DAYS: i64 = 30;
/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// How long a value may stay in the bucket whatever happens: also a deployment that is shut down forgets.
const BUCKET_MAX_AGE: Duration = Duration::from_secs(62 * 86_400);
/// How long events wait for a key that only the broker can give.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before it is asked again within that time.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long nobody asks again after the broker did not answer.
const ASK_PAUSE: Duration = Duration::from_secs(5);
/// How often tomorrow's key is fetched ahead and old ones are deleted.
const UPKEEP_EVERY: Duration = Duration::from_secs(600);

/// A day's key.
pub type DayKey = [u8; 32];

/// What is hashed.
#[derive(Clone, Copy, Debug)]
pub enum Hashed<'a> {
    /// An address that the border saw or was given.
    Address(std::net::IpAddr),
    /// A hash that the publisher made of one.
    Given(&'a str),
}

/// The UTC day of a time.
pub fn day_of(ms: i64) -> i64 {
    ms.div_euclid(DAY_MS)
}

/// The days whose keys exist at `now_ms`: from [`KEY_DAYS`] ago to tomorrow, since a time may be minutes ahead.
pub fn days_in_use(now_ms: i64) -> std::ops::RangeInclusive<i64> {
    day_of(now_ms) - KEY_DAYS..=day_of(now_ms) + 1
}

/// A day's key, and HMAC begun with it: what a hash does with its key alone is done once a day.
#[derive(Clone)]
struct Prepared {
    key: DayKey,
    mac: Hmac<Sha256>,
}

impl Prepared {
    fn new(key: DayKey) -> Self {
        let mac = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Self { key, mac }
    }

    /// The hash of an address: the first 8 bytes of HMAC-SHA256, big-endian.
    fn hash(&self, what: Hashed<'_>) -> u64 {
        let mut mac = self.mac.clone();
        match what {
            Hashed::Address(address) => {
                let (bytes, length) = hashed_bytes(address);
                mac.update(b"address:");
                mac.update(&bytes[..length]);
            }
            Hashed::Given(text) => {
                mac.update(b"given:");
                mac.update(text.as_bytes());
            }
        }
        let digest = mac.finalize().into_bytes();
        u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
    }
}

/// The hash of an address under a day's key.
#[cfg(test)]
pub fn hash(key: &DayKey, what: Hashed<'_>) -> u64 {
    Prepared::new(*key).hash(what)
}

/// The keys of the days in use. Clones share them.
#[derive(Clone)]
pub struct DayKeys {
    inner: Arc<Inner>,
}

struct Inner {
    keys: RwLock<BTreeMap<i64, Prepared>>,
    file: PathBuf,
    broker: Option<jetstream::Context>,
    /// Held while the broker is asked, so that one question serves everybody; when not to ask before.
    ask: tokio::sync::Mutex<Option<Instant>>,
}

impl DayKeys {
    /// Reads the keys kept in `file` (normally `<data-dir>/day-keys`). Without a broker no key is added.
    pub fn open(file: &Path, broker: Option<jetstream::Context>) -> std::io::Result<Self> {
        let keys = keys_file::read(file)?;
        let keys = keys.into_iter().map(|(day, key)| (day, Prepared::new(key)));
        let keys = RwLock::new(keys.collect());
        let inner = Inner {
            keys,
            file: file.to_owned(),
            broker,
            ask: tokio::sync::Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The hash under the day's key; none where that key is not known here.
    pub fn hash(&self, day: i64, what: Hashed<'_>) -> Option<u64> {
        Some(self.known().get(&day)?.hash(what))
    }

    /// Fetches those of `days` that are in use and not known yet. Waits for the broker at most two seconds, and
    /// not at all for a while after it did not answer.
    pub async fn ensure(&self, days: &[i64], now_ms: i64) {
        if self.missing(days, now_ms).is_empty() {
            return;
        }
        let mut not_before = self.inner.ask.lock().await;
        let missing = self.missing(days, now_ms);
        if missing.is_empty() || not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let mut refused = None;
        let fetching = async {
            // Again and again, since a bucket that was just made, or whose leader was just lost, has none yet.
            while let Err(error) = self.fetch(&missing).await {
                if !matches!(error, KeyError::Broker(_)) {
                    return Err(error);
                }
                refused = Some(error);
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            Ok(())
        };
        let asked = match tokio::time::timeout(ASK_TIMEOUT, fetching).await {
            Ok(result) => result,
            Err(_) => Err(refused.unwrap_or(KeyError::Timeout)),
        };
        *not_before = match asked {
            Ok(()) => None,
            Err(error) => {
                metrics::counter!("adtally_day_key_failures_total").increment(1);
                tracing::warn!(%error, "no day key from the broker; events of that day go without an address hash");
                Some(Instant::now() + ASK_PAUSE)
            }
        };
    }

    /// Fetches keys ahead and deletes old ones, until told to stop.
    pub async fn upkeep(self, now_ms: impl Fn() -> i64, stop: CancellationToken) {
        loop {
            let now = now_ms();
            self.ensure(&[day_of(now), day_of(now) + 1], now).await;
            if let Err(error) = self.forget(now).await {
                tracing::warn!(%error, "old day keys are not deleted yet; the next try is in ten minutes");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP_EVERY) => {}
            }
        }
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<i64, Prepared>> {
        self.inner
            .keys
            .read()
            .expect("no thread panics while it adds a day key")
    }

    fn missing(&self, days: &[i64], now_ms: i64) -> Vec<i64> {
        let in_use = days_in_use(now_ms);
        let known = self.known();
        let mut missing: Vec<i64> = days
            .iter()
            .copied()
            .filter(|day| in_use.contains(day) && !known.contains_key(day))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    async fn fetch(&self, days: &[i64]) -> Result<(), KeyError> {
        let Some(broker) = &self.inner.broker else {
            return Ok(());
        };
        let bucket = bucket(broker).await?;
        for day in days {
            let key = agree(&bucket, *day).await?;
            self.change(|keys| {
                keys.insert(*day, Prepared::new(key));
            })?;
        }
        Ok(())
    }

    /// Deletes keys past their time, on disk and in the bucket.
    async fn forget(&self, now_ms: i64) -> Result<(), KeyError> {
        let oldest = *days_in_use(now_ms).start();
        if self.known().keys().any(|day| *day < oldest) {
            self.change(|keys| keys.retain(|day, _| *day >= oldest))?;
        }
        let Some(broker) = &self.inner.broker else {
            return Ok(());
        };
        let bucket = bucket(broker).await?;
        let mut names = bucket.keys().await.map_err(KeyError::broker)?;
        while let Some(name) = names.next().await {
            let name = name.map_err(KeyError::broker)?;
            if keys_file::day_from_name(&name).is_some_and(|day| day < oldest) {
                bucket.purge(&name).await.map_err(KeyError::broker)?;
                tracing::info!(
                    day = name,
                    "day key deleted: hashes of that day can no longer be made"
                );
            }
        }
        Ok(())
    }

    /// Changes the keys in memory and on disk. Readers wait for the disk, some milliseconds once a day.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<i64, Prepared>)) -> std::io::Result<()> {
        let mut keys = self
            .inner
            .keys
            .write()
            .expect("no thread panics while it adds a day key");
        change(&mut keys);
        let plain = keys.iter().map(|(day, prepared)| (*day, prepared.key));
        keys_file::write(&self.inner.file, &plain.collect())
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("the bucket {DAY_KEYS_BUCKET} did not answer within {} s", ASK_TIMEOUT.as_secs())]
    Timeout,
    #[error("the bucket {DAY_KEYS_BUCKET}: {0}")]
    Broker(String),
    #[error("the bucket {DAY_KEYS_BUCKET} holds something else than 32 bytes for {0}")]
    NotAKey(String),
    #[error("the day keys on disk: {0}")]
    Disk(#[from] std::io::Error),
}

impl KeyError {
    fn broker(error: impl std::fmt::Display) -> Self {
        KeyError::Broker(error.to_string())
    }
}

/// Makes the bucket where it is missing, so that the first events need not wait for its leader.
///
/// # Errors
/// Says what the broker says.
pub async fn make_bucket(broker: &jetstream::Context) -> Result<(), String> {
    let made = bucket(broker).await;
    made.map(drop).map_err(|error| error.to_string())
}

/// The bucket, made when it is not there, with as many replicas as the catalogue has.
async fn bucket(broker: &jetstream::Context) -> Result<kv::Store, KeyError> {
    if let Ok(bucket) = broker.get_key_value(DAY_KEYS_BUCKET).await {
        return Ok(bucket);
    }
    let catalog = broker
        .get_stream(CATALOG_STREAM)
        .await
        .map_err(KeyError::broker)?;
    let config = kv::Config {
        bucket: DAY_KEYS_BUCKET.to_owned(),
        description:
            "adtally: one key a UTC day that hashes client addresses; deleted after 30 days"
                .to_owned(),
        history: 1,
        max_age: BUCKET_MAX_AGE,
        num_replicas: catalog.cached_info().config.num_replicas,
        ..kv::Config::default()
    };
    broker
        .create_key_value(config)
        .await
        .map_err(KeyError::broker)
}

/// The day's key in the bucket: ours when we are the first to create it, else the one that is there.
async fn agree(bucket: &kv::Store, day: i64) -> Result<DayKey, KeyError> {
    let name = keys_file::day_name(day);
    if let Some(theirs) = stored(bucket, &name).await? {
        return Ok(theirs);
    }
    let ours: DayKey = rand::random();
    match bucket.create(&name, Bytes::copy_from_slice(&ours)).await {
        Ok(_) => Ok(ours),
        // Somebody else was first, which a cluster says under another code than a single server; or the answer was
        // lost. What is there now is the key in either case.
        Err(error) => stored(bucket, &name)
            .await?
            .ok_or_else(|| KeyError::broker(error)),
    }
}

/// A key that the bucket holds. Asked of the leader: a replica that answers directly may not have it yet.
async fn stored(bucket: &kv::Store, name: &str) -> Result<Option<DayKey>, KeyError> {
    let subject = format!("{}{name}", bucket.prefix);
    match bucket
        .stream
        .get_last_raw_message_by_subject(&subject)
        .await
    {
        Ok(message) => match message.payload.as_ref().try_into() {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(KeyError::NotAKey(name.to_owned())),
        },
        Err(error) if is_not_there(&error) => Ok(None),
        Err(error) => Err(KeyError::broker(error)),
    }
}

fn is_not_there(error: &LastRawMessageError) -> bool {
    match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(e) => {
            e.error_code() == jetstream::ErrorCode::NO_MESSAGE_FOUND
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_hmac_of_the_address_by_its_network() {
        // printf 'address:\xc0\x00\x02\x01' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101...01 (32 bytes)
        let key = [1; 32];
        let of = |text: &str| hash(&key, Hashed::Address(text.parse().unwrap()));
        assert_eq!(format!("{:016x}", of("192.0.2.1")), "05eccc32bbefcdf0");
        assert_eq!(
            format!("{:016x}", hash(&key, Hashed::Given("abc"))),
            "8f1ef2a4c87a7292"
        );
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_eq!(
            of("2001:db8::1"),
            of("2001:db8::ffff:1"),
            "one /64 is one visitor"
        );
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(
            hash(&[2; 32], Hashed::Given("abc")),
            hash(&key, Hashed::Given("abc"))
        );
    }

    #[tokio::test]
    async fn kept_keys_hash_without_a_broker_and_unknown_days_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("day-keys");
        keys_file::write(&file, &BTreeMap::from([(20_000, [7; 32])])).unwrap();
        let keys = DayKeys::open(&file, None).unwrap();
        assert_eq!(
            keys.hash(20_000, Hashed::Given("x")),
            Some(hash(&[7; 32], Hashed::Given("x")))
        );
        keys.ensure(&[20_000, 20_001], 20_000 * DAY_MS).await;
        assert_eq!(
            keys.hash(20_001, Hashed::Given("x")),
            None,
            "no key is made up"
        );
    }

    #[tokio::test]
    async fn a_key_is_deleted_from_disk_thirty_days_after_its_day() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("day-keys");
        keys_file::write(
            &file,
            &BTreeMap::from([(20_000, [7; 32]), (20_001, [8; 32])]),
        )
        .unwrap();
        let keys = DayKeys::open(&file, None).unwrap();
        keys.forget(20_030 * DAY_MS + DAY_MS - 1).await.unwrap();
        assert_eq!(keys.known().len(), 2);
        keys.forget(20_031 * DAY_MS).await.unwrap();
        assert_eq!(
            keys_file::read(&file).unwrap(),
            BTreeMap::from([(20_001, [8; 32])])
        );
    }

    #[test]
    fn only_days_in_use_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let keys = DayKeys::open(&dir.path().join("day-keys"), None).unwrap();
        let now = 20_000 * DAY_MS + 5;
        assert_eq!(
            keys.missing(&[20_002, 20_001, 19_969, 19_970, 20_001], now),
            [19_970, 20_001]
        );
    }
}
