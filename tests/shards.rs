//! APIs that fold nothing, and processes that fold and answer for shards: killed, stopped, started again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::support::http::{ask, metric, post_json};
use crate::support::{Broker, Options, Server, get, small_catalogue, wait_for};

const CLICKS: usize = 300;
const TOTALS: &str = "/api/v1/analytics?campaign_id=spring&granularity=total&start=2001-01-01T00:00Z&end=2100-01-01T00:00Z";
const BY_ALL: &str = "/api/v1/analytics?campaign_id=spring&granularity=day&group_by=ad_id,region,device&start=2026-03-01&end=2026-03-09";

struct Deployment {
    broker: Broker,
    border: Server,
    projectors: Vec<Server>,
    apis: Vec<Server>,
}

fn deployment() -> Deployment {
    let broker = Broker::start();
    let with = |roles: &str| {
        let options = Options::default().arg("--server").arg(broker.url());
        options.arg("--roles").arg(roles)
    };
    let border = Server::start(with("collector"));
    let projectors = (0..2).map(|_| Server::start(with("projector"))).collect();
    let remote = || with("api").env("ADTALLY_QUERY_SHARDS", "remote");
    let apis = (0..2).map(|_| Server::start(remote())).collect();
    Deployment {
        broker,
        border,
        projectors,
        apis,
    }
}

fn clicks(from: usize, count: usize) -> Value {
    let one = |n: usize| {
        let day = 1 + n % 7;
        json!({"kind": "click", "click_id": format!("click-{n}"), "ad_id": format!("ad-{}", n % 20),
            "ts": format!("2026-03-{day:02}T12:00:00Z"), "geo": (["US-CA", "DE"][n % 2]), "user_id": format!("u-{}", n % 70)})
    };
    json!((from..from + count).map(one).collect::<Vec<_>>())
}

fn catalogue() -> Value {
    let mut catalogue = small_catalogue();
    let ads = catalogue["ads"].as_array_mut().unwrap();
    ads.extend((0..20).map(|n| json!({"ad_id": format!("ad-{n}"), "campaign_id": "spring", "landing_url": "https://shop.example/", "status": "active"})));
    catalogue
}

/// The answer without what says which process gave it.
fn counted(api: &Server, path: &str) -> Value {
    let mut answer = api.json(path);
    let fields = answer.as_object_mut().unwrap();
    fields.retain(|name, _| !["as_of", "complete_through", "plan"].contains(&name.as_str()));
    answer
}

fn wait_clicks(api: &Server, count: usize) {
    wait_for("the clicks to be counted", || {
        (api.json(TOTALS)["totals"]["clicks"] == count).then_some(())
    });
}

#[test]
fn an_api_without_shards_answers_from_whoever_has_them_and_from_nobody_never() {
    let mut d = deployment();
    d.border.apply_catalogue(&catalogue());
    let answer = post_json(&d.border, "/api/v1/events", &clicks(0, CLICKS)).json();
    assert_eq!(answer["accepted"], CLICKS, "{answer}");
    d.apis.iter().for_each(|api| wait_clicks(api, CLICKS));

    // Of 128 MiB a quarter is for blocks added up, and none for printed rows where nobody is answered over HTTP.
    let capacity = metric(
        &d.projectors[0],
        "adtally_block_cache_capacity_bytes",
        "memory",
    );
    assert_eq!(capacity, f64::from(96 << 20));

    // Both nodes say the same, whoever answers them.
    let days = "start=2026-03-01&end=2026-03-09";
    for path in [
        TOTALS.to_owned(),
        BY_ALL.to_owned(),
        format!("/api/v1/uniques?campaign_id=spring&{days}"),
        format!("/api/v1/top?advertiser_id=acme&{days}"),
        format!("/api/v1/fraud?campaign_id=spring&{days}"),
        "/api/v1/campaigns/spring/spend".to_owned(),
    ] {
        assert_eq!(
            counted(&d.apis[0], &path),
            counted(&d.apis[1], &path),
            "{path}"
        );
    }
    assert_eq!(
        d.apis[0].json(&format!("/api/v1/uniques?campaign_id=spring&{days}"))["unique_clickers"]["estimate"],
        70
    );
    let by_ad: i64 = counted(&d.apis[0], BY_ALL)["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["clicks"].as_i64().unwrap())
        .sum();
    assert_eq!(by_ad, CLICKS as i64);
    let as_of = d.apis[0].json(TOTALS)["as_of"].clone();
    assert!(
        (0..8)
            .all(|p| as_of[format!("replica.{p}")].is_string()
                && as_of[format!("events.{p}")].is_u64()),
        "{as_of}"
    );
    // Each process answers for some of the shards: nobody is asked always.
    let mut asked: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..10 {
        let as_of = d.apis[1].json(TOTALS)["as_of"].clone();
        for p in 0..8 {
            *asked
                .entry(as_of[format!("replica.{p}")].to_string())
                .or_default() += 1;
        }
    }
    assert_eq!(asked.len(), 2, "{asked:?}");

    // One hangs: whoever asks it goes to the other one. It is killed in the middle of questions: the same.
    kill(d.projectors[0].pid(), Signal::SIGSTOP).unwrap();
    assert_eq!(d.apis[0].json(TOTALS)["totals"]["clicks"], CLICKS);
    kill(d.projectors[0].pid(), Signal::SIGCONT).unwrap();
    let urls: Vec<String> = d
        .apis
        .iter()
        .map(|api| format!("{}{BY_ALL}", api.url))
        .collect();
    let answers = Arc::new(AtomicUsize::new(0));
    let counting = answers.clone();
    let asking = std::thread::spawn(move || {
        for n in 0..40 {
            let (status, body) = get(&urls[n % 2]);
            assert_eq!(status, 200, "{body}");
            let answer: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(answer["totals"]["clicks"], CLICKS, "{answer}");
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    wait_for("a third of the answers", || {
        (answers.load(Ordering::Relaxed) > 13 || asking.is_finished()).then_some(())
    });
    d.projectors[0].kill();
    asking.join().unwrap();

    // What comes after the kill is counted by the one that is left.
    post_json(&d.border, "/api/v1/events", &clicks(CLICKS, 50));
    d.apis.iter().for_each(|api| wait_clicks(api, CLICKS + 50));

    // Nobody has shards any more: named, and no number.
    d.projectors[1].kill();
    for api in &d.apis {
        let problem = ask(api, TOTALS);
        assert_eq!(problem.status, 503);
        let detail = problem.problem()["detail"].to_string();
        assert!(detail.contains("shards 0, 1, 2, 3, 4, 5, 6, 7"), "{detail}");
        assert!(!problem.header("retry-after").is_empty());
        let reason = wait_for("word of the shards that nobody has", || {
            let (status, body) = get(&format!("{}/readyz", api.url));
            (status == 503).then_some(body)
        });
        let named = "nobody answers for shard 0, 1, 2, 3, 4, 5, 6, 7:";
        assert!(reason.contains(named), "{reason}");
    }
    let options = Options::default().arg("--server").arg(d.broker.url());
    let _again = Server::start(options.arg("--roles").arg("projector"));
    d.apis.iter_mut().for_each(Server::wait_ready);
}
