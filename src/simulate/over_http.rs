//! Senders by HTTP: clicks, pixels and conversions at the collector's paths, the rest by POST.
//!
//! A send that is not acknowledged is sent again under the same id until it is, so that the ledger is exact.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use adtally_streams::event::Kind;
use serde::Deserialize;

use super::encode;
use super::ledger::Ledger;
use super::plan::{Job, Queue, now_ms};
use super::sample::Sample;
use super::traffic::Event;
use super::wire::{Answer, Connection, request};

/// Clicks that leave from one local address before the next is taken: well below the 100 a minute from which the
/// collector judges them, counted even when the collector does not trust this machine's X-Forwarded-For.
const CLICKS_PER_ADDRESS: u32 = 40;
/// Waits between attempts: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What all senders of a run share.
#[derive(Debug)]
pub struct Target {
    /// Where the collector listens.
    pub address: SocketAddr,
    /// The Host header.
    pub host: String,
    /// The key for POST.
    pub key: Option<String>,
    /// The sample.
    pub sample: Arc<Sample>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// How long one event is tried.
    pub patience: Duration,
    /// The next local address.
    next_address: AtomicU32,
}

impl Target {
    /// A target for the senders of one run.
    pub fn new(
        address: SocketAddr,
        host: String,
        key: Option<String>,
        sample: Arc<Sample>,
        ledger: Arc<Ledger>,
        patience: Duration,
    ) -> Self {
        Self {
            address,
            host,
            key,
            sample,
            ledger,
            patience,
            next_address: AtomicU32::new(0),
        }
    }

    /// Another address of this machine, where the target is on it: 127.1.0.1 and on.
    fn local(&self) -> Option<IpAddr> {
        let loopback = matches!(self.address.ip(), IpAddr::V4(ip) if ip.is_loopback());
        (loopback && cfg!(target_os = "linux")).then(|| {
            let n = self.next_address.fetch_add(1, Ordering::Relaxed) % (254 * 254 * 250);
            let [a, b, c] = [1 + n / (254 * 254), n / 254 % 254, 1 + n % 254];
            IpAddr::V4(Ipv4Addr::new(127, a as u8, b as u8, c as u8))
        })
    }
}

/// Whether the collector's own paths take this event as it is meant.
pub fn direct(event: &Event) -> bool {
    matches!(
        event.fault,
        None | Some(super::traffic::Fault::UnknownAd | super::traffic::Fault::NoKey)
    )
}

/// One sender: takes jobs until the queue ends.
pub async fn sender(target: Arc<Target>, queue: Queue) {
    let mut link = Link {
        target: &target,
        open: None,
        clicks: 0,
    };
    loop {
        let job = queue.lock().await.recv().await;
        match job {
            None => return,
            Some(Job::One(event)) => link.one(&event).await,
            Some(Job::Batch(events)) => link.batch(&events).await,
        }
    }
}

struct Link<'a> {
    target: &'a Target,
    open: Option<Connection>,
    clicks: u32,
}

#[derive(Deserialize)]
struct Posted {
    #[serde(default)]
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Rejected {
    index: usize,
    #[serde(default)]
    reason: String,
}

impl Link<'_> {
    async fn one(&mut self, event: &Event) {
        let target = self.target;
        let Some(path) = encode::path(event, &target.sample, now_ms()) else {
            return self.batch(std::slice::from_ref(event)).await;
        };
        target.ledger.sending(event);
        if event.kind == Kind::Click {
            self.clicks += 1;
        }
        let extra = format!(
            "User-Agent: {}\r\nReferer: {}\r\nX-Forwarded-For: {}\r\n",
            event.user_agent,
            event.referrer,
            event.address()
        );
        let bytes = request("GET", &path, &target.host, &extra, b"");
        match self.until_answered(&bytes).await {
            None => target.ledger.gave_up(event),
            Some(answer) if answer.status < 400 => {
                target.ledger.acknowledged(event, &target.sample, now_ms())
            }
            Some(answer) => self.refused(event, &answer, ""),
        }
    }

    async fn batch(&mut self, events: &[Event]) {
        let target = self.target;
        let objects: Vec<serde_json::Value> = events
            .iter()
            .map(|event| {
                target.ledger.sending(event);
                let mut map = encode::object(event, &target.sample, now_ms());
                map.insert("kind".into(), event.kind.name().into());
                map.into()
            })
            .collect();
        let body = serde_json::Value::Array(objects).to_string();
        let mut extra = "Content-Type: application/json\r\n".to_string();
        if let Some(key) = &target.key {
            extra.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        let bytes = request(
            "POST",
            "/api/v1/events",
            &target.host,
            &extra,
            body.as_bytes(),
        );
        let Some(answer) = self.until_answered(&bytes).await else {
            events.iter().for_each(|e| target.ledger.gave_up(e));
            return;
        };
        if answer.status >= 400 {
            events.iter().for_each(|e| self.refused(e, &answer, ""));
            return;
        }
        let posted: Posted = serde_json::from_slice(&answer.body).unwrap_or(Posted {
            rejected: Vec::new(),
        });
        for (index, event) in events.iter().enumerate() {
            match posted.rejected.iter().find(|r| r.index == index) {
                Some(rejected) => self.refused(event, &answer, &rejected.reason),
                None => target.ledger.acknowledged(event, &target.sample, now_ms()),
            }
        }
    }

    fn refused(&self, event: &Event, answer: &Answer, reason: &str) {
        self.target.ledger.refused(event);
        if event.fault.is_none() {
            let body = String::from_utf8_lossy(&answer.body)
                .chars()
                .take(200)
                .collect::<String>();
            tracing::warn!(kind = %event.kind, id = %event.id, status = answer.status, reason, body, "a sound event was refused");
        }
    }

    /// Sends until there is an answer that is not "later"; none once the patience is over.
    async fn until_answered(&mut self, bytes: &[u8]) -> Option<Answer> {
        let began = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            match self.exchange(bytes).await {
                Ok(answer) if answer.status < 500 && answer.status != 429 => return Some(answer),
                Ok(answer) => {
                    tracing::debug!(status = answer.status, "not taken now; sending again")
                }
                Err(error) => tracing::debug!(%error, "no answer; sending again"),
            }
            if began.elapsed() >= self.target.patience {
                return None;
            }
            self.target.ledger.retrying();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn exchange(&mut self, bytes: &[u8]) -> std::io::Result<Answer> {
        if self.clicks >= CLICKS_PER_ADDRESS {
            self.open = None;
        }
        let mut connection = match self.open.take() {
            Some(connection) => connection,
            None => {
                self.clicks = 0;
                Connection::open(self.target.address, self.target.local()).await?
            }
        };
        let answer = connection.exchange(bytes).await?;
        if !answer.closes {
            self.open = Some(connection);
        }
        Ok(answer)
    }
}
