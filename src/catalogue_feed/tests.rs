//! The catalogue's copy on disk, and its fold without a broker. What needs a broker is tested against a real one.

#![allow(clippy::unwrap_used)]

use adtally_streams::catalogue::DocumentKind;

use super::*;

const ADVERTISER: &[u8] =
    br#"{"advertiser_id":"acme","name":"Acme","currency_code":"USD","time_zone":"America/New_York"}"#;

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue
        .apply(3, "catalog.advertiser.acme", ADVERTISER)
        .unwrap();
    catalogue
}

#[test]
fn a_copy_is_read_back_with_the_stream_it_belongs_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalogue.snapshot");
    assert!(disk::read(&file).is_none());
    disk::write(&file, "2026-01-02T03:04:05.123456789Z", &catalogue()).unwrap();
    let (created, read) = disk::read(&file).unwrap();
    assert_eq!(created, "2026-01-02T03:04:05.123456789Z");
    assert_eq!(read, catalogue());
    assert!(read.document(DocumentKind::Advertiser, "acme").is_some());
}

#[test]
fn a_torn_or_foreign_copy_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalogue.snapshot");
    disk::write(&file, "2026-01-02T03:04:05Z", &catalogue()).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        assert!(disk::read(&file).is_none(), "cut at {cut}");
    }
    std::fs::write(&file, b"something else").unwrap();
    assert!(disk::read(&file).is_none());
}
