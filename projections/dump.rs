//! The canonical dump: a shard's state as sorted lines of text, with names instead of symbols.
//!
//! Invariant: two states of one log at one position dump equally, however they came to be: not symbols, not what
//! is still stored of expired ids or of cells before the horizon, not which cells are sealed, not the bytes of
//! RocksDB. That is what tests and `verify` compare.

use std::fmt::Write as _;

use adtally_streams::event::{Device, Kind};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::block::BlockError;
use crate::cells::{Bucket, CellKey, Grain};
use crate::codec::Damaged;
use crate::completeness::Producer;
use crate::conversions::{ConversionKey, ConversionSum};
use crate::directory::{self, Fact};
use crate::dump_cells::visit_cells;
use crate::family::Family;
use crate::ids::{self, IdRecord};
use crate::incidents::{BadFrame, Conflict};
use crate::ledger::{self, Intervals};
use crate::metrics::Metrics;
use crate::position::{POSITION_KEY, Position};
use crate::seal::Rows;
use crate::sketch::Sketch;
use crate::spans::{DELETED_KEY, Horizon, Retention};
use crate::spend::{self, Spend};
use crate::symbols::{self, Space, Symbol};
use crate::totals::{self, Totals};
use crate::uniques::UniquesKey;
use crate::verdicts::{FraudClick, FraudSum, FraudSumKey};

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

/// Names of a shard's symbols.
#[derive(Debug, Default)]
struct NameTable(FxHashMap<(u8, Symbol), String>);

impl NameTable {
    fn of(&self, space: Space, symbol: Symbol) -> &str {
        let stored = || self.0.get(&(space as u8, symbol)).map(String::as_str);
        symbols::fixed_name(symbol)
            .or_else(stored)
            .unwrap_or("(unnamed)")
    }
}

/// One line of a dump, and what it is about.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The family's name; `ids` for the id index.
    pub section: &'static str,
    /// The campaign that it is about, where it is about one.
    pub campaign: Option<&'a str>,
    /// The day that it is about, counted from 1970-01-01: a civil day of the advertiser where the row says which,
    /// else the UTC day.
    pub day: Option<i32>,
    /// The line.
    pub text: &'a str,
}

/// The lines of a state's canonical dump, sorted.
///
/// # Errors
/// [`DumpError`] when the state cannot be read.
pub fn dump<S: Source>(source: &S) -> Result<Vec<String>, DumpError<S::Error>> {
    let mut lines = Vec::new();
    visit(source, &mut |line| lines.push(line.text.to_owned()))?;
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
    let mut table = NameTable::default();
    source
        .scan(Family::Symbols, &mut |key, value| {
            for space in Space::ALL
                .into_iter()
                .filter(|space| key.starts_with(&symbols::symbols_prefix(*space)))
            {
                if let (Some(symbol), Ok(name)) =
                    (symbols::symbol_of_key(key), std::str::from_utf8(value))
                {
                    table.0.insert((space as u8, symbol), name.to_owned());
                }
            }
        })
        .map_err(DumpError::Read)?;
    let mut damaged = None;
    let mut emit = |section: &'static str, about: About, text: &str| {
        each(Line {
            section,
            campaign: about
                .campaign
                .map(|symbol| table.of(Space::Campaign, symbol)),
            day: about.day,
            text,
        });
    };
    for family in Family::ALL.into_iter().filter(|family| !is_apart(*family)) {
        let mut visit = |key: &[u8], value: &[u8]| {
            let read = line(&table, family, key, value).map(|line| {
                line.iter()
                    .for_each(|line| emit(family.name(), About::row(family, key), line));
            });
            damaged = read.err().or(damaged.take());
        };
        source.scan(family, &mut visit).map_err(DumpError::Read)?;
    }
    let (log_time_ms, horizon) = position_and_horizon(source)?;
    let mut text = String::new();
    for grain in Grain::ALL {
        visit_cells(source, grain, &horizon, &mut |cell, sums| {
            text.clear();
            // Writing to a String cannot fail.
            let _ = put_cell_line(&mut text, &table, cell, sums);
            emit(grain.family().name(), About::cell(cell), &text);
        })?;
    }
    visit_ids(source, &table, log_time_ms, each, &mut damaged)?;
    match damaged {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Names are in every line; cells have lines of their own, whichever families they are in; and which of them are
/// sealed is no part of a state.
fn is_apart(family: Family) -> bool {
    let of_cells = |grain: Grain| [grain.family(), grain.blocks()].contains(&family);
    matches!(family, Family::Symbols | Family::OpenSpans) || Grain::ALL.into_iter().any(of_cells)
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

/// Which campaign and day a row is about.
#[derive(Clone, Copy, Debug, Default)]
struct About {
    campaign: Option<Symbol>,
    day: Option<i32>,
}

const MINUTES_A_DAY: i64 = 1_440;
const DAY_MS: i64 = 86_400_000;

impl About {
    fn cell(cell: &CellKey) -> Self {
        let day = match cell.bucket {
            Bucket::Minute(minute) => minute.div_euclid(MINUTES_A_DAY),
            Bucket::Hour { start_s, offset_s } => {
                (start_s + i64::from(offset_s)).div_euclid(DAY_MS / 1_000)
            }
            Bucket::Day(day) => i64::from(day),
        };
        Self {
            campaign: Some(cell.campaign),
            day: i32::try_from(day).ok(),
        }
    }

    /// Of a family without cells; nothing where it is about neither, or cannot be read.
    fn row(family: Family, key: &[u8]) -> Self {
        let of = |campaign, day: Option<i64>| Self {
            campaign,
            day: day.and_then(|day| i32::try_from(day).ok()),
        };
        match family {
            Family::Spend => spend::decode_key(key)
                .map(|(campaign, day)| of(Some(campaign), day.map(i64::from)))
                .unwrap_or_default(),
            Family::FraudSums => FraudSumKey::decode(key)
                .map(|k| of(Some(k.campaign), Some(k.minute.div_euclid(MINUTES_A_DAY))))
                .unwrap_or_default(),
            Family::FraudClicks => FraudClick::place(key)
                .map(|(campaign, ms)| of(Some(campaign), Some(ms.div_euclid(DAY_MS))))
                .unwrap_or_default(),
            Family::Conversions => ConversionKey::decode(key)
                .map(|k| of(None, Some(i64::from(k.day))))
                .unwrap_or_default(),
            _ => Self::default(),
        }
    }
}

/// Of an id's records at most one is within the horizon: another one is written only when that one is past it.
fn visit_ids<S: Source>(
    source: &S,
    table: &NameTable,
    log_time_ms: i64,
    each: &mut dyn FnMut(Line<'_>),
    damaged: &mut Option<Damaged>,
) -> Result<(), DumpError<S::Error>> {
    let mut visit = |key: &[u8], value: &[u8]| match id_line(table, key, value, log_time_ms) {
        Ok(Some((day, text))) => each(Line {
            section: "ids",
            campaign: None,
            day: Some(day),
            text: &text,
        }),
        Ok(None) => (),
        Err(error) => *damaged = Some(error),
    };
    source.scan_ids(&mut visit).map_err(DumpError::Read)
}

/// The log day and the line of an id's record; none where it is past the horizon.
fn id_line(
    table: &NameTable,
    key: &[u8],
    value: &[u8],
    now_ms: i64,
) -> Result<Option<(i32, String)>, Damaged> {
    let record = IdRecord::decode(value)?;
    if !record.holds_at(now_ms) {
        return Ok(None);
    }
    let IdRecord {
        log_time_ms,
        sequence,
        content_hash,
    } = record;
    let id = id_text(table, key)?;
    let line =
        format!("id {id} log_time={log_time_ms} sequence={sequence} hash={content_hash:016x}");
    Ok(Some((ids::log_day(log_time_ms), line)))
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

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id_text(table: &NameTable, key: &[u8]) -> Result<String, Damaged> {
    let (kind, owner, id) = ids::decode_key(key)?;
    let space = if kind == Kind::Conversion {
        Space::Advertiser
    } else {
        Space::Ad
    };
    Ok(format!("{kind} {} {id}", table.of(space, owner)))
}

fn device(number: u8) -> &'static str {
    Device::from_number(number).unwrap_or_default().name()
}

fn line(
    table: &NameTable,
    family: Family,
    key: &[u8],
    value: &[u8],
) -> Result<Option<String>, Damaged> {
    let campaign = |symbol| table.of(Space::Campaign, symbol);
    let ad = |symbol| table.of(Space::Ad, symbol);
    Ok(Some(match family {
        // See `is_apart`.
        Family::Symbols
        | Family::CellsMinute
        | Family::CellsHour
        | Family::CellsDay
        | Family::OpenSpans
        | Family::BlocksMinute
        | Family::BlocksHour
        | Family::BlocksDay => return Ok(None),
        Family::Meta => match key {
            POSITION_KEY => format!("position {:?}", Position::decode(value)?),
            _ => return Ok(None),
        },
        Family::Ledger => {
            let (epoch, kind) = ledger::decode_key(key)?;
            format!(
                "ledger {epoch} {kind} {:?}",
                Intervals::decode(value)?.iter().collect::<Vec<_>>()
            )
        }
        Family::Spend => {
            let (symbol, day) = spend::decode_key(key)?;
            format!(
                "spend {} {day:?} {:?}",
                campaign(symbol),
                Spend::decode(value)?
            )
        }
        Family::FraudSums => {
            let k = FraudSumKey::decode(key)?;
            let sum = FraudSum::decode(value)?;
            format!(
                "fraud {} minute={} {}/{} {sum:?}",
                campaign(k.campaign),
                k.minute,
                k.reason.name(),
                k.revision
            )
        }
        Family::FraudClicks => {
            let c = FraudClick::decode(key, value)?;
            let (class, revision, reason) = (c.class.name(), c.revision, c.reason.name());
            format!(
                "fraud_click {} {} {} {} {reason}/{revision} {class} cost={} creative={:?} region={} device={}",
                campaign(c.campaign),
                c.event_time_ms,
                ad(c.ad),
                c.click_id,
                c.cost_micros,
                table.of(Space::Creative, c.creative),
                table.of(Space::Region, c.region),
                device(c.device),
            )
        }
        Family::Conversions => {
            let ConversionKey {
                advertiser,
                day,
                currency,
            } = ConversionKey::decode(key)?;
            let sum = ConversionSum::decode(value)?;
            format!(
                "conversions {} day={day} {currency:?} {sum:?}",
                table.of(Space::Advertiser, advertiser)
            )
        }
        Family::Completeness => {
            let row = Producer::decode(key, value)?;
            format!("producer {} {} {row:?}", row.producer, row.epoch)
        }
        Family::Conflicts => {
            let conflict = Conflict::decode(value)?;
            let id = id_text(table, &conflict.id_key)?;
            format!(
                "conflict {:?} {id} {:?}",
                key,
                Conflict {
                    id_key: Vec::new(),
                    ..conflict
                }
            )
        }
        Family::BadFrames => format!("bad_frame {:?} {:?}", key, BadFrame::decode(value)?),
        Family::Totals => {
            let kind = totals::decode_key(key).ok_or(Damaged { what: "total" })?;
            format!("totals {kind} {:?}", Totals::decode(value)?)
        }
        Family::Directory => directory_line(table, key, value)?,
        Family::Uniques => {
            let k = UniquesKey::decode(key)?;
            let mut sketch = Sketch::default();
            sketch.merge(value)?;
            // The stored form is the canonical one, and the size says what it means.
            format!(
                "uniques {} {} day={} estimate={} {}",
                campaign(k.campaign),
                k.what.name(),
                k.day,
                sketch.estimate().estimate,
                hexadecimal(&Sha256::digest(value))
            )
        }
    }))
}

fn put_cell_line(
    text: &mut String,
    table: &NameTable,
    k: &CellKey,
    sums: &Metrics,
) -> std::fmt::Result {
    write!(text, "cell {} ", table.of(Space::Campaign, k.campaign))?;
    match k.bucket {
        Bucket::Minute(minute) => write!(text, "minute={minute}")?,
        Bucket::Hour { start_s, offset_s } => write!(text, "hour={start_s}{offset_s:+}")?,
        Bucket::Day(day) => write!(text, "day={day}")?,
    }
    write!(
        text,
        " ad={} creative={:?} region={} device={} {sums}",
        table.of(Space::Ad, k.ad),
        table.of(Space::Creative, k.creative),
        table.of(Space::Region, k.region),
        device(k.device),
    )
}

fn directory_line(table: &NameTable, key: &[u8], value: &[u8]) -> Result<String, Damaged> {
    let campaign = |symbol| table.of(Space::Campaign, symbol);
    let ad = |symbol| table.of(Space::Ad, symbol);
    let advertiser = |symbol| table.of(Space::Advertiser, symbol);
    Ok(match Fact::decode(key)? {
        Some(Fact::Campaign(c)) => format!("directory campaign {}", campaign(c)),
        Some(Fact::Unzoned(c)) => format!("directory unzoned {}", campaign(c)),
        Some(Fact::AdvertiserOfCampaign(c, v)) => {
            format!("directory {} of {}", campaign(c), advertiser(v))
        }
        Some(Fact::CampaignOfAdvertiser(v, c)) => {
            format!("directory {} has {}", advertiser(v), campaign(c))
        }
        Some(Fact::CurrencyOfCampaign(c, currency)) => {
            format!("directory {} in {currency}", campaign(c))
        }
        Some(Fact::CampaignOfAd(a, c)) => format!("directory ad {} under {}", ad(a), campaign(c)),
        Some(Fact::AdOfCampaign(c, a)) => format!("directory {} has ad {}", campaign(c), ad(a)),
        None => {
            let symbol =
                directory::ad_of_creatives_key(key).ok_or(Damaged { what: "directory" })?;
            let creatives = directory::decode_creatives(value)?;
            let names: Vec<&str> = creatives
                .iter()
                .map(|c| table.of(Space::Creative, *c))
                .collect();
            format!("directory ad {} creatives {names:?}", ad(symbol))
        }
    })
}
