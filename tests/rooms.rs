//! The walls between the rooms: the pure crates cannot do IO, because they have nothing to do it with.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_pure_crates_depend_on_no_runtime_no_broker_and_no_store() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--manifest-path",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let name_of = |id: &str| {
        metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["id"] == id)
            .unwrap()["name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for pure in ["adtally-streams", "adtally-projections", "adtally-archive"] {
        let root = nodes
            .iter()
            .map(|n| n["id"].as_str().unwrap())
            .find(|id| name_of(id) == pure)
            .unwrap();
        let (mut waiting, mut seen) = (vec![root.to_owned()], std::collections::BTreeSet::new());
        while let Some(id) = waiting.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let node = nodes.iter().find(|n| n["id"] == *id).unwrap();
            for dependency in node["deps"].as_array().unwrap() {
                let normal = dependency["dep_kinds"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|k| k["kind"].is_null());
                // Behind a feature of streams that the tests of other crates alone enable.
                let for_tests = name_of(dependency["pkg"].as_str().unwrap()) == "proptest";
                if normal && !for_tests {
                    waiting.push(dependency["pkg"].as_str().unwrap().to_owned());
                }
            }
        }
        let names: Vec<_> = seen.iter().map(|id| name_of(id)).collect();
        assert!(names.len() > 5, "the walk found only {names:?}");
        for forbidden in [
            "tokio",
            "async-nats",
            "rocksdb",
            "axum",
            "rand",
            "reqwest",
            "object_store",
            "foyer",
        ] {
            assert!(
                !names.iter().any(|n| n == forbidden),
                "{pure} reaches {forbidden}"
            );
        }
        assert!(
            pure != "adtally-streams" || !names.iter().any(|n| n == "adtally-projections"),
            "streams reaches projections"
        );
    }
}

#[test]
fn the_pure_crates_read_no_clock_and_no_environment() {
    for room in ["streams", "projections", "archive"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(room)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                // The tests at a file's end may read what is kept for them.
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                for forbidden in [
                    "SystemTime::now",
                    "Instant::now",
                    "Utc::now",
                    "Local::now",
                    "std::env::",
                    "std::fs::",
                    "std::net::Tcp",
                    "std::net::Udp",
                    "std::thread",
                ] {
                    assert!(
                        !text.contains(forbidden),
                        "{} has {forbidden}",
                        path.display()
                    );
                }
            }
        }
    }
}

#[test]
fn http_never_calls_the_runner_and_log_and_store_do_not_know_each_other() {
    for (room, forbidden) in [
        ("http", &["crate::runner", "crate::cli"][..]),
        (
            "log",
            &["crate::store", "crate::outbox", "crate::projector"],
        ),
        (
            "store",
            &["crate::log", "crate::outbox", "crate::projector"],
        ),
    ] {
        let mut files = Vec::new();
        let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room)];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path)
                } else {
                    files.push(path)
                }
            }
        }
        assert!(!files.is_empty(), "src/{room} is empty");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for name in forbidden {
                assert!(!text.contains(name), "{} reaches {name}", file.display());
            }
        }
    }
}
