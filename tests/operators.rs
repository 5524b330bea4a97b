//! What an operator reads and does at night: incidents, the metrics page, users of a broker with permissions.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{ask, post_json, wait_totals};
use crate::support::{
    ADTALLY, Broker, Folder, Options, Server, block_on, cli_on_disk, ok, small_catalogue, wait_for,
};

fn rows(output: &std::process::Output) -> Vec<Value> {
    serde_json::from_str(&ok(output)).unwrap()
}

#[test]
fn conflicts_and_bad_frames_are_listed_by_a_running_serve_and_from_disk() {
    let folder = Folder::new();
    let mut server = Server::start(Options::default().data_dir(&folder));
    server.apply_catalogue(&small_catalogue());
    assert_eq!(
        server.cli(&["events", "conflicts", "--json"]).stdout,
        b"[]\n"
    );
    block_on(async {
        let client = async_nats::connect(server.nats_url()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        let stored = js
            .publish("events.3.click", "not a frame".into())
            .await
            .unwrap();
        stored.await.unwrap();
    });
    for user in ["one", "another"] {
        let path = format!("/click?ad_id=banner&click_id=taken&user_id={user}");
        assert_eq!(ask(&server, &path).status, 302);
    }
    let answer = post_json(
        &server,
        "/api/v1/events",
        &json!([
            {"kind": "conversion", "conversion_id": "sale", "advertiser_id": "acme", "user_id": "u", "value_micros": 1},
            {"kind": "conversion", "conversion_id": "sale", "advertiser_id": "acme", "user_id": "u", "value_micros": 2},
        ]),
    );
    assert_eq!(answer.status, 202, "{}", answer.text());
    wait_totals(&server, "spring", &[("clicks", 1)]);
    let running = wait_for("both conflicts", || {
        let conflicts = rows(&server.cli(&["events", "conflicts", "--json"]));
        (conflicts.len() == 2).then_some(conflicts)
    });
    let by_id: BTreeMap<&str, &Value> = running
        .iter()
        .map(|r| (r["id"].as_str().unwrap(), r))
        .collect();
    assert_eq!(by_id["taken"]["kind"], "click");
    assert_eq!(by_id["taken"]["ad_id"], "banner");
    assert_eq!(by_id["sale"]["kind"], "conversion");
    assert_eq!(by_id["sale"]["advertiser_id"], "acme");
    assert!(by_id["taken"]["first_sequence"].as_u64() <= by_id["taken"]["sequence"].as_u64());
    let bad = wait_for("the bad frame", || {
        rows(&server.cli(&["events", "bad", "--json"])).pop()
    });
    assert_eq!(
        (bad["stream"].as_str(), bad["subject"].as_str()),
        (Some("EVENTS_3"), Some("events.3.click"))
    );
    let table = ok(&server.cli(&["events", "conflicts", "-n", "1"]));
    assert!(table.contains("sale") ^ table.contains("taken"), "{table}");

    assert_eq!(server.stop(), Some(0));
    assert_eq!(
        rows(&cli_on_disk(&folder, &["events", "conflicts", "--json"])),
        running
    );
    assert_eq!(
        rows(&cli_on_disk(&folder, &["events", "bad", "--json"])),
        [bad]
    );
}

#[test]
fn every_metric_says_what_it_is_and_is_named_by_convention() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    let (status, page) = crate::support::get(&format!("{}/metrics", server.url));
    assert_eq!(status, 200);
    // What nothing has happened to is zero, and not absent: an alert sees no increase in what begins with its first.
    for alert in [
        "http_panics",
        "stream_losses",
        "clock_steps",
        "nats_restarts",
        "archive_failures",
        "catalogue_documents_bad",
        "day_key_failures",
        "message_id_taken",
    ] {
        let zero = format!("adtally_{alert}_total 0");
        assert!(page.lines().any(|line| line == zero), "{zero}");
    }
    let helped: Vec<&str> = page
        .lines()
        .filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    let typed: Vec<(&str, &str)> = page
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    assert!(typed.len() > 20, "{page}");
    for (name, sort) in typed {
        assert!(helped.contains(&name), "{name} has no HELP line");
        assert!(name.starts_with("adtally_"), "{name}");
        assert_eq!(name.ends_with("_total"), sort == "counter", "{name}");
    }
}

#[test]
fn a_misspelt_variable_is_usage_and_names_the_setting() {
    let output = Command::new(ADTALLY)
        .args(["keys", "list"])
        .env_remove("NATS_URL")
        .env("ADTALLY_DATA_DRI", "/nowhere")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("did you mean ADTALLY_DATA_DIR"), "{text}");
}

/// The users of `nats/accounts.conf`, each with a password.
const USERS: [&str; 10] = [
    "publisher",
    "border",
    "projector",
    "decider",
    "archiver",
    "catalogue",
    "statements",
    "operator",
    "serve",
    "system",
];

fn password(user: &str) -> String {
    format!("secret-of-{user}")
}

/// A command as that user.
fn as_user(broker: &Broker, user: &str, args: &[&str]) -> std::process::Output {
    Command::new(ADTALLY)
        .args(args)
        .args([
            "--server",
            &broker.url(),
            "--user",
            user,
            "--password",
            &password(user),
        ])
        .output()
        .unwrap()
}

#[test]
fn a_deployment_that_is_named_by_its_nats_alone_is_found() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    let elsewhere = tempfile::TempDir::new().unwrap();
    let run = |args: &[&str]| {
        Command::new(ADTALLY)
            .args(args)
            .args(["--server", &server.nats_url()])
            .env_remove("NATS_URL")
            .current_dir(elsewhere.path())
            .output()
            .unwrap()
    };
    let verdict = ok(&run(&["verify", "--json"]));
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!(verdict["equal"], true, "{verdict}");
    ok(&run(&["replay", "--from", "beginning"]));
    let backup = elsewhere.path().join("copy");
    ok(&run(&["backup", backup.to_str().unwrap()]));
    assert!(backup.join("manifest.json").is_file() || backup.read_dir().unwrap().count() > 0);
    // A folder that is named and is not there is nobody's, whatever runs.
    let named = run(&["verify", "--data-dir", "elsewhere"]);
    assert_eq!(named.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&named.stderr).contains("no deployment in elsewhere"),
        "{named:?}"
    );
    assert!(!elsewhere.path().join("adtally-data").exists());
}

/// A `serve` as that user.
fn serve_as(broker: &Broker, user: &str, roles: &str) -> Server {
    serve_with(Options::default(), broker, user, roles)
}

fn serve_with(options: Options, broker: &Broker, user: &str, roles: &str) -> Server {
    let options = [
        "--server",
        &broker.url(),
        "--user",
        user,
        "--password",
        &password(user),
        "--roles",
        roles,
    ]
    .into_iter()
    .fold(options, |options, arg| options.arg(arg));
    Server::start(options)
}

/// Whether the broker lets a user listen on a subject: either it says that it does not, or what is said there
/// arrives. Nothing is concluded from silence, because a subscription reaches the broker when it likes.
fn listens(broker: &Broker, user: &str, subject: &str) -> bool {
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let options = |user: &str| {
        async_nats::ConnectOptions::with_user_and_password(user.into(), password(user))
    };
    let listening = options(user).event_callback(move |event| {
        let text = event.to_string();
        if text.to_lowercase().contains("permissions violation") {
            refused.send(text).ok();
        }
        async {}
    });
    let servers = broker.url();
    let server = servers.split(',').next().unwrap();
    block_on(async {
        let listener = listening.connect(server).await.unwrap();
        let speaker = options("serve").connect(server).await.unwrap();
        let mut heard = listener.subscribe(subject.to_owned()).await.unwrap();
        for _ in 0..200 {
            speaker
                .publish(subject.to_owned(), "x".into())
                .await
                .unwrap();
            tokio::select! {
                Some(_) = futures_util::StreamExt::next(&mut heard) => return true,
                Some(text) = refusals.recv() => {
                    assert!(text.contains(subject), "{text}");
                    return false;
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        panic!("{user} neither hears what is said on {subject} nor is refused it");
    })
}

#[test]
fn each_role_works_as_its_own_user_of_the_accounts_file_and_no_further() {
    let accounts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/accounts.conf");
    let mut text = std::fs::read_to_string(accounts).unwrap();
    for user in USERS {
        let variable = format!("$ADTALLY_{}_PASSWORD", user.to_uppercase());
        assert!(
            text.contains(&variable),
            "{user} is not in the accounts file"
        );
        text = text.replace(&variable, &format!("\"{}\"", password(user)));
    }
    let broker = Broker::with(&text);
    // Who may not make the streams that are missing is told so, and does not wait for an answer that never comes.
    for args in [
        &["streams", "apply"][..],
        &["serve", "--roles", "intake", "--listen", "127.0.0.1:0"],
    ] {
        let began = Instant::now();
        let folder = tempfile::TempDir::new().unwrap();
        let folder = folder.path().to_str().unwrap();
        let output = as_user(&broker, "border", &[args, &["--data-dir", folder]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(
            text.contains("EVENTS_0 is missing") && text.contains("Permissions Violation"),
            "{text}"
        );
        assert!(began.elapsed() < Duration::from_secs(15), "{text}");
    }
    ok(&as_user(&broker, "operator", &["streams", "apply"]));
    ok(&as_user(&broker, "projector", &["streams", "check"]));
    let border = serve_as(&broker, "border", "collector,intake");
    let projector = serve_as(&broker, "projector", "projector,api");
    let file = border.data_dir.join("catalogue.json");
    std::fs::write(&file, small_catalogue().to_string()).unwrap();
    ok(&as_user(
        &broker,
        "catalogue",
        &["catalog", "apply", file.to_str().unwrap()],
    ));
    assert_eq!(ask(&border, "/click?ad_id=banner&click_id=c1").status, 302);
    wait_totals(&projector, "spring", &[("clicks", 1)]);
    // An API without shards of its own asks as the same user. Whoever could answer there could say any number, so
    // nobody else may listen.
    let remote = Options::default().env("ADTALLY_QUERY_SHARDS", "remote");
    let api = serve_with(remote, &broker, "projector", "api");
    wait_totals(&api, "spring", &[("clicks", 1)]);
    for user in [
        "border",
        "decider",
        "archiver",
        "catalogue",
        "statements",
        "operator",
    ] {
        let heard = listens(&broker, user, "adtally.query.0");
        assert!(!heard, "{user} may answer for shards");
    }
    assert!(listens(&broker, "projector", "adtally.query.0"));
    // The address was hashed: the border may make and use the day keys.
    let tail = ok(&as_user(
        &broker,
        "operator",
        &["events", "tail", "--kind", "click"],
    ));
    let click: Value = serde_json::from_str(tail.lines().next().unwrap()).unwrap();
    assert_eq!(click["click_id"], "c1");
    assert_eq!(click["flags"], json!([]));
    let log = border.log();
    assert!(!log.contains("Permissions Violation"), "{log}");
    // A month is closed by its own user, and by nobody else: not even by a `serve`.
    let close = [
        "statement",
        "--advertiser",
        "acme",
        "--month",
        "2026-01",
        "--close",
        "--json",
    ];
    for user in ["serve", "operator"] {
        let (output, text) = wait_for("every producer to have announced the month's end", || {
            let output = as_user(&broker, user, &close);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            (!text.contains("is complete only up to")).then_some((output, text))
        });
        assert_eq!(output.status.code(), Some(3), "{user}: {text}");
        assert!(text.contains("could not be closed"), "{user}: {text}");
    }
    let closed: Value = serde_json::from_str(&ok(&as_user(&broker, "statements", &close))).unwrap();
    assert_eq!(closed["closed"]["sequence"], 1, "{closed}");
    // Who may not write the catalogue is told so, and does not wait for an acknowledgement for ever.
    let output = as_user(&broker, "projector", &["keys", "create", "--admin"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        output.stdout.is_empty() && text.contains("may not write"),
        "{text}"
    );
    // Nor does a simulation send again what nobody will ever take.
    for (user, subject) in [("catalogue", "\"ads."), ("border", "\"catalog.")] {
        let began = Instant::now();
        let simulate = ["simulate", "--via", "nats", "--url", &projector.url];
        let output = as_user(&broker, user, &simulate);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{user}: {text}");
        assert!(
            text.contains("may not publish") && text.contains(subject),
            "{user}: {text}"
        );
        assert!(began.elapsed() < Duration::from_secs(30), "{user}: {text}");
    }
    let output = Command::new(ADTALLY)
        .args([
            "streams",
            "check",
            "--server",
            &broker.url(),
            "--user",
            "operator",
            "--password",
            "wrong",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("refuses these credentials"), "{text}");
}
