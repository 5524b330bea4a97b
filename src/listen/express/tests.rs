//! What is hard to bring about over a socket: a wait of a minute, a panic.

use std::net::{Ipv4Addr, TcpListener};

use axum::response::IntoResponse;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::*;
use crate::listen::HEAD_TIMEOUT;

/// Both ends of a connection.
fn pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    (client, server)
}

fn held(tasks: &TaskTracker) -> Held {
    let permits = Arc::new(Semaphore::new(1));
    (permits.try_acquire_owned().unwrap(), tasks.token())
}

fn tools() -> Tools {
    Tools {
        scratch: vec![0; READ_BYTES].into_boxed_slice(),
        date: Date::default(),
        now: Instant::now(),
        is_stopping: false,
    }
}

fn connection(server: std::net::TcpStream, now: Instant) -> Connection {
    let peer = server.peer_addr().unwrap();
    let stream = TcpStream::from_std(server);
    Connection::new(stream, peer, held(&TaskTracker::new()), now)
}

#[test]
fn a_connection_that_says_nothing_is_late_after_the_limit_and_closed() {
    let (_client, server) = pair();
    let mut tools = tools();
    let mut silent = connection(server, tools.now);
    let short_of_it = HEAD_TIMEOUT - Duration::from_millis(1);
    assert!(!silent.is_late(tools.now + short_of_it));
    assert!(silent.is_late(tools.now + HEAD_TIMEOUT));
    assert!(matches!(silent.time_out(&mut tools), Next::Close));
}

#[test]
fn a_visit_that_takes_too_long_is_answered_408_and_its_late_answer_goes_nowhere() {
    let (_client, server) = pair();
    let mut tools = tools();
    let mut asking = connection(server, tools.now);
    asking.wait_for(7, tools.now);
    assert!(asking.waits_for(7) && !asking.waits_for(8));
    assert!(matches!(asking.time_out(&mut tools), Next::Wait));
    assert!(!asking.waits_for(7));
    let told = String::from_utf8_lossy(asking.on_the_wire()).into_owned();
    assert!(
        told.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{told}"
    );
    assert!(told.contains("\"urn:adtally:problem:"), "{told}");
}

#[test]
fn a_visit_that_was_answered_408_waits_for_no_group_any_more() {
    let (mut connections, mut clients, mut tools) = (Slab::new(), Vec::new(), tools());
    let mut waiting: Vec<_> = (0..3)
        .map(|number| {
            let (client, server) = pair();
            clients.push(client);
            let mut asking = connection(server, tools.now);
            asking.wait_for(number, tools.now);
            let key = connections.insert(asking);
            (Place { key, number }, number)
        })
        .collect();
    forget_late(&mut waiting, &connections);
    assert_eq!(waiting.len(), 3);
    connections[waiting[0].0.key].time_out(&mut tools);
    connections.remove(waiting[2].0.key);
    forget_late(&mut waiting, &connections);
    let left: Vec<u64> = waiting.iter().map(|(_, number)| *number).collect();
    assert_eq!(left, [1]);
}

#[tokio::test]
async fn a_group_that_panics_is_told_to_all_of_it() {
    let places = (0..3).map(|key| Place { key, number: 9 }).collect();
    let (places, answers) = kept(async { panic!("on purpose") }, places).await;
    assert_eq!((places.len(), answers.len()), (3, 3));
    for answer in answers {
        assert_eq!(answer.unwrap_err().into_response().status(), 503);
    }
}
