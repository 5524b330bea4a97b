//! The part of the cache that is on disk: foyer's block engine over files of one size in a folder of its own.
//!
//! Invariant: what is read from there has foyer's checksum and a block's own, so what is damaged is not found. A read
//! that fails or does not come in time is a miss, and the disk is left alone for a while: it must never make an answer
//! slower than the store would.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adtally_projections::unpacked::Unpacked;
use foyer::{
    BlockEngineConfig, Code, DefaultHasher, DeviceBuilder, Error, ErrorKind, FsDeviceBuilder,
    HybridCache, HybridCacheBuilderPhaseMemory, HybridCacheEntry, RecoverMode,
};
use tokio::runtime::Handle;

use super::told;
use super::{Identity, Kept};

/// Bytes of each of its files, which is what is given up at once for new blocks. The largest block fits.
const FILE_BYTES: usize = 16 << 20;
/// How many files there are at most, all of them open, before they are larger ones.
const MAX_FILES: usize = 128;
/// The largest files: foyer counts within one in 32 bits.
const MAX_FILE_BYTES: usize = 1 << 30;
/// Bytes of blocks that wait to be written; what comes while they do is not kept on disk.
const WAITING_BYTES: usize = 16 << 20;
/// How long a question waits for the disk.
const WAITS: Duration = Duration::from_secs(1);
/// How long the disk is left alone after it has failed.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// Opens the folder, made where it is not there, with what is kept in it.
pub async fn open(
    memory: HybridCacheBuilderPhaseMemory<Identity, Kept, DefaultHasher>,
    bytes: usize,
    folder: PathBuf,
) -> foyer::Result<HybridCache<Identity, Kept>> {
    let device = FsDeviceBuilder::new(folder).with_capacity(bytes).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(file_bytes(bytes))
        .with_buffer_pool_size(WAITING_BYTES)
        .with_submit_queue_size_threshold(WAITING_BYTES);
    memory
        .storage()
        // What cannot be read any more is passed over.
        .with_recover_mode(RecoverMode::Quiet)
        .with_engine_config(engine)
        .build()
        .await
}

/// How large the files are that make up so many bytes.
fn file_bytes(all: usize) -> usize {
    (all / MAX_FILES).clamp(FILE_BYTES, MAX_FILE_BYTES)
}

/// How the disk is asked, from threads that may wait.
pub struct Disk {
    runtime: Handle,
    began: Instant,
    /// Until when it is left alone, in milliseconds from the beginning.
    alone_until_ms: AtomicU64,
}

impl Disk {
    /// On the runtime of whoever calls.
    pub fn here() -> Self {
        Self {
            runtime: Handle::current(),
            began: Instant::now(),
            alone_until_ms: AtomicU64::new(0),
        }
    }

    /// A block that is on disk, or on its way there.
    pub fn get(
        &self,
        kept: &HybridCache<Identity, Kept>,
        identity: &Identity,
    ) -> Option<HybridCacheEntry<Identity, Kept>> {
        let now_ms = self.began.elapsed().as_millis() as u64;
        if now_ms < self.alone_until_ms.load(Ordering::Relaxed)
            || !kept.storage().may_contains(identity)
        {
            return None;
        }
        let reading = self.runtime.spawn(kept.get(identity));
        let read = self.runtime.block_on(tokio::time::timeout(WAITS, reading));
        let failed = match read {
            Ok(Ok(Ok(found))) => return found,
            // foyer has told it, and what it tells is counted.
            Ok(Ok(Err(_))) => None,
            Ok(Err(panic)) => Some(panic.to_string()),
            Err(late) => Some(late.to_string()),
        };
        if let Some(why) = failed {
            told::failed("read", &why);
        }
        let until = now_ms + LEFT_ALONE.as_millis() as u64;
        self.alone_until_ms.store(until, Ordering::Relaxed);
        None
    }
}

impl Code for Kept {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let mut out = Vec::with_capacity(self.estimated_size());
        self.0.encode(&mut out);
        writer.write_all(&out).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(Error::io_error)?;
        let block = Unpacked::decode(&bytes);
        block
            .map(Kept)
            .map_err(|error| Error::new(ErrorKind::ChecksumMismatch, error.0))
    }

    fn estimated_size(&self) -> usize {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_room_is_larger_files_and_not_ever_more() {
        let mib = 1 << 20;
        assert_eq!(file_bytes(128 * mib), 16 * mib);
        assert_eq!(file_bytes(2_048 * mib), 16 * mib);
        assert_eq!(file_bytes(100 * 1_024 * mib), 800 * mib);
        assert_eq!(file_bytes(1_024 * 1_024 * mib), 1_024 * mib);
    }
}
