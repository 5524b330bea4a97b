//! A body as one gzip member (RFC 1952), put together of texts that were each packed by itself.
//!
//! Invariant: a packed text refers to nothing before it and ends with a byte, so packed texts that follow each other are the
//! packed form of what they are of, in whatever answer they stand. One member, and not one a text, which the format allows
//! too: browsers stop reading after the first.

use std::cell::RefCell;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};

/// Bytes of a body from which on it is packed: a smaller one fits into a packet as it is.
pub const MIN_BYTES: usize = 1 << 10;
/// What a member begins with, before its first text (RFC 1952, 2.3): deflate, no name, no time, packed as quickly as can be, by no system that is told.
pub const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
/// A last block without content (RFC 1951, 3.2.3 and 3.2.6): the one bit, the two of fixed codes, the seven of the end.
const LAST: [u8; 2] = [0x03, 0x00];
/// What stands before a packed text where it is kept: its CRC-32 and its length, four bytes each.
const KEPT_HEAD_BYTES: usize = 8;
/// Room for what is packed to begin with, as a part of the text: rows take about a tenth of theirs.
const LIKELY_SHARE: usize = 6;
/// Room for what ends a packed text, without which it would be ended twice.
const FLUSH_BYTES: usize = 64;

/// Whether a client takes gzip: it says so by name, with a quality that is neither zero nor below that of the plain text
/// (RFC 9110, 12.5.3). A client that says only `*` has not said that it can unpack one.
pub fn is_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(named);
    let (mut gzip, mut identity) = (0.0_f32, 0.0_f32);
    for (name, quality) in codings {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = gzip.max(quality),
            "identity" => identity = identity.max(quality),
            _ => {}
        }
    }
    gzip > 0.0 && gzip >= identity
}

/// A coding's name and quality; none where that is no number.
fn named(coding: &str) -> Option<(&str, f32)> {
    let Some((name, parameter)) = coding.split_once(';') else {
        return Some((coding.trim(), 1.0));
    };
    let (q, quality) = parameter.split_once('=')?;
    let quality = quality.trim().parse().ok()?;
    q.trim()
        .eq_ignore_ascii_case("q")
        .then_some((name.trim(), quality))
}

/// Leaves of what a client takes whether it takes gzip, so that all that packs decides alike. It also keeps from the library's
/// layer what it would answer 406 to, over whatever was done already: a client that says it takes nothing gets
/// plain text, as the RFC allows.
pub async fn decided(mut request: Request) -> Request {
    let is_accepted = is_accepted(request.headers());
    let headers = request.headers_mut();
    headers.remove(header::ACCEPT_ENCODING);
    if is_accepted {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    request
}

thread_local! {
    /// A quarter of a megabyte that each text is packed with anew: a thread's own, and not an answer's, which a client may take
    /// minutes to read.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// Packs a text, to be added to any member: its sum and length, and the packed bytes.
pub fn pack(text: &[u8]) -> Vec<u8> {
    let room = KEPT_HEAD_BYTES + text.len() / LIKELY_SHARE + FLUSH_BYTES;
    let mut packed = Vec::with_capacity(room);
    packed.extend_from_slice(&crc32fast::hash(text).to_le_bytes());
    let length = u32::try_from(text.len()).expect("a piece of an answer is far below 4 GiB");
    packed.extend_from_slice(&length.to_le_bytes());
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        let mut read = 0;
        // It is all written when there is room left behind it.
        while read < text.len() || packed.len() == packed.capacity() {
            packed.reserve(FLUSH_BYTES);
            deflate
                .compress_vec(&text[read..], &mut packed, FlushCompress::Sync)
                .expect("a stream that is never ended takes whatever comes");
            read = deflate.total_in() as usize;
        }
    });
    packed
}

/// A member as far as it has been sent: the sum of all text so far, and its length.
#[derive(Default)]
pub struct Member(Hasher);

impl Member {
    /// Whether no text has been added.
    pub fn is_empty(&self) -> bool {
        self.0.total_len() == 0
    }

    /// Puts a packed text behind those before; what is to be sent of it.
    pub fn add(&mut self, packed: &Bytes) -> Bytes {
        let [sum, length] = [0, 4].map(|at| {
            let bytes = packed[at..at + 4].first_chunk();
            u32::from_le_bytes(*bytes.expect("four bytes are four bytes"))
        });
        let of_text = Hasher::new_with_initial_len(sum, length.into());
        self.0.combine(&of_text);
        packed.slice(KEPT_HEAD_BYTES..)
    }

    /// What is to be sent behind the last text.
    pub fn end(&self) -> Vec<u8> {
        let sum = self.0.clone().finalize().to_le_bytes();
        // The length is told modulo 2^32 (RFC 1952, 2.3.1).
        let length = (self.0.total_len() as u32).to_le_bytes();
        [&LAST[..], &sum, &length].concat()
    }
}

#[cfg(test)]
#[path = "gzip_tests.rs"]
mod tests;
