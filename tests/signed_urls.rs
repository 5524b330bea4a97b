//! Landing pages that stand in the request: followed where they are signed, and nowhere else.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::LOCATION;
use sha2::Sha256;

use crate::support::http::{ask, wait_totals};
use crate::support::{Options, Server, small_catalogue};

const SECRET: &str = "a secret of the test";

fn sign(ad: &str, url: &str, exp: i64) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{ad}\n{url}\n{exp}").as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn a_signed_url_is_followed_and_no_other() {
    let server = Server::start(Options::default().env("ADTALLY_SIGNING_SECRET", SECRET));
    server.apply_catalogue(&small_catalogue());
    let url = "https://elsewhere.example/deal?x=1&y=ü";
    let exp = chrono::Utc::now().timestamp() + 600;
    let good = format!(
        "/click?ad_id=banner&url={}&exp={exp}&sig={}",
        encoded(url),
        sign("banner", url, exp)
    );
    let answer = ask(&server, &good);
    assert_eq!(
        answer.status,
        302,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert!(
        answer
            .header("location")
            .starts_with("https://elsewhere.example/deal?x=1&y="),
        "{}",
        answer.header("location")
    );
    let unknown = format!(
        "/click?ad_id=nobody&url={}&exp={exp}&sig={}",
        encoded("https://a.example/"),
        sign("nobody", "https://a.example/", exp)
    );
    assert_eq!(ask(&server, &unknown).status, 302);

    let past = chrono::Utc::now().timestamp() - 1;
    let javascript = "javascript:alert(1)";
    let split = "https://a.example/\r\nSet-Cookie: x=1";
    for (what, path) in [
        (
            "forged",
            format!(
                "/click?ad_id=banner&url={}&exp={exp}&sig={}",
                encoded(url),
                "0".repeat(64)
            ),
        ),
        (
            "of another ad",
            format!(
                "/click?ad_id=banner&url={}&exp={exp}&sig={}",
                encoded(url),
                sign("other", url, exp)
            ),
        ),
        (
            "expired",
            format!(
                "/click?ad_id=banner&url={}&exp={past}&sig={}",
                encoded(url),
                sign("banner", url, past)
            ),
        ),
        (
            "without signature",
            format!("/click?ad_id=banner&url={}", encoded(url)),
        ),
        (
            "not hexadecimal",
            format!("/click?ad_id=banner&url={}&exp={exp}&sig=zz", encoded(url)),
        ),
        (
            "a script",
            format!(
                "/click?ad_id=banner&url={}&exp={exp}&sig={}",
                encoded(javascript),
                sign("banner", javascript, exp)
            ),
        ),
        (
            "splitting the header",
            format!(
                "/click?ad_id=banner&url={}&exp={exp}&sig={}",
                encoded(split),
                sign("banner", split, exp)
            ),
        ),
    ] {
        let answer = ask(&server, &path);
        assert_eq!(answer.status, 400, "{what}");
        assert!(answer.headers.get(LOCATION).is_none(), "{what}");
        answer.problem();
    }
    wait_totals(&server, "spring", &[("gross_clicks", 1)]);
}
