//! Rows as they are printed, held against texts written by hand and against a reader of each format.
#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::sync::Arc;

use adtally_projections::buckets::{BucketKey, Slot};
use adtally_projections::cells::{Bucket, CellKey};
use adtally_projections::merged::Merged;
use adtally_projections::metrics::{Metrics, encode_sums};
use adtally_projections::partial::{Dimension, ShardSums};

use axum::body::HttpBody as _;

use super::*;
use crate::http::gzip::Member;

fn cell(ad: u32, region: u32) -> CellKey {
    CellKey {
        campaign: 0,
        bucket: Bucket::Day(0),
        ad,
        creative: 0,
        region,
        device: 0,
    }
}

/// Rows of days under the names that are given, by ad and region.
fn table(group_by: &[Dimension], rows: &[(i64, u32, u32, Metrics)], names: &[&str]) -> Table {
    let mut sums = ShardSums::new(group_by);
    for (day, ad, region, metrics) in rows {
        let mut value = Vec::new();
        encode_sums(&metrics.fields(), &mut value);
        let key = BucketKey {
            at: *day,
            offset_s: 0,
        };
        sums.add(key, &cell(*ad, *region), &value).unwrap();
    }
    let named = |_: &Dimension| {
        (0..)
            .zip(names)
            .map(|(n, name)| (n, Arc::from(*name)))
            .collect()
    };
    let mut merged = Merged::new(group_by);
    merged
        .add(sums, &group_by.iter().map(named).collect())
        .unwrap();
    let slots: Vec<Slot> = (0..3)
        .map(|at| Slot {
            key: BucketKey { at, offset_s: 0 },
            time_ms: at * 86_400_000,
            offset_s: 3_600,
        })
        .collect();
    merged.finish(&slots, false).unwrap()
}

fn body(format: Format, table: Table) -> String {
    body_of(format, table, Chosen::ALL)
}

fn body_of(format: Format, table: Table, metrics: Chosen) -> String {
    let pieces = Pieces::new(rendered(format, table, metrics), None, None);
    String::from_utf8(pieces.flat_map(|piece| piece.to_vec()).collect()).unwrap()
}

fn rendered(format: Format, table: Table, metrics: Chosen) -> Rendered {
    Rendered {
        format,
        table,
        metrics,
        share: None,
        granularity: Granularity::Day,
        zone: Tz::Europe__Paris,
        before: b"{\"rows\":".to_vec(),
        after: b"}".to_vec(),
        as_of: String::new(),
    }
}

fn some() -> Metrics {
    Metrics {
        impressions: 400,
        gross_clicks: 25,
        general_invalid_clicks: 5,
        gross_cost_micros: 6_250_000,
        cost_not_charged_micros: 1_250_000,
        late_events: 7,
        ..Metrics::default()
    }
}

const BY: [Dimension; 2] = [Dimension::AdId, Dimension::Region];

#[test]
fn a_row_of_each_format_is_the_contracts() {
    let of = |format| {
        let rows = [(1, 0, 1, some()), (0, 0, 0, Metrics::default())];
        body(format, table(&BY, &rows, &["a \"b\"", "DE"]))
    };
    let none = r#"{"time":"1970-01-01T01:00:00+01:00","ad_id":"a \"b\"","region":"a \"b\"","impressions":0,"invalid_impressions":0,"clicks":0,"gross_clicks":0,"invalid_clicks":0,"general_invalid_clicks":0,"sophisticated_invalid_clicks":0,"invalid_click_rate":null,"ctr":null,"cost_micros":0,"average_cpc_micros":null,"average_cpm_micros":null,"conversions":null,"conversions_value_micros":null,"cost_per_conversion_micros":null,"late_events":0}"#;
    let some = r#"{"time":"1970-01-02T01:00:00+01:00","ad_id":"a \"b\"","region":"DE","impressions":400,"invalid_impressions":0,"clicks":20,"gross_clicks":25,"invalid_clicks":5,"general_invalid_clicks":5,"sophisticated_invalid_clicks":0,"invalid_click_rate":0.2,"ctr":0.05,"cost_micros":5000000,"average_cpc_micros":250000,"average_cpm_micros":12500000,"conversions":null,"conversions_value_micros":null,"cost_per_conversion_micros":null,"late_events":7}"#;
    assert_eq!(of(Format::Json), format!("{{\"rows\":[{none},{some}]}}"));
    assert_eq!(of(Format::Ndjson), format!("{none}\n{some}\n"));
    let csv = "time,ad_id,region,impressions,invalid_impressions,clicks,gross_clicks,invalid_clicks,general_invalid_clicks,sophisticated_invalid_clicks,invalid_click_rate,ctr,cost_micros,average_cpc_micros,average_cpm_micros,conversions,conversions_value_micros,cost_per_conversion_micros,late_events\n\
        1970-01-01T01:00:00+01:00,\"a \"\"b\"\"\",\"a \"\"b\"\"\",0,0,0,0,0,0,0,,,0,,,,,,0\n\
        1970-01-02T01:00:00+01:00,\"a \"\"b\"\"\",DE,400,0,20,25,5,5,0,0.2,0.05,5000000,250000,12500000,,,,7\n";
    assert_eq!(of(Format::Csv), csv);
}

#[test]
fn chosen_metrics_are_printed_and_no_others() {
    let of = |format, chosen: &[Metric]| {
        let rows = [(1, 0, 1, some()), (0, 0, 0, Metrics::default())];
        let table = table(&BY, &rows, &["a", "DE"]);
        body_of(format, table, chosen.iter().copied().collect())
    };
    let three = [Metric::CostMicros, Metric::Ctr, Metric::Clicks];
    let none = r#"{"time":"1970-01-01T01:00:00+01:00","ad_id":"a","region":"a","clicks":0,"ctr":null,"cost_micros":0}"#;
    let some = r#"{"time":"1970-01-02T01:00:00+01:00","ad_id":"a","region":"DE","clicks":20,"ctr":0.05,"cost_micros":5000000}"#;
    assert_eq!(
        of(Format::Json, &three),
        format!("{{\"rows\":[{none},{some}]}}")
    );
    assert_eq!(of(Format::Ndjson, &three), format!("{none}\n{some}\n"));
    assert_eq!(
        of(Format::Csv, &three),
        "time,ad_id,region,clicks,ctr,cost_micros\n\
        1970-01-01T01:00:00+01:00,a,a,0,,0\n1970-01-02T01:00:00+01:00,a,DE,20,0.05,5000000\n"
    );
    let one = of(Format::Csv, &[Metric::Conversions]);
    assert!(one.ends_with("DE,\n"), "{one}");
}

#[test]
fn no_rows_and_rows_without_a_group_are_printed() {
    let empty = || table(&BY, &[], &[]);
    assert_eq!(body(Format::Json, empty()), "{\"rows\":[]}");
    assert_eq!(body(Format::Ndjson, empty()), "");
    assert_eq!(body(Format::Csv, empty()).lines().count(), 1);
    let plain = body(Format::Csv, table(&[], &[(0, 0, 0, some())], &[]));
    assert!(
        plain.ends_with(
            "\n1970-01-01T01:00:00+01:00,400,0,20,25,5,5,0,0.2,0.05,5000000,250000,12500000,,,,7\n"
        ),
        "{plain}"
    );
}

#[test]
fn many_rows_and_names_that_do_not_fit_are_read_back() {
    // Names of 8 kB each, more of them than are kept, and pieces of several hundred rows.
    let long: Vec<String> = (0..700u32)
        .map(|n| format!("{n}{}", ",\"é\n".repeat(1_500)))
        .collect();
    let names: Vec<&str> = long.iter().map(String::as_str).collect();
    let rows: Vec<(i64, u32, u32, Metrics)> = (0..1_400)
        .map(|n| {
            let metrics = Metrics {
                impressions: i64::from(n) * 1_000_003,
                ..Metrics::default()
            };
            (i64::from(n % 2), n / 2, 0, metrics)
        })
        .collect();
    let by = [Dimension::AdId];
    let want: std::collections::BTreeMap<(String, String), i64> = rows
        .iter()
        .map(|(day, ad, _, metrics)| {
            let time = format!("1970-01-0{}T01:00:00+01:00", day + 1);
            ((time, long[*ad as usize].clone()), metrics.impressions)
        })
        .collect();
    let of = |row: &serde_json::Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        (
            (text("time"), text("ad_id")),
            row["impressions"].as_i64().unwrap(),
        )
    };
    let json: serde_json::Value =
        serde_json::from_str(&body(Format::Json, table(&by, &rows, &names))).unwrap();
    let read: std::collections::BTreeMap<_, _> =
        json["rows"].as_array().unwrap().iter().map(of).collect();
    assert!(read == want);
    let lines = body(Format::Ndjson, table(&by, &rows, &names));
    let read: std::collections::BTreeMap<_, _> = lines
        .lines()
        .map(|line| of(&serde_json::from_str(line).unwrap()))
        .collect();
    assert!(read == want);
    let text = body(Format::Csv, table(&by, &rows, &names));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let read: std::collections::BTreeMap<_, _> = reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            (
                (record[0].to_owned(), record[1].to_owned()),
                record[2].parse::<i64>().unwrap(),
            )
        })
        .collect();
    assert!(read == want);
}

#[tokio::test]
async fn an_answer_of_one_piece_says_its_length_and_one_of_several_is_sent_as_it_is_printed() {
    use hyper::body::Body as _;

    for (days, is_one) in [(0, true), (2, true), (2_000, false)] {
        let rows: Vec<_> = (0..days)
            .map(|n| (i64::from(n % 2), n / 2, 0, some()))
            .collect();
        let names: Vec<String> = (0..1_000).map(|n| format!("ad-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let whole = body(Format::Json, table(&BY, &rows, &names));
        let answer = rendered(Format::Json, table(&BY, &rows, &names), Chosen::ALL);
        let response = answer.into_response(None, false);
        let length = response.body().size_hint().exact();
        assert_eq!(length, is_one.then_some(whole.len() as u64));
        let sent = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        assert!(sent == whole, "{days} rows");
    }
}

#[tokio::test]
async fn what_is_not_read_in_time_is_let_go_and_the_body_ends_with_an_error() {
    use futures_util::StreamExt as _;

    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let items = (0..3).inspect(move |_| {
        let _ = &held;
    });
    let mut stream = std::pin::pin!(within(items, Duration::from_millis(200)));
    assert_eq!(stream.next().await.unwrap().unwrap(), 0);
    assert!(weak.upgrade().is_some());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(weak.upgrade().is_none(), "nobody had to ask");
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn what_is_read_in_time_is_whole() {
    use futures_util::TryStreamExt as _;

    let read: Vec<u8> = within(0..3, Duration::from_secs(300))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(read, [0, 1, 2]);
}

/// The body by way of texts that are kept.
fn kept_body(format: Format, table: Table, printed: &PrintedRows) -> String {
    let pieces = Pieces::new(rendered(format, table, Chosen::ALL), Some(printed), None);
    let pieces: Vec<Bytes> = pieces.collect();
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    String::from_utf8(pieces.concat()).unwrap()
}

/// The body as a client unpacks it that takes gzip, and the bytes that it was sent.
fn unpacked_body(format: Format, table: Table, printed: Option<&PrintedRows>) -> (String, usize) {
    let answer = rendered(format, table, Chosen::ALL);
    let pieces: Vec<Bytes> = Pieces::new(answer, printed, Some(Member::default())).collect();
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    let sent = pieces.concat();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&sent[..])
        .read_to_string(&mut text)
        .unwrap();
    (text, sent.len())
}

#[test]
fn an_answer_is_the_same_byte_for_byte_of_texts_that_are_kept() {
    let printed = PrintedRows::new(32 << 20).unwrap();
    // Names that are printed row by row, and so long that no stretch is at its end before it is to be sent.
    let long = (0..90u32).map(|n| format!("{n}{}", "é\n\"".repeat(3_000)));
    let plain = (0..3_000u32).map(|n| format!("ad,{n}"));
    for (names, is_kept) in [
        (plain.collect::<Vec<_>>(), true),
        (long.collect::<Vec<_>>(), false),
    ] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let answer = |changed: usize| {
            let rows: Vec<_> = (0..3 * names.len())
                .map(|n| {
                    let metrics = Metrics {
                        impressions: n as i64 * 77 + i64::from(n == changed),
                        ..some()
                    };
                    (n as i64 % 3, (n / 3) as u32, 0, metrics)
                })
                .collect();
            table(&BY[..1], &rows, &names)
        };
        for format in [Format::Json, Format::Csv, Format::Ndjson] {
            let before = printed.usage();
            for changed in [usize::MAX, usize::MAX, usize::MAX, 0, 0, 0, 4_321] {
                let want = body(format, answer(changed));
                assert!(kept_body(format, answer(changed), &printed) == want);
                let packed = unpacked_body(format, answer(changed), Some(&printed));
                assert!(packed.0 == want);
                assert!(packed.1 * 3 < want.len(), "{} of {}", packed.1, want.len());
            }
            assert_eq!(printed.usage() > before, is_kept, "{format:?}");
        }
    }
}

#[test]
fn an_answer_that_is_not_large_keeps_nothing() {
    let printed = PrintedRows::new(32 << 20).unwrap();
    for _ in 0..3 {
        let answer = || table(&BY, &[(0, 0, 0, some()), (1, 0, 0, some())], &["a"]);
        let want = body(Format::Json, answer());
        assert_eq!(kept_body(Format::Json, answer(), &printed), want);
    }
    assert_eq!(printed.usage(), 0);
}

#[test]
fn an_answer_of_any_size_is_the_same_for_who_takes_gzip() {
    let names: Vec<String> = (0..3_000u32).map(|n| format!("ad{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for groups in [0, 1, 100, 3_000] {
        let rows: Vec<_> = (0..groups).map(|n| (0, n, 0, some())).collect();
        for format in [Format::Json, Format::Csv, Format::Ndjson] {
            let answer = || table(&BY[..1], &rows, &names);
            let want = body(format, answer());
            assert!(unpacked_body(format, answer(), None).0 == want, "{groups}");
        }
    }
}

#[tokio::test]
async fn a_response_says_how_it_is_coded_and_is_not_packed_where_that_is_not_worth_it() {
    let names: Vec<String> = (0..3_000u32).map(|n| format!("ad{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (groups, takes_gzip, is_packed, has_length) in [
        (1, true, false, true),
        (100, true, true, true),
        (3_000, true, true, false),
        (100, false, false, true),
    ] {
        let rows: Vec<_> = (0..groups).map(|n| (0, n, 0, some())).collect();
        let answer = rendered(Format::Json, table(&BY[..1], &rows, &names), Chosen::ALL);
        let response = answer.into_response(None, takes_gzip);
        let headers = response.headers();
        let of = |name| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(of("content-encoding"), is_packed.then_some("gzip"));
        assert_eq!(of("vary"), is_packed.then_some("accept-encoding"));
        let length = response.body().size_hint().exact();
        assert_eq!(length.is_some(), has_length, "{groups}");
    }
}
