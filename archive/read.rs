//! Reading a segment back: the entries of a fold, row group by row group.

use std::sync::Arc;

use adtally_projections::fold::{Content, Entry};
use adtally_projections::sketch::Coupon;
use adtally_streams::event::{Device, EdgeReason, Flags, Kind};
use adtally_streams::frame::{AdEntry, EventId, FoldFrame, Header};
use adtally_streams::id::{Epoch, Id};
use adtally_streams::money::Currency;
use adtally_streams::visitor::{NOBODY, visitor_of};
use adtally_streams::watermark::Watermark;
use bytes::Bytes;
use parquet::data_type::{
    ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use rustc_hash::FxHashMap;

use crate::FormatError;
use crate::optional::{Optional, read};
use crate::schema::{MESSAGE, VERSION, VERSION_KEY, WATERMARK};
use crate::texts::{NO_TEXT, ReadTexts, shared};

/// A file that is read.
pub struct SegmentReader {
    file: SerializedFileReader<Bytes>,
    next: usize,
}

impl SegmentReader {
    /// Opens a file that is in memory; that it is the right one, its checksum says.
    ///
    /// # Errors
    /// [`FormatError`] when it is no such file.
    pub fn open(bytes: Bytes) -> Result<Self, FormatError> {
        let file = SerializedFileReader::new(bytes)?;
        let metadata = file.metadata().file_metadata();
        let version = metadata.key_value_metadata().and_then(|pairs| {
            let found = pairs.iter().find(|pair| pair.key == VERSION_KEY);
            found.and_then(|pair| pair.value.as_deref()?.parse::<u32>().ok())
        });
        match version {
            Some(VERSION) => Ok(Self { file, next: 0 }),
            Some(other) => Err(FormatError::content(format!(
                "it has layout {other}, and this program reads {VERSION}"
            ))),
            None => Err(FormatError::content("it is no file of an archive")),
        }
    }

    /// Rows of the file.
    pub fn rows(&self) -> u64 {
        self.file.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// The entries of the next row group, in the order of their sequences; none after the last one.
    ///
    /// # Errors
    /// [`FormatError`] when its columns are not what this program writes.
    pub fn next_entries(&mut self) -> Result<Option<Vec<Entry>>, FormatError> {
        if self.next >= self.file.num_row_groups() {
            return Ok(None);
        }
        let group = self.file.get_row_group(self.next)?;
        self.next += 1;
        let rows = usize::try_from(group.metadata().num_rows())
            .map_err(|_| FormatError::content("a row group has fewer than no rows"))?;
        ReadGroup::read(&*group, rows)?.entries().map(Some)
    }
}

impl std::fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader")
            .field("rows", &self.rows())
            .finish_non_exhaustive()
    }
}

/// What a row says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowKind {
    Event(Kind),
    Watermark,
    Message,
}

impl RowKind {
    fn of(name: &str) -> Result<Self, FormatError> {
        match name {
            WATERMARK => Ok(RowKind::Watermark),
            MESSAGE => Ok(RowKind::Message),
            name => Kind::from_name(name)
                .map(RowKind::Event)
                .ok_or_else(|| FormatError::content(format!("there is no kind {name}"))),
        }
    }
}

/// The columns of a row group that a fold needs.
struct ReadGroup {
    kind: ReadTexts<RowKind>,
    sequence: Vec<i64>,
    broker_time: Vec<i64>,
    producer: ReadTexts<Id>,
    epoch: Vec<i64>,
    counter: Vec<i64>,
    event_timestamp: Vec<i64>,
    arrival_timestamp: Vec<i64>,
    ids: [Vec<Option<EventId>>; Kind::ALL.len()],
    ad_id: ReadTexts<Id>,
    campaign_id: ReadTexts<Id>,
    advertiser_id: ReadTexts<Id>,
    currency_code: ReadTexts<Currency>,
    utc_offset_s: Vec<i32>,
    creative: ReadTexts<Arc<str>>,
    device_type: ReadTexts<Device>,
    geo_region: ReadTexts<Arc<str>>,
    amount_micros: Vec<i64>,
    flags: Vec<i32>,
    verdict: ReadTexts<EdgeReason>,
    content_hash: Vec<i64>,
    ip_hash: Vec<Option<i64>>,
    visitor_mark: Vec<Option<i32>>,
    frame_checksum: Vec<Option<i32>>,
    watermark: Vec<Option<ByteArray>>,
    retired: ReadTexts<Arc<str>>,
    subject: ReadTexts<Arc<str>>,
    raw: Vec<Option<ByteArray>>,
}

impl ReadGroup {
    fn read(group: &dyn RowGroupReader, rows: usize) -> Result<Self, FormatError> {
        let places = Places::of(group);
        let numbers = |name| -> Result<Vec<i64>, FormatError> {
            let column = read::<Int64Type>(group, places.at(name)?, rows)?;
            Ok(column.iter().map(|n| n.copied().unwrap_or(0)).collect())
        };
        let small = |name| -> Result<Vec<i32>, FormatError> {
            let column = read::<Int32Type>(group, places.at(name)?, rows)?;
            Ok(column.iter().map(|n| n.copied().unwrap_or(0)).collect())
        };
        let bytes = |name| -> Result<Vec<Option<ByteArray>>, FormatError> {
            let column = read::<ByteArrayType>(group, places.at(name)?, rows)?;
            Ok(column.iter().map(Option::<&ByteArray>::cloned).collect())
        };
        let ids = |name: &str| -> Result<Vec<Option<EventId>>, FormatError> {
            let uuids = read::<FixedLenByteArrayType>(group, places.at(name)?, rows)?;
            let texts = places.at(&format!("{name}_text"))?;
            event_ids(&uuids, &read::<ByteArrayType>(group, texts, rows)?)
        };
        let named = |name: &str| -> Result<_, FormatError> {
            ReadTexts::read(group, places.at(name)?, rows, an_id)
        };
        let texts = |name: &str| -> Result<_, FormatError> {
            ReadTexts::read(group, places.at(name)?, rows, shared)
        };
        let marks = |name| -> Result<Vec<Option<i32>>, FormatError> {
            let column = read::<Int32Type>(group, places.at(name)?, rows)?;
            Ok(column.iter().map(Option::<&i32>::copied).collect())
        };
        let addresses = read::<Int64Type>(group, places.at("ip_hash")?, rows)?;
        Ok(Self {
            kind: ReadTexts::read(group, places.at("kind")?, rows, RowKind::of)?,
            sequence: numbers("sequence")?,
            broker_time: numbers("broker_time")?,
            producer: named("producer")?,
            epoch: numbers("epoch")?,
            counter: numbers("counter")?,
            event_timestamp: numbers("event_timestamp")?,
            arrival_timestamp: numbers("arrival_timestamp")?,
            ids: [
                ids("impression_id")?,
                ids("click_id")?,
                ids("conversion_id")?,
            ],
            ad_id: named("ad_id")?,
            campaign_id: named("campaign_id")?,
            advertiser_id: named("advertiser_id")?,
            currency_code: ReadTexts::read(group, places.at("currency_code")?, rows, currency)?,
            utc_offset_s: small("utc_offset_s")?,
            creative: texts("creative")?,
            device_type: ReadTexts::read(group, places.at("device_type")?, rows, device)?,
            geo_region: texts("geo_region")?,
            amount_micros: numbers("amount_micros")?,
            flags: small("flags")?,
            verdict: ReadTexts::read(group, places.at("verdict")?, rows, verdict)?,
            content_hash: numbers("content_hash")?,
            ip_hash: addresses.iter().map(Option::<&i64>::copied).collect(),
            visitor_mark: marks("visitor_mark")?,
            frame_checksum: marks("frame_checksum")?,
            watermark: bytes("watermark")?,
            retired: texts("retired")?,
            subject: texts("subject")?,
            raw: bytes("raw")?,
        })
    }

    fn entries(mut self) -> Result<Vec<Entry>, FormatError> {
        let rows = self.sequence.len();
        let mut entries = Vec::new();
        let mut begin = 0;
        while begin < rows {
            let sequence = self.sequence[begin];
            let more = self.sequence[begin..]
                .iter()
                .take_while(|s| **s == sequence);
            let end = begin + more.count();
            entries.push(self.entry(begin, end)?);
            begin = end;
        }
        Ok(entries)
    }

    /// The message that has these rows.
    fn entry(&mut self, begin: usize, end: usize) -> Result<Entry, FormatError> {
        let sequence = self.sequence[begin] as u64;
        let broker_ms = self.broker_time[begin];
        if let Some(raw) = &self.raw[begin] {
            let subject = self.subject.at(begin).ok_or_else(|| missing("subject"))?;
            let mut entry = Entry::decode(sequence, broker_ms, subject, raw.data());
            entry.crc = self.crc(begin)?;
            return Ok(entry);
        }
        let content = match self.kind.at(begin) {
            Some(RowKind::Event(kind)) => {
                let header = self.header(*kind, begin, end)?;
                Content::Frame(Box::new(self.frame(header, begin, end)?))
            }
            Some(RowKind::Watermark) => Content::Announcement {
                producer: self.producer(begin)?,
                epoch: Epoch(self.epoch[begin] as u64),
                watermark: self.watermark(begin)?,
                retired: self.retired.at(begin).map(|reason| Box::from(&**reason)),
            },
            Some(RowKind::Message) | None => return Err(missing("raw")),
        };
        Ok(Entry {
            sequence,
            broker_ms,
            crc: self.crc(begin)?,
            content,
        })
    }

    fn crc(&self, row: usize) -> Result<u32, FormatError> {
        let crc = self.frame_checksum[row].ok_or_else(|| missing("frame_checksum"))?;
        Ok(crc as u32)
    }

    fn producer(&self, row: usize) -> Result<Id, FormatError> {
        self.producer
            .at(row)
            .cloned()
            .ok_or_else(|| missing("producer"))
    }

    fn watermark(&self, row: usize) -> Result<Watermark, FormatError> {
        let bytes = self.watermark[row]
            .as_ref()
            .ok_or_else(|| missing("watermark"))?;
        Watermark::from_bytes(bytes.data())
            .map_err(|error| FormatError::content(format!("a watermark: {error}")))
    }

    fn header(&self, kind: Kind, begin: usize, end: usize) -> Result<Header, FormatError> {
        Ok(Header {
            kind,
            producer: self.producer(begin)?,
            epoch: Epoch(self.epoch[begin] as u64),
            first: self.counter[begin] as u64,
            count: (end - begin) as u32,
            watermark: self.watermark(begin)?,
        })
    }

    fn frame(
        &mut self,
        header: Header,
        begin: usize,
        end: usize,
    ) -> Result<FoldFrame, FormatError> {
        let kind = header.kind;
        let rows = begin..end;
        let count = end - begin;
        let (ads, ad) = self.ads(begin, end);
        let placed = kind != Kind::Conversion;
        let ((creatives, creative), (regions, region)) = if placed {
            (
                dictionary(&self.creative, begin, end)?,
                dictionary(&self.geo_region, begin, end)?,
            )
        } else {
            let none = || (vec![Arc::from("")], vec![0; count]);
            (none(), none())
        };
        let device = |row| match placed {
            true => self.device_type.at(row).copied(),
            false => Some(Device::default()),
        };
        let device = rows.clone().map(device).collect::<Option<_>>();
        let id = self.ids[kind as usize][begin..end]
            .iter_mut()
            .map(Option::take);
        Ok(FoldFrame {
            header,
            ads,
            creatives,
            regions,
            ad,
            creative,
            region,
            device: device.ok_or_else(|| missing("device_type"))?,
            verdict: rows.map(|row| self.verdict.at(row).copied()).collect(),
            flags: self.flags[begin..end]
                .iter()
                .map(|flags| Flags(*flags as u16))
                .collect(),
            event_time_ms: self.event_timestamp[begin..end].to_vec(),
            arrival_ms: self.arrival_timestamp[begin..end].to_vec(),
            amount_micros: self.amount_micros[begin..end].to_vec(),
            id: id.collect::<Option<_>>().ok_or_else(|| missing("id"))?,
            content_hash: self.content_hash[begin..end]
                .iter()
                .map(|hash| *hash as u64)
                .collect(),
            visitor: (begin..end).map(|row| self.visitor(kind, row)).collect(),
        })
    }

    /// Who saw or clicked, as far as a sketch looks.
    fn visitor(&self, kind: Kind, row: usize) -> u64 {
        match (kind, self.visitor_mark[row]) {
            (Kind::Conversion, _) => NOBODY,
            (_, Some(mark)) => Coupon::visitor_of_bits(mark as u32),
            (_, None) => visitor_of(None, self.ip_hash[row].map(|hash| hash as u64)),
        }
    }

    /// The dictionary of ads that these rows make, in the order of their first use.
    fn ads(&self, begin: usize, end: usize) -> (Vec<AdEntry>, Vec<u32>) {
        let mut places: FxHashMap<([u32; 4], i32), u32> = FxHashMap::default();
        let (mut entries, mut symbols) = (Vec::new(), Vec::with_capacity(end - begin));
        for row in begin..end {
            let texts = [
                self.ad_id.symbols[row],
                self.campaign_id.symbols[row],
                self.advertiser_id.symbols[row],
                self.currency_code.symbols[row],
            ];
            let utc_offset_s = self.utc_offset_s[row];
            let symbol = *places.entry((texts, utc_offset_s)).or_insert_with(|| {
                entries.push(AdEntry {
                    ad_id: self.ad_id.at(row).cloned(),
                    campaign_id: self.campaign_id.at(row).cloned(),
                    advertiser_id: self.advertiser_id.at(row).cloned(),
                    currency: self.currency_code.at(row).copied(),
                    utc_offset_s,
                });
                entries.len() as u32 - 1
            });
            symbols.push(symbol);
        }
        (entries, symbols)
    }
}

/// The dictionary of a column's rows, in the order of their first use.
fn dictionary(
    column: &ReadTexts<Arc<str>>,
    begin: usize,
    end: usize,
) -> Result<(Vec<Arc<str>>, Vec<u32>), FormatError> {
    let mut places: FxHashMap<u32, u32> = FxHashMap::default();
    let (mut entries, mut symbols) = (Vec::new(), Vec::with_capacity(end - begin));
    for row in begin..end {
        let text = column.symbols[row];
        if text == NO_TEXT {
            return Err(missing("creative or geo_region"));
        }
        let symbol = *places.entry(text).or_insert_with(|| {
            entries.push(Arc::clone(&column.entries[text as usize]));
            entries.len() as u32 - 1
        });
        symbols.push(symbol);
    }
    Ok((entries, symbols))
}

fn event_ids(
    uuids: &Optional<FixedLenByteArray>,
    texts: &Optional<ByteArray>,
) -> Result<Vec<Option<EventId>>, FormatError> {
    let pairs = uuids.iter().zip(texts.iter());
    pairs
        .map(|pair| match pair {
            (Some(uuid), _) => {
                let bytes = uuid.data().try_into();
                let bytes = bytes.map_err(|_| FormatError::content("a UUID has 16 bytes"))?;
                Ok(Some(EventId::Uuid(bytes)))
            }
            (None, Some(text)) => {
                let text = std::str::from_utf8(text.data())
                    .map_err(|_| FormatError::content("an id is not UTF-8"))?;
                Ok(Some(EventId::Text(an_id(text)?)))
            }
            (None, None) => Ok(None),
        })
        .collect()
}

fn missing(column: &str) -> FormatError {
    FormatError::content(format!("a row that needs it has no {column}"))
}

fn an_id(text: &str) -> Result<Id, FormatError> {
    Id::new(text).map_err(|error| FormatError::content(error.to_string()))
}

fn currency(text: &str) -> Result<Currency, FormatError> {
    Currency::new(text).map_err(|error| FormatError::content(format!("{text}: {error}")))
}

fn device(text: &str) -> Result<Device, FormatError> {
    Device::ALL
        .into_iter()
        .find(|device| device.name() == text)
        .ok_or_else(|| FormatError::content(format!("there is no device class {text}")))
}

fn verdict(text: &str) -> Result<EdgeReason, FormatError> {
    EdgeReason::ALL
        .into_iter()
        .find(|reason| reason.name() == text)
        .ok_or_else(|| FormatError::content(format!("there is no verdict {text}")))
}

/// Where the columns stand, by name: a file of another age may have more of them.
struct Places(FxHashMap<String, usize>);

impl Places {
    fn of(group: &dyn RowGroupReader) -> Self {
        let columns = group.metadata().columns().iter().enumerate();
        Self(
            columns
                .map(|(at, column)| (column.column_path().string(), at))
                .collect(),
        )
    }

    fn at(&self, name: &str) -> Result<usize, FormatError> {
        self.0
            .get(name)
            .copied()
            .ok_or_else(|| FormatError::content(format!("it has no column {name}")))
    }
}
