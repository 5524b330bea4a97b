//! The collector's connections, over real sockets: each gets its own answers, in their order, whatever others do.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::collector::{self, Collector, Desk};
use crate::listen::Listener;

/// A listener that serves a collector.
struct Served {
    ground: Ground,
    listener: Listener,
    address: SocketAddr,
    outbox: Outbox,
    handle: OutboxHandle,
    desk: Desk,
}

impl Served {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let (border, outbox, handle) = ground.border(Owner::Collector);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, 1_000).await.unwrap();
        let desk = Desk::open(Collector {
            border,
            signer: None,
            max_age: Duration::from_secs(7 * 86_400),
        });
        listener.serve(collector::router(desk.clone()), Some(desk.clone()));
        let address = listener.url()["http://".len()..].parse().unwrap();
        Self {
            ground,
            listener,
            address,
            outbox,
            handle,
            desk,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn accepted_events(&self, count: u64) {
        let is_there = async || self.handle.status().accepted_events >= count;
        assert!(
            eventually(is_there).await,
            "{}",
            self.handle.status().accepted_events
        );
    }

    async fn end(self) {
        self.listener.close().await;
        self.outbox.drain(WITHIN).await;
        self.ground.end().await;
    }
}

fn click(id: &str) -> String {
    format!("GET /click?ad_id=ad1&click_id={id} HTTP/1.1\r\nhost: h\r\n\r\n")
}

/// The heads of all answers that come until the connection ends or so many have come.
async fn heads(stream: &mut TcpStream, most: usize) -> Vec<String> {
    let (mut read, mut found) = (Vec::new(), Vec::new());
    while found.len() < most {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..at + 4).collect();
            found.push(String::from_utf8(head).unwrap());
        } else if stream.read_buf(&mut read).await.unwrap() == 0 {
            break;
        }
    }
    found
}

fn click_id(head: &str) -> &str {
    let line = head.lines().find_map(|l| l.strip_prefix("x-click-id: "));
    line.unwrap_or_else(|| panic!("no click in {head}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_gets_its_own_answers_in_their_order() {
    const CONNECTIONS: usize = 40;
    const EACH: usize = 30;
    let served = Served::new().await;
    let mut clients = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let mut stream = served.connect().await;
        clients.spawn(async move {
            let ids: Vec<String> = (0..EACH).map(|n| format!("c-{connection}-{n}")).collect();
            // By threes, the last bytes of which come with the next three.
            let requests: String = ids.iter().map(|id| click(id)).collect();
            for part in requests.as_bytes().chunks(requests.len() / 10 + 7) {
                stream.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let heads = heads(&mut stream, EACH).await;
            let answered: Vec<String> = heads.iter().map(|h| click_id(h).to_owned()).collect();
            assert_eq!(answered, ids);
            ids
        });
    }
    let sent: BTreeSet<String> = clients.join_all().await.into_iter().flatten().collect();
    let events = served.ground.events_once_there(CONNECTIONS * EACH).await;
    let kept: BTreeSet<String> = events.iter().map(|e| e.id.as_str().to_owned()).collect();
    assert_eq!(kept, sent);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_late_gets_everything_and_holds_up_nobody() {
    const CLICKS: usize = 3_000;
    let served = Served::new().await;
    let long = format!("https://shop.example/{}", "x".repeat(2_000));
    let ad =
        format!(r#"{{"ad_id":"ad1","campaign_id":"k1","landing_url":"{long}","status":"active"}}"#);
    publish_all(&served.ground.catalogue, &[document(DocumentKind::Ad, &ad)]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let stream = socket.connect(served.address).await.unwrap();
    let (mut answers, mut asks) = stream.into_split();
    let asking = tokio::spawn(async move {
        for n in 0..CLICKS {
            asks.write_all(click(&format!("c-{n}")).as_bytes())
                .await
                .unwrap();
        }
        asks
    });
    // Nothing is read, so at some time nothing more is kept either.
    let mut before = 0;
    let stands_still = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = served.handle.status().accepted_events;
        std::mem::replace(&mut before, now) == now && now > 0
    };
    assert!(eventually(stands_still).await);
    assert!(before < CLICKS as u64, "all {before} answers fit somewhere");
    let mut other = served.connect().await;
    other.write_all(click("other").as_bytes()).await.unwrap();
    assert_eq!(click_id(&heads(&mut other, 1).await[0]), "other");
    let mut text = Vec::new();
    let mut count = 0;
    while count < CLICKS {
        assert_ne!(answers.read_buf(&mut text).await.unwrap(), 0, "{count}");
        while let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(text.drain(..at + 4).collect()).unwrap();
            assert_eq!(click_id(&head), format!("c-{count}"));
            assert!(head.contains(&format!("location: {long}\r\n")));
            count += 1;
        }
    }
    drop(asking.await.unwrap());
    served.accepted_events(CLICKS as u64 + 1).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_leaves_the_event_and_no_trace_with_others() {
    let served = Served::new().await;
    let mut stays = served.connect().await;
    for n in 0..50 {
        let mut goes = served.connect().await;
        goes.write_all(click(&format!("gone-{n}")).as_bytes())
            .await
            .unwrap();
        if n % 2 == 0 {
            // Torn, and not only closed.
            goes.set_zero_linger().unwrap();
        }
        drop(goes);
        let id = format!("stays-{n}");
        stays.write_all(click(&id).as_bytes()).await.unwrap();
        assert_eq!(click_id(&heads(&mut stays, 1).await[0]), id);
    }
    // A torn connection's request may be lost unread; every other one was read.
    served.accepted_events(75).await;
    // Who has said everything is answered all the same.
    let mut half = served.connect().await;
    half.write_all(click("half").as_bytes()).await.unwrap();
    half.shutdown().await.unwrap();
    let heads = heads(&mut half, 2).await;
    assert_eq!((heads.len(), click_id(&heads[0])), (1, "half"));
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_loop_that_panics_serves_those_who_come_after_it() {
    let served = Served::new().await;
    let mut before = served.connect().await;
    before.write_all(click("before").as_bytes()).await.unwrap();
    assert_eq!(click_id(&heads(&mut before, 1).await[0]), "before");
    served.listener.panic_in_event_loops();
    assert_eq!(before.read(&mut [0]).await.unwrap(), 0, "closed");
    // Two for each processor, so that every event loop gets some.
    for n in 0..2 * std::thread::available_parallelism().unwrap().get() {
        let (mut after, id) = (served.connect().await, format!("after-{n}"));
        after.write_all(click(&id).as_bytes()).await.unwrap();
        assert_eq!(click_id(&heads(&mut after, 1).await[0]), id);
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_came_and_closes_every_connection() {
    let served = Served::new().await;
    let (mut idle, mut begun) = (served.connect().await, served.connect().await);
    idle.write_all(click("idle").as_bytes()).await.unwrap();
    assert_eq!(click_id(&heads(&mut idle, 1).await[0]), "idle");
    begun.write_all(b"GET /click?ad_id=a").await.unwrap();
    let mut asking = Vec::new();
    for n in 0..20 {
        let mut stream = served.connect().await;
        stream
            .write_all(click(&format!("late-{n}")).as_bytes())
            .await
            .unwrap();
        asking.push(stream);
    }
    // They have been read, but hardly answered.
    served.accepted_events(1).await;
    let began = tokio::time::Instant::now();
    let finish = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let rest = b"d1&click_id=begun HTTP/1.1\r\nhost: h\r\n\r\n";
        begun.write_all(rest).await.unwrap();
        heads(&mut begun, 2).await
    };
    let (heads_of_begun, ()) = tokio::join!(finish, served.listener.close());
    assert!(began.elapsed() < Duration::from_secs(8), "{began:?}");
    assert_eq!(heads_of_begun.len(), 1);
    assert_eq!(click_id(&heads_of_begun[0]), "begun");
    let mut answered = 0;
    for stream in &mut asking {
        for head in heads(stream, 2).await {
            assert!(head.starts_with("HTTP/1.1 302 "), "{head}");
            answered += 1;
        }
    }
    assert!(answered > 0);
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(served.address).await.is_err());
    served.end().await;
}

/// Whoever exits must not find another thread that still closes the outbox: RocksDB aborts the process then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_stop_no_thread_holds_the_outbox_any_more() {
    for _ in 0..5 {
        let served = Served::new().await;
        let mut stream = served.connect().await;
        stream.write_all(click("c1").as_bytes()).await.unwrap();
        assert_eq!(heads(&mut stream, 1).await.len(), 1);
        let open = served.desk.holders();
        served.listener.close().await;
        let loops = std::thread::available_parallelism().unwrap().get();
        assert_eq!(served.desk.holders(), open - loops);
        served.end().await;
    }
}
