//! Questions over NATS against the same questions over the same state in this process: the answers are equal.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use adtally_projections::block::BlockError;
use adtally_projections::buckets::Granularity;
use adtally_projections::cells::Grain;
use adtally_projections::family::Family;
use adtally_projections::partial::Dimension;
use adtally_projections::ratios::Metric;
use adtally_projections::rolling::Windows;
use adtally_projections::table::{Row, Table};
use async_nats::Client;
use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::wire::{Ask, Request, dialect, encode, open_subject};
use super::{Remote, serve};
use crate::log::connect::{NatsOptions, connect};
use crate::log::embedded::NatsServer;
use crate::query::analytics::{Question, answer};
use crate::query::block_cache::{BlockCache, Found, Room, ShardBlocks};
use crate::query::shard::{EachRow, Shard, ShardRead, SnapshotSet, Snapshots};
use crate::query::tests::{
    Plain, cancel, catalogue, click, folded, id, ms, named, question, seal_some, span, states,
};
use crate::query::{QueryError, fraud, rolling, scope, spend, trending, uniques};
use adtally_streams::event::{EdgeReason, Kind};

const SHARDS: u16 = 3;
const NOW: &str = "2024-03-05T15:37:20Z";

struct Held(SnapshotSet<'static>);

impl Snapshots for Held {
    fn with(&self, work: &mut dyn FnMut(&SnapshotSet<'_>)) -> Result<(), QueryError> {
        work(&self.0);
        Ok(())
    }
}

fn events() -> Vec<Plain> {
    let mut out = Vec::new();
    for n in 0..3_000u32 {
        let ad = ["banner", "tower", "board"][n as usize % 3];
        let campaign = ["spring", "autumn"][n as usize % 2];
        out.push(Plain {
            kind: if n % 4 == 0 {
                Kind::Click
            } else {
                Kind::Impression
            },
            creative: ["", "red"][n as usize % 2],
            region: ["US-CA", "DE", ""][n as usize % 3],
            time_ms: ms(NOW) - i64::from(n) * 37_000,
            verdict: (n % 20 == 0).then_some(EdgeReason::Prefetch),
            user: n % 500,
            ..click(campaign, ad, NOW)
        });
    }
    // An ad that trends.
    out.extend((0..60).map(|n| Plain {
        time_ms: ms(NOW) - n * 50_000,
        ..click("spring", "tower", NOW)
    }));
    // A campaign that was counted before the catalogue knew it.
    out.push(click("unheard", "elsewhere", NOW));
    out
}

/// A table by its names, whatever numbers they have in it.
fn printed(table: &Table) -> String {
    let row = |row: &Row| {
        let group: Vec<_> = table.group(row).collect();
        format!("{:?} {group:?} {:?}", table.slot(row), row.metrics.fields())
    };
    let rows: Vec<String> = table.rows().map(|r| row(&r)).collect();
    format!("{} {:?}", rows.join("\n"), table.totals)
}

/// Everything that can be asked of shards, printed.
fn all(set: &SnapshotSet<'_>) -> Vec<String> {
    let (catalogue, cancel) = (catalogue(), cancel());
    let both = || named("campaign_id", &["spring", "autumn"]);
    let range = span("2024-03-03", "2024-03-06");
    let mut out = Vec::new();
    let table = |q: &Question| {
        let found = answer(q, || &catalogue, set, &cancel).unwrap();
        let of = (found.read, found.as_of.positions);
        format!("{} {of:?}", printed(&found.table))
    };
    for group_by in [
        vec![],
        vec![Dimension::AdId, Dimension::Region],
        Dimension::ALL.to_vec(),
    ] {
        for time_zone in [None, Some(chrono_tz::Australia::Lord_Howe)] {
            let q = Question {
                group_by: group_by.clone(),
                time_zone,
                fill: true,
                regions: BTreeSet::from(["DE".to_owned(), "FR".to_owned()]),
                ..question(both(), range)
            };
            out.push(table(&q));
            out.push(table(&Question {
                metrics: [Metric::Ctr, Metric::LateEvents].into_iter().collect(),
                ..q
            }));
        }
    }
    out.push(table(&question(
        named("ad_id", &["banner", "nowhere"]),
        range,
    )));
    out.push(table(&question(named("advertiser_id", &["acme"]), range)));
    let windows = Windows::until(ms(NOW), 600_000).unwrap();
    let rolled = rolling::answer(both(), &windows, None, || &catalogue, set, &cancel).unwrap();
    out.push(format!("{:?}", rolled.rows));
    let acme = named("advertiser_id", &["acme"]);
    let trend = trending::answer(acme, ms(NOW), None, 10, || &catalogue, set, &cancel).unwrap();
    out.push(format!("{:?}", trend.rows));
    let asked = fraud::Question {
        subject: both(),
        span: range,
        reason: None,
    };
    out.push(format!(
        "{:?}",
        fraud::sums(&asked, || &catalogue, set, &cancel).unwrap().1
    ));
    let page = fraud::page(&asked, None, 40, || &catalogue, set, &cancel).unwrap();
    out.push(format!("{:?} {:?}", page.clicks, page.next));
    let budget = spend::Budget::of(&catalogue, &id("spring"));
    let spent = spend::answer(&id("spring"), budget.as_ref(), ms(NOW), set).unwrap();
    out.push(format!(
        "{} {} {:?}",
        spent.today_micros, spent.total_micros, spent.as_of.complete_through_ms
    ));
    let people = uniques::answer(&both(), &range, || &catalogue, set, &cancel).unwrap();
    out.push(format!("{:?} {:?}", people.clickers, people.reached));
    out
}

async fn broker(folder: &std::path::Path) -> (NatsServer, Client) {
    let server = NatsServer::start(folder).await.unwrap();
    let client = connect(&NatsOptions::of_url(server.url()), "test")
        .await
        .unwrap();
    (server, client)
}

/// A process with shards; the token ends it.
async fn process(client: &Client, set: SnapshotSet<'static>) -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn(serve(
        client.clone(),
        Arc::new(Held(set)),
        SHARDS,
        stop.clone(),
    ));
    for shard in 0..SHARDS {
        let open = encode(&Request {
            dialect: dialect(),
            session: 0,
            number: 1,
            ask: Ask::Open(shard),
        });
        while client
            .request(open_subject(shard), open.clone().into())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop
}

async fn asked<T: Send + 'static>(
    remote: &Arc<Remote>,
    work: impl FnOnce(&SnapshotSet<'_>) -> T + Send + 'static,
) -> Result<T, QueryError> {
    let remote = remote.clone();
    let run = move || {
        let (mut work, mut out) = (Some(work), None);
        remote.with(&mut |set| out = work.take().map(|work| work(set)))?;
        Ok(out.unwrap())
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_elsewhere_answer_as_shards_here() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = broker(folder.path()).await;
    let catalogue = catalogue();
    let here = all(&folded(&events(), &catalogue, 5));
    assert!(here.iter().all(|answer| answer.len() > 10));
    let stop = process(&client, folded(&events(), &catalogue, 5)).await;
    let remote = Arc::new(Remote::new(client.clone(), SHARDS));
    let (there, as_of) = asked(&remote, |set| (all(set), set.as_of().unwrap()))
        .await
        .unwrap();
    for (n, (there, here)) in there.iter().zip(&here).enumerate() {
        assert!(there == here, "answer {n}: {there:.400}\nnot {here:.400}");
    }
    assert_eq!(as_of.replicas.len(), usize::from(SHARDS));
    assert_eq!(as_of.generation, "g-1");

    // Of a question that was begun nothing is answered any more once its process is gone.
    let gone = asked(&remote, move |set| {
        stop.cancel();
        // What it still answers before it has ended is right. For this long it would hold a snapshot anyhow.
        let began = std::time::Instant::now();
        loop {
            let found = set.shards[1].symbol(adtally_projections::symbols::Space::Ad, "banner");
            if found.is_err() || began.elapsed() > Duration::from_secs(25) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(matches!(
        gone.await.unwrap(),
        Err(QueryError::ShardsAway(_))
    ));
    let nobody = asked(&remote, |_| ()).await.unwrap_err();
    assert_eq!(nobody, QueryError::ShardsAway(vec![0, 1, 2]));
    assert!(nobody.to_string().contains("shards 0, 1, 2"), "{nobody}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_larger_than_a_message_comes_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = broker(folder.path()).await;
    let catalogue = catalogue();
    let many = |n: u32| Plain {
        time_ms: ms("2024-03-01T00:00:00Z") + i64::from(n % 9_000) * 60_000,
        creative: ["", "red", "blue", "green"][n as usize / 9_000],
        ..click("spring", "banner", NOW)
    };
    let events: Vec<Plain> = (0..36_000).map(many).collect();
    let asks = Question {
        granularity: Some(Granularity::Minute),
        group_by: vec![Dimension::Creative, Dimension::AdId],
        ..question(
            named("campaign_id", &["spring"]),
            span("2024-03-01T00:00Z", "2024-03-07T10:00Z"),
        )
    };
    let rows = {
        let catalogue = catalogue.clone();
        move |set: &SnapshotSet<'_>| answer(&asks, || &catalogue, set, &cancel()).unwrap().table
    };
    let here = rows(&folded(&events, &catalogue, 5));
    assert_eq!(here.len(), 36_000);
    let _stop = process(&client, folded(&events, &catalogue, 5)).await;
    let remote = Arc::new(Remote::new(client.clone(), SHARDS));
    let there = asked(&remote, rows).await.unwrap();
    assert!(printed(&there) == printed(&here));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_speaks_another_version_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = broker(folder.path()).await;
    let _stop = process(&client, folded(&[], &catalogue(), 5)).await;
    let open = |dialect: String| {
        let open = encode(&Request {
            dialect,
            session: 0,
            number: 1,
            ask: Ask::Open(0),
        });
        bytes::Bytes::from(open)
    };
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let foreign = open("2/2027a".to_owned());
    client
        .publish_with_reply(open_subject(0), inbox, foreign)
        .await
        .unwrap();
    // Those that were sent after it are answered, so it was not overlooked.
    for _ in 0..20 {
        client
            .request(open_subject(0), open(dialect()))
            .await
            .unwrap();
    }
    assert!(answers.next().now_or_never().is_none(), "it was answered");
    server.stop().await;
}

/// What the scope of campaigns needs is asked in pieces that fit a message.
#[tokio::test(flavor = "multi_thread")]
async fn more_campaigns_than_fit_a_message_are_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = broker(folder.path()).await;
    let catalogue = catalogue();
    let events = [
        click("spring", "banner", NOW),
        click("autumn", "tower", NOW),
    ];
    let _stop = process(&client, folded(&events, &catalogue, 5)).await;
    let remote = Arc::new(Remote::new(client.clone(), SHARDS));
    let subject = scope::Subject {
        campaigns: (0..30_000)
            .map(|n| {
                id(&format!(
                    "campaign-of-a-rather-long-name-that-fills-its-place-{n:08}"
                ))
            })
            .chain([id("spring"), id("autumn")])
            .collect(),
        ..scope::Subject::default()
    };
    let asks = question(subject, span("2024-03-05", "2024-03-06"));
    let clicks = asked(&remote, move |set| {
        let found = answer(&asks, || &catalogue, set, &cancel()).unwrap();
        found.table.totals.clicks()
    });
    assert_eq!(clicks.await.unwrap(), 2);
    server.stop().await;
}

/// A shard with a cache of its blocks, as a process with the role projector has it.
struct Cached {
    rows: Box<dyn ShardRead>,
    blocks: ShardBlocks,
}

impl ShardRead for Cached {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        self.rows.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        each: EachRow<'_>,
    ) -> Result<(), QueryError> {
        self.rows.scan(family, from, to, each)
    }

    fn unpacked(
        &self,
        grain: Grain,
        key: &[u8],
        value: &[u8],
    ) -> Option<Result<Found, BlockError>> {
        self.blocks.unpacked(grain, key, value)
    }
}

/// 40 ads in 30 regions on each of ten days, each a few times: blocks that are large enough to be kept.
fn many() -> Vec<Plain> {
    let leak = |name: String| -> &'static str { Box::leak(name.into_boxed_str()) };
    let mut out = Vec::new();
    for n in 0..12_000u64 {
        let (ad, region, day) = (n % 40, n / 40 % 30, 1 + n / 1_200);
        let time = format!("2024-02-{day:02}T17:00:00Z");
        let event = Plain {
            region: leak(format!("R-{region}")),
            ..click("spring", leak(format!("ad-{ad}")), &time)
        };
        out.extend(vec![event; 1 + (n * n % 101 % 4) as usize]);
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_elsewhere_answers_from_its_cache_of_blocks_as_from_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = broker(folder.path()).await;
    let sealed = || {
        states(&many(), &catalogue(), 0, |state, fold, _, _| {
            seal_some(state, fold, |_| true);
        })
    };
    let asks = || Question {
        group_by: vec![Dimension::AdId, Dimension::Region],
        granularity: Some(Granularity::Day),
        ..question(
            named("campaign_id", &["spring"]),
            span("2024-02-01", "2024-02-20"),
        )
    };
    let known = catalogue();
    let here = answer(&asks(), || &known, &sealed(), &cancel()).unwrap();
    let want = printed(&here.table);
    let room = Room {
        memory_bytes: 32 << 20,
        printed_bytes: 0,
        disk_bytes: 0,
    };
    let cache = BlockCache::open(room, std::path::Path::new("/nowhere"))
        .await
        .unwrap();
    let mut set = sealed();
    set.shards = set
        .shards
        .into_iter()
        .map(|shard| Shard {
            number: shard.number,
            rows: Box::new(Cached {
                rows: shard.rows,
                blocks: ShardBlocks::new(&cache, shard.number, "g-1"),
            }) as Box<dyn ShardRead>,
        })
        .collect();
    let _stop = process(&client, set).await;
    let remote = Arc::new(Remote::new(client.clone(), SHARDS));
    // Looked for, kept, and found.
    for time in 0..3 {
        let (table, read) = asked(&remote, move |set| {
            let known = catalogue();
            let found = answer(&asks(), || &known, set, &cancel()).unwrap();
            (printed(&found.table), found.read)
        })
        .await
        .unwrap();
        assert!(table == want, "time {time}");
        let kept = if time < 2 { 0 } else { read.blocks.day };
        assert!(
            read.cached.day == kept && read.blocks.day > 0,
            "time {time}: {read:?}"
        );
    }
    server.stop().await;
}
