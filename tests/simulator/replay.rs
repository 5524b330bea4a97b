//! What an operator's replay does, at the end of a world: a shard is folded again from a checkpoint or from nothing,
//! what is archived from files of the real archive and the rest from the stream, and must be the same state.

use adtally_archive::read::SegmentReader;
use adtally_archive::segment::{self, SegmentWriter};
use adtally_projections::dump::dump;
use adtally_projections::fold::Entry;

use crate::broker::Message;
use crate::disk::Disk;
use crate::projector::Shard;

/// A replay is looked at in one world of so many, since it reads and writes files.
const REPLAYED_ONE_OF: u64 = 16;

/// What the replay of a world is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From a shard's checkpoint, where it has one.
    pub from_checkpoint: bool,
    /// Quarters of the log that are in the stream: from all in the stream to all in the archive.
    pub in_stream: usize,
}

impl Plan {
    /// The replay of a seed's world; most have none.
    pub fn of(seed: u64) -> Option<Self> {
        let lot = seed / REPLAYED_ONE_OF;
        seed.is_multiple_of(REPLAYED_ONE_OF).then_some(Self {
            from_checkpoint: !lot.is_multiple_of(3),
            in_stream: (lot % 5) as usize,
        })
    }
}

/// Entries that one batch takes: other cuts than the projectors'.
const BATCH: usize = 61;
/// Messages that a file of the archive holds here: several, so that there are seams between them.
const FILE_MESSAGES: usize = 40;

/// Folds a shard again from its checkpoint, where it has one and the plan says so, else from nothing. Of `log` all but
/// what is in the stream is read from the archive alone, and what is around the seam from both. Answers the lines of the
/// state's dump.
pub fn replayed(shard: &Shard, log: &[Message], plan: Plan) -> Result<Vec<String>, String> {
    let mut again = Shard::new(None, false);
    if let Some(state) = shard.checkpoint.as_ref().filter(|_| plan.from_checkpoint) {
        again.disk = Disk::new(state.clone());
    }
    again.open();
    let position = again.sequence().unwrap_or(0);
    let seam = log.len() - log.len() * plan.in_stream / 4;
    // A file ends where it ends, and the stream begins where a purge has left it.
    let archived = log.chunks(FILE_MESSAGES).take(seam.div_ceil(FILE_MESSAGES));
    for file in archived {
        if file.last().is_some_and(|last| last.sequence > position) {
            let entries = through_file(file).map_err(|e| format!("the archive: {e}"))?;
            fold(&mut again, entries);
        }
    }
    let rest = log[seam..].iter().filter(|m| m.sequence > position);
    fold(&mut again, rest.map(decoded).collect());
    dump(again.disk.read()).map_err(|e| e.to_string())
}

fn decoded(message: &Message) -> Entry {
    Entry::decode(
        message.sequence,
        message.broker_ms,
        &message.subject,
        &message.payload,
    )
}

/// Messages written into a file and read back from it.
fn through_file(messages: &[Message]) -> Result<Vec<Entry>, adtally_archive::FormatError> {
    let mut writer = SegmentWriter::new()?;
    for message in messages {
        writer.push(segment::Message {
            sequence: message.sequence,
            broker_ms: message.broker_ms,
            subject: &message.subject,
            payload: &message.payload,
        })?;
    }
    let mut reader = SegmentReader::open(writer.finish()?.bytes.into())?;
    let mut entries = Vec::new();
    while let Some(more) = reader.next_entries()? {
        entries.extend(more);
    }
    Ok(entries)
}

fn fold(shard: &mut Shard, mut entries: Vec<Entry>) {
    while !entries.is_empty() {
        let rest = entries.split_off(entries.len().min(BATCH));
        shard.fold_entries(&entries);
        entries = rest;
    }
}
