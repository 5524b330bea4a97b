//! A small HTTP/1.1 client over one kept connection: what a load generator needs and no more.
//!
//! It shares two cores with the server that it drives, so it parses status and length and nothing else. Its
//! connection can leave from a chosen local address, because the collector counts clicks by address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The longest head of an answer, and the longest body, in bytes; past it the answer is an error.
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How long one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the server closes the connection after it.
    pub closes: bool,
}

impl Connection {
    /// Connects, from `local` where one is given.
    pub async fn open(to: SocketAddr, local: Option<IpAddr>) -> io::Result<Self> {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(ip) = local {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        let stream = tokio::time::timeout(EXCHANGE_TIMEOUT, socket.connect(to))
            .await
            .map_err(|_| timeout())??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(1_024),
        })
    }

    /// Sends a whole request and reads its answer. After an error the connection must not be used again.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        tokio::time::timeout(EXCHANGE_TIMEOUT, async {
            self.stream.write_all(request).await?;
            self.read_answer().await
        })
        .await
        .map_err(|_| timeout())?
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        self.buffer.clear();
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(bad("the head of the answer is too long"));
            }
            self.fill().await?;
        };
        let head = std::str::from_utf8(&self.buffer[..head_end])
            .map_err(|_| bad("the head is not text"))?;
        let status: u16 = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.get(..3))
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| bad("the answer has no status"))?;
        let length = header(head, "content-length").and_then(|v| v.parse::<usize>().ok());
        let closes = header(head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let length = match length {
            Some(n) if n <= MAX_BODY => n,
            Some(_) => return Err(bad("the answer is too long")),
            None if matches!(status, 204 | 304) => 0,
            None => return Err(bad("the answer does not say how long it is")),
        };
        while self.buffer.len() < head_end + length {
            self.fill().await?;
        }
        Ok(Answer {
            status,
            body: self.buffer[head_end..head_end + length].to_vec(),
            closes,
        })
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ));
        }
        Ok(())
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn timeout() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within 15 s")
}

/// A request's bytes. `extra` is whole header lines, each with its CR LF.
pub fn request(method: &str, path: &str, host: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + extra.len() + body.len() + 128);
    let length = if method == "POST" {
        format!("Content-Length: {}\r\n", body.len())
    } else {
        String::new()
    };
    out.extend_from_slice(
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{extra}\r\n").as_bytes(),
    );
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_of_one_connection_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let mut seen = vec![0; 4_096];
            for answer in [
                "HTTP/1.1 302 Found\r\nLocation: x\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
            ] {
                let n = stream.read(&mut seen).await.unwrap();
                assert!(n > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            peer.ip()
        });
        let local: IpAddr = "127.0.0.9".parse().unwrap();
        let Ok(mut connection) = Connection::open(at, Some(local)).await else {
            eprintln!("skipped: this system has only one loopback address");
            return;
        };
        let first = connection
            .exchange(&request("GET", "/click", "h", "", b""))
            .await
            .unwrap();
        assert_eq!(
            (first.status, first.body.len(), first.closes),
            (302, 0, false)
        );
        let second = connection
            .exchange(&request("POST", "/x", "h", "", b"[]"))
            .await
            .unwrap();
        assert_eq!(
            (second.status, second.body.as_slice(), second.closes),
            (202, &b"{}"[..], true)
        );
        assert_eq!(server.await.unwrap(), local);
    }
}
