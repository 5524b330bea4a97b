//! Replay: a state built anew from the log answers as the one before, whatever interrupts the building.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::http::{ask, post_json, wait_totals};
use crate::support::{
    ADTALLY, Folder, Options, Server, block_on, cli, ok, small_catalogue, wait_for,
};

/// Questions whose answers are compared.
const QUESTIONS: [&str; 4] = [
    "/api/v1/analytics?campaign_id=spring&start=2026-06-01T00:00:00Z&end=2026-06-02T00:00:00Z&granularity=hour&group_by=ad_id,device,region&fill=none",
    "/api/v1/analytics?campaign_id=spring&start=2026-06-01T00:00:00Z&end=2026-06-02T00:00:00Z&granularity=minute&group_by=creative&fill=none",
    "/api/v1/analytics?campaign_id=spring&granularity=total&start=2026-01-01T00:00:00Z&end=2027-01-01T00:00:00Z",
    "/api/v1/fraud?campaign_id=spring&start=2026-06-01T00:00:00Z&end=2026-06-02T00:00:00Z",
];

/// Everything of the answers but what they are as of.
pub fn answers(server: &Server) -> Vec<Value> {
    let of = |question: &&str| {
        let mut answer = server.json(question);
        let fields = answer.as_object_mut().unwrap();
        for name in ["as_of", "complete_through", "judged_through"] {
            fields.remove(name);
        }
        answer
    };
    QUESTIONS.iter().map(of).collect()
}

fn generation(server: &Server) -> String {
    let answer = server.json(QUESTIONS[2]);
    answer["as_of"]["generation"].as_str().unwrap().to_owned()
}

fn event(kind: &str, id: &str, n: u64) -> Value {
    let device = ["ios", "android", "desktop"][n as usize % 3];
    let geo = ["DE", "US-CA"][n as usize % 2];
    let agent = if n % 10 == 9 {
        "Googlebot/2.1"
    } else {
        "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0"
    };
    json!({
        "kind": kind, format!("{kind}_id"): id, "ad_id": "banner", "campaign_id": "spring",
        "ts": format!("2026-06-01T{:02}:{:02}:00Z", n % 24, n % 60),
        "device": device, "geo": geo,
        "creative": format!("v{}", n % 4),
        "user_agent": agent
    })
}

/// Mixed events, each third of which comes twice: 60 impressions, 30 clicks of which 3 are a bot's, 10 conversions.
pub fn send(server: &Server, tag: &str) {
    let mut events = Vec::new();
    for n in 0..60 {
        events.push(event("impression", &format!("{tag}-i{n}"), n));
        if n % 2 == 0 {
            events.push(event("click", &format!("{tag}-c{n}"), n / 2));
        }
        if n % 6 == 0 {
            events.push(json!({
                "kind": "conversion", "conversion_id": format!("{tag}-v{n}"), "advertiser_id": "acme",
                "click_id": format!("{tag}-c{n}"), "value_micros": 1_000_000, "ts": "2026-06-01T10:00:00Z"
            }));
        }
    }
    let again: Vec<Value> = events.iter().step_by(3).cloned().collect();
    for part in [events, again] {
        let count = part.len();
        let answer = post_json(server, "/api/v1/events", &json!(part));
        assert_eq!(answer.json()["accepted"], count, "{}", answer.text());
    }
}

/// A stopped deployment that has counted what [`send`] sends, its answers and its generation.
pub fn stopped() -> (Folder, Vec<Value>, String) {
    let folder = Folder::new();
    let mut server = start(&folder);
    server.apply_catalogue(&small_catalogue());
    send(&server, "a");
    wait_totals(
        &server,
        "spring",
        &[("impressions", 54), ("gross_clicks", 30), ("clicks", 27)],
    );
    settled(&server);
    let (before, name) = (answers(&server), generation(&server));
    assert_eq!(server.stop(), Some(0));
    (folder, before, name)
}

pub fn start(folder: &Folder) -> Server {
    Server::start(Options::default().data_dir(folder).arg("--shards").arg("3"))
}

/// Waits until everything that was sent is on the log and folded.
pub fn settled(server: &Server) {
    let metric = |page: &str, name: &str| -> f64 {
        let of = |l: &&str| l.starts_with(name);
        let values = page.lines().filter(of).filter_map(|l| l.rsplit(' ').next());
        values.map(|v| v.parse::<f64>().unwrap()).sum()
    };
    wait_for("everything to be folded", || {
        let (_, page) = crate::support::get(&format!("{}/metrics", server.url));
        let waits = metric(&page, "adtally_outbox_unsent_bytes")
            + metric(&page, "adtally_shard_lag_messages");
        (waits == 0.0).then_some(())
    });
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The generations in a shard's folder.
pub fn generations(folder: &Path, shard: u16) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join(format!("shards/{shard}"))).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("g-")).collect()
}

#[test]
fn a_stopped_folder_answers_the_same_from_another_generation() {
    let (folder, before, name) = stopped();
    let replayed = ok(&cli(&folder, &["replay", "--from", "beginning", "--json"]));
    let lines: Vec<Value> = replayed
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let (report, progress) = lines.split_last().unwrap();
    for shard in 0..3 {
        let last = progress.iter().rfind(|l| l["shard"] == shard).unwrap();
        assert_eq!(last["state"], "switched", "{last}");
        assert_eq!(last["sequence"], last["last_sequence"], "{last}");
        assert!(last["messages_per_second"].is_number() && last["seconds_left"] == 0);
    }
    let new = report["generation"].as_str().unwrap();
    let mut server = start(&folder);
    assert_eq!(generation(&server), new);
    assert_ne!(new, name);
    assert_eq!(answers(&server), before);
    // What comes again after the replay is still known: the ids and the ledger were built with it.
    send(&server, "a");
    settled(&server);
    assert_eq!(answers(&server), before);
    assert_eq!(server.stop(), Some(0));

    assert_eq!(generations(folder.path(), 1).len(), 2);
    ok(&cli(&folder, &["replay", "--prune"]));
    for shard in 0..3 {
        assert_eq!(generations(folder.path(), shard), [new]);
    }
    assert_eq!(answers(&start(&folder)), before);
}

#[test]
fn a_kill_between_built_and_switched_leaves_the_old_generation() {
    let (folder, before, name) = stopped();
    let killed = Command::new(ADTALLY)
        .args(["replay", "--from", "beginning", "--data-dir"])
        .arg(folder.path())
        .env_remove("NATS_URL")
        .envs(folder.broker_env())
        .env("ADTALLY_FAIL_POINTS", "generation.replayed=kill@1")
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed));
    let left = (0..3).flat_map(|shard| generations(folder.path(), shard));
    assert!(left.filter(|n| n.ends_with(".building")).count() > 0);
    let mut server = start(&folder);
    assert_eq!(generation(&server), name);
    assert_eq!(answers(&server), before);
    assert_eq!(server.stop(), Some(0));
    // The next one removes what is left, and comes to its end.
    ok(&cli(&folder, &["replay", "--from", "2d"]));
    for shard in 0..3 {
        let names = generations(folder.path(), shard);
        assert!(names.len() == 2 && names.contains(&name), "{names:?}");
    }
    let server = start(&folder);
    assert_ne!(generation(&server), name);
    assert_eq!(answers(&server), before);
}

#[test]
fn with_an_end_nothing_is_switched() {
    let (folder, before, name) = stopped();
    let args = [
        "replay", "--from", "1", "--to", "2", "--shard", "0", "--json",
    ];
    let replayed = ok(&cli(&folder, &args));
    let report: Value = serde_json::from_str(replayed.lines().last().unwrap()).unwrap();
    let shard = &report["shards"][0];
    assert_eq!(
        (&shard["sequence"], &shard["state"]),
        (&2.into(), &"built".into())
    );
    assert!(Path::new(shard["folder"].as_str().unwrap()).is_dir());
    let now = chrono::Utc::now().to_rfc3339();
    ok(&cli(
        &folder,
        &["replay", "--from", "beginning", "--to", &now],
    ));
    let server = start(&folder);
    assert_eq!(generation(&server), name);
    assert_eq!(answers(&server), before);
    assert_eq!(generations(folder.path(), 0).len(), 3);
    assert_eq!(generations(folder.path(), 1).len(), 2);
}

#[test]
fn a_running_serve_takes_the_new_generation_over_and_answers_throughout() {
    let folder = Folder::new();
    let mut server = start(&folder);
    server.apply_catalogue(&small_catalogue());
    send(&server, "a");
    wait_totals(&server, "spring", &[("gross_clicks", 30)]);
    settled(&server);
    let (before, name) = (answers(&server), generation(&server));
    let refused = server.cli(&["replay", "--from", "beginning", "--prune"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));

    // Clicks go on coming while it replays, and every question is answered with no fewer than before.
    let pid = server.pid();
    let url = server.url.clone();
    let replayed = std::thread::scope(|scope| {
        let replay = scope.spawn(|| server.cli(&["replay", "--from", "beginning", "--json"]));
        let mut least = 0;
        let mut sent = 0;
        while !replay.is_finished() {
            let answer = server.json(QUESTIONS[2]);
            let clicks = answer["totals"]["gross_clicks"].as_i64().unwrap();
            assert!(clicks >= least, "{clicks} after {least}");
            least = clicks;
            assert_eq!(
                ask(&server, &format!("/click?ad_id=banner&click_id=n{sent}")).status,
                302
            );
            sent += 1;
        }
        (replay.join().unwrap(), sent)
    });
    let (output, sent) = replayed;
    let report: Value = serde_json::from_str(ok(&output).lines().last().unwrap()).unwrap();
    assert_eq!((server.pid(), &server.url), (pid, &url));
    let new = generation(&server);
    assert_eq!(report["generation"], *new);
    assert_ne!(new, name);
    assert_eq!(answers(&server)[..2], before[..2]);
    // It folds on, and each event counts once.
    send(&server, "a");
    assert_eq!(
        ask(&server, "/click?ad_id=banner&click_id=last").status,
        302
    );
    wait_totals(&server, "spring", &[("gross_clicks", 30 + sent + 1)]);
    assert_eq!(answers(&server)[..2], before[..2]);
    assert_eq!(server.stop(), Some(0));
    let again = start(&folder);
    assert_eq!(generation(&again), new);
    assert_eq!(answers(&again)[..2], before[..2]);
}

#[test]
fn a_serve_that_dies_or_is_interrupted_while_it_replays_keeps_the_old_generation() {
    let (folder, before, name) = stopped();
    let armed = |point: &str| {
        Options::default()
            .data_dir(&folder)
            .env("ADTALLY_FAIL_POINTS", point)
    };
    let mut server = Server::start(armed("generation.replayed=kill@1"));
    let cut_off = server.cli(&["replay", "--from", "beginning"]);
    assert_eq!(cut_off.status.code(), Some(3), "{}", text(&cut_off));
    wait_for("its end", || server.ended());
    let left_behind = generations(folder.path(), 0);

    // Each batch takes so long that no shard is whole yet when the command is interrupted.
    let server = Server::start(armed("fold.built=sleep:3000"));
    assert_eq!(
        (generation(&server), answers(&server)),
        (name.clone(), before.clone())
    );
    let mut replay = Command::new(ADTALLY)
        .args(["replay", "--from", "beginning", "--data-dir"])
        .arg(folder.path())
        .env_remove("NATS_URL")
        .envs(folder.broker_env())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("it to be under way", || {
        generations(folder.path(), 0)
            .iter()
            .any(|n| n.ends_with(".building") && !left_behind.contains(n))
            .then_some(())
    });
    let interrupt = nix::sys::signal::Signal::SIGINT;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(replay.id() as i32), interrupt).unwrap();
    assert_eq!(replay.wait().unwrap().code(), Some(3));
    assert_eq!(
        (generation(&server), answers(&server)),
        (name.clone(), before.clone())
    );
    for shard in 0..3 {
        assert_eq!(
            generations(folder.path(), shard),
            std::slice::from_ref(&name)
        );
    }
    drop(server);
    let mut server = start(&folder);
    assert_eq!(answers(&server), before);
    ok(&server.cli(&["replay", "--from", "beginning"]));
    assert_eq!(answers(&server), before);
    assert!(
        !generation(&server).contains(','),
        "{}",
        generation(&server)
    );
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn the_folder_of_another_log_is_refused_and_one_that_cannot_be_read_is_mended() {
    let (folder, before, name) = stopped();
    // Another log, with as many shards.
    let other = Folder::new();
    let server = start(&other);
    let output = Command::new(ADTALLY)
        .args([
            "replay",
            "--from",
            "beginning",
            "--server",
            &server.nats_url(),
        ])
        .arg("--data-dir")
        .arg(folder.path())
        .env_remove("NATS_URL")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("EVENTS_0 is not the stream"),
        "{}",
        text(&output)
    );
    drop(server);
    assert_eq!(generations(folder.path(), 0), std::slice::from_ref(&name));
    // A state that RocksDB does not open.
    std::fs::write(
        folder.path().join("shards/2").join(&name).join("CURRENT"),
        "nonsense\n",
    )
    .unwrap();
    ok(&cli(
        &folder,
        &["replay", "--from", "beginning", "--shard", "2"],
    ));
    let server = start(&folder);
    assert_eq!(generation(&server).split(',').count(), 2);
    assert_eq!(answers(&server), before);
}

#[test]
fn a_purged_stream_is_refused_by_what_it_has() {
    let folder = Folder::new();
    let mut server = start(&folder);
    server.apply_catalogue(&small_catalogue());
    send(&server, "a");
    settled(&server);
    let first = block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let mut stream = jetstream.get_stream("EVENTS_1").await.unwrap();
        stream.purge().sequence(2).await.unwrap();
        stream.info().await.unwrap().state.first_sequence
    });
    assert_eq!(first, 2);
    let name = generation(&server);
    let of = |output: &Output| {
        assert_eq!(output.status.code(), Some(3), "{}", text(output));
        let said = text(output);
        assert!(
            said.contains("EVENTS_1") && said.contains("sequence 2 of 20"),
            "{said}"
        );
    };
    of(&server.cli(&["replay", "--from", "beginning"]));
    assert_eq!(generation(&server), name);
    assert_eq!(server.stop(), Some(0));
    of(&cli(&folder, &["replay", "--from", "6h"]));
    assert_eq!(generations(folder.path(), 0), [name]);
}

#[test]
fn what_has_no_meaning_is_usage() {
    let folder = Folder::bare();
    for args in [
        &["replay"][..],
        &["replay", "--from", "17"],
        &["replay", "--from", "yesterday"],
        &["replay", "--from", "beginning", "--to", "17"],
        &[
            "replay",
            "--from",
            "beginning",
            "--to",
            "2099-01-01T00:00:00Z",
        ],
        &["replay", "--from", "9", "--to", "8", "--shard", "0"],
        &["replay", "--to", "8", "--shard", "0"],
    ] {
        let output = cli(&folder, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
    let missing = cli(&folder, &["replay", "--from", "beginning"]);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing));
}
