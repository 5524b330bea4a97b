//! Bytes that are no payload, and oddities that are one all the same.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::event::Kind;
use crate::id::Id;
use crate::parse::RawEvent;

fn click(payload: &[u8]) -> Result<RawEvent, Refusal> {
    RawEvent::from_payload(Kind::Click, Some("a1"), None, payload)
}

fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

#[test]
fn what_is_neither_json_nor_message_pack_is_refused() {
    let nested =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let mut payloads: Vec<Vec<u8>> = [
        "",
        " ",
        "null",
        "5",
        "\"x\"",
        "[]",
        "[{}]",
        "{",
        "{}x",
        "{}{}",
        "{\"click_id\":\"c1\"} trailing",
        "{'a':1}",
        "{\"click_id\":\"c1\",}",
        "click_id=c1",
        "\u{feff}",
        "{\"click_id\":\"c1\"",
        "{\"ts\":1e999}",
        "{\"a\":01}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    payloads.push(b"{\"click_id\":\"\xff\"}".to_vec());
    payloads.push(b"\xef\xbb{}".to_vec());
    payloads.push(nested("[", "]").into_bytes());
    payloads.push(nested("{\"a\":", "}").into_bytes()[..200_000].to_vec());
    // MessagePack: a map that ends early, one of 4 billion entries, a list, a text, something after the map, a
    // list of 4 billion, a text of 4 GiB, an unassigned marker, and nesting past the limit.
    payloads.extend([
        vec![0x81],
        vec![0x81, 0xa1, b'a'],
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0xde, 0xff, 0xff, 0xa1, b'a', 0xc0],
        vec![0x90],
        vec![0xa2, b'h', b'i'],
        vec![0x80, 0x80],
        vec![0x80, 0xc0],
        vec![0x80, 0x00],
        vec![0x80, 0x91],
        vec![0x80, 0xd9],
        vec![0x81, 0xa1, b'a', 0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0x81, 0xa1, b'a', 0xdb, 0xff, 0xff, 0xff, 0xff, b'x'],
        vec![0x81, 0xa1, b'a', 0xc1],
        [vec![0x81, 0xa1, b'a'], vec![0x91; 100_000], vec![0xc0]].concat(),
        [vec![0x81; 100_000], vec![0xc0]].concat(),
    ]);
    for payload in payloads {
        let refusal =
            RawEvent::from_payload(Kind::Click, Some("a1"), Some("m1"), &payload).unwrap_err();
        assert_eq!(
            refusal.reason,
            Reason::InvalidPayload,
            "{:?}: {refusal}",
            &payload[..payload.len().min(20)]
        );
    }
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(PAYLOAD_MAX_BYTES));
    assert_eq!(
        click(large.as_bytes()).unwrap_err().reason,
        Reason::TooLarge
    );
}

#[test]
fn harmless_oddities_are_passed_over() {
    let good: [&[u8]; 8] = [
        b"\xef\xbb\xbf {\"click_id\":\"c1\"}",
        b" \r\n\t{\"click_id\":\"c1\"}\n ",
        b"{\"click_id\":\"c0\",\"click_id\":\"c1\"}",
        b"{\"click_id\":5,\"click_id\":\"c1\"}",
        b"{\"click_\\u0069d\":\"c\\u0031\"}",
        b"{\"click_id\":\"c1\",\"\":{},\"click_id \":1,\"Click_Id\":2}",
        // A map whose other keys are a number, a list, a map and a text that is not UTF-8.
        b"\x85\xa8click_id\xa2c1\x05\x06\x91\x01\x02\x81\x01\x02\x03\xa1\xff\x04",
        // Values passed over: an extension, bytes, and a text that is not UTF-8.
        b"\x84\xa8click_id\xa2c1\xa1a\xd6\xff\x00\x00\x00\x01\xa1b\xc4\x02\xff\xff\xa1c\xa1\xff",
    ];
    let least = RawEvent::new(Kind::Click, id("c1"), id("a1"));
    for payload in good {
        assert_eq!(click(payload).as_ref(), Ok(&least), "{payload:?}");
    }
    let deep = format!(
        "{{\"click_id\":\"c1\",\"x\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(click(deep.as_bytes()).as_ref(), Ok(&least));
    // The same values where a field of the contract has them are refused by the field's name.
    let bad: [(&[u8], Reason); 3] = [
        (b"\x81\xa8click_id\xd6\xff\x00\x00\x00\x01", Reason::BadType),
        (b"\x81\xa8click_id\xc4\x02c1", Reason::BadText),
        (b"\x81\xa8click_id\xa1\xff", Reason::BadText),
    ];
    for (payload, reason) in bad {
        assert_eq!(click(payload).unwrap_err().reason, reason, "{payload:?}");
    }
}
