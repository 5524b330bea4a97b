//! The cache of unpacked blocks from outside: answers are the same with it, without it, and with a disk that is broken.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, DurationRound, Utc};
use serde_json::{Value, json};

use crate::support::http::{metric, post_json, wait_totals};
use crate::support::{Folder, Options, Server, small_catalogue, wait_for};

const REGIONS: [&str; 12] = [
    "DE", "FR", "JP", "IT", "ES", "PL", "SE", "NO", "FI", "BR", "IN", "AU",
];
const DEVICES: [&str; 3] = ["ios", "android", "desktop"];
/// Events of one POST.
const BATCH: usize = 1_000;

#[derive(Clone)]
struct Click {
    region: &'static str,
    device: &'static str,
    at: DateTime<Utc>,
}

/// The day in which all clicks are: it has ended everywhere, so that its hours are sealed.
fn day() -> (DateTime<Utc>, DateTime<Utc>) {
    let midnight = Utc::now().duration_trunc(Duration::days(1)).unwrap();
    (midnight - Duration::days(3), midnight - Duration::days(2))
}

/// Clicks all over that day, enough of them to make blocks that are worth keeping.
fn clicks(count: usize) -> Vec<Click> {
    let (from, _) = day();
    (0..count)
        .map(|n| Click {
            region: REGIONS[n * n / 7 % REGIONS.len()],
            device: DEVICES[n / 5 % DEVICES.len()],
            at: from + Duration::seconds((n as i64 * 7_919) % 86_400),
        })
        .collect()
}

fn post(server: &Server, clicks: &[Click]) {
    for some in clicks.chunks(BATCH) {
        let items: Vec<Value> = some
            .iter()
            .map(|c| json!({"kind": "click", "ad_id": "banner", "geo": c.region, "device": c.device, "ts": c.at.to_rfc3339(), "click_id": uuid::Uuid::new_v4().to_string()}))
            .collect();
        let answer = post_json(server, "/api/v1/events", &json!(items));
        assert_eq!(answer.json()["accepted"], some.len(), "{}", answer.text());
    }
}

const GROUPINGS: [&str; 3] = ["region,device", "device", "ad_id,region"];

/// The path of a question about the day.
fn question(by: &str) -> String {
    let (from, to) = day();
    let text = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ");
    format!(
        "/api/v1/analytics?campaign_id=spring&start={}&end={}&granularity=hour&group_by={by}&fill=none&explain=true",
        text(from),
        text(to)
    )
}

/// Clicks by hour, grouping and names, as the API has them.
fn answered(server: &Server) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for by in GROUPINGS {
        for row in server.json(&question(by))["rows"].as_array().unwrap() {
            let names: Vec<&str> = by.split(',').filter_map(|d| row[d].as_str()).collect();
            let key = format!("{by} {} {}", row["time"].as_str().unwrap(), names.join(","));
            out.insert(key, row["clicks"].as_i64().unwrap());
        }
    }
    out
}

/// The same from the test's own list.
fn counted(clicks: &[Click]) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for click in clicks {
        let hour = click.at.duration_trunc(Duration::hours(1)).unwrap();
        for by in GROUPINGS {
            let name = |d| match d {
                "region" => click.region,
                "device" => click.device,
                _ => "banner",
            };
            let names: Vec<&str> = by.split(',').map(name).collect();
            let hour = hour.format("%Y-%m-%dT%H:%M:%SZ");
            *out.entry(format!("{by} {hour} {}", names.join(",")))
                .or_default() += 1;
        }
    }
    out
}

/// What the question's plan says of hours.
fn of_hours(server: &Server, by: &str, what: &str) -> u64 {
    server.json(&question(by))["plan"][what]["hour"]
        .as_u64()
        .unwrap()
}

fn wait_sealed(server: &Server) {
    wait_for("the day to be sealed", || {
        let read = |what| of_hours(server, "device", what);
        (read("rows_read") == 0 && read("blocks_read") > 0).then_some(())
    });
}

const HITS: &str = "adtally_block_cache_hits_total";
const ERRORS: &str = "adtally_block_cache_errors_total";
const CAPACITY: &str = "adtally_block_cache_capacity_bytes";

fn options(folder: &Folder) -> Options {
    Options::default()
        .data_dir(folder)
        .env("ADTALLY_STREAMS_SHARDS", "1")
        .env("ADTALLY_SEALING_MINUTES_AFTER", "0s")
        .env("ADTALLY_SEALING_HOURS_AFTER", "0s")
}

/// The same with a disk part.
fn on_disk(folder: &Folder) -> Options {
    options(folder).env("ADTALLY_QUERY_BLOCK_CACHE_DISK", "128MiB")
}

/// A folder with the clicks of the day, counted and sealed by a server that has ended or goes on.
fn filled(options: Options, clicks: &[Click]) -> Server {
    let server = Server::start(options);
    let mut catalogue = small_catalogue();
    catalogue["advertisers"][0]["time_zone"] = "UTC".into();
    server.apply_catalogue(&catalogue);
    post(&server, clicks);
    wait_totals(&server, "spring", &[("clicks", clicks.len() as i64)]);
    wait_sealed(&server);
    server
}

#[test]
fn a_block_is_unpacked_once_and_never_answers_for_one_that_was_sealed_again() {
    let folder = Folder::new();
    let mut all = clicks(6_000);
    let mut server = filled(options(&folder), &all);
    let want = counted(&all);
    assert!(want.len() > 500);
    for _ in 0..3 {
        assert_eq!(answered(&server), want);
    }
    for by in ["region,device", "ad_id,region"] {
        let read = of_hours(&server, by, "blocks_read");
        assert!(read > 0);
        assert_eq!(of_hours(&server, by, "blocks_cached"), read, "{by}");
    }
    // A day of hours by device is a block of less than a kibibyte, which is quicker read than found.
    assert_eq!(of_hours(&server, "device", "blocks_cached"), 0);
    let hits = metric(&server, HITS, "memory");
    assert!(hits > 0.0);
    assert!(metric(&server, "adtally_block_cache_misses_total", "") > 0.0);
    assert!(metric(&server, "adtally_block_cache_bytes", "") > 0.0);
    // A quarter is for blocks of all shards added up, and one for printed rows.
    assert_eq!(metric(&server, CAPACITY, "memory"), f64::from(64 << 20));

    // Late events, as rows beside the blocks that are kept, and then in blocks under the same keys.
    let late: Vec<Click> = clicks(6_000).into_iter().step_by(7).collect();
    post(&server, &late);
    all.extend(late);
    wait_totals(&server, "spring", &[("clicks", all.len() as i64)]);
    let want = counted(&all);
    assert_eq!(answered(&server), want);
    wait_sealed(&server);
    let hits = metric(&server, HITS, "memory");
    for _ in 0..3 {
        assert_eq!(answered(&server), want);
    }
    assert!(metric(&server, HITS, "memory") > hits);
    assert_eq!(server.stop(), Some(0));

    // Without it.
    let server = Server::start(options(&folder).env("ADTALLY_QUERY_BLOCK_CACHE", "0B"));
    for _ in 0..2 {
        assert_eq!(answered(&server), want);
    }
    assert_eq!(of_hours(&server, "region,device", "blocks_cached"), 0);
    assert_eq!(metric(&server, HITS, ""), 0.0);
}

/// Changes bytes of the files in which blocks are kept, all but the first page, which says what is in them.
fn damage(server: &Server) -> usize {
    let mut changed = 0;
    for entry in std::fs::read_dir(server.data_dir.join("cache")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let filled = bytes[4_096..].iter_mut().filter(|byte| **byte != 0);
        for byte in filled.step_by(50) {
            *byte ^= 0x20;
            changed += 1;
        }
        let mut file = std::fs::File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
    }
    changed
}

#[test]
fn a_damaged_or_missing_disk_part_changes_no_answer_and_stops_nothing() {
    let folder = Folder::new();
    let all = clicks(6_000);
    let want = counted(&all);
    let mut server = filled(on_disk(&folder), &all);
    for _ in 0..2 {
        assert_eq!(answered(&server), want);
    }
    assert_eq!(metric(&server, CAPACITY, "disk"), f64::from(128 << 20));
    assert_eq!(server.stop(), Some(0));

    // What memory had is on disk now.
    let mut server = Server::start(on_disk(&folder));
    assert_eq!(answered(&server), want);
    assert!(metric(&server, HITS, "disk") > 0.0);
    assert_eq!(server.stop(), Some(0));

    let server_errors = |server: &Server| metric(server, ERRORS, "");
    let mut server = Server::start(on_disk(&folder));
    let damaged = damage(&server);
    assert!(damaged > 10, "{damaged}");
    assert_eq!(answered(&server), want);
    assert!(server_errors(&server) > 0.0);
    std::fs::remove_dir_all(server.data_dir.join("cache")).unwrap();
    for _ in 0..2 {
        assert_eq!(answered(&server), want);
    }
    // However often it has failed, the log says so once.
    let told = |server: &Server| server.log().matches("block cache has failed").count();
    assert_eq!(told(&server), 1);
    assert_eq!(server.stop(), Some(0));

    // A file in the folder's place.
    std::fs::write(folder.path().join("cache"), "no folder").unwrap();
    let mut server = Server::start(on_disk(&folder));
    // A block is kept from the second time on that it is read.
    for _ in 0..3 {
        assert_eq!(answered(&server), want);
    }
    assert!(metric(&server, HITS, "memory") > 0.0);
    assert_eq!(metric(&server, CAPACITY, "disk"), 0.0);
    assert_eq!(metric(&server, ERRORS, "open"), 1.0);
    assert_eq!(server.stop(), Some(0));
}
