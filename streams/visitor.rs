//! Who saw or clicked an ad, as 64 bits: what counting distinct visitors needs of an identity.
//!
//! Invariant: the hash of an identity is fixed forever, like everything that a replay comes to: XXH3 of 64 bits
//! (<https://github.com/Cyan4973/xxHash>) with a seed for each sort of identity. A user id counts before an address,
//! since the hash of an address changes with its key at the end of each UTC day.

use twox_hash::XxHash3_64;

use crate::columns::Reader;
use crate::frame::EventId;
use crate::frame_error::FrameError;
use crate::frame_events::read_hashes;
use crate::id_column::{Found, read_ids};

/// An event that names neither a user nor an address.
pub const NOBODY: u64 = 0;
/// What the hash becomes of an identity that happens to hash to [`NOBODY`].
const SOMEBODY: u64 = 1;

/// Seed of user ids that are canonical UUID texts: their sixteen bytes are hashed.
const SEED_UUID: u64 = 1;
/// Seed of other user ids: their text is hashed.
const SEED_TEXT: u64 = 2;
/// Seed of hashed addresses: their eight bytes, most significant first.
const SEED_ADDRESS: u64 = 3;

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    match XxHash3_64::oneshot_with_seed(seed, bytes) {
        NOBODY => SOMEBODY,
        hash => hash,
    }
}

/// The visitor of a hashed address.
fn of_address(address_hash: u64) -> u64 {
    hash(SEED_ADDRESS, &address_hash.to_be_bytes())
}

fn of_user(user: Option<Found<'_>>) -> u64 {
    match user {
        Some(Found::Uuid(bytes)) => hash(SEED_UUID, &bytes),
        Some(Found::Text(text)) => hash(SEED_TEXT, text.as_bytes()),
        None => NOBODY,
    }
}

/// The visitor of an event that names that user and has that hashed address.
pub fn visitor_of(user: Option<&EventId>, address_hash: Option<u64>) -> u64 {
    match (user, address_hash) {
        (Some(EventId::Uuid(bytes)), _) => of_user(Some(Found::Uuid(*bytes))),
        (Some(EventId::Text(id)), _) => of_user(Some(Found::Text(id.as_str()))),
        (None, Some(address)) => of_address(address),
        (None, None) => NOBODY,
    }
}

/// The visitors of a frame's events, from the first columns of its cold part; `raw` is what belongs to that of the
/// raw part, and `times` are the events' own times and their arrivals.
pub(crate) fn read_visitors(
    cold: &[u8],
    raw: &[u8],
    times: [&[i64]; 2],
) -> Result<Vec<u64>, FrameError> {
    let count = times[0].len();
    let (mut from, mut raw) = (Reader::new(cold), Reader::new(raw));
    from.skip_varints(count)?;
    let addresses = read_hashes(&mut from, &mut raw, count)?;
    let mut visitors = read_ids(&mut from, &mut raw, times, |user| Ok(of_user(user)))?;
    for (visitor, address) in visitors.iter_mut().zip(addresses) {
        if let (NOBODY, Some(address)) = (*visitor, address) {
            *visitor = of_address(address);
        }
    }
    Ok(visitors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::event::Event;
    use crate::uuid_text::uuid_bytes;

    /// The visitor of a whole event.
    pub(crate) fn of_event(event: &Event) -> u64 {
        let user = event.user_id.as_ref().map(|id| id.as_str());
        match (
            user.map(|text| (uuid_bytes(text), text)),
            event.address_hash,
        ) {
            (Some((Some(uuid), _)), _) => of_user(Some(Found::Uuid(uuid))),
            (Some((None, text)), _) => of_user(Some(Found::Text(text))),
            (None, Some(address)) => of_address(address),
            (None, None) => NOBODY,
        }
    }

    /// Computed by the reference implementation (libxxhash 0.8.4, by way of the Python package xxhash):
    /// `xxhash.xxh3_64_intdigest(b"user-7", seed=2)` and so on.
    #[test]
    fn an_identity_hashes_as_it_always_has() {
        assert_eq!(of_user(Some(Found::Text("user-7"))), 0x1064_1255_f0bd_4cfe);
        assert_eq!(of_user(Some(Found::Uuid([7; 16]))), 0x2d95_569e_4654_0e1e);
        assert_eq!(of_address(0x0123_4567_89ab_cdef), 0xe551_0a68_8d34_9a02);
        let long = "x".repeat(64);
        assert_eq!(of_user(Some(Found::Text(&long))), 0xb782_2176_1ba6_bedf);
        assert_eq!(of_user(None), NOBODY);
    }
}
