//! Members as another reader unpacks them: gzip's own decoder of the same library, and what a browser does, which reads one
//! member and nothing after it.
#![allow(clippy::unwrap_used)]

use std::io::Read as _;

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;

/// The text of the first member, and how many bytes follow it.
fn unpacked(body: &[u8]) -> (Vec<u8>, usize) {
    let mut decoder = GzDecoder::new(body);
    let mut text = Vec::new();
    decoder.read_to_end(&mut text).unwrap();
    (text, decoder.into_inner().len())
}

fn accepted(values: &[&str]) -> bool {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(
            header::ACCEPT_ENCODING,
            HeaderValue::from_str(value).unwrap(),
        );
    }
    is_accepted(&headers)
}

#[test]
fn gzip_is_sent_to_whoever_names_it_and_does_not_refuse_it() {
    for takes in [
        &["gzip"][..],
        &["gzip, deflate, br, zstd"],
        &["br", "deflate, GZIP"],
        &["deflate;q=1.0, gzip;q=0.5"],
        &["gzip ; Q = 0.001"],
        &["x-gzip"],
        &["identity, gzip;q=0, gzip"],
        &["identity;q=0.5, gzip;q=0.5"],
        &["identity;q=0, gzip"],
    ] {
        assert!(accepted(takes), "{takes:?}");
    }
    for does_not in [
        &[][..],
        &[""],
        &["identity"],
        &["*"],
        &["br, zstd"],
        &["gzip;q=0"],
        &["gzip;q=0.000, br"],
        &["identity, gzip;q=0.9"],
        &["gzip;q=much"],
        &["gzip;q=NaN"],
        &["gzip;level=1"],
        &["gzipped"],
    ] {
        assert!(!accepted(does_not), "{does_not:?}");
    }
}

#[test]
fn a_member_of_no_text_is_an_empty_one() {
    let body = [&HEAD[..], &Member::default().end()].concat();
    // As `printf '' | gzip -n` has it behind its head.
    assert_eq!(body[10..], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(unpacked(&body), (Vec::new(), 0));
}

#[test]
fn rows_take_much_less_than_their_text() {
    let rows: String = (0..500)
        .map(|n| {
            format!(
                ",{{\"time\":\"2026-11-{:02}\",\"region\":\"DE\",\"clicks\":{}}}",
                n % 28,
                n * 77
            )
        })
        .collect();
    let packed = pack(rows.as_bytes());
    assert!(
        packed.len() * 4 < rows.len(),
        "{} of {}",
        packed.len(),
        rows.len()
    );
}

/// Texts that pack well, and ones that do not, of which much is written for each byte that is read.
fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let plain = proptest::collection::vec(0u8..4, 0..20_000);
    let noise = proptest::collection::vec(any::<u8>(), 0..3_000);
    let same = (0usize..300_000).prop_map(|length| vec![b'a'; length]);
    proptest::collection::vec(prop_oneof![plain, noise, same], 0..6)
}

proptest! {
    #[test]
    fn packed_texts_in_any_order_are_one_member_of_them(texts in texts(), order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8)) {
        let packed: Vec<Bytes> = texts.iter().map(|text| pack(text).into()).collect();
        let (mut member, mut body, mut want) = (Member::default(), HEAD.to_vec(), Vec::new());
        for index in order.iter().filter(|_| !texts.is_empty()) {
            let at = index.index(texts.len());
            want.extend_from_slice(&texts[at]);
            body.extend_from_slice(&member.add(&packed[at]));
        }
        body.extend(member.end());
        prop_assert!(unpacked(&body) == (want, 0));
    }

    #[test]
    fn a_text_is_packed_alike_whatever_was_packed_before(texts in texts()) {
        let again: Vec<Vec<u8>> = texts.iter().rev().map(|text| pack(text)).collect();
        for (text, again) in texts.iter().zip(again.iter().rev()) {
            prop_assert!(pack(text) == *again);
        }
    }
}
