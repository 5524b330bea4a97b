//! Three nats-servers: streams of three copies, a leader that is killed, a majority that is away; and a broker that
//! asks for certificates and credentials.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::http::{ask, wait_totals};
use crate::support::{
    ADTALLY, Broker, Options, Server, block_on, get, ok, small_catalogue, wait_for,
};

/// Everything that has to survive the loss of a node.
const STREAMS: [&str; 7] = [
    "INTAKE",
    "CATALOG",
    "STATEMENTS",
    "QUARANTINE",
    "EVENTS_0",
    "EVENTS_1",
    "KV_ADTALLY_DAY_KEYS",
];

fn command(broker: &Broker, args: &[&str]) -> std::process::Output {
    Command::new(ADTALLY)
        .args(args)
        .args(["--server", &broker.url()])
        .output()
        .unwrap()
}

/// Two shards of three copies, and a server on them.
fn deployment(broker: &Broker) -> Server {
    let made = command(
        broker,
        &["streams", "apply", "--shards", "2", "--replicas", "3"],
    );
    assert!(ok(&made).contains("EVENTS_1"));
    let server = Server::start(Options::default().arg("--server").arg(broker.url()));
    server.apply_catalogue(&small_catalogue());
    server
}

/// What a server of the broker says of a stream: asked anew until somebody leads it.
fn info(broker: &Broker, stream: &str) -> jetstream::stream::Info {
    let urls = broker.url();
    wait_for(stream, || {
        block_on(async {
            let urls: Vec<_> = urls.split(',').map(str::to_owned).collect();
            let client = async_nats::connect(urls).await.ok()?;
            let mut stream = jetstream::new(client).get_stream(stream).await.ok()?;
            stream.info().await.ok().cloned()
        })
    })
}

fn leader(broker: &Broker, stream: &str) -> String {
    wait_for("a leader", || info(broker, stream).cluster?.leader)
}

/// The shard that the events of the catalogue's only ad go to.
fn shard_of_banner(broker: &Broker) -> &'static str {
    let fullest = ["EVENTS_0", "EVENTS_1"].map(|name| (info(broker, name).state.bytes, name));
    fullest.into_iter().max().unwrap().1
}

#[test]
fn three_copies_of_everything_and_the_loss_of_any_leader_loses_nothing() {
    let mut broker = Broker::of(3, "");
    let server = deployment(&broker);
    let mut clicks = 0;
    let mut click = || {
        clicks += 1;
        let answer = ask(
            &server,
            &format!("/click?ad_id=banner&click_id=c{clicks}&user_id=u{clicks}"),
        );
        assert_eq!(answer.status, 302, "{}", answer.text());
        clicks
    };
    for _ in 0..20 {
        click();
    }
    wait_totals(&server, "spring", &[("gross_clicks", 20)]);
    for stream in STREAMS {
        assert_eq!(info(&broker, stream).config.num_replicas, 3, "{stream}");
    }
    // No flag says how many copies, and none is missed.
    ok(&command(&broker, &["streams", "check"]));
    let mut counted = 20;
    for stream in [shard_of_banner(&broker), "CATALOG"] {
        let lost = leader(&broker, stream);
        broker.kill_one(&lost);
        let (began, before) = (Instant::now(), counted);
        // Through the whole election, and never fewer however slow the machine is.
        while began.elapsed() < Duration::from_secs(3) || counted < before + 15 {
            counted = click();
            std::thread::sleep(Duration::from_millis(30));
        }
        wait_totals(&server, "spring", &[("gross_clicks", counted)]);
        assert_ne!(leader(&broker, stream), lost);
        broker.run_one(&lost);
        wait_for("readiness", || {
            (get(&format!("{}/readyz", server.url)).0 == 200).then_some(())
        });
    }
}

#[test]
fn without_a_majority_clicks_are_answered_and_readyz_says_why() {
    let mut broker = Broker::of(3, "");
    let server = deployment(&broker);
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    broker.kill_one("n1");
    broker.kill_one("n2");
    let (mut answered, mut said) = (1, String::new());
    // The one that is left takes connections; that nobody leads is what has to be said.
    let why = wait_for("what is wrong", || {
        let click = ask(
            &server,
            &format!("/click?ad_id=banner&click_id=alone-{answered}&user_id=u{answered}"),
        );
        assert_eq!(click.status, 302, "{}", click.text());
        answered += 1;
        std::thread::sleep(Duration::from_millis(100));
        let (status, body) = get(&format!("{}/readyz", server.url));
        // Shown when this waits in vain.
        if body != said {
            eprintln!("{status} {body}");
            said.clone_from(&body);
        }
        (status == 503 && body.contains("no leader")).then_some(body)
    });
    assert!(why.contains("majority"), "{why}");
    broker.run();
    wait_totals(&server, "spring", &[("gross_clicks", answered)]);
    wait_for("readiness", || {
        (get(&format!("{}/readyz", server.url)).0 == 200).then_some(())
    });
}

#[test]
fn servers_that_come_late_are_waited_for() {
    let mut broker = Broker::growing();
    broker.run_one("n1");
    let options = Options::default().env("ADTALLY_STREAMS_REPLICAS", "3");
    let mut server = Server::spawn(options.arg("--server").arg(broker.url()));
    wait_for("word that nobody decides", || {
        server
            .log()
            .contains("waiting for the broker")
            .then_some(())
    });
    // Two are a cluster that has a leader, and no place for three copies.
    broker.run_one("n2");
    let said = wait_for("word of the place that is missing", || {
        assert_eq!(server.ended(), None, "{}", server.log());
        let log = server.log();
        let line = log.lines().find(|line| line.contains("no place for"))?;
        Some(line.to_owned())
    });
    for word in ["EVENTS_0", "3", "no suitable peers", "streams.replicas"] {
        assert!(said.contains(word), "{said}");
    }
    // A command waits as well, for as long as an election takes, and then says the same.
    let apply = command(&broker, &["streams", "apply", "--replicas", "3"]);
    let text = String::from_utf8_lossy(&apply.stderr).into_owned();
    assert_eq!(apply.status.code(), Some(3), "{text}");
    assert!(text.contains("no place for EVENTS_0"), "{text}");
    assert_eq!(server.ended(), None, "{}", server.log());
    broker.run_one("n3");
    server.wait_ready();
    server.apply_catalogue(&small_catalogue());
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    assert_eq!(info(&broker, "EVENTS_7").config.num_replicas, 3);
}

/// A broker's configuration that asks for certificates and for a user's JWT, and what a client needs.
struct Guarded {
    config: String,
    client: Vec<String>,
}

fn guarded(folder: &Path) -> Guarded {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    };
    let (server, client) = (certificate("127.0.0.1"), certificate("border"));
    let ca = write("ca.pem", &authority.pem());
    let (operator, account, system, user) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    );
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    let mut with_jetstream = unlimited.clone();
    for name in ["mem_storage", "disk_storage", "streams", "consumer"] {
        with_jetstream[name] = json!(-1);
    }
    let of_account = |limits| json!({"type": "account", "version": 2, "limits": limits});
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(
            &account,
            &user,
            json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}})
        ),
        user.seed().unwrap()
    );
    let config = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{ca}\", verify: true }}\n\
         operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n  {}: \"{}\"\n  {}: \"{}\"\n}}\n",
        write("server.pem", &server.0),
        write("server.key", &server.1),
        jwt(
            &operator,
            &operator,
            json!({"type": "operator", "version": 2})
        ),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, of_account(with_jetstream)),
        system.public_key(),
        jwt(&operator, &system, of_account(unlimited)),
    );
    let client = [
        ("--creds", write("user.creds", &creds)),
        ("--tlsca", ca.clone()),
        ("--tlscert", write("client.pem", &client.0)),
        ("--tlskey", write("client.key", &client.1)),
    ];
    Guarded {
        config,
        client: client
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path])
            .collect(),
    }
}

/// A JWT as `nsc` makes them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let claims = json!({"jti": subject.public_key(), "iat": chrono::Utc::now().timestamp(),
        "iss": issuer.public_key(), "sub": subject.public_key(), "name": "test", "nats": nats});
    let signed = format!(
        "{}.{}",
        encode(json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        encode(claims)
    );
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[test]
fn certificates_and_a_credentials_file_let_one_in_and_their_lack_does_not() {
    let folder = tempfile::TempDir::new().unwrap();
    let guarded = guarded(folder.path());
    let broker = Broker::with(&guarded.config);
    let as_user = |args: &[&str], options: &[String]| {
        Command::new(ADTALLY)
            .args(args)
            .args(["--server", &broker.url()])
            .args(options)
            .output()
            .unwrap()
    };
    ok(&as_user(&["streams", "apply"], &guarded.client));
    let with_options = guarded
        .client
        .iter()
        .fold(Options::default(), |options, arg| options.arg(arg));
    let server = Server::start(with_options.arg("--server").arg(broker.url()));
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, small_catalogue().to_string()).unwrap();
    ok(&as_user(
        &["catalog", "apply", file.to_str().unwrap()],
        &guarded.client,
    ));
    assert_eq!(ask(&server, "/click?ad_id=banner").status, 302);
    wait_totals(&server, "spring", &[("clicks", 1)]);
    // The folder tells no address, because the address alone would not do.
    assert!(!server.data_dir.join("nats-url").exists());
    let [creds, certificates] = [&guarded.client[..2], &guarded.client[2..]];
    for (options, word) in [(certificates, "credentials"), (creds, "certificate")] {
        let output = as_user(&["streams", "check"], options);
        let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(word), "{text}");
    }
}
