//! Sealed counts from outside: the same answers before and after, a month and a day that go on, late events, kills, a
//! damaged block, retention.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chrono::{DateTime, Duration, DurationRound, Utc};
use serde_json::{Value, json};

use crate::support::http::{ask, post_json, wait_totals};
use crate::support::{Folder, Options, Server, get, ok, small_catalogue, wait_for};

/// An advertiser on UTC, so that the test's own buckets need no calendar of a zone.
fn catalogue() -> Value {
    let mut catalogue = small_catalogue();
    catalogue["advertisers"][0]["time_zone"] = "UTC".into();
    for ad in ["tower", "footer"] {
        let mut other = catalogue["ads"][0].clone();
        other["ad_id"] = ad.into();
        catalogue["ads"].as_array_mut().unwrap().push(other);
    }
    catalogue
}

const ADS: [&str; 3] = ["banner", "tower", "footer"];
const REGIONS: [&str; 3] = ["DE", "US-CA", "JP"];
const DEVICES: [&str; 2] = ["ios", "desktop"];

/// A click as it is posted, and as the test counts it.
#[derive(Clone)]
struct Click {
    ad: &'static str,
    region: &'static str,
    device: &'static str,
    at: DateTime<Utc>,
}

/// Clicks all over the four days before a midnight.
fn clicks(midnight: DateTime<Utc>) -> Vec<Click> {
    (0..600usize)
        .map(|n| Click {
            ad: ADS[n * 7 / 3 % 3],
            region: REGIONS[n * 5 / 4 % 3],
            device: DEVICES[n / 2 % 2],
            at: midnight - Duration::seconds(60 + (n as i64 * n as i64 * 131) % 345_000),
        })
        .collect()
}

fn post(server: &Server, clicks: &[Click]) {
    let items: Vec<Value> = clicks
        .iter()
        .map(|c| json!({"kind": "click", "ad_id": c.ad, "geo": c.region, "device": c.device, "ts": c.at.to_rfc3339(), "click_id": uuid::Uuid::new_v4().to_string()}))
        .collect();
    let answer = post_json(server, "/api/v1/events", &json!(items));
    assert_eq!(answer.json()["accepted"], clicks.len(), "{}", answer.text());
}

/// Every row of every granularity and grouping, from the API.
fn answered(server: &Server, start: &str, end: &str) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for granularity in ["minute", "hour", "day", "total"] {
        for by in GROUPINGS {
            let rows = server.json(&format!(
                "/api/v1/analytics?campaign_id=spring&start={start}&end={end}&granularity={granularity}&group_by={by}&fill=none"
            ));
            for row in rows["rows"].as_array().unwrap() {
                let names: Vec<&str> = by.split(',').filter_map(|d| row[d].as_str()).collect();
                let time = row["time"].as_str().unwrap();
                let key = format!("{granularity} {by} {time} {}", names.join(","));
                out.insert(key, row["clicks"].as_i64().unwrap());
            }
        }
    }
    out
}

const GROUPINGS: [&str; 5] = ["", "region", "ad_id", "device,region", "ad_id,region"];

/// The same from the test's own list.
fn counted(clicks: &[Click], start: DateTime<Utc>) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for click in clicks {
        for granularity in ["minute", "hour", "day", "total"] {
            let time = match granularity {
                "minute" => click.at.duration_trunc(Duration::minutes(1)).unwrap(),
                "hour" => click.at.duration_trunc(Duration::hours(1)).unwrap(),
                "day" => click.at.duration_trunc(Duration::days(1)).unwrap(),
                _ => start,
            };
            for by in GROUPINGS {
                let name = |d| match d {
                    "region" => click.region,
                    "ad_id" => click.ad,
                    "device" => click.device,
                    _ => "",
                };
                let names: Vec<&str> = by.split(',').map(name).collect();
                let time = time.format("%Y-%m-%dT%H:%M:%SZ");
                let key = format!("{granularity} {by} {time} {}", names.join(","));
                *out.entry(key).or_default() += 1;
            }
        }
    }
    out
}

fn plan(server: &Server, start: &str, end: &str, more: &str) -> Value {
    server.json(&format!(
        "/api/v1/analytics?campaign_id=spring&start={start}&end={end}&explain=true{more}"
    ))["plan"]
        .clone()
}

/// Waits until no hour or minute of a range is read as a row.
fn wait_sealed(server: &Server, start: &str, end: &str) {
    for granularity in ["minute", "hour"] {
        wait_for("the spans to be sealed", || {
            let plan = plan(server, start, end, &format!("&granularity={granularity}"));
            let read = |of: &str| plan[of][granularity].as_u64().unwrap();
            (read("rows_read") == 0 && read("blocks_read") > 0).then_some(())
        });
    }
}

fn text(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Four days, of which a question by minute takes 5,760 buckets. They end a day ago, because who starts on rows that
/// are there already does not know the clock of their days, and waits until a day has ended everywhere.
fn days() -> (DateTime<Utc>, DateTime<Utc>) {
    // Once for all who ask, since a day may end in the middle of a test.
    static MIDNIGHT: LazyLock<DateTime<Utc>> =
        LazyLock::new(|| Utc::now().duration_trunc(Duration::days(1)).unwrap());
    (*MIDNIGHT - Duration::days(5), *MIDNIGHT - Duration::days(1))
}

/// Options of a folder whose minutes, hours and days are sealed so long after their end.
fn sealing(folder: &Folder, after: &str) -> Options {
    Options::default()
        .data_dir(folder)
        .env("ADTALLY_SEALING_MINUTES_AFTER", after)
        .env("ADTALLY_SEALING_HOURS_AFTER", after)
        .env("ADTALLY_SEALING_DAYS_AFTER", after)
}

/// A stopped folder in which the clicks of [`days`] are counted and sealed.
fn stopped_and_sealed(folder: &Folder, clicks: &[Click]) {
    let (from, to) = days();
    let mut server = Server::start(sealing(folder, "0s"));
    server.apply_catalogue(&catalogue());
    post(&server, clicks);
    wait_totals(&server, "spring", &[("clicks", clicks.len() as i64)]);
    wait_sealed(&server, &text(from), &text(to));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn answers_are_the_same_before_and_after_sealing_through_late_events_and_kills() {
    let folder = Folder::new();
    let options = |after: &str| sealing(&folder, after);
    let mut server = Server::start(options("9d"));
    server.apply_catalogue(&catalogue());
    let (from, to) = days();
    let (start, end) = (text(from), text(to));
    let mut all = clicks(to);
    post(&server, &all);
    wait_totals(&server, "spring", &[("clicks", 600)]);
    let want = counted(&all, from);
    assert!(want.len() > 3_000);
    assert_eq!(answered(&server, &start, &end), want);
    let before = plan(&server, &start, &end, "&granularity=hour&group_by=region");
    assert_eq!(before["blocks_read"]["hour"], 0, "{before}");

    // Sealed by another run, which is killed with a portion built and another one written.
    server.kill();
    for point in ["seal.built=kill@1", "seal.written=kill@1"] {
        let armed = options("0s").env("ADTALLY_FAIL_POINTS", point);
        let mut killed = Server::spawn(armed);
        wait_for("its end", || killed.ended());
    }
    let server = Server::start(options("0s"));
    wait_sealed(&server, &start, &end);
    assert_eq!(answered(&server, &start, &end), want);
    let sealed = plan(&server, &start, &end, "&granularity=hour&group_by=region");
    assert_eq!(sealed["cuboid"], "region", "{sealed}");
    assert_eq!(sealed["rows_read"]["hour"], 0, "{sealed}");

    // Late events: rows beside blocks, and then in them.
    let late: Vec<Click> = clicks(to).into_iter().step_by(9).collect();
    post(&server, &late);
    all.extend(late);
    wait_totals(&server, "spring", &[("clicks", all.len() as i64)]);
    let want = counted(&all, from);
    assert_eq!(answered(&server, &start, &end), want);
    wait_sealed(&server, &start, &end);
    assert_eq!(answered(&server, &start, &end), want);

    // And by a fold of the log from its beginning.
    let mut server = server;
    ok(&server.cli(&["replay", "--from", "beginning"]));
    assert_eq!(answered(&server, &start, &end), want);
    let (_, metrics) = get(&format!("{}/metrics", server.url));
    assert!(metrics.contains("adtally_blocks_sealed_total"), "{metrics}");
    assert_eq!(server.stop(), Some(0));
}

/// Rows and blocks of days that a question by day reads from a midnight to the end of today, once no more rows than
/// today's are read.
fn wait_days_sealed(server: &Server, from: DateTime<Utc>, today: &[Click]) -> (u64, u64) {
    let tomorrow = today[0].at.duration_trunc(Duration::days(1)).unwrap() + Duration::days(1);
    wait_for("the days that are over to be sealed", || {
        let more = "&granularity=day&group_by=region&fill=none";
        let plan = plan(server, &text(from), &text(tomorrow), more);
        let read = |of: &str| plan[of]["day"].as_u64().unwrap();
        (read("rows_read") <= today.len() as u64).then(|| (read("rows_read"), read("blocks_read")))
    })
}

#[test]
fn the_days_that_are_over_are_sealed_while_their_month_goes_on() {
    let folder = Folder::new();
    let mut server = Server::start(sealing(&folder, "0s"));
    server.apply_catalogue(&catalogue());
    let (from, to) = days();
    let now = Utc::now();
    // One of each ad, so that a row of today is one of them.
    let today: Vec<Click> = ADS
        .iter()
        .map(|ad| Click {
            ad,
            region: "DE",
            device: "ios",
            at: now,
        })
        .collect();
    let mut all = clicks(to);
    all.extend(today.clone());
    post(&server, &all);
    wait_totals(&server, "spring", &[("clicks", all.len() as i64)]);
    let tomorrow = now.duration_trunc(Duration::days(1)).unwrap() + Duration::days(1);
    let (start, end) = (text(from), text(tomorrow));
    let (rows, blocks) = wait_days_sealed(&server, from, &today);
    let is_today = || Utc::now() < tomorrow;
    assert!(blocks > 0, "{rows} rows and {blocks} blocks");
    assert!(rows == 3 || !is_today(), "{rows} rows and {blocks} blocks");
    assert_eq!(answered(&server, &start, &end), counted(&all, from));
    // Hours and minutes likewise.
    wait_sealed(&server, &start, &text(to));

    // Late events of days within the month, sealed by another run, which is killed before and after it has written them.
    let late: Vec<Click> = clicks(to).into_iter().step_by(7).collect();
    for point in ["seal.built=kill@1", "seal.written=kill@1"] {
        assert_eq!(server.stop(), Some(0));
        server = Server::start(sealing(&folder, "9d"));
        post(&server, &late);
        all.extend(late.clone());
        wait_totals(&server, "spring", &[("clicks", all.len() as i64)]);
        assert_eq!(answered(&server, &start, &end), counted(&all, from));
        server.kill();
        let mut killed = Server::spawn(sealing(&folder, "0s").env("ADTALLY_FAIL_POINTS", point));
        wait_for("its end", || killed.ended());
        server = Server::start(sealing(&folder, "0s"));
        let (rows, blocks) = wait_days_sealed(&server, from, &today);
        assert!(blocks > 0 && (rows == 3 || !is_today()), "{rows} {blocks}");
        assert_eq!(answered(&server, &start, &end), counted(&all, from));
    }

    // And by a fold of the log from its beginning.
    ok(&server.cli(&["replay", "--from", "beginning"]));
    assert_eq!(answered(&server, &start, &end), counted(&all, from));
    assert_eq!(server.stop(), Some(0));
}

/// Flips a byte in the first block of hours of each shard that a question by region reads; answers in which shards there was one.
fn flip(folder: &Folder) -> Vec<usize> {
    let mut flipped = Vec::new();
    for shard in 0..8 {
        let at = folder.path().join(format!("shards/{shard}"));
        let name = std::fs::read_to_string(at.join("CURRENT")).unwrap();
        let path = at.join(name.trim());
        let options = rocksdb::Options::default();
        let names = rocksdb::DB::list_cf(&options, &path).unwrap();
        // A family that merges cannot be read, and need not be, without its operator.
        let db = rocksdb::DB::open_cf(&options, &path, names).unwrap();
        let family = db.cf_handle("blocks_hour").unwrap();
        // A key is the campaign in four bytes, the cuboid in one, and more.
        let found = db
            .iterator_cf(&family, rocksdb::IteratorMode::Start)
            .map(Result::unwrap)
            .find(|(key, _)| [3, 4].contains(&key[4]));
        if let Some((key, value)) = found {
            let mut value = value.to_vec();
            let middle = value.len() / 2;
            value[middle] ^= 0x10;
            db.put_cf(&family, key, value).unwrap();
            flipped.push(shard);
        }
        db.flush().unwrap();
    }
    flipped
}

#[test]
fn a_flipped_byte_is_found_named_and_mended_by_a_replay() {
    let folder = Folder::new();
    let (from, to) = days();
    let (start, end) = (text(from), text(to));
    let all = clicks(to);
    let options = || sealing(&folder, "0s");
    stopped_and_sealed(&folder, &all);
    let flipped = flip(&folder);
    assert!(!flipped.is_empty());
    let server = Server::start(options());
    let path = format!(
        "/api/v1/analytics?campaign_id=spring&start={start}&end={end}&granularity=hour&group_by=region"
    );
    let answer = ask(&server, &path);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer
            .header("content-type")
            .starts_with("application/problem+json")
    );
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    let shard = flipped
        .iter()
        .find(|shard| detail.contains(&format!("shard {shard} ")))
        .unwrap_or_else(|| panic!("{detail}"));
    let command = format!("adtally replay --from beginning --shard {shard}");
    for part in ["campaign spring", "hours of ", "checksum", &command] {
        assert!(detail.contains(part), "{detail}");
    }
    let (_, metrics) = get(&format!("{}/metrics", server.url));
    let counter = format!("adtally_blocks_damaged_total{{shard=\"{shard}\"}}");
    assert!(metrics.contains(&counter), "{metrics}");
    for shard in &flipped {
        let shard = shard.to_string();
        ok(&server.cli(&["replay", "--from", "beginning", "--shard", &shard]));
    }
    assert_eq!(answered(&server, &start, &end), counted(&all, from));
}

#[test]
fn what_is_past_its_retention_is_deleted_and_refused() {
    let folder = Folder::new();
    let (from, to) = days();
    let (start, end) = (text(from), text(to));
    let options = || sealing(&folder, "0s");
    stopped_and_sealed(&folder, &clicks(to));

    // Minutes for two days only.
    let server = Server::start(options().env("ADTALLY_RETENTION_MINUTES", "2d"));
    let path = |granularity: &str| {
        format!(
            "/api/v1/analytics?campaign_id=spring&start={start}&end={end}&granularity={granularity}"
        )
    };
    let refused = ask(&server, &path("minute"));
    assert_eq!(
        (refused.status, refused.json()["parameter"].as_str()),
        (400, Some("start"))
    );
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("minute counts are kept from ") && detail.contains("granularity=hour"),
        "{detail}"
    );
    assert_eq!(server.json(&path("hour"))["totals"]["clicks"], 600);
    // Another clock's days are made of hours where minutes are gone.
    let tokyo = format!("{}&time_zone=Asia/Tokyo&explain=true", path("day"));
    let answer = server.json(&tokyo);
    assert_eq!(answer["totals"]["clicks"], 600, "{answer}");
    assert!(
        answer["plan"]["ranges"]["whole_hours"][0][0].is_string(),
        "{answer}"
    );
    // What was deleted under the shorter setting is not there again under the longer one.
    let mut server = server;
    wait_for("the deletion", || {
        let (_, metrics) = get(&format!("{}/metrics", server.url));
        let deleted = metrics
            .lines()
            .filter(|l| l.starts_with("adtally_blocks_expired_total{"));
        deleted
            .into_iter()
            .any(|l| !l.ends_with(" 0"))
            .then_some(())
    });
    assert_eq!(server.stop(), Some(0));
    let server = Server::start(options());
    assert_eq!(ask(&server, &path("minute")).status, 400);
    assert_eq!(server.json(&path("hour"))["totals"]["clicks"], 600);
}
