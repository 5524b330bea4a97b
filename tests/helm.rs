//! The values for the official NATS chart: what the chart makes of them is a configuration that nats-server takes, and
//! it says what `nats/cluster/node.conf` says.
//!
//! No helm is asked for here. What the chart does to the server's configuration is done by hand, as its version 2.14.2
//! has it in `files/config/` and in `nats.formatConfig` of `templates/_helpers.tpl`; pods and volumes are not looked at.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::support::nats_server;

/// What stands in both configurations, outside and inside of the sections.
const SAME: [&str; 11] = [
    "max_payload",
    "max_pending",
    "max_connections",
    "ping_interval",
    "ping_max",
    "lame_duck_grace_period",
    "lame_duck_duration",
    "jetstream.sync_interval",
    "jetstream.max_memory_store",
    "cluster.ping_interval",
    "cluster.ping_max",
];

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn values() -> Value {
    serde_yaml_ng::from_str(&file("nats/helm/values.yaml")).unwrap()
}

/// `mergeOverwrite` of the chart: maps are merged, everything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// The server's configuration as a map, before it is written: `files/config/*.yaml` and every `merge`.
fn rendered(values: &Value) -> Value {
    let config = &values["config"];
    let raw = |value: &Value| json!(format!("<< {} >>", value.as_str().unwrap()));
    let mut cluster =
        json!({"name": values["fullnameOverride"], "port": 6222, "no_advertise": true});
    merge(&mut cluster, &config["cluster"]["merge"]);
    let (files, memory) = (
        &config["jetstream"]["fileStore"],
        &config["jetstream"]["memoryStore"],
    );
    let mut jetstream = json!({
        "store_dir": "/data",
        "max_file_store": raw(&files["maxSize"]),
        "max_memory_store": raw(&memory["maxSize"]),
    });
    merge(&mut jetstream, &config["jetstream"]["merge"]);
    let mut all = json!({
        "server_name": "<< $SERVER_NAME >>",
        "lame_duck_grace_period": "10s",
        "lame_duck_duration": "30s",
        "pid_file": "/var/run/nats/nats.pid",
        "port": 4222,
        "http_port": 8222,
        "cluster": cluster,
        "jetstream": jetstream,
    });
    merge(&mut all, &config["merge"]);
    all
}

/// The text of nats.conf: JSON in which a key that ends in `$include` is a directive, and what stands in `<< >>` is not
/// quoted.
fn text(config: &Value) -> String {
    let mut lines = Vec::new();
    for line in serde_json::to_string_pretty(config).unwrap().lines() {
        let line = match line.split_once("$include\": \"") {
            Some((_, path)) => {
                let path = path.trim_end_matches(',').trim_end_matches('"');
                format!("include {path};")
            }
            None => line.replace("\"<< ", "").replace(" >>\"", ""),
        };
        lines.push(line);
    }
    lines.join("\n")
}

/// Every variable of the pod's environment, with passwords for those that come from the secret.
fn environment(values: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    for user in file("nats/accounts.conf").split("password: $").skip(1) {
        let name = user.split_whitespace().next().unwrap();
        out.insert(name.to_owned(), json!(format!("secret-of-{name}")));
    }
    let given = values["container"]["env"].as_object().unwrap();
    for (name, value) in given {
        let value = match value.as_str() {
            // As the kubelet expands what was defined before.
            Some(text) => {
                let known = out
                    .iter()
                    .map(|(name, value)| (format!("$({name})"), value));
                let known: Vec<_> = known.collect();
                known.iter().fold(text.to_owned(), |text, (name, value)| {
                    text.replace(name, value.as_str().unwrap())
                })
            }
            None => format!("secret-of-{name}"),
        };
        out.insert(name.clone(), json!(value));
    }
    out
}

/// The value of `section.key`, or of a key outside of any section, in a configuration of nats-server.
fn value_in(text: &str, path: &str) -> String {
    let (section, key) = path.split_once('.').unwrap_or(("", path));
    let mut within = String::new();
    for line in text.lines().map(str::trim) {
        let line = line.split('#').next().unwrap().trim();
        if let Some(name) = line.strip_suffix('{') {
            within = name.trim().to_owned();
        } else if line == "}" {
            within.clear();
        } else if let Some(value) = line
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(':'))
            && within == section
        {
            return value.trim().trim_matches('"').to_owned();
        }
    }
    panic!("{path} is not in the configuration")
}

#[test]
fn the_chart_makes_a_configuration_that_the_server_takes() {
    let values = values();
    let folder = tempfile::TempDir::new().unwrap();
    // As they are mounted in the pod.
    let (config, accounts) = (
        folder.path().join("nats-config"),
        folder.path().join("nats-accounts"),
    );
    std::fs::create_dir(&config).unwrap();
    std::fs::create_dir(&accounts).unwrap();
    std::fs::write(accounts.join("accounts.conf"), file("nats/accounts.conf")).unwrap();
    let conf = text(&rendered(&values));
    std::fs::write(config.join("nats.conf"), &conf).unwrap();
    let environment = environment(&values);
    assert!(
        !conf.contains("secret-of"),
        "passwords stay in the environment: {conf}"
    );
    let taken = |without: &str| {
        let given = environment.iter().filter(|(name, _)| *name != without);
        Command::new(nats_server())
            .arg("-t")
            .arg("-c")
            .arg(config.join("nats.conf"))
            .env("SERVER_NAME", "nats-0")
            .envs(given.map(|(name, value)| (name, value.as_str().unwrap())))
            .output()
            .unwrap()
    };
    let output = taken("");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{conf}");
    // Every one of them is asked for, so none is misspelt.
    for name in environment.keys() {
        assert!(!taken(name).status.success(), "{name} is not needed");
    }
    let routes = environment["ADTALLY_ROUTES"].as_str().unwrap();
    let routes: Vec<String> = serde_json::from_str(routes).unwrap();
    let pods = (0..3).map(|n| {
        format!(
            "nats-route://cluster:secret-of-ADTALLY_CLUSTER_PASSWORD@nats-{n}.nats-headless:6222"
        )
    });
    assert_eq!(routes, pods.collect::<Vec<_>>());
}

#[test]
fn the_chart_says_what_the_node_of_a_cluster_says() {
    let node = file("nats/cluster/node.conf");
    let chart = rendered(&values());
    for path in SAME {
        let value = path.split('.').fold(&chart, |value, key| &value[key]);
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let text = text.trim_start_matches("<< ").trim_end_matches(" >>");
        assert_eq!(text, value_in(&node, path), "{path}");
    }
    // Room for the streams of the default, on each of three.
    let values = values();
    assert_eq!(values["config"]["cluster"]["replicas"], 3);
    assert_eq!(values["podDisruptionBudget"]["enabled"], true);
}
