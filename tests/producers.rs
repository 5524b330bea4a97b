//! Nights of the log: what it has lost is named, sent again from the outboxes, and counted once; what nobody can send
//! any more stays named.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::http::{ask, ask_as, wait_totals};
use crate::support::{
    ADTALLY, Broker, Folder, Options, Server, block_on, cli_on_disk, ok, small_catalogue, wait_for,
};

/// A command against a broker, as operators type it.
fn command(broker: &Broker, args: &[&str]) -> Output {
    Command::new(ADTALLY)
        .args(args)
        .args(["--server", &broker.url(), "--data-dir", "/nowhere"])
        .env_remove("NATS_URL")
        .output()
        .unwrap()
}

fn rows(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn serve(broker: &Broker, dir: &Folder, roles: &str) -> Server {
    let options = ["--server", &broker.url(), "--shards", "1", "--roles", roles]
        .into_iter()
        .fold(Options::default().data_dir(dir), |o, arg| o.arg(arg));
    Server::start(options)
}

fn click(server: &Server, id: &str) {
    let answer = ask(server, &format!("/click?ad_id=banner&click_id={id}"));
    assert_eq!(answer.status, 302, "{}", answer.text());
}

/// Clicks one after the other, so that each is a frame of its own, in which its id stands as text.
fn clicks(server: &Server, name: &str, n: u64) {
    for i in 0..n {
        click(server, &format!("{name}-{i:03}"));
        let sent = format!(
            "adtally_frames_events_total{{owner=\"collector\"}} {}",
            i + 1
        );
        wait_for("the frame of a click", || {
            let (_, page) = crate::support::get(&format!("{}/metrics", server.url));
            page.lines().any(|l| l == sent).then_some(())
        });
    }
}

/// Changes one byte of a stored message that holds `needle`.
fn flip(broker: &Broker, stream: &str, needle: &str) {
    for block in broker.blocks(stream) {
        let mut bytes = std::fs::read(&block).unwrap();
        let at = bytes
            .windows(needle.len())
            .position(|w| w == needle.as_bytes());
        if let Some(at) = at {
            bytes[at] ^= 0x20;
            std::fs::write(&block, bytes).unwrap();
            return;
        }
    }
    panic!("{needle} is in no block of {stream}");
}

fn lost_events(rows: &[Value]) -> u64 {
    let gaps = rows.iter().flat_map(|r| r["gaps"].as_array().unwrap());
    let lost = gaps.filter(|g| g["fate"] == "lost");
    lost.map(|g| g["last"].as_u64().unwrap() - g["first"].as_u64().unwrap() + 1)
        .sum()
}

/// A folder of shards that is folded anew from the log, as another replica would.
fn forget_state(dir: &Path) {
    std::fs::remove_dir_all(dir.join("shards")).unwrap();
}

#[test]
fn a_flipped_byte_in_a_block_is_named_and_healed_from_the_outbox() {
    let mut broker = Broker::of(1, "");
    let folder = Folder::bare();
    let mut server = serve(&broker, &folder, "collector,intake,projector,api");
    server.apply_catalogue(&small_catalogue());
    clicks(&server, "kept", 12);
    wait_totals(&server, "spring", &[("clicks", 12)]);
    ok(&command(&broker, &["producers", "list"]));
    assert_eq!(server.stop(), Some(0));
    broker.stop();
    flip(&broker, "EVENTS_0", "kept-007");
    broker.run();
    forget_state(folder.path());

    // Nobody runs, so the log itself is read.
    let listed = command(&broker, &["producers", "list", "--json"]);
    assert_eq!(listed.status.code(), Some(1), "{}", text(&listed));
    assert_eq!(lost_events(&rows(&listed)), 1, "{}", text(&listed));

    let mut server = serve(&broker, &folder, "collector,intake,projector,api");
    wait_totals(&server, "spring", &[("clicks", 11)]);
    let listed = wait_for("the gap", || {
        let listed = command(&broker, &["producers", "list", "--json"]);
        (listed.status.code() == Some(1)).then_some(listed)
    });
    let gaps: Vec<Value> = rows(&listed)
        .iter()
        .flat_map(|r| r["gaps"].as_array().unwrap().clone())
        .collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(
        (&gaps[0]["first"], &gaps[0]["last"], &gaps[0]["kind"]),
        (&7.into(), &7.into(), &"click".into())
    );
    assert_eq!(gaps[0]["healable"], 1, "{gaps:?}");

    let would = command(&broker, &["producers", "resend", "--dry-run"]);
    assert_eq!(would.status.code(), Some(0), "{}", text(&would));
    assert!(
        text(&would).contains("click 7 to 7 of shard 0"),
        "{}",
        text(&would)
    );
    wait_totals(&server, "spring", &[("clicks", 11)]);
    for _ in 0..2 {
        ok(&command(&broker, &["producers", "resend"]));
        ok(&command(&broker, &["producers", "list"]));
        ok(&command(&broker, &["producers", "list", "--log-itself"]));
        wait_totals(&server, "spring", &[("clicks", 12)]);
    }
    // What is there already may be sent again: it counts once.
    let epoch = gaps[0]["epoch"].as_str().unwrap();
    let again = [
        "producers",
        "resend",
        "--epoch",
        epoch,
        "--shard",
        "0",
        "--kind",
        "click",
        "--first",
        "0",
        "--last",
        "11",
        "--json",
    ];
    let report: Value = serde_json::from_str(&ok(&command(&broker, &again))).unwrap();
    assert_eq!(report["sent"][0]["events"], 12, "{report}");
    wait_totals(&server, "spring", &[("clicks", 12)]);
    assert_eq!(server.stop(), Some(0));

    // A replay counts what was sent again in the place of what was lost.
    forget_state(folder.path());
    let server = serve(&broker, &folder, "projector,api");
    wait_totals(&server, "spring", &[("clicks", 12)]);
}

#[test]
fn what_no_outbox_holds_any_more_stays_named() {
    let mut broker = Broker::of(1, "");
    let folder = Folder::bare();
    let mut server = serve(&broker, &folder, "collector,projector,api");
    server.apply_catalogue(&small_catalogue());
    clicks(&server, "gone", 6);
    wait_totals(&server, "spring", &[("clicks", 6)]);
    assert_eq!(server.stop(), Some(0));
    broker.stop();
    flip(&broker, "EVENTS_0", "gone-002");
    broker.run();
    forget_state(folder.path());
    std::fs::remove_dir_all(folder.path().join("outbox-collector")).unwrap();
    let server = serve(&broker, &folder, "collector,projector,api");
    wait_totals(&server, "spring", &[("clicks", 5)]);
    for _ in 0..2 {
        let resent = command(&broker, &["producers", "resend", "--json"]);
        assert_eq!(resent.status.code(), Some(1), "{}", text(&resent));
        let report: Value = serde_json::from_slice(&resent.stdout).unwrap();
        let named = &report["not_held"][0];
        assert_eq!(
            (&named["first"], &named["last"]),
            (&2.into(), &2.into()),
            "{report}"
        );
        assert_eq!(report["missing"], report["not_held"]);
    }
    wait_totals(&server, "spring", &[("clicks", 5)]);
}

/// Changes the largest message that a stream takes.
fn max_message(broker: &Broker, stream: &str, bytes: i32) {
    block_on(async {
        let client = async_nats::connect(broker.url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let mut stream = jetstream.get_stream(stream).await.unwrap();
        let mut config = stream.info().await.unwrap().config.clone();
        config.max_message_size = bytes;
        jetstream.update_stream(config).await.unwrap();
    });
}

#[test]
fn a_producer_whose_disk_is_gone_is_retired_and_what_it_lost_stays_named() {
    let broker = Broker::of(1, "");
    let (edge, fold) = (Folder::bare(), Folder::bare());
    let api = serve(&broker, &fold, "projector,api");
    api.apply_catalogue(&small_catalogue());
    let mut collector = serve(&broker, &edge, "collector");
    clicks(&collector, "sent", 3);
    wait_totals(&api, "spring", &[("clicks", 3)]);
    // Announcements still fit, frames do not: what is answered from here on is announced and never sent.
    max_message(&broker, "EVENTS_0", 200);
    for i in 0..4 {
        click(&collector, &format!("unsent-{i}"));
    }
    let row = wait_for("the announcement of what waits", || {
        let listed = rows(&command(&broker, &["producers", "list", "--json"]));
        listed
            .into_iter()
            .find(|r| r["kinds"]["click"]["outstanding"] == 4)
    });
    let producer = row["producer"].as_str().unwrap();
    let retire = [
        "producers",
        "retire",
        "--producer",
        producer,
        "--reason",
        "its disk burned",
    ];
    let refused = command(&broker, &retire);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(
        text(&refused).contains("has it in hand"),
        "{}",
        text(&refused)
    );
    collector.kill();
    std::fs::remove_dir_all(edge.path()).unwrap();
    let refused = command(&broker, &retire);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("was heard"), "{}", text(&refused));
    max_message(&broker, "EVENTS_0", -1);

    // Somebody else goes on, and completeness waits for the one that is gone.
    let other = Folder::bare();
    let other_server = serve(&broker, &other, "collector");
    click(&other_server, "other");
    wait_totals(&api, "spring", &[("gross_clicks", 4)]);
    let through = || {
        let answer = api.json("/api/v1/analytics?campaign_id=spring");
        answer["complete_through"].as_str().map(str::to_owned)
    };
    let held_back = through().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(through().unwrap(), held_back);

    let forced = [&retire[..], &["--force", "--json"]].concat();
    let retired = rows(&command(&broker, &forced));
    assert_eq!(retired[0]["state"], "retired");
    assert_eq!(retired[0]["retired_reason"], "its disk burned");
    assert_eq!(lost_events(&retired), 4, "{retired:?}");
    wait_for("completeness to go on", || {
        (through().unwrap() > held_back).then_some(())
    });
    let listed = command(&broker, &["producers", "list", "--json"]);
    assert_eq!(listed.status.code(), Some(1), "{}", text(&listed));
    assert_eq!(lost_events(&rows(&listed)), 4);
    assert!(rows(&listed).iter().any(|r| r["state"] == "open"));
    // It is a fact of the log: whoever reads the log alone sees the same.
    let log = command(&broker, &["producers", "list", "--log-itself", "--json"]);
    assert_eq!(log.status.code(), Some(1), "{}", text(&log));
    let row = rows(&log)
        .into_iter()
        .find(|r| r["state"] == "retired")
        .unwrap();
    assert_eq!(row["retired_at"], retired[0]["retired_at"]);
    // Twice is once.
    let again = command(&broker, &retire);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again));
}

/// Changes one byte of the outbox's write-ahead log where `needle` stands.
fn flip_in_outbox(data_dir: &Path, needle: &str) {
    let outbox = data_dir.join("outbox-collector");
    let logs = std::fs::read_dir(outbox)
        .unwrap()
        .map(|e| e.unwrap().path());
    for log in logs.filter(|path| path.extension().is_some_and(|e| e == "log")) {
        let mut bytes = std::fs::read(&log).unwrap();
        let at = bytes
            .windows(needle.len())
            .position(|w| w == needle.as_bytes());
        if let Some(at) = at {
            bytes[at] ^= 0x20;
            std::fs::write(&log, bytes).unwrap();
            return;
        }
    }
    panic!("{needle} is in no write-ahead log of the outbox");
}

/// Clicks that nobody else has, in an outbox with a damaged byte: a start refuses it, a salvage names what it cannot
/// read, and what it can read is counted once after the next start. A click takes about a kilobyte, and RocksDB loses
/// no more than a block of 32 KiB around a damaged byte, so most of them can be read.
#[test]
fn a_damaged_outbox_is_salvaged_and_what_is_lost_stays_named() {
    const CLICKS: usize = 160;
    const FLIPPED: usize = 80;
    let mut broker = Broker::of(1, "");
    let folder = Folder::bare();
    let mut server = serve(&broker, &folder, "collector,intake,projector,api");
    server.apply_catalogue(&small_catalogue());
    let id = |n: usize| format!("unsent-{n:03}");
    broker.stop();
    let referrer = format!("https://news.example/{}", "r".repeat(900));
    for n in 0..CLICKS {
        let path = format!("/click?ad_id=banner&click_id={}", id(n));
        let headers = [
            ("user-agent", crate::support::http::BROWSER),
            ("referer", referrer.as_str()),
        ];
        let answer = ask_as(&server, "GET", &path, &headers);
        assert_eq!(answer.status, 302, "{}", answer.text());
    }
    server.kill();
    flip_in_outbox(folder.path(), &id(FLIPPED));
    broker.run();

    let start = || {
        Command::new(ADTALLY)
            .args(["serve", "--server", &broker.url()])
            .arg("--data-dir")
            .arg(folder.path())
            .args(["--listen", "127.0.0.1:0"])
            .output()
            .unwrap()
    };
    let refused = start();
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("producers salvage"),
        "{}",
        text(&refused)
    );

    let salvaged = cli_on_disk(&folder, &["producers", "salvage", "--replace", "--json"]);
    assert_eq!(salvaged.status.code(), Some(1), "{}", text(&salvaged));
    let salvaged = rows(&salvaged);
    let lanes = salvaged[0]["epochs"].as_array().unwrap().iter();
    let lanes = lanes.flat_map(|epoch| epoch["lanes"].as_array().unwrap());
    let stretches = lanes.flat_map(|lane| lane["lost"].as_array().unwrap());
    let told: u64 = stretches
        .map(|s| s[1].as_u64().unwrap() - s[0].as_u64().unwrap() + 1)
        .sum();

    let server = serve(&broker, &folder, "collector,intake,projector,api");
    wait_totals(
        &server,
        "spring",
        &[("gross_clicks", (CLICKS as u64 - told) as i64)],
    );
    let tail = ok(&command(
        &broker,
        &[
            "events", "tail", "--kind", "click", "--shard", "0", "--from", "1",
        ],
    ));
    let mut counted: Vec<String> = tail
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["click_id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    counted.sort();
    let lost: Vec<usize> = (0..CLICKS).filter(|n| !counted.contains(&id(*n))).collect();
    assert_eq!(counted.len() + lost.len(), CLICKS, "each once: {counted:?}");
    assert!(lost.contains(&FLIPPED) && lost.len() <= 40, "{lost:?}");
    assert_eq!(lost.len() as u64, told, "{lost:?}");
    let listed = wait_for("what is lost to be named", || {
        let listed = command(&broker, &["producers", "list", "--json"]);
        (listed.status.code() == Some(1)).then(|| rows(&listed))
    });
    assert_eq!(lost_events(&listed), told, "{listed:?}");
}
