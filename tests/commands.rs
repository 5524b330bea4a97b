//! The command line: what it prints where, how it ends, and the demo that a stranger runs first.

use std::process::Command;

use serde_json::Value;

use crate::support::http::ask;
use crate::support::{ADTALLY, Folder, Options, Server, ok, small_catalogue};

fn adtally(args: &[&str]) -> std::process::Output {
    Command::new(ADTALLY)
        .args(args)
        .env_remove("NATS_URL")
        .output()
        .unwrap()
}

#[test]
fn the_demo_ends_with_equal_numbers() {
    let folder = Folder::bare();
    let output = Command::new(ADTALLY)
        .args(["demo", "--seconds", "5", "--exit", "--data-dir"])
        .arg(folder.path().join("demo"))
        .env_remove("NATS_URL")
        .output()
        .unwrap();
    let text = ok(&output);
    assert!(text.contains("clicks"), "{text}");
}

#[test]
fn simulate_over_both_ways_ends_with_an_exact_count() {
    let server = Server::start(Options::default());
    for via in ["http", "nats"] {
        let report = server.data_dir.join(format!("report-{via}.json"));
        ok(&server.cli(&[
            "simulate",
            "--events",
            "3000",
            "--seed",
            "5",
            "--via",
            via,
            "--report",
            report.to_str().unwrap(),
        ]));
        let report: Value =
            serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
        assert!(report.is_object(), "{report}");
    }
}

#[test]
fn the_log_can_be_read_and_its_writers_listed() {
    let server = Server::start(Options::default());
    server.apply_catalogue(&small_catalogue());
    assert_eq!(
        ask(&server, "/click?ad_id=banner&click_id=tailed").status,
        302
    );
    crate::support::http::wait_totals(&server, "spring", &[("clicks", 1)]);
    let producers: Value =
        serde_json::from_str(&ok(&server.cli(&["producers", "list", "--json"]))).unwrap();
    let list = producers.as_array().expect("a list of producers");
    assert!(list.len() >= 2, "a collector and an intake: {producers}");
    let mut tail = Command::new(ADTALLY)
        .args([
            "events",
            "tail",
            "--kind",
            "click",
            "--from",
            "beginning",
            "--data-dir",
        ])
        .arg(&server.data_dir)
        .env_remove("NATS_URL")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(tail.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let _ = tail.kill();
    let _ = tail.wait();
    assert!(line.contains("tailed") && line.contains("banner"), "{line}");
}

#[test]
fn wrong_words_end_with_2_and_say_what_was_meant() {
    for args in [
        &["serve", "--lisen", "x"][..],
        &["serv"],
        &["serve", "--roles", "judge"],
        &["keys", "create"],
    ] {
        let output = adtally(args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let folder = Folder::bare();
    let config = folder.path().join("adtally.toml");
    std::fs::write(&config, "[collector]\nsigning_secrt = \"x\"\n").unwrap();
    let output = adtally(&[
        "serve",
        "--config",
        config.to_str().unwrap(),
        "--data-dir",
        folder.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("signing_secret"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_stopped_deployment_is_opened() {
    let folder = Folder::new();
    let mut server = Server::start(Options::default().data_dir(&folder));
    assert_eq!(server.stop(), Some(0));
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, small_catalogue().to_string()).unwrap();
    ok(&crate::support::cli(
        &folder,
        &["catalog", "apply", file.to_str().unwrap()],
    ));
    let key = ok(&crate::support::cli(
        &folder,
        &["keys", "create", "--admin"],
    ));
    let server = Server::start(Options::default().data_dir(&folder));
    let bearer = format!("Bearer {}", key.trim());
    let answer = crate::support::http::ask_as(
        &server,
        "GET",
        "/api/v1/catalog/ads/banner",
        &[("authorization", &bearer)],
    );
    assert_eq!(
        (answer.status, answer.json()["campaign_id"].as_str()),
        (200, Some("spring"))
    );
    ok(&server.cli(&["producers", "list"]));
}
