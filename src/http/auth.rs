//! Keys and what they open: who asks, and whose data they may see.
//!
//! Only a key's SHA-256 is ever stored or compared. The secret has 256 random bits, so finding it through the
//! timing of a look-up by its hash is as hard as inverting the hash. One decision, [`access_of`], serves every
//! path that needs a key.

use std::net::IpAddr;

use adtally_streams::catalogue::{Catalogue, Scope};
use adtally_streams::id::Id;
use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::http::problem::Problem;

/// What every key starts with, so that a leaked one can be found by a scanner of secrets.
pub const KEY_PREFIX: &str = "adt_";
/// What proxies add to a request: whoever sent it is then not known to be on this machine, though the proxy is.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
/// The longest `Authorization` value that is looked at, in bytes.
const AUTHORIZATION_MAX_BYTES: usize = 512;

/// What the asker may do, once [`decide`] has let them in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// No key was ever made, and the asker is on this machine: everything.
    Loopback,
    /// An admin's key: everything.
    Admin,
    /// An advertiser's key: its own data, and posting its own conversions.
    Advertiser(Id),
    /// A publisher's key: posting events, and seeing nothing.
    Publisher,
}

impl Access {
    /// Whether everything is open to it.
    pub fn is_admin(&self) -> bool {
        matches!(self, Access::Loopback | Access::Admin)
    }

    /// Refuses all but admins. `what` completes "only an admin's key may ...".
    pub fn require_admin(&self, what: &str) -> Result<(), Problem> {
        if self.is_admin() {
            Ok(())
        } else {
            Err(Problem::forbidden(format!(
                "only an admin's key may {what}"
            )))
        }
    }

    /// Refuses keys that see no data at all, and returns the one advertiser that an advertiser's key is
    /// confined to.
    pub fn sight(&self) -> Result<Option<&Id>, Problem> {
        match self {
            Access::Loopback | Access::Admin => Ok(None),
            Access::Advertiser(own) => Ok(Some(own)),
            Access::Publisher => Err(Problem::forbidden(
                "a publisher's key posts events and sees no data",
            )),
        }
    }

    /// Refuses whoever may not see data of `owner`; what has no known owner is for admins.
    pub fn require_sight_of(&self, owner: Option<&Id>) -> Result<(), Problem> {
        match (self.sight()?, owner) {
            (None, _) => Ok(()),
            (Some(own), Some(owner)) if own == owner => Ok(()),
            (Some(_), _) => Err(Problem::forbidden(
                "this key sees its own advertiser's data only",
            )),
        }
    }

    /// Whether it may post impressions and clicks, and conversions of whatever advertiser.
    pub fn may_post_events(&self) -> bool {
        !matches!(self, Access::Advertiser(_))
    }

    /// Whether it may post a conversion of `advertiser`.
    pub fn may_post_conversion_of(&self, advertiser: &str) -> bool {
        match self {
            Access::Advertiser(own) => own.as_str() == advertiser,
            Access::Loopback | Access::Admin | Access::Publisher => true,
        }
    }
}

/// SHA-256 of a key's whole text, prefix included: what the catalogue stores of it.
pub fn secret_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The text of a new key over 32 bytes that the caller took from the system's random source.
pub fn secret_text(random: [u8; 32]) -> String {
    format!("{KEY_PREFIX}{}", hex::encode(random))
}

/// The hash of the key in `Authorization: Bearer <key>`; none when there is no such header.
pub fn bearer_hash(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let unreadable = || Problem::unauthorized("the Authorization header must be `Bearer <key>`");
    if value.len() > AUTHORIZATION_MAX_BYTES {
        return Err(unreadable());
    }
    let text = value.to_str().map_err(|_| unreadable())?;
    let (scheme, key) = text.split_once(' ').ok_or_else(unreadable)?;
    if !scheme.eq_ignore_ascii_case("bearer") || key.trim().is_empty() {
        return Err(unreadable());
    }
    Ok(Some(secret_hash(key.trim())))
}

/// Who asks: the one way in for every path that needs a key. `peer` is the connection's other end; where a proxy
/// stands there, it does not pass for the asker.
pub fn access_of(
    catalogue: &Catalogue,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<Access, Problem> {
    let granted = bearer_hash(headers)?.map(|hash| {
        catalogue.key_by_hash(&hash).map(|key| match &key.scope {
            Scope::Advertiser(own) => Access::Advertiser(own.clone()),
            Scope::Publisher => Access::Publisher,
            Scope::Admin => Access::Admin,
        })
    });
    let is_forwarded = PROXY_HEADERS.iter().any(|name| headers.contains_key(*name));
    let peer = peer.filter(|_| !is_forwarded);
    decide(catalogue.keys().len() > 0, granted, peer)
}

/// Lets a request in, or says why not.
///
/// `any_key_made` tells whether a key was ever made, revoked ones included: revoking the last one does not open
/// the door again. `granted` is what the catalogue grants to the presented key's hash, `None` inside for a key
/// that is unknown or revoked; `None` outside when no key was presented.
pub fn decide(
    any_key_made: bool,
    granted: Option<Option<Access>>,
    peer: Option<IpAddr>,
) -> Result<Access, Problem> {
    if !any_key_made {
        return match peer {
            Some(ip) if ip.to_canonical().is_loopback() => Ok(Access::Loopback),
            _ => Err(Problem::unauthorized(
                "no key has been made, so the API answers on loopback only; `adtally keys create --admin` makes one",
            )),
        };
    }
    match granted {
        None => Err(Problem::unauthorized(
            "send a key as `Authorization: Bearer <key>`",
        )),
        Some(None) => Err(Problem::forbidden("this key is unknown or revoked")),
        Some(Some(access)) => Ok(access),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const ELSEWHERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));

    #[test]
    fn without_any_key_only_this_machine_is_answered() {
        assert_eq!(decide(false, None, HERE).unwrap(), Access::Loopback);
        assert_eq!(
            decide(false, None, Some(IpAddr::V6(Ipv6Addr::LOCALHOST))).unwrap(),
            Access::Loopback
        );
        let mapped = Some(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()));
        assert_eq!(decide(false, None, mapped).unwrap(), Access::Loopback);
        assert_eq!(decide(false, None, ELSEWHERE).unwrap_err().status(), 401);
        assert_eq!(decide(false, None, None).unwrap_err().status(), 401);
    }

    #[test]
    fn a_proxy_on_this_machine_does_not_open_the_door() {
        let catalogue = Catalogue::default();
        let mut headers = HeaderMap::new();
        assert_eq!(
            access_of(&catalogue, &headers, HERE).unwrap(),
            Access::Loopback
        );
        for name in PROXY_HEADERS {
            headers.clear();
            headers.insert(name, "127.0.0.1".parse().unwrap());
            let refused = access_of(&catalogue, &headers, HERE).unwrap_err();
            assert_eq!(refused.status(), 401, "{name}");
        }
    }

    #[test]
    fn once_a_key_exists_everybody_needs_one() {
        assert_eq!(decide(true, None, HERE).unwrap_err().status(), 401);
        assert_eq!(decide(true, Some(None), HERE).unwrap_err().status(), 403);
        assert_eq!(
            decide(true, Some(Some(Access::Admin)), ELSEWHERE).unwrap(),
            Access::Admin
        );
    }

    #[test]
    fn an_advertisers_key_is_confined_and_a_publishers_sees_nothing() {
        let (acme, other) = (Id::new("acme").unwrap(), Id::new("other").unwrap());
        let own = Access::Advertiser(acme.clone());
        assert!(own.require_sight_of(Some(&acme)).is_ok());
        assert_eq!(
            own.require_sight_of(Some(&other)).unwrap_err().status(),
            403
        );
        assert_eq!(own.require_sight_of(None).unwrap_err().status(), 403);
        assert!(own.may_post_conversion_of("acme") && !own.may_post_conversion_of("other"));
        assert!(!own.may_post_events());
        assert_eq!(
            own.require_admin("write the catalogue")
                .unwrap_err()
                .status(),
            403
        );
        assert_eq!(Access::Publisher.sight().unwrap_err().status(), 403);
        assert!(Access::Publisher.may_post_events());
        assert!(Access::Admin.require_sight_of(None).is_ok());
    }

    #[test]
    fn the_header_is_read_strictly_and_hashed_whole() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer_hash(&headers)
        };
        assert_eq!(bearer_hash(&HeaderMap::new()).unwrap(), None);
        // sha256sum of the three bytes "abc" (FIPS 180-2, appendix B.1).
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(read("Bearer abc").unwrap().unwrap()), abc);
        assert_eq!(hex::encode(read("bearer  abc ").unwrap().unwrap()), abc);
        for bad in ["abc", "Basic abc", "Bearer ", "Bearer"] {
            assert_eq!(read(bad).unwrap_err().status(), 401, "{bad}");
        }
        assert_eq!(secret_text([0xab; 32]), format!("adt_{}", "ab".repeat(32)));
    }
}
