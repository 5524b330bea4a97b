//! Requests of the tests, and what every answer must look like.

use std::io::Write as _;
use std::process::{Command, Stdio};

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{Server, block_on, client};

/// A browser that no bot list knows.
pub const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

/// A whole answer.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The body as an RFC 9457 problem document of this status.
    pub fn problem(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{} {}",
            self.status,
            self.text()
        );
        let problem = self.json();
        for name in ["type", "title", "status", "detail"] {
            assert!(
                problem.get(name).is_some(),
                "{name} is missing in {problem}"
            );
        }
        assert_eq!(problem["status"], self.status);
        problem
    }
}

/// One request with a body.
pub fn send(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Answer {
    block_on(async {
        let mut request = client()
            .request(method.parse().unwrap(), format!("{}{path}", server.url))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer {
            status,
            headers,
            body: answer.bytes().await.unwrap().to_vec(),
        }
    })
}

/// One request without a body.
pub fn ask_as(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(server, method, path, headers, Vec::new())
}

/// A browser's GET.
pub fn ask(server: &Server, path: &str) -> Answer {
    ask_as(server, "GET", path, &[("user-agent", BROWSER)])
}

/// A POST of JSON.
pub fn post_json(server: &Server, path: &str, body: &Value) -> Answer {
    send(
        server,
        "POST",
        path,
        &[("content-type", "application/json")],
        body.to_string().into_bytes(),
    )
}

/// Waits until a campaign's totals, over all time, hold these values.
pub fn wait_totals(server: &Server, campaign: &str, expected: &[(&str, i64)]) {
    let path = format!(
        "/api/v1/analytics?campaign_id={campaign}&granularity=total&start=2001-01-01T00:00Z&end=2100-01-01T00:00Z"
    );
    let began = std::time::Instant::now();
    let mut last = Value::Null;
    while began.elapsed() < super::PATIENCE {
        last = server.json(&path)["totals"].clone();
        if expected.iter().all(|(name, value)| last[*name] == *value) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("expected {expected:?}, got {last}\n{}", server.log());
}

/// The sum of a metric's lines that contain `labels`.
pub fn metric(server: &Server, name: &str, labels: &str) -> f64 {
    let (_, page) = super::get(&format!("{}/metrics", server.url));
    let lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
    });
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// The body as `gzip` unpacks it, which knows nothing of how it was packed and says so when a sum or a length is wrong.
pub fn gunzip(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert_eq!(answer.header("vary"), "accept-encoding");
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, body) = (gzip.stdin.take().unwrap(), answer.body.clone());
    let writing = std::thread::spawn(move || stdin.write_all(&body));
    let unpacked = gzip.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(unpacked.status.success(), "gzip: {}", unpacked.status);
    unpacked.stdout
}
