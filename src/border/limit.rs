//! The address limit: which clicks are past 100 of one address in the last minute.
//!
//! Counted exactly and over a sliding minute: an address keeps the times of its last 100 clicks, and a click is
//! past the limit when the oldest of those is less than a minute old. The usual rate limiters (GCRA, as in the
//! crate `governor`) refill continuously: after a burst of 100 they let one more click through every 0.6 s, so the
//! 101st to 116th click of ten seconds would be billed. A limit that decides about money must be countable by
//! hand. It is kept in this process only, and says nothing about clicks that came in another way.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Mutex;

use super::generations::Generations;

/// Clicks that one address may make within [`WINDOW_MS`] (contract: over 100 a minute are past the limit).
pub const CLICKS_PER_WINDOW: usize = 100;
/// The window, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;
/// Addresses watched in one generation; at most twice as many are held, about 60 MB when every one is at its
/// limit. Past it the longest silent are forgotten, and may start their hundred again; that is counted.
pub const MAX_ADDRESSES: usize = 32_768;

/// The clicks of the last minute, by address.
#[derive(Debug)]
pub struct AddressLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    addresses: Generations<IpAddr, VecDeque<i64>>,
    turned_ms: i64,
}

impl Default for AddressLimit {
    fn default() -> Self {
        Self::with_capacity(MAX_ADDRESSES)
    }
}

impl AddressLimit {
    /// A limit that watches `capacity` addresses a generation.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                addresses: Generations::new(capacity),
                turned_ms: i64::MIN,
            }),
        }
    }

    /// Counts a click of `address` (as [`super::address::limit_key`] gives it) at `now_ms` and says whether it
    /// is past the limit. Clicks past the limit count too: who goes on clicking stays past it.
    pub fn is_past(&self, address: IpAddr, now_ms: i64) -> bool {
        let mut state = self
            .state
            .lock()
            .expect("no thread panics while it counts a click");
        let state = &mut *state;
        if now_ms.saturating_sub(state.turned_ms) >= WINDOW_MS {
            // Whoever has been silent for a whole window is at zero anyway: forgetting them loses nothing.
            let silent = state
                .addresses
                .turn()
                .filter(|times| is_live(times, now_ms))
                .count();
            count_forgotten(silent);
            state.turned_ms = now_ms;
        }
        let known = state.addresses.with(&address, |times| push(times, now_ms));
        if let Some(is_past) = known {
            return is_past;
        }
        if let Some(dropped) = state.addresses.insert(address, VecDeque::from([now_ms])) {
            count_forgotten(dropped.filter(|times| is_live(times, now_ms)).count());
        }
        false
    }
}

/// Notes a click and says whether it is past the limit.
fn push(times: &mut VecDeque<i64>, now_ms: i64) -> bool {
    let past = times.len() == CLICKS_PER_WINDOW
        && times
            .front()
            .is_some_and(|oldest| now_ms - oldest < WINDOW_MS);
    if times.len() == CLICKS_PER_WINDOW {
        times.pop_front();
    }
    times.push_back(now_ms);
    past
}

/// Whether the address has clicked within the window.
fn is_live(times: &VecDeque<i64>, now_ms: i64) -> bool {
    times
        .back()
        .is_some_and(|newest| now_ms - newest < WINDOW_MS)
}

fn count_forgotten(addresses: usize) {
    if addresses > 0 {
        metrics::counter!("adtally_address_limit_forgotten_total").increment(addresses as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn past(limit: &AddressLimit, n: u32, times: impl IntoIterator<Item = i64>) -> Vec<i64> {
        times
            .into_iter()
            .filter(|t| limit.is_past(address(n), *t))
            .collect()
    }

    #[test]
    fn exactly_the_clicks_past_a_hundred_are_past() {
        let limit = AddressLimit::default();
        assert_eq!(past(&limit, 1, 0..150), (100..150).collect::<Vec<_>>());
        assert!(
            past(&limit, 2, 0..100).is_empty(),
            "another address has its own hundred"
        );
    }

    #[test]
    fn the_minute_slides() {
        let limit = AddressLimit::default();
        assert!(past(&limit, 1, (0..100).map(|i| i * 100)).is_empty());
        assert!(
            limit.is_past(address(1), 59_999),
            "the click at 0 is still within the minute"
        );
        // The hundred before this click now begin at 100 ms: at 60,099 it is 59,999 old, at 60,100 a whole minute.
        assert!(limit.is_past(address(1), 60_099));
        assert!(
            !limit.is_past(address(1), 60_200),
            "the hundredth click before it was at 200"
        );
    }

    #[test]
    fn two_clicks_a_second_are_never_billed_past_a_hundred_a_minute() {
        let limit = AddressLimit::default();
        // 120 a minute for ten minutes: the first hundred pass, and everything after follows the window.
        let passed: Vec<i64> = (0..1_200)
            .map(|i| i * 500)
            .filter(|t| !limit.is_past(address(9), *t))
            .collect();
        assert_eq!(passed, (0..100).map(|i| i * 500).collect::<Vec<_>>());
    }

    #[test]
    fn silent_addresses_cost_nothing_and_live_ones_survive_the_turn() {
        let limit = AddressLimit::with_capacity(1_000);
        assert!(past(&limit, 1, 0..100).is_empty());
        assert!(!limit.is_past(address(2), 59_000));
        assert!(!limit.is_past(address(2), 60_000), "a turn of generations");
        assert_eq!(past(&limit, 3, (0..120).map(|i| 61_000 + i)).len(), 20);
        assert!(
            !limit.is_past(address(1), 200_000),
            "silent for over a minute"
        );
        assert!(limit.state.lock().expect("not poisoned").addresses.len() <= 3);
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let limit = AddressLimit::with_capacity(10);
        for n in 0..10_000 {
            limit.is_past(address(n), i64::from(n));
            assert!(limit.state.lock().expect("not poisoned").addresses.len() <= 20);
        }
    }
}
