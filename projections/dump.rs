//! The canonical dump: a shard's state as sorted lines of text, with names instead of symbols.
//!
//! Invariant: two states of one log at one position dump equally, however they came to be: not symbols, not what
//! is still stored of expired ids, not the bytes of RocksDB. That is what tests and `verify` compare.

use adtally_streams::event::{Device, Kind};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::cells::{self, Bucket, CellKey, Grain};
use crate::codec::Damaged;
use crate::completeness::Producer;
use crate::conversions::{ConversionKey, ConversionSum};
use crate::directory::{self, Fact};
use crate::family::Family;
use crate::ids::{self, IdRecord};
use crate::incidents::{BadFrame, Conflict};
use crate::ledger::{self, Intervals};
use crate::metrics::Metrics;
use crate::position::Position;
use crate::spend::{self, Spend};
use crate::symbols::{self, Space, Symbol};
use crate::totals::{self, Totals};
use crate::verdicts::{FraudClick, FraudSum, FraudSumKey};

/// A state of which every row can be visited.
pub trait Source {
    /// Why a row cannot be read.
    type Error;

    /// Visits every row of a family, in the order of keys.
    fn scan(&self, family: Family, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Self::Error>;

    /// Visits every row of the id index, earlier log days first.
    fn scan_ids(&self, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Self::Error>;
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

/// The lines of a state's canonical dump, sorted.
///
/// # Errors
/// [`DumpError`] when the state cannot be read.
pub fn dump<S: Source>(source: &S) -> Result<Vec<String>, DumpError<S::Error>> {
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
    let mut lines = Vec::new();
    let mut damaged = None;
    let mut log_time_ms = 0;
    for family in Family::ALL
        .into_iter()
        .filter(|family| *family != Family::Symbols)
    {
        let grain = Grain::ALL.into_iter().find(|g| g.family() == family);
        let mut visit = |key: &[u8], value: &[u8]| {
            let read = match grain {
                Some(grain) => cells::each(grain, key, value, |cell, sums| {
                    lines.push(cell_line(&table, cell, sums)?);
                    Ok(())
                }),
                None => line(&table, family, key, value).map(|line| lines.extend(line)),
            };
            damaged = read.err().or(damaged.take());
        };
        source.scan(family, &mut visit).map_err(DumpError::Read)?;
    }
    let mut position = |key: &[u8], value: &[u8]| {
        if let (crate::position::POSITION_KEY, Ok(position)) = (key, Position::decode(value)) {
            log_time_ms = position.log_time_ms;
        }
    };
    source
        .scan(Family::Meta, &mut position)
        .map_err(DumpError::Read)?;
    dump_ids(source, &table, log_time_ms, &mut lines, &mut damaged)?;
    if let Some(error) = damaged {
        return Err(error.into());
    }
    lines.sort_unstable();
    Ok(lines)
}

/// Of an id's records the latest one holds, unless it is past the horizon.
fn dump_ids<S: Source>(
    source: &S,
    table: &NameTable,
    log_time_ms: i64,
    lines: &mut Vec<String>,
    damaged: &mut Option<Damaged>,
) -> Result<(), DumpError<S::Error>> {
    let mut latest: FxHashMap<Vec<u8>, IdRecord> = FxHashMap::default();
    let mut visit = |key: &[u8], value: &[u8]| match IdRecord::decode(value) {
        Ok(record) if record.holds_at(log_time_ms) => drop(latest.insert(key.to_vec(), record)),
        Ok(_) => (),
        Err(error) => *damaged = Some(error),
    };
    source.scan_ids(&mut visit).map_err(DumpError::Read)?;
    for (key, record) in latest {
        let IdRecord {
            log_time_ms,
            sequence,
            content_hash,
        } = record;
        let id = id_text(table, &key)?;
        lines.push(format!(
            "id {id} log_time={log_time_ms} sequence={sequence} hash={content_hash:016x}"
        ));
    }
    Ok(())
}

/// A dump in 64 hexadecimal digits: SHA-256 over its lines, each ended by a line feed.
pub fn digest(lines: &[String]) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
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
        // Names are in every line, and cells are not one a row.
        Family::Symbols | Family::CellsMinute | Family::CellsHour | Family::CellsDay => {
            return Ok(None);
        }
        Family::Meta => match key {
            crate::position::POSITION_KEY => format!("position {:?}", Position::decode(value)?),
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
        Family::Completeness => format!("producer {:?}", Producer::decode(key, value)?),
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
    }))
}

fn cell_line(table: &NameTable, k: &CellKey, sums: &[u8]) -> Result<String, Damaged> {
    let bucket = match k.bucket {
        Bucket::Minute(minute) => format!("minute={minute}"),
        Bucket::Hour { start_s, offset_s } => format!("hour={start_s}{offset_s:+}"),
        Bucket::Day(day) => format!("day={day}"),
    };
    Ok(format!(
        "cell {} {bucket} ad={} creative={:?} region={} device={} {:?}",
        table.of(Space::Campaign, k.campaign),
        table.of(Space::Ad, k.ad),
        table.of(Space::Creative, k.creative),
        table.of(Space::Region, k.region),
        device(k.device),
        Metrics::decode(sums)?,
    ))
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
