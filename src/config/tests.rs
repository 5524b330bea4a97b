//! Layers, unknown keys and variables, and the list of settings held against the configuration itself.

#![allow(clippy::unwrap_used)]

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn no_env(_: &str) -> Option<String> {
    None
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let f = file("listen = '127.0.0.1:1001'\nlog = 'debug'\n[streams]\nshards = 4\n");
    let env = |name: &str| match name {
        "ADTALLY_LISTEN" => Some("127.0.0.1:1002".to_string()),
        "ADTALLY_STREAMS_SHARDS" => Some("2".to_string()),
        _ => None,
    };
    let flags = vec![FlagValue {
        key: "listen",
        flag: "--listen",
        value: toml::Value::String("127.0.0.1:1003".into()),
    }];
    let config = load(Some(f.path()), env, flags).unwrap();
    assert_eq!(config.listen.port(), 1003);
    assert_eq!(config.streams.shards, Some(2));
    assert_eq!(config.log, "debug");
    assert_eq!(config.http, Http::default());
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_found_and_others_are_left_alone() {
    let nearest = settings::misspelt_variable;
    assert_eq!(nearest("ADTALLY_LISEN").as_deref(), Some("ADTALLY_LISTEN"));
    assert_eq!(
        nearest("ADTALLY_OUTBOX_CAPACTIY").as_deref(),
        Some("ADTALLY_OUTBOX_CAPACITY")
    );
    for other in [
        "ADTALLY_LISTEN",
        "ADTALLY_CONFIG",
        "ADTALLY_NATS_SERVER",
        "ADTALLY_NATS_CLI",
        "ADTALLY_CACHE",
        "ADTALLY_SERVE_PASSWORD",
        "ADTALLY_BORDER_PASSWORD",
        "LISEN",
    ] {
        assert_eq!(nearest(other), None, "{other}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (text, key, nearest) in [
        (
            "[collector]\nsigning_secrt = 'x'",
            "collector.signing_secrt",
            "collector.signing_secret",
        ),
        ("lisen = 'x'", "lisen", "listen"),
        ("[colector]\nsigning_secret = 'x'", "colector", "collector"),
        (
            "[http]\noldest_event = 1",
            "http.oldest_event",
            "collector.oldest_event",
        ),
    ] {
        let error = load(Some(file(text).path()), no_env, Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("unknown key `{key}`")), "{error}");
        assert!(
            error.contains(&format!("did you mean `{nearest}`")),
            "{error}"
        );
    }
}

#[test]
fn a_bad_value_is_named_with_its_place() {
    let env = |name: &str| (name == "ADTALLY_OUTBOX_CAPACITY").then(|| "much".to_string());
    let error = load(None, env, Vec::new()).unwrap_err().to_string();
    assert!(
        error.contains("ADTALLY_OUTBOX_CAPACITY") && error.contains("`much`"),
        "{error}"
    );
    let env = |name: &str| (name == "ADTALLY_ROLES").then(|| "collector,judge".to_string());
    let error = load(None, env, Vec::new()).unwrap_err().to_string();
    assert!(
        error.contains("no role `judge`") && error.contains("collector, intake, projector, api"),
        "{error}"
    );
    let error = load(
        Some(file("[streams]\nshards = 0").path()),
        no_env,
        Vec::new(),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("streams.shards"), "{error}");
}

#[test]
fn every_setting_is_listed_and_every_listed_one_exists() {
    let mut full = Config::default();
    let text = || Some("x".to_string());
    let path = || Some(PathBuf::from("x"));
    full.nats = Nats {
        url: text(),
        context: text(),
        creds: path(),
        user: text(),
        password: text(),
        tlsca: path(),
        tlscert: path(),
        tlskey: path(),
    };
    full.collector.signing_secret = text();
    full.collector.geoip_database = path();
    full.streams.shards = Some(1);
    full.streams.replicas = Some(1);
    full.streams.events_max_bytes = Some(Bytes(1));
    full.streams.intake_max_bytes = Some(Bytes(1));
    full.streams.quarantine_max_bytes = Some(Bytes(1));
    full.http.url = text();
    full.http.key = text();
    full.archive.url = text();
    let table = toml::Table::try_from(&full).unwrap();
    let mut found = Vec::new();
    for (name, value) in &table {
        match value.as_table() {
            Some(inner) => found.extend(inner.keys().map(|k| format!("{name}.{k}"))),
            None => found.push(name.clone()),
        }
    }
    let mut listed: Vec<String> = settings::SETTINGS
        .iter()
        .map(|s| s.key.to_string())
        .collect();
    found.sort();
    listed.sort();
    assert_eq!(found, listed);
    let mut variables: Vec<String> = settings::SETTINGS
        .iter()
        .flat_map(|s| s.variables())
        .collect();
    variables.sort_unstable();
    let all = variables.len();
    variables.dedup();
    assert_eq!(variables.len(), all);
}

#[test]
fn the_contracts_own_variable_names_are_read() {
    let env = |name: &str| match name {
        "ADTALLY_SIGNING_SECRET" => Some("s".to_string()),
        "ADTALLY_COLLECTOR_TRUSTED_PROXIES" => Some("127.0.0.1, 10.0.0.0/8".to_string()),
        "NATS_URL" => Some("nats://here:4222".to_string()),
        _ => None,
    };
    let config = load(None, env, Vec::new()).unwrap();
    assert_eq!(config.collector.signing_secret.as_deref(), Some("s"));
    assert_eq!(config.collector.trusted_proxies.len(), 2);
    assert_eq!(config.nats.url.as_deref(), Some("nats://here:4222"));
}

#[test]
fn a_verification_that_would_miss_damage_and_checkpoints_that_nobody_keeps_are_refused() {
    let refused = |text: &str| load(Some(file(text).path()), no_env, Vec::new()).unwrap_err();
    let error = refused("[verify]\nevery = '2d'\n").to_string();
    assert!(error.contains("verify.from"), "{error}");
    let error = refused("[checkpoints]\nkeep = 0\n").to_string();
    assert!(error.contains("checkpoints.keep"), "{error}");
    for text in [
        "[verify]\nevery = '2d'\nfrom = '0s'\n",
        "[verify]\nevery = '0s'\n",
        "[checkpoints]\nkeep = 0\nevery = '0s'\n",
    ] {
        load(Some(file(text).path()), no_env, Vec::new()).unwrap();
    }
}

#[test]
fn room_on_disk_for_blocks_needs_memory_and_is_not_too_small() {
    for (memory, disk, said) in [
        ("0B", "1GiB", "query.block_cache has no room"),
        ("1MiB", "1MiB", "1MiB is under the least, 128MiB"),
    ] {
        let text = format!("[query]\nblock_cache = '{memory}'\nblock_cache_disk = '{disk}'\n");
        let error = load(Some(file(&text).path()), no_env, Vec::new()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("query.block_cache_disk") && error.contains(said),
            "{error}"
        );
    }
    for text in [
        "[query]\nblock_cache = '0B'\n",
        "[query]\nblock_cache = '1KiB'\nblock_cache_disk = '128MiB'\n",
    ] {
        load(Some(file(text).path()), no_env, Vec::new()).unwrap();
    }
}
