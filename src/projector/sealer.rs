//! Sealing the closed sections of a shard's spans, and deleting what is past its retention, a portion at a time.
//!
//! Invariant: it runs on the shard's own thread between two batches, so a state still has one writer; a portion is one
//! write, all or nothing, and takes tens of milliseconds, so folding is never held up for longer. When a section is
//! sealed changes no answer, so nothing here needs to be exact about time: markers in the state say what is open, and
//! what is known of it in memory only saves looking.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_projections::cells::Grain;
use adtally_projections::dump::Source as _;
use adtally_projections::family::{Changes, Family};
use adtally_projections::seal::{PIECE_CELLS, SealError, Sealed, seal};
use adtally_projections::sections::{OpenSection, Section};
use adtally_projections::spans::{Horizon, Span};
use adtally_projections::sweep::sweep;
use adtally_projections::symbols::{Space, Symbol};
use adtally_projections::waiting::Waiting;
use rustc_hash::FxHashSet;

use crate::fail_points::{Point, pass};
use crate::store::{Shard, ShardSnapshot, StoreError};

/// How long a portion goes on beginning spans.
const PORTION: Duration = Duration::from_millis(20);
/// Open sections that are known in memory: those due first. The others are found in the state again once half of them
/// are sealed.
const MAX_WAITING: usize = 1 << 18;
/// Looks and deletions of one portion of a sweep.
const SWEEP_ROWS: usize = 512;

/// What a portion came to.
#[derive(Clone, Debug, Default)]
pub struct Portion {
    /// Sections of which nothing is left to be sealed.
    pub done: Vec<OpenSection>,
    /// What was sealed, summed.
    pub sealed: Sealed,
    /// Spans that could not be sealed because a block of theirs is damaged.
    pub damaged: u64,
    /// Blocks that were deleted because they are past their retention.
    pub expired: u64,
    /// How long it took.
    pub took: Duration,
}

/// A sweep under way.
#[derive(Debug)]
struct Sweep {
    horizon: Horizon,
    grain: Grain,
    from: Vec<u8>,
}

/// The sealing of one shard.
#[derive(Debug)]
pub struct Sealer {
    shard: Arc<Shard>,
    waiting: Waiting,
    /// Campaigns' spans with a damaged block: their rows stay rows until the shard is rebuilt.
    aside: FxHashSet<(Symbol, Span)>,
    /// What the state says was deleted.
    deleted: Horizon,
    /// The horizon up to which everything was deleted since the start.
    swept: Horizon,
    sweep: Option<Sweep>,
}

impl Sealer {
    /// Learns what is open in a state.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn open(shard: Arc<Shard>) -> Result<Self, StoreError> {
        let mut sealer = Self {
            deleted: Horizon::default(),
            waiting: Waiting::new(shard.margins(), MAX_WAITING),
            aside: FxHashSet::default(),
            swept: Horizon::default(),
            sweep: None,
            shard,
        };
        sealer.look()?;
        Ok(sealer)
    }

    /// Finds open sections in the state, as many as there is room for.
    fn look(&mut self) -> Result<(), StoreError> {
        let shard = Arc::clone(&self.shard);
        let snapshot = shard.snapshot()?;
        self.deleted = snapshot.deleted()?;
        self.waiting.look_again();
        let mut damaged = None;
        snapshot.scan(Family::OpenSpans, &[], None, |key, _| {
            match OpenSection::decode(key) {
                Ok(open) => self.wait(open, None, i64::MIN),
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), |error| Err(snapshot.damaged(error)))
    }

    /// Notes that sections have got rows, at that log time.
    pub fn opened(&mut self, sections: &[(OpenSection, i32)], log_time_ms: i64) {
        for (open, offset_s) in sections {
            self.wait(*open, Some(*offset_s), log_time_ms);
        }
    }

    fn wait(&mut self, open: OpenSection, offset_s: Option<i32>, opened_ms: i64) {
        if !self.aside.contains(&(open.campaign, open.section.span())) {
            self.waiting.add(open, offset_s, opened_ms);
        }
    }

    /// Whether there is something to do at a log time.
    pub fn is_due(&self, log_time_ms: i64) -> bool {
        self.waiting.is_due(log_time_ms)
            || self.waiting.has_room_for_more()
            || self.is_sweep_due(log_time_ms)
    }

    fn is_sweep_due(&self, log_time_ms: i64) -> bool {
        self.sweep.is_some() || self.shard.retention().horizon(log_time_ms) != self.swept
    }

    /// How many sections are due and not sealed.
    pub fn behind(&self, log_time_ms: i64) -> usize {
        self.waiting.behind(log_time_ms)
    }

    /// Seals what is due, or deletes what is past its retention, as much as a portion is.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read or written.
    pub fn portion(&mut self, log_time_ms: i64) -> Result<Portion, StoreError> {
        let began = Instant::now();
        let horizon = self
            .shard
            .retention()
            .horizon(log_time_ms)
            .and(&self.deleted);
        let shard = Arc::clone(&self.shard);
        let (mut portion, mut changes) = (Portion::default(), Changes::default());
        if self.waiting.is_due(log_time_ms) {
            let snapshot = shard.snapshot()?;
            self.seal_due(
                log_time_ms,
                &snapshot,
                &horizon,
                began,
                (&mut portion, &mut changes),
            );
        } else if self.waiting.has_room_for_more() {
            self.look()?;
        } else if self.is_sweep_due(log_time_ms) {
            let snapshot = shard.snapshot()?;
            self.sweep_on(&snapshot, &horizon, log_time_ms, &mut changes)?;
            // One change is the note of how far.
            portion.expired = changes.len().saturating_sub(1) as u64;
        }
        if !changes.is_empty() {
            pass(Point::SealBuilt);
            shard.write(&changes)?;
            pass(Point::SealWritten);
        }
        portion.took = began.elapsed();
        Ok(portion)
    }

    fn seal_due(
        &mut self,
        log_time_ms: i64,
        snapshot: &ShardSnapshot<'_>,
        horizon: &Horizon,
        began: Instant,
        (portion, changes): (&mut Portion, &mut Changes),
    ) {
        while let Some((campaign, sections)) = self.waiting.due(log_time_ms) {
            if portion.sealed.cells >= PIECE_CELLS as u64 || began.elapsed() >= PORTION {
                return;
            }
            let before = changes.len();
            match seal(snapshot, campaign, &sections, horizon, changes) {
                Ok(sealed) => {
                    portion.sealed.add(&sealed);
                    if sections.first().is_some_and(|s| !horizon.keeps(s.span())) {
                        self.deleted = *horizon;
                    }
                    for section in &sections[..sealed.done] {
                        let open = OpenSection {
                            campaign,
                            section: *section,
                        };
                        self.waiting.remove(&open);
                        portion.done.push(open);
                    }
                    if sealed.done < sections.len() {
                        // What is left is seen once this is written.
                        return;
                    }
                }
                Err(error) => {
                    changes.truncate(before);
                    portion.damaged += 1;
                    self.set_aside(campaign, &sections, snapshot, &error);
                }
            }
        }
    }

    /// Folding goes on without sealing this span, which is answered from its rows and, where it can be read, its block.
    fn set_aside(
        &mut self,
        campaign: Symbol,
        sections: &[Section],
        snapshot: &ShardSnapshot<'_>,
        error: &SealError<StoreError>,
    ) {
        let Some(span) = sections.first().map(|section| section.span()) else {
            return;
        };
        let name = snapshot.name(Space::Campaign, campaign);
        let shard = self.shard.number();
        tracing::error!(
            shard,
            campaign = name.as_deref().unwrap_or("?"),
            %span,
            %error,
            "a span cannot be sealed any further; rebuild its shard with `adtally replay --from beginning --shard {shard}`"
        );
        self.waiting.remove_span(campaign, span);
        self.aside.insert((campaign, span));
    }

    fn sweep_on(
        &mut self,
        snapshot: &ShardSnapshot<'_>,
        horizon: &Horizon,
        log_time_ms: i64,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let asked = snapshot.retention().horizon(log_time_ms);
        let sweep = self.sweep.get_or_insert_with(|| Sweep {
            horizon: asked,
            grain: Grain::Minute,
            from: Vec::new(),
        });
        let next = match horizon.first(sweep.grain) {
            None => None,
            Some(_) => sweep_grain(snapshot, sweep, horizon, changes)?,
        };
        if !changes.is_empty() {
            self.deleted = *horizon;
        }
        let (grain, from) = match (next, sweep.grain) {
            (Some(from), grain) => (grain, from),
            (None, Grain::Minute) => (Grain::Hour, Vec::new()),
            (None, Grain::Hour) => (Grain::Day, Vec::new()),
            (None, Grain::Day) => {
                self.swept = sweep.horizon;
                self.sweep = None;
                return Ok(());
            }
        };
        (sweep.grain, sweep.from) = (grain, from);
        Ok(())
    }
}

fn sweep_grain(
    snapshot: &ShardSnapshot<'_>,
    at: &Sweep,
    horizon: &Horizon,
    changes: &mut Changes,
) -> Result<Option<Vec<u8>>, StoreError> {
    sweep(snapshot, at.grain, &at.from, horizon, SWEEP_ROWS, changes).map_err(|error| match error {
        SealError::Read(error) => error,
        SealError::Damaged(error) => snapshot.damaged(error),
        SealError::Block { .. } => {
            snapshot.damaged(adtally_projections::codec::Damaged { what: "block" })
        }
    })
}
