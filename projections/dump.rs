//! The canonical dump: a shard's state as sorted lines of text, with names instead of symbols.
//!
//! Invariant: two states of one log at one position dump equally, however they came to be: not symbols, not what
//! is still stored of expired ids or of cells before the horizon, not which cells are sealed, not the bytes of
//! RocksDB. That is what tests and `verify` compare.

use sha2::{Digest, Sha256};

use crate::block::BlockError;
use crate::cells::{CellKey, Grain};
use crate::codec::Damaged;
use crate::dump_cells::{Sums, TakesCells, visit_cells};
use crate::dump_line::Content;
pub use crate::dump_line::Line;
use crate::dump_names::Names;
use crate::dump_rows::text_of;
use crate::family::Family;
use crate::ids::{IdKey, IdRecord};
use crate::position::{POSITION_KEY, Position};
use crate::seal::Rows;
use crate::sketch::Sketch;
use crate::spans::{DELETED_KEY, Horizon, Retention};
use crate::uniques::UniquesKey;

/// A state of which every row can be visited.
pub trait Source: Rows {
    /// Visits every row of a family, in the order of keys.
    fn scan(&self, family: Family, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Self::Error>;

    /// Visits every row of the id index, earlier log days first.
    fn scan_ids(&self, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Self::Error>;

    /// How long it keeps cells.
    fn retention(&self) -> Retention {
        Retention::default()
    }

    /// What it shows no cells before, besides: two states are compared by what both of them keep.
    fn shown_from(&self) -> Horizon {
        Horizon::default()
    }
}

/// Why a state cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError<E> {
    /// It cannot be read.
    #[error("the state could not be read: {0}")]
    Read(E),
    /// A row is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A block of sealed cells is damaged.
    #[error(
        "a block of sealed counts ({span}) is damaged: {error}; rebuild the shard with `adtally replay --from beginning`"
    )]
    Block {
        /// The span of its cells, where its key can be read.
        span: String,
        /// How.
        error: BlockError,
    },
}

/// The lines of a state's canonical dump, sorted.
///
/// # Errors
/// [`DumpError`] when the state cannot be read.
pub fn dump<S: Source>(source: &S) -> Result<Vec<String>, DumpError<S::Error>> {
    let mut lines = Vec::new();
    visit(source, &mut |line| lines.push(line.text()))?;
    lines.sort_unstable();
    Ok(lines)
}

/// Visits the lines of a state's canonical dump, in no order that means anything. Of the state only the names of its
/// symbols are held in memory, which spans have rows of cells, and the cells of one of those spans at a time.
///
/// # Errors
/// [`DumpError`] when the state cannot be read.
pub fn visit<S: Source>(
    source: &S,
    each: &mut dyn FnMut(Line<'_>),
) -> Result<(), DumpError<S::Error>> {
    let names = Names::read(source).map_err(DumpError::Read)?;
    visit_rows(source, &names, each)?;
    let names = &names;
    visit_cells_of(source, &mut Telling { names, each })
}

/// Tells cells as lines.
struct Telling<'t, 'n> {
    names: &'n Names,
    each: &'t mut dyn FnMut(Line<'_>),
}

impl TakesCells for Telling<'_, '_> {
    fn cell(&mut self, cell: &CellKey, sums: &Sums, is_read: bool) {
        let names = self.names;
        let content = Content::Cell {
            cell,
            sums,
            is_read,
        };
        (self.each)(Line { names, content });
    }
}

/// The lines of all rows but those of cells.
pub(crate) fn visit_rows<S: Source>(
    source: &S,
    names: &Names,
    each: &mut dyn FnMut(Line<'_>),
) -> Result<(), DumpError<S::Error>> {
    let mut tell = |content: Content<'_>| each(Line { names, content });
    let mut damaged = None;
    for family in Family::ALL.into_iter().filter(|family| !is_apart(*family)) {
        let mut row = |key: &[u8], value: &[u8]| match text_of(names, family, key, value) {
            Ok(Some(text)) => tell(Content::Row(family, key, &text)),
            Ok(None) => {}
            Err(error) => damaged = Some(error),
        };
        source.scan(family, &mut row).map_err(DumpError::Read)?;
    }
    let mut sketch = |key: &[u8], value: &[u8]| match sketch_of(key, value) {
        Ok(key) => tell(Content::Uniques(key, value)),
        Err(error) => damaged = Some(error),
    };
    source
        .scan(Family::Uniques, &mut sketch)
        .map_err(DumpError::Read)?;
    let (log_time_ms, _) = position_and_horizon(source)?;
    let mut id = |key: &[u8], value: &[u8]| match id_of(key, value, log_time_ms) {
        Ok(Some((key, record))) => tell(Content::Id(key, record)),
        Ok(None) => {}
        Err(error) => damaged = Some(error),
    };
    source.scan_ids(&mut id).map_err(DumpError::Read)?;
    damaged.map_or(Ok(()), |error| Err(error.into()))
}

/// All cells.
pub(crate) fn visit_cells_of<S: Source>(
    source: &S,
    taker: &mut dyn TakesCells,
) -> Result<(), DumpError<S::Error>> {
    let horizon = shown_horizon(source)?;
    Grain::ALL
        .into_iter()
        .try_for_each(|grain| visit_cells(source, grain, &horizon, taker))
}

/// Before what a state shows no cells.
///
/// # Errors
/// [`DumpError`] when it cannot be read.
pub fn shown_horizon<S: Source>(source: &S) -> Result<Horizon, DumpError<S::Error>> {
    position_and_horizon(source).map(|(_, horizon)| horizon)
}

/// The key of a stored sketch, which can be read.
fn sketch_of(key: &[u8], value: &[u8]) -> Result<UniquesKey, Damaged> {
    Sketch::default().merge(value)?;
    UniquesKey::decode(key)
}

/// An id and its record; none where that is past the horizon. Of an id's records at most one is within it: another
/// one is written only when that one is past it.
fn id_of<'a>(
    key: &'a [u8],
    value: &[u8],
    now_ms: i64,
) -> Result<Option<(IdKey<'a>, IdRecord)>, Damaged> {
    let record = IdRecord::decode(value)?;
    match record.holds_at(now_ms) {
        true => Ok(Some((IdKey::decode(key)?, record))),
        false => Ok(None),
    }
}

/// Names are in every line; cells and sketches have lines of their own, whichever families they are in; and which of
/// them are sealed is no part of a state.
fn is_apart(family: Family) -> bool {
    matches!(family, Family::Symbols | Family::Uniques) || is_of_cells(family)
}

/// Whether a family holds cells, sealed or not, or says where there are some.
pub fn is_of_cells(family: Family) -> bool {
    let of_cells = |grain: Grain| [grain.family(), grain.blocks()].contains(&family);
    family == Family::OpenSpans || Grain::ALL.into_iter().any(of_cells)
}

/// The log time, and what is shown of cells at it.
fn position_and_horizon<S: Source>(source: &S) -> Result<(i64, Horizon), DumpError<S::Error>> {
    let (mut log_time_ms, mut deleted) = (0, Ok(Horizon::default()));
    let mut row = |key: &[u8], value: &[u8]| {
        if key == DELETED_KEY {
            deleted = Horizon::decode(value);
        } else if let (POSITION_KEY, Ok(position)) = (key, Position::decode(value)) {
            log_time_ms = position.log_time_ms;
        }
    };
    source
        .scan(Family::Meta, &mut row)
        .map_err(DumpError::Read)?;
    let kept = source.retention().horizon(log_time_ms).and(&deleted?);
    Ok((log_time_ms, kept.and(&source.shown_from())))
}

/// A dump in 64 hexadecimal digits: SHA-256 over its lines, each ended by a line feed.
pub fn digest(lines: &[String]) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hexadecimal(&hash.finalize())
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
