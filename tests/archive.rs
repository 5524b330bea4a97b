//! The archive by the binary: killed at each step, read by another program, in a folder and in S3, purged from the
//! streams and replayed.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::http::{post_json, wait_totals};
use crate::support::{
    ADTALLY, Folder, Options, Server, block_on, client, free_ports, ok, small_catalogue, wait_for,
};

/// What is counted of [`send`]'s events.
const COUNTED: [(&str, i64); 2] = [("impressions", 40), ("clicks", 20)];

/// 40 impressions, 20 clicks of four users and 5 conversions, on 3 shards.
fn deployment(options: Options) -> Server {
    let options = options.arg("--shards").arg("3");
    let server = Server::start(options.env("ADTALLY_ARCHIVE_KEEP_IN_STREAM", "0s"));
    server.apply_catalogue(&small_catalogue());
    let mut events = Vec::new();
    for n in 0..40 {
        let user = format!("user-{}", n % 8);
        events.push(json!({
            "kind": "impression", "impression_id": format!("i{n}"), "ad_id": "banner", "user_id": user,
            "geo": "US-CA", "device": "ios", "user_agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0",
        }));
        if n % 2 == 0 {
            events.push(json!({
                "kind": "click", "click_id": format!("c{n}"), "ad_id": "banner", "user_id": user, "ip": "192.0.2.7",
                "impression_id": format!("i{n}"), "geo": "DE",
                "user_agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0",
            }));
        }
        if n % 8 == 0 {
            events.push(json!({
                "kind": "conversion", "conversion_id": format!("v{n}"), "advertiser_id": "acme",
                "click_id": format!("c{n}"), "value_micros": 1_000_000, "currency_code": "USD",
            }));
        }
    }
    let answer = post_json(&server, "/api/v1/events", &json!(events));
    assert_eq!(answer.json()["accepted"], 65, "{}", answer.text());
    wait_totals(&server, "spring", &COUNTED);
    wait_for("the outboxes to be empty", || {
        let (_, page) = crate::support::get(&format!("{}/metrics", server.url));
        let unsent = page
            .lines()
            .filter(|l| l.starts_with("adtally_outbox_unsent_bytes"));
        unsent.clone().all(|l| l.ends_with(" 0")).then_some(())
    });
    server
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&ok(output)).unwrap()
}

/// Events that the manifest names, by shard and in all.
fn archived(server: &Server) -> u64 {
    let list = json_of(&server.cli(&["archive", "list", "--json"]));
    let rows = list.as_array().unwrap().iter().map(|entry| {
        let rows = &entry["rows"];
        ["impression", "click", "conversion"]
            .map(|kind| rows[kind].as_u64().unwrap())
            .iter()
            .sum::<u64>()
    });
    rows.sum()
}

fn whole(server: &Server) {
    let checked = json_of(&server.cli(&["archive", "check", "--json"]));
    assert_eq!(checked["faults"], json!([]), "{checked}");
    assert_eq!(checked["left_over"], json!([]), "{checked}");
}

/// What DuckDB reads below a folder, without being told more than that the folders are partitions.
fn duckdb(folder: &Path, query: &str) -> Value {
    let python = std::env::var("ADTALLY_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let program = format!(
        "import duckdb, json, sys\n\
         log = duckdb.sql(\"select * from read_parquet('\" + sys.argv[1] + \"/**/*.parquet', hive_partitioning=true)\")\n\
         print(json.dumps(duckdb.sql(\"{query}\").fetchall(), default=str))"
    );
    let output = Command::new(python)
        .args(["-c", &program])
        .arg(folder)
        .output()
        .expect("it needs python3 with duckdb: `make test` brings it");
    json_of(&output)
}

fn archive_folder(server: &Server) -> PathBuf {
    server.data_dir.join("archive")
}

#[test]
fn a_kill_at_each_step_leaves_neither_gap_nor_double() {
    let server =
        deployment(Options::default().env("ADTALLY_ROLES", "collector,intake,projector,api"));
    let run = ["archive", "run", "--open-hour", "--json"];
    for step in ["built", "put", "verified", "committed"] {
        for at in 1..=2 {
            // Announcements come every two seconds, so there is soon a segment to make again.
            wait_for(step, || {
                let run = Command::new(ADTALLY)
                    .args(run)
                    .arg("--data-dir")
                    .arg(&server.data_dir)
                    .env_remove("NATS_URL")
                    .env("ADTALLY_FAIL_POINTS", format!("archive.{step}=kill@{at}"))
                    .output()
                    .unwrap();
                (run.status.signal() == Some(9)).then_some(())
            });
        }
    }
    ok(&server.cli(&run));
    assert_eq!(archived(&server), 65);
    whole(&server);
    let counted = duckdb(
        &archive_folder(&server),
        "select kind, count(*), count(distinct coalesce(impression_id_text, click_id_text, conversion_id_text)) \
         from log where counter is not null group by kind order by kind",
    );
    assert_eq!(
        counted,
        json!([
            ["click", 20, 20],
            ["conversion", 5, 5],
            ["impression", 40, 40]
        ])
    );
}

#[test]
fn another_program_reads_the_columns_as_they_were_sent() {
    let server = deployment(Options::default());
    ok(&server.cli(&["archive", "run", "--open-hour"]));
    let folder = archive_folder(&server);
    let clicks = duckdb(
        &folder,
        "select count(distinct click_id_text), count(distinct user_id_hash), count(distinct ip_hash), \
                min(ad_id), min(campaign_id), min(device_type), min(geo_country), min(referrer_url), \
                max(is_fraudulent), max(fraud_score), sum(amount_micros), min(landing_url) \
         from log where kind = 'click'",
    );
    let expected = json!([[
        20, 4, 1, "banner", "spring", "desktop", "DE", null, false, null, 5_000_000, null
    ]]);
    assert_eq!(clicks, expected);
    // By DuckDB's own SHA-256.
    let user = duckdb(
        &folder,
        "select count(*), min(user_id_hash) from log \
         where kind = 'impression' and user_id_hash = substr(sha256('user-3'), 1, 16)",
    );
    assert_eq!(user[0][0], 5, "{user}");
    let places = duckdb(
        &folder,
        "select count(distinct shard), bool_and(year::int = year(t)), bool_and(month::int = month(t)), \
                bool_and(day::int = day(t)), bool_and(hour::int = hour(t)) \
         from (select *, broker_time at time zone 'UTC' as t from log)",
    );
    assert_eq!(places, json!([[3, true, true, true, true]]));
    // Erased, the user is nobody that anybody knows, and everybody else is untouched.
    let hash = user[0][1].as_str().unwrap();
    let erased =
        json_of(&server.cli(&["archive", "erase", "--user", hash, "--by", "me", "--json"]));
    let rows: u64 = erased
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["rows"].as_u64().unwrap())
        .sum();
    assert_eq!(rows, 5, "{erased}");
    let left = duckdb(
        &folder,
        "select count(*) filter (user_id_hash = substr(sha256('user-3'), 1, 16)), count(distinct user_id_hash), \
                count(*) filter (counter is not null) from log",
    );
    assert_eq!(left, json!([[0, 8, 65]]));
    whole(&server);
}

#[test]
fn what_the_role_purges_a_replay_reads_from_the_archive() {
    let server = deployment(Options::default());
    let total = "/api/v1/analytics?campaign_id=spring&granularity=total";
    let before = server.json(total)["totals"].clone();
    ok(&server.cli(&["archive", "run", "--open-hour"]));
    assert_eq!(archived(&server), 65);
    // The role archiver of this server purges by itself what is archived and folded.
    let events = |shard: u16| -> u64 {
        block_on(async {
            let client = async_nats::connect(server.nats_url()).await.unwrap();
            let jetstream = async_nats::jetstream::new(client);
            let stream = jetstream
                .get_stream(format!("EVENTS_{shard}"))
                .await
                .unwrap();
            stream.get_info().await.unwrap().state.first_sequence
        })
    };
    wait_for("the streams to be purged", || {
        (0..3).all(|shard| events(shard) > 1).then_some(())
    });
    ok(&server.cli(&["replay", "--from", "beginning"]));
    assert_eq!(server.json(total)["totals"], before);
    // The proof reads it as well.
    let verdict = json_of(&server.cli(&["verify", "--json"]));
    assert_eq!(verdict["equal"], true, "{verdict}");
    // A byte that flips is found by name, and nothing is switched.
    let list = json_of(&server.cli(&["archive", "list", "--json"]));
    let largest = list
        .as_array()
        .unwrap()
        .iter()
        .max_by_key(|e| e["file"]["bytes"].as_u64())
        .unwrap();
    let path = largest["file"]["path"].as_str().unwrap();
    let file = archive_folder(&server).join(path);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let checked = server.cli(&["archive", "check"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stdout).contains(path));
    let generation = server.json(total)["as_of"]["generation"].clone();
    // Of its shard alone: another one may be whole and in use before the damage is met.
    let shard = largest["shard"].to_string();
    let replayed = server.cli(&["replay", "--from", "beginning", "--shard", &shard]);
    assert_eq!(replayed.status.code(), Some(3));
    let told = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert!(told.contains(path) && told.contains("SHA-256"), "{told}");
    assert_eq!(server.json(total)["as_of"]["generation"], generation);
}

/// A SeaweedFS of its own, with S3 on loopback.
struct S3 {
    process: Child,
    folder: Folder,
    url: String,
}

impl S3 {
    /// None where the set-up has brought none.
    fn start() -> Option<Self> {
        let program = std::env::var_os("ADTALLY_TEST_S3")?;
        let folder = Folder::bare();
        let config = folder.path().join("s3.json");
        let identity = json!({
            "name": "adtally", "credentials": [{"accessKey": "adtally", "secretKey": "not-a-secret"}],
            "actions": ["Admin", "Read", "Write", "List"]
        });
        // The bucket is made by somebody else, who need not sign here.
        let anonymous = json!({"name": "anonymous", "actions": ["Admin"]});
        std::fs::write(
            &config,
            json!({"identities": [identity, anonymous]}).to_string(),
        )
        .unwrap();
        let ports = free_ports(8);
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        let process = Command::new(program)
            .args([
                "server",
                "-s3",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3.port.iceberg=0",
            ])
            .args([
                "-s3.port.lance=0",
                "-s3.iam=false",
                "-master.telemetry=false",
            ])
            .arg("-master.volumeSizeLimitMB=64")
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.config={}", config.display()))
            .args(
                names
                    .iter()
                    .zip(&ports)
                    .map(|(name, port)| format!("-{name}={port}")),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{}", ports[6]);
        let s3 = Self {
            process,
            folder,
            url,
        };
        wait_for("the bucket", || {
            let made = block_on(client().put(format!("{}/logs", s3.url)).send());
            made.ok().filter(|answer| answer.status().is_success())
        });
        Some(s3)
    }

    fn env(&self) -> [(&'static str, String); 6] {
        [
            ("ADTALLY_ARCHIVE_URL", "s3://logs/adtally".to_owned()),
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "adtally".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "not-a-secret".to_owned()),
        ]
    }

    fn cli(&self, server: &Server, args: &[&str]) -> Output {
        Command::new(ADTALLY)
            .args(args)
            .arg("--data-dir")
            .arg(&server.data_dir)
            .env_remove("NATS_URL")
            .envs(self.env())
            .output()
            .unwrap()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = &self.folder;
    }
}

#[test]
fn an_archive_in_s3_is_written_read_and_replayed_as_one_in_a_folder() {
    let Some(s3) = S3::start() else {
        eprintln!("no S3 server, so this is not tried: `make test` brings one");
        return;
    };
    let options = s3
        .env()
        .iter()
        .fold(Options::default(), |options, (name, value)| {
            options.env(name, value)
        });
    let server = deployment(options.env("ADTALLY_ROLES", "collector,intake,projector,api"));
    let total = "/api/v1/analytics?campaign_id=spring&granularity=total";
    let before = server.json(total)["totals"].clone();
    // Two at once: of the same sequence one entry is put, and the other archiver goes on behind it.
    std::thread::scope(|scope| {
        let runs =
            [0, 1].map(|_| scope.spawn(|| s3.cli(&server, &["archive", "run", "--open-hour"])));
        for run in runs {
            ok(&run.join().unwrap());
        }
    });
    ok(&s3.cli(&server, &["archive", "run", "--open-hour"]));
    let checked = json_of(&s3.cli(&server, &["archive", "check", "--json"]));
    assert_eq!(
        (&checked["events"], &checked["faults"]),
        (&json!(65), &json!([])),
        "{checked}"
    );
    assert_eq!(checked["left_over"], json!([]), "{checked}");
    let erased = json_of(&s3.cli(
        &server,
        &["archive", "erase", "--user-id", "user-3", "--json"],
    ));
    assert!(!erased.as_array().unwrap().is_empty(), "{erased}");
    let last = |shard: u16| -> u64 {
        let list = json_of(&s3.cli(&server, &["archive", "list", "--json"]));
        let of_shard = list
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["shard"] == shard);
        of_shard.map(|e| e["last"].as_u64().unwrap()).max().unwrap()
    };
    for shard in 0..3 {
        let last = last(shard);
        block_on(async {
            let client = async_nats::connect(server.nats_url()).await.unwrap();
            let jetstream = async_nats::jetstream::new(client);
            let stream = jetstream
                .get_stream(format!("EVENTS_{shard}"))
                .await
                .unwrap();
            stream.purge().sequence(last + 1).await.unwrap();
        });
    }
    ok(&s3.cli(&server, &["replay", "--from", "beginning"]));
    assert_eq!(server.json(total)["totals"], before);
    let nothing: Vec<_> = std::fs::read_dir(&server.data_dir)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name() == "archive")
        .collect();
    assert!(nothing.is_empty(), "{nothing:?}");
}
