//! The fold: messages of a shard's stream in, changes of its state out.
//!
//! Invariant: state at a position is a function of the log up to it and of nothing else. However the log is cut
//! into batches, whatever is in memory, the same rows are written. The caller reads what [`Fold::fold`] asks for
//! and writes all that it answers at once with the position, or drops the [`Fold`] and opens another.

use adtally_streams::event::Kind;
use adtally_streams::frame::{FoldFrame, FoldMessage, Header, decode_for_fold, frame_crc};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::watermark::Watermark;
use rustc_hash::FxHashMap;

use crate::applied::{Applied, Projection};
use crate::cell_sums::CellSums;
use crate::codec::Damaged;
use crate::completeness::{self, Producer};
use crate::conversions::Conversions;
use crate::creatives::Creatives;
use crate::directory::Directory;
use crate::family::{Changes, Family, Reads, Values};
pub use crate::folded::Folded;
use crate::incidents::{self, BadFrame, Counts};
use crate::ledger::{self, Intervals};
use crate::position::{POSITION_KEY, Position};
use crate::sections::OpenSection;
use crate::symbols::Names;
use crate::totals;
use crate::uniques::Uniques;
use crate::verdicts::Verdicts;

/// Lanes and producers kept in memory; past it they are forgotten between batches and read again.
pub const MAX_CACHED_LANES: usize = 65_536;

/// A message of a shard's stream, decoded.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its sequence.
    pub sequence: u64,
    /// The broker's timestamp, Unix milliseconds.
    pub broker_ms: i64,
    /// Checksum of its payload.
    pub crc: u32,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Content {
    /// Events.
    Frame(Box<FoldFrame>),
    /// How far a producer is.
    Announcement {
        /// Who.
        producer: Id,
        /// Of which epoch.
        epoch: Epoch,
        /// How far.
        watermark: Watermark,
        /// Why an operator retired it; none where it speaks for itself.
        retired: Option<Box<str>>,
    },
    /// Nothing that can be read.
    Bad {
        /// The error's stable name.
        name: String,
        /// The message's subject.
        subject: String,
    },
}

impl Entry {
    /// Decodes a message. One that cannot be read becomes [`Content::Bad`] and is recorded by the fold.
    pub fn decode(sequence: u64, broker_ms: i64, subject: &str, payload: &[u8]) -> Self {
        let bad = |name: &str| Content::Bad {
            name: name.to_owned(),
            subject: subject.to_owned(),
        };
        let content = match decode_for_fold(payload) {
            Ok(FoldMessage::Frame(frame)) => match subject.rsplit('.').next() {
                Some(last) if last != frame.header.kind.name() => bad(incidents::SUBJECT_MISMATCH),
                _ if frame
                    .header
                    .first
                    .checked_add(u64::from(frame.header.count))
                    .is_none() =>
                {
                    bad(incidents::COUNTER_OVERFLOW)
                }
                _ => Content::Frame(frame),
            },
            Ok(FoldMessage::Announcement {
                producer,
                epoch,
                watermark,
                retired,
            }) => Content::Announcement {
                producer,
                epoch,
                watermark,
                retired,
            },
            Err(error) => bad(error.name()),
        };
        Self {
            sequence,
            broker_ms,
            crc: frame_crc(payload),
            content,
        }
    }

    /// How many events it holds.
    pub fn events(&self) -> usize {
        match &self.content {
            Content::Frame(frame) => frame.header.count as usize,
            Content::Announcement { .. } | Content::Bad { .. } => 0,
        }
    }

    fn author(&self) -> Option<(&Id, Epoch, &Watermark)> {
        match &self.content {
            Content::Frame(frame) => Some((
                &frame.header.producer,
                frame.header.epoch,
                &frame.header.watermark,
            )),
            Content::Announcement {
                producer,
                epoch,
                watermark,
                ..
            } => Some((producer, *epoch, watermark)),
            Content::Bad { .. } => None,
        }
    }
}

/// Why a batch could not be folded. The [`Fold`] must be dropped.
#[derive(Debug, thiserror::Error)]
pub enum FoldError<E> {
    /// The state could not be read.
    #[error("the state could not be read: {0}")]
    Read(E),
    /// The state is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// A projection is a file and a line here.
#[derive(Debug, Default)]
struct Projections {
    cells: CellSums,
    verdicts: Verdicts,
    directory: Directory,
    conversions: Conversions,
    uniques: Uniques,
}

impl Projections {
    fn each(&mut self, mut f: impl FnMut(&mut dyn AnyProjection)) {
        f(&mut self.cells);
        f(&mut self.verdicts);
        f(&mut self.directory);
        f(&mut self.conversions);
        f(&mut self.uniques);
    }
}

/// [`Projection`] without its constructor, so that all of them fit one list.
trait AnyProjection {
    fn apply(&mut self, frame: &Applied<'_>);
    fn finish(&mut self, out: &mut Changes);
}

impl<P: Projection> AnyProjection for P {
    fn apply(&mut self, frame: &Applied<'_>) {
        Projection::apply(self, frame);
    }
    fn finish(&mut self, out: &mut Changes) {
        Projection::finish(self, out);
    }
}

/// A row in memory, and whether the batch changed it.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    pub(crate) row: T,
    pub(crate) dirty: bool,
}

/// The fold of one shard.
#[derive(Debug)]
pub struct Fold {
    position: Position,
    counts: Counts,
    pub(crate) names: Names,
    pub(crate) creatives: Creatives,
    lanes: FxHashMap<(Epoch, Kind), Cached<Intervals>>,
    producers: FxHashMap<(Id, Epoch), Cached<Producer>>,
    projections: Projections,
}

impl Fold {
    /// What [`Fold::open`] needs.
    pub fn open_reads() -> Reads {
        let mut reads = Reads::default();
        for key in [
            POSITION_KEY,
            incidents::CONFLICTS_KEY,
            incidents::BAD_FRAMES_KEY,
        ] {
            reads.want(Family::Meta, |k| k.extend_from_slice(key));
        }
        Names::open_reads(&mut reads);
        reads
    }

    /// Goes on where the state is, or begins at the start of a stream of that creation time. Whether the state is
    /// of the same stream is the caller's to check, by [`Fold::position`].
    ///
    /// # Errors
    /// [`Damaged`] when the state's own rows cannot be read.
    pub fn open(values: &Values, stream_created_ns: i64) -> Result<Self, Damaged> {
        let meta = |at: usize| values.of(Family::Meta).get(at).and_then(Option::as_deref);
        let count = |at| {
            meta(at).map_or(Ok(0), |v| {
                incidents::decode_key(v).ok_or(Damaged { what: "count" })
            })
        };
        Ok(Self {
            position: match meta(0) {
                Some(value) => Position::decode(value)?,
                None => Position::start(stream_created_ns),
            },
            counts: Counts {
                conflicts: count(1)?,
                bad_frames: count(2)?,
            },
            names: Names::open(values.of(Family::Symbols))?,
            creatives: Creatives::default(),
            lanes: FxHashMap::default(),
            producers: FxHashMap::default(),
            projections: Projections::default(),
        })
    }

    /// The same fold, which leaves its cells as [`Folded::counted`] and makes no rows of them.
    pub fn keeping_cells(mut self) -> Self {
        self.projections.cells.keep_cells();
        self
    }

    /// How far the fold is, what it has answered but not yet written included.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Folds messages in the order of their sequences; those at or before the position are passed over.
    ///
    /// `read` is called at most twice.
    ///
    /// # Errors
    /// [`FoldError`] when the state cannot be read; the fold must then be dropped.
    pub fn fold<E>(
        &mut self,
        entries: &[Entry],
        mut read: impl FnMut(&Reads) -> Result<Values, E>,
    ) -> Result<Folded, FoldError<E>> {
        self.trim();
        let mut get = |reads: &Reads| match reads.is_empty() {
            true => Ok(Values::default()),
            false => read(reads).map_err(FoldError::Read),
        };
        let entries = self.stamp(entries);
        let wanted = self.survey(&entries);
        self.learn(&wanted, &get(&wanted.reads)?)?;
        let mut folded = Folded {
            messages: entries.len() as u64,
            ..Folded::default()
        };
        let mut batch = self.sift(&entries, &wanted, &mut folded);
        let mut values = get(&batch.reads)?;
        values.ids.resize(batch.reads.ids_order.len(), None);
        self.creatives
            .learn(&batch.creatives_asked, values.of(Family::Directory))?;
        let before = self.counts;
        let settled = batch.settle(
            std::mem::take(&mut values.ids),
            &mut self.counts,
            &mut folded,
        );
        for frame in &settled.frames {
            let events = settled.events(frame);
            let creatives = self
                .creatives
                .of_events(&mut self.names, frame, &batch, events);
            let applied = batch.applied(frame, events, creatives);
            folded.count_judged(&applied);
            self.projections.each(|p| p.apply(&applied));
        }
        self.write(before, &mut folded);
        folded.opened = self.projections.cells.take_opened();
        folded.counted = self.projections.cells.take_counted();
        Ok(folded)
    }

    /// A section was sealed and its marker taken away.
    pub fn forget_section(&mut self, sealed: &OpenSection) {
        self.projections.cells.forget(sealed);
    }

    /// Gives every new message its log time.
    fn stamp<'e>(&mut self, entries: &'e [Entry]) -> Vec<Stamped<'e>> {
        let mut out = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.sequence <= self.position.sequence {
                continue;
            }
            self.position.sequence = entry.sequence;
            self.position.crc = entry.crc;
            self.position.log_time_ms = self.position.log_time_ms.max(entry.broker_ms);
            out.push(Stamped {
                entry,
                log_time_ms: self.position.log_time_ms,
            });
        }
        out
    }

    fn trim(&mut self) {
        self.names.trim();
        self.creatives.trim();
        if self.lanes.len() > MAX_CACHED_LANES {
            self.lanes.clear();
        }
        if self.producers.len() > MAX_CACHED_LANES {
            self.producers.clear();
        }
    }

    /// Takes in what a message's author says of itself, and notes bad messages.
    pub(crate) fn note(&mut self, stamped: &Stamped<'_>, folded: &mut Folded) {
        if let Content::Bad { name, subject } = &stamped.entry.content {
            self.bad(stamped, name, subject, 0, folded);
        }
        if let Some((producer, epoch, watermark)) = stamped.entry.author() {
            let row = self
                .producers
                .get_mut(&(producer.clone(), epoch))
                .expect("survey and learn put every author of the batch here");
            row.row.take(watermark, stamped.log_time_ms);
            if let Content::Announcement {
                retired: Some(reason),
                ..
            } = &stamped.entry.content
            {
                row.row.retire(reason, stamped.log_time_ms);
            }
            row.dirty = true;
        }
    }

    pub(crate) fn bad(
        &mut self,
        of: &Stamped<'_>,
        name: &str,
        subject: &str,
        events: u64,
        folded: &mut Folded,
    ) {
        BadFrame {
            sequence: of.entry.sequence,
            log_time_ms: of.log_time_ms,
            name: name.to_owned(),
            subject: subject.to_owned(),
            events,
        }
        .write(self.counts.bad_frames, &mut folded.changes);
        self.counts.bad_frames += 1;
        folded.bad_frames += 1;
    }

    /// Counts events of a frame as refused, beside their record.
    pub(crate) fn refused(&mut self, header: &Header, events: u64) {
        let row = self
            .producers
            .get_mut(&(header.producer.clone(), header.epoch))
            .expect("survey and learn put every author of the batch here");
        row.row.refused[header.kind as usize] += events;
        row.dirty = true;
    }

    /// The ledger's row of a frame's lane.
    pub(crate) fn lane(&mut self, epoch: Epoch, kind: Kind) -> &mut Cached<Intervals> {
        self.lanes
            .get_mut(&(epoch, kind))
            .expect("survey and learn put every lane of the batch here")
    }

    pub(crate) fn knows_lane(&self, epoch: Epoch, kind: Kind) -> bool {
        self.lanes.contains_key(&(epoch, kind))
    }

    pub(crate) fn knows_producer(&self, producer: &Id, epoch: Epoch) -> bool {
        self.producers.contains_key(&(producer.clone(), epoch))
    }

    pub(crate) fn learn_lane(
        &mut self,
        epoch: Epoch,
        kind: Kind,
        value: Option<&[u8]>,
    ) -> Result<(), Damaged> {
        let row = value.map_or(Ok(Intervals::default()), Intervals::decode)?;
        self.lanes
            .insert((epoch, kind), Cached { row, dirty: false });
        Ok(())
    }

    pub(crate) fn learn_producer(
        &mut self,
        (producer, epoch, first_seen_ms): &(Id, Epoch, i64),
        value: Option<&[u8]>,
    ) -> Result<(), Damaged> {
        let row = match value {
            Some(value) => {
                let mut key = Vec::new();
                completeness::key(&mut key, producer, *epoch);
                Producer::decode(&key, value)?
            }
            None => Producer::new(producer, *epoch, *first_seen_ms),
        };
        self.producers
            .insert((producer.clone(), *epoch), Cached { row, dirty: false });
        Ok(())
    }

    /// Writes everything that the batch changed besides the ids and incidents, and the position.
    fn write(&mut self, before: Counts, folded: &mut Folded) {
        if folded.messages == 0 {
            return;
        }
        let out = &mut folded.changes;
        self.names.write(out);
        self.creatives.write(out);
        self.projections.each(|p| p.finish(out));
        for ((epoch, kind), lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.dirty) {
            lane.dirty = false;
            out.put(
                Family::Ledger,
                |k| ledger::key(k, *epoch, *kind),
                |v| lane.row.encode(v),
            );
        }
        for ((producer, epoch), row) in self.producers.iter_mut().filter(|(_, row)| row.dirty) {
            row.dirty = false;
            out.put(
                Family::Completeness,
                |k| completeness::key(k, producer, *epoch),
                |v| row.row.encode(v),
            );
        }
        totals::write(out, &folded.totals);
        let mut meta = |key: &[u8], value: &dyn Fn(&mut Vec<u8>)| {
            out.put(Family::Meta, |k| k.extend_from_slice(key), value);
        };
        if self.counts.conflicts != before.conflicts {
            meta(incidents::CONFLICTS_KEY, &|v| {
                incidents::key(v, self.counts.conflicts)
            });
        }
        if folded.bad_frames > 0 {
            meta(incidents::BAD_FRAMES_KEY, &|v| {
                incidents::key(v, self.counts.bad_frames)
            });
        }
        meta(POSITION_KEY, &|v| self.position.encode(v));
    }
}

/// A message with its log time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamped<'e> {
    pub(crate) entry: &'e Entry,
    pub(crate) log_time_ms: i64,
}
