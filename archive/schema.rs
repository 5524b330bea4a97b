//! The columns of a file, and how each is encoded.
//!
//! A row is an event, or a message without events: a producer's announcement (`watermark`), or one of which rows
//! cannot be made (`message`), kept as it came. What belongs to a message and not to an event stands in its first row
//! only. New columns come at the end and may be null, so that readers of files of both ages need `union_by_name` and
//! nothing else; `kind` has room for `decision` and `credit`.

use std::sync::{Arc, LazyLock};

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterPropertiesPtr,
};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

/// The layout that this program writes and reads.
pub const VERSION: u32 = 1;
/// Key of the layout's number in a file's metadata.
pub const VERSION_KEY: &str = "adtally.archive";

/// Name of the kind of a row that is a producer's announcement.
pub const WATERMARK: &str = "watermark";
/// Name of the kind of a row that is a message as it came.
pub const MESSAGE: &str = "message";

/// zstd's level: 1, as in frames; the columns of random bytes are most of a file, and no level makes them smaller.
const LEVEL: i32 = 1;

/// The columns in the order of a file. An event's own id stands in the column of its kind, what it names (the
/// impression of a click, the click of a conversion) in that of the other; an id that is the canonical text of a UUID
/// stands as one, any other in the column with `_text`.
const SCHEMA: &str = "
message adtally_log {
  required binary kind (STRING);
  required int64 sequence (INTEGER(64,false));
  required int32 position;
  required int64 broker_time (TIMESTAMP(MILLIS,true));
  optional binary producer (STRING);
  optional int64 epoch (INTEGER(64,false));
  optional int64 counter (INTEGER(64,false));
  optional int64 event_timestamp (TIMESTAMP(MILLIS,true));
  optional int64 arrival_timestamp (TIMESTAMP(MILLIS,true));
  optional fixed_len_byte_array(16) impression_id (UUID);
  optional binary impression_id_text (STRING);
  optional fixed_len_byte_array(16) click_id (UUID);
  optional binary click_id_text (STRING);
  optional fixed_len_byte_array(16) conversion_id (UUID);
  optional binary conversion_id_text (STRING);
  optional binary order_id (STRING);
  optional binary ad_id (STRING);
  optional binary campaign_id (STRING);
  optional binary advertiser_id (STRING);
  optional binary currency_code (STRING);
  optional int32 utc_offset_s;
  optional binary creative (STRING);
  optional binary device_type (STRING);
  optional binary geo_country (STRING);
  optional binary geo_region (STRING);
  optional int64 amount_micros;
  optional int32 flags;
  optional binary verdict (STRING);
  optional boolean is_fraudulent;
  optional double fraud_score;
  optional int64 content_hash (INTEGER(64,false));
  optional int64 ip_hash (INTEGER(64,false));
  optional binary user_id_hash (STRING);
  optional int32 visitor_mark (INTEGER(32,false));
  optional binary user_agent (STRING);
  optional binary referrer_url (STRING);
  optional binary landing_url (STRING);
  optional int64 catalogue_revision (INTEGER(64,false));
  optional int32 frame_checksum (INTEGER(32,false));
  optional binary watermark;
  optional binary retired (STRING);
  optional binary subject (STRING);
  optional binary raw;
}";

static TYPE: LazyLock<TypePtr> = LazyLock::new(|| {
    Arc::new(parse_message_type(SCHEMA).expect("the schema is a constant that the tests parse"))
});

/// The schema of a file.
pub fn schema() -> TypePtr {
    Arc::clone(&TYPE)
}

/// Columns that grow slowly or stand still: differences of neighbours take next to nothing.
const DELTAS: [&str; 7] = [
    "sequence",
    "position",
    "broker_time",
    "counter",
    "event_timestamp",
    "arrival_timestamp",
    "catalogue_revision",
];
/// Columns of UUIDs: the first bytes of a v7 are its time and the same in neighbours. BYTE_STREAM_SPLIT would save
/// another 2 bytes an id, and DuckDB 2.0 does not read it here.
const UUIDS: [&str; 3] = ["impression_id", "click_id", "conversion_id"];
/// Columns whose values are nearly all different: a dictionary of them would only cost.
const DISTINCT: [&str; 8] = [
    "impression_id_text",
    "click_id_text",
    "conversion_id_text",
    "order_id",
    "user_id_hash",
    "landing_url",
    "watermark",
    "raw",
];
/// Columns of hashes, as they are.
const HASHES: [&str; 4] = ["content_hash", "ip_hash", "visitor_mark", "frame_checksum"];
/// Columns by which readers leave out row groups.
const BOUNDED: [&str; 3] = ["sequence", "broker_time", "event_timestamp"];

static PROPERTIES: LazyLock<WriterPropertiesPtr> = LazyLock::new(|| {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(LEVEL).expect("zstd has a level 1"));
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("adtally ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(zstd)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_data_page_row_count_limit(crate::segment::ROW_GROUP_MAX_ROWS * 2)
        .set_key_value_metadata(Some(vec![KeyValue::new(
            VERSION_KEY.to_owned(),
            VERSION.to_string(),
        )]));
    for (names, encoding) in [
        (&DELTAS[..], Encoding::DELTA_BINARY_PACKED),
        (&UUIDS[..], Encoding::DELTA_BYTE_ARRAY),
        (&DISTINCT[..], Encoding::DELTA_LENGTH_BYTE_ARRAY),
        (&HASHES[..], Encoding::PLAIN),
    ] {
        for name in names {
            builder = encoded(builder, name, encoding);
        }
    }
    builder = builder.set_column_compression(path("content_hash"), Compression::UNCOMPRESSED);
    for name in BOUNDED {
        builder = builder.set_column_statistics_enabled(path(name), EnabledStatistics::Chunk);
    }
    Arc::new(builder.build())
});

/// How a file is written.
pub(crate) fn properties() -> WriterPropertiesPtr {
    Arc::clone(&PROPERTIES)
}

fn path(name: &str) -> ColumnPath {
    ColumnPath::from(name)
}

fn encoded(
    builder: WriterPropertiesBuilder,
    name: &str,
    encoding: Encoding,
) -> WriterPropertiesBuilder {
    builder
        .set_column_dictionary_enabled(path(name), false)
        .set_column_encoding(path(name), encoding)
}
