//! Every way in, against a real nats-server: what is answered is on the log, what is refused is in QUARANTINE.

#![allow(clippy::unwrap_used)]

mod catalogue;
mod connections;
mod ways;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::catalogue::{Document, DocumentKind};
use adtally_streams::event::Event;
use adtally_streams::frame::{EventMessage, decode_events};
use adtally_streams::refusal::QuarantineRecord;
use async_nats::jetstream;
use async_nats::jetstream::stream::RawMessageErrorKind;
use axum::body::Body as HttpBody;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, header};
use axum::{Extension, Router};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::Border;
use super::facts::FactSource;
use super::keys::DayKeys;
use crate::catalogue_feed::{CatalogueHandle, Freshness};
use crate::log::embedded::NatsServer;
use crate::log::publisher::Publisher;
use crate::log::streams::{Limits, ensure};
use crate::outbox::{Outbox, OutboxHandle, OutboxLimits, OutboxOptions, Owner};

/// How long anything may take to become true; generous, since two cores serve many tests.
const WITHIN: Duration = Duration::from_secs(60);

/// A server, its streams with one shard, and the catalogue of these tests.
struct Ground {
    dir: tempfile::TempDir,
    server: NatsServer,
    client: async_nats::Client,
    broker: jetstream::Context,
    catalogue: CatalogueHandle,
    /// Follows the catalogue; ended, it has written its copy.
    following: JoinHandle<()>,
    stop: CancellationToken,
}

fn document(kind: DocumentKind, json: &str) -> Document {
    Document::from_json(kind, None, json.as_bytes()).unwrap()
}

fn documents() -> Vec<Document> {
    vec![
        document(
            DocumentKind::Advertiser,
            r#"{"advertiser_id":"acme","name":"Acme","currency_code":"USD","time_zone":"UTC"}"#,
        ),
        document(
            DocumentKind::Campaign,
            r#"{"campaign_id":"k1","advertiser_id":"acme","name":"K","status":"active","pricing":{"model":"cpc","price_micros":250000}}"#,
        ),
        document(
            DocumentKind::Ad,
            r#"{"ad_id":"ad1","campaign_id":"k1","landing_url":"https://shop.example/?k={click_id}","status":"active"}"#,
        ),
    ]
}

impl Ground {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = NatsServer::start(dir.path()).await.unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        let broker = jetstream::new(client.clone());
        ensure(
            &broker,
            Some(1),
            &Limits {
                events_max_bytes: Some(64 << 20),
                ..Limits::default()
            },
        )
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let file = dir.path().join("catalogue.snapshot");
        let (catalogue, following) =
            CatalogueHandle::start(broker.clone(), Some(file), stop.clone());
        publish_all(&catalogue, &documents()).await;
        Self {
            dir,
            server,
            client,
            broker,
            catalogue,
            following,
            stop,
        }
    }

    /// Ends the following of the catalogue; answers where its copy is, which nobody writes any more.
    async fn written_copy(&mut self) -> std::path::PathBuf {
        self.stop.cancel();
        (&mut self.following).await.unwrap();
        self.dir.path().join("catalogue.snapshot")
    }

    fn border(&self, owner: Owner) -> (Border, Outbox, OutboxHandle) {
        let options = OutboxOptions {
            dir: self.dir.path().join(format!("outbox-{}", owner.name())),
            owner,
            producer_name: owner.name().to_owned(),
            shards: 1,
            limits: OutboxLimits::default(),
        };
        let outbox = Outbox::open(options, Arc::new(Publisher::new(self.client.clone()))).unwrap();
        let keys =
            DayKeys::open(&self.dir.path().join("day-keys"), Some(self.broker.clone())).unwrap();
        let facts = Arc::new(FactSource::open(keys, None, Vec::new()).unwrap());
        let handle = outbox.handle();
        (
            Border::new(facts, self.catalogue.clone(), handle.clone(), 1),
            outbox,
            handle,
        )
    }

    /// The payloads of a stream.
    async fn payloads(&self, stream: &str) -> Vec<bytes::Bytes> {
        let stream = self.broker.get_stream(stream).await.unwrap();
        let state = &stream.cached_info().state;
        let mut payloads = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            match stream.get_raw_message(sequence).await {
                Ok(message) => payloads.push(message.payload),
                // Of a work queue one may have been acknowledged since its sequences were asked.
                Err(error) => assert_eq!(error.kind(), RawMessageErrorKind::NoMessageFound),
            }
        }
        payloads
    }

    async fn events(&self) -> Vec<Event> {
        let decoded = self
            .payloads("EVENTS_0")
            .await
            .into_iter()
            .map(|payload| decode_events(&payload).unwrap());
        let frames = decoded.filter_map(|message| match message {
            EventMessage::Frame(frame) => Some(frame.events),
            EventMessage::Announcement { .. } => None,
        });
        frames.flatten().collect()
    }

    /// The log, once it holds so many events.
    async fn events_once_there(&self, count: usize) -> Vec<Event> {
        assert!(
            eventually(async || self.events().await.len() >= count).await,
            "{:?}",
            self.events().await
        );
        let events = self.events().await;
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    async fn quarantined_once_there(&self, count: usize) -> Vec<QuarantineRecord> {
        assert!(eventually(async || self.payloads("QUARANTINE").await.len() >= count).await);
        let records = self.payloads("QUARANTINE").await;
        records
            .iter()
            .map(|payload| serde_json::from_slice(payload).unwrap())
            .collect()
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.stop().await;
    }
}

/// Puts documents in force, again while the broker takes longer to answer than a publisher waits: on a busy machine
/// that is no fault.
async fn publish_all(catalogue: &CatalogueHandle, documents: &[Document]) {
    assert!(eventually(async || catalogue.publish_all(documents).await.is_ok()).await);
}

async fn eventually(mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let until = tokio::time::Instant::now() + WITHIN;
    while tokio::time::Instant::now() < until {
        if is_so().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn served(router: Router) -> Router {
    let peer: SocketAddr = "127.0.0.1:4711".parse().unwrap();
    router.layer(Extension(ConnectInfo(peer)))
}

async fn ask(router: &Router, method: &str, target: &str, body: &str) -> Response<HttpBody> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::USER_AGENT, "curl/8.5.0");
    router
        .clone()
        .oneshot(request.body(HttpBody::from(body.to_owned())).unwrap())
        .await
        .unwrap()
}
