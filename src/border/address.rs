//! Whose address it is: the peer's, or what configured proxies say of it.
//!
//! A header can be written by anyone, so it is believed only hop by hop from the right: each proxy appends whom
//! it spoke with, and the first hop from the right that is not one of ours is the client. Whatever stands to its
//! left was written by the client and is not looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::headers::Headers;

/// Hops of X-Forwarded-For that are looked at, from the right. A chain of more of our own proxies than this ends
/// at the last one looked at.
pub const MAX_HOPS: usize = 32;

/// The client's address: `peer`, or, where the peer is in `trusted`, the right-most hop of X-Forwarded-For that
/// is not. Several such headers count as one list. A hop that is no address ends the walk at the last good one.
pub fn client_address(
    peer: IpAddr,
    headers: &(impl Headers + ?Sized),
    trusted: &[IpNet],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = canonical(peer);
    if !is_trusted(client) {
        return client;
    }
    let hops = headers
        .all("x-forwarded-for")
        .rev()
        .flat_map(|value| value.rsplit(|b| *b == b','));
    for hop in hops.take(MAX_HOPS) {
        let Some(address) = std::str::from_utf8(hop).ok().and_then(parse_hop) else {
            break;
        };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// An address of a list: bare, with a port, in brackets, in quotes.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))?;
    Some(canonical(address))
}

/// An address as it is compared: IPv4 within IPv6 (`::ffff:1.2.3.4`) is IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 address, since whoever is given one IPv6
/// address is given the whole /64 with it.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match canonical(address) {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
    }
}

/// The bytes of [`limit_key`] that are hashed: 4 of IPv4, the first 8 of IPv6.
pub fn hashed_bytes(address: IpAddr) -> ([u8; 8], usize) {
    let mut bytes = [0; 8];
    match limit_key(address) {
        IpAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, 4)
        }
        IpAddr::V6(v6) => {
            bytes.copy_from_slice(&v6.octets()[..8]);
            (bytes, 8)
        }
    }
}

/// An address for a connection of unknown peer, which no network trusts: `0.0.0.0`.
pub const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(
                "x-forwarded-for",
                axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_header_counts_only_from_a_configured_proxy() {
        assert_eq!(client("203.0.113.9", &["1.1.1.1"], &[]), "203.0.113.9");
        assert_eq!(
            client("203.0.113.9", &["1.1.1.1"], &["10.0.0.0/8"]),
            "203.0.113.9"
        );
        assert_eq!(client("10.0.0.1", &["1.1.1.1"], &["10.0.0.0/8"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(
            client("::ffff:10.0.0.1", &["1.1.1.1"], &["10.0.0.0/8"]),
            "1.1.1.1"
        );
    }

    #[test]
    fn the_right_most_hop_that_is_not_ours_is_the_client() {
        let ours = ["10.0.0.0/8", "2001:db8:1::/48"];
        for (forwarded, expected) in [
            (&["6.6.6.6, 1.1.1.1, 10.0.0.2"][..], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1", "10.0.0.2"], "1.1.1.1"),
            (&["6.6.6.6", "1.1.1.1 , 10.0.0.2,10.0.0.3"], "1.1.1.1"),
            (&["1.1.1.1:4711, 10.0.0.2"], "1.1.1.1"),
            (&["[2001:db8::1]:443"], "2001:db8::1"),
            (&["\"[2001:db8::1]\", 2001:db8:1::7"], "2001:db8::1"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            (&["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["6.6.6.6, "], "10.0.0.1"),
            (&["\u{e9}"], "10.0.0.1"),
            (&["999.1.1.1"], "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", forwarded, &ours),
                expected,
                "{forwarded:?}"
            );
        }
    }

    #[test]
    fn a_long_chain_of_our_own_ends() {
        let chain = vec!["10.0.0.1"; 1_000].join(",");
        assert_eq!(
            client("10.0.0.1", &[&format!("1.1.1.1,{chain}")], &["10.0.0.0/8"]),
            "10.0.0.1"
        );
    }

    #[test]
    fn an_ipv6_address_counts_by_its_64() {
        let key = |text: &str| limit_key(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
        assert_eq!(
            hashed_bytes("192.0.2.1".parse().unwrap()),
            ([192, 0, 2, 1, 0, 0, 0, 0], 4)
        );
        assert_eq!(
            hashed_bytes("2001:db8::1".parse().unwrap()),
            ([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0], 8)
        );
    }
}
