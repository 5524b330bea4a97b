//! Signed landing URLs: a link that may lead anywhere, because whoever made it knew the secret.
//!
//! Without the signature the collector would be an open redirector. What is signed is the ad, the URL and the
//! time until which the link holds, so that no part can be moved to another link.

use adtally_streams::landing::{BadUrl, check_landing_url};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Makes and checks signatures.
#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha256>,
}

/// A signed URL that nobody is sent to. Its parameter is the one to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// There is no secret.
    #[error(
        "this collector has no signing secret, so it redirects to landing URLs of the catalogue only"
    )]
    NoSecret,
    /// A parameter is missing or not text.
    #[error("a signed url needs `exp` (unix seconds) and `sig` (hexadecimal HMAC-SHA256)")]
    Incomplete(&'static str),
    /// The signature is not that of this ad, URL and time.
    #[error("the signature does not match this ad_id, url and exp")]
    Forged,
    /// The time is over.
    #[error("the link has expired")]
    Expired,
    /// The URL is not one to redirect to, signed or not.
    #[error("{0}")]
    Url(#[from] BadUrl),
}

impl BadSignature {
    /// The parameter to blame.
    pub fn parameter(&self) -> &'static str {
        match self {
            BadSignature::NoSecret | BadSignature::Url(_) => "url",
            BadSignature::Incomplete(name) => name,
            BadSignature::Forged => "sig",
            BadSignature::Expired => "exp",
        }
    }
}

impl Signer {
    /// A signer with the deployment's secret.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            mac: Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"),
        }
    }

    fn over(&self, ad_id: &str, url: &str, exp: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for (part, end) in [(ad_id, "\n"), (url, "\n"), (exp, "")] {
            mac.update(part.as_bytes());
            mac.update(end.as_bytes());
        }
        mac
    }

    /// The signature of a link: hexadecimal HMAC-SHA256 over `<ad_id>\n<url>\n<exp>`.
    #[cfg(test)]
    pub fn sign(&self, ad_id: &str, url: &str, exp: i64) -> String {
        hex::encode(
            self.over(ad_id, url, &exp.to_string())
                .finalize()
                .into_bytes(),
        )
    }

    /// Checks a link at `now_ms` (milliseconds of the Unix epoch); the comparison takes the same time whatever
    /// the signature is. The URL is looked at last: an unsigned one teaches nothing about what would be allowed.
    pub fn check(
        &self,
        ad_id: &str,
        url: &str,
        exp: &str,
        sig: &str,
        now_ms: i64,
    ) -> Result<(), BadSignature> {
        let mut given = [0; 32];
        hex::decode_to_slice(sig, &mut given).map_err(|_| BadSignature::Forged)?;
        self.over(ad_id, url, exp)
            .verify_slice(&given)
            .map_err(|_| BadSignature::Forged)?;
        let until: i64 = exp.parse().map_err(|_| BadSignature::Incomplete("exp"))?;
        if until < now_ms.div_euclid(1_000) {
            return Err(BadSignature::Expired);
        }
        Ok(check_landing_url(url)?)
    }
}

/// The URL as a header carries it: characters other than visible ASCII are percent-encoded, the rest stays.
pub fn header_form(url: &str) -> String {
    const KEPT: percent_encoding::AsciiSet = percent_encoding::CONTROLS.add(b' ');
    percent_encoding::utf8_percent_encode(url, &KEPT).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_500;

    #[test]
    fn the_signature_is_the_contracts() {
        // printf 'ad1\nhttps://example.com/x\n1700000000' | openssl dgst -sha256 -hmac s3cret
        let expected = "58b6aa1f75bbcf68973ff9ce4b1de8b110c66d87f924154c3fdb7b6e2381b75d";
        assert_eq!(
            Signer::new(b"s3cret").sign("ad1", "https://example.com/x", 1_700_000_000),
            expected
        );
    }

    #[test]
    fn only_the_signed_link_holds_and_only_until_its_time() {
        let signer = Signer::new(b"s3cret");
        let url = "https://example.com/x?y=1";
        let sig = signer.sign("ad1", url, 1_700_000_000);
        let check =
            |ad: &str, url: &str, exp: &str, sig: &str, now| signer.check(ad, url, exp, sig, now);
        assert_eq!(
            check("ad1", url, "1700000000", &sig, NOW_MS),
            Ok(()),
            "the second itself is not past"
        );
        assert_eq!(
            check("ad1", url, "1700000000", &sig.to_uppercase(), NOW_MS),
            Ok(())
        );
        assert_eq!(
            check("ad1", url, "1700000000", &sig, NOW_MS + 500),
            Err(BadSignature::Expired)
        );
        for (ad, url, exp, sig) in [
            ("ad2", url, "1700000000", sig.as_str()),
            ("ad1", "https://evil.example/", "1700000000", &sig),
            ("ad1", url, "1800000000", &sig),
            ("ad1", url, "01700000000", &sig),
            ("ad1", url, "1700000000", &sig[1..]),
            ("ad1", url, "1700000000", ""),
            ("ad1", url, "1700000000", &"0".repeat(64)),
            ("ad1", url, "1700000000", &"é".repeat(32)),
        ] {
            assert_eq!(
                check(ad, url, exp, sig, NOW_MS),
                Err(BadSignature::Forged),
                "{ad} {url} {exp} {sig}"
            );
        }
        let other = Signer::new(b"other").sign("ad1", url, 1_700_000_000);
        assert_eq!(
            check("ad1", url, "1700000000", &other, NOW_MS),
            Err(BadSignature::Forged)
        );
    }

    #[test]
    fn a_signature_does_not_make_a_bad_url_good() {
        let signer = Signer::new(b"s3cret");
        let long = format!("https://example.com/{}", "x".repeat(2_048));
        for url in [
            "javascript:alert(1)",
            "https://e.com/\r\nX: y",
            "ftp://e.com/",
            "https://",
            &long,
        ] {
            let sig = signer.sign("ad1", url, 1_900_000_000);
            let refused = signer.check("ad1", url, "1900000000", &sig, NOW_MS);
            assert!(
                matches!(refused, Err(BadSignature::Url(_))),
                "{url:?}: {refused:?}"
            );
            assert_eq!(refused.unwrap_err().parameter(), "url");
        }
        let mut mac = signer.mac.clone();
        mac.update(b"ad1\nhttps://e.com/\nsoon");
        let sig = hex::encode(mac.finalize().into_bytes());
        assert_eq!(
            signer.check("ad1", "https://e.com/", "soon", &sig, NOW_MS),
            Err(BadSignature::Incomplete("exp"))
        );
    }

    #[test]
    fn a_header_carries_the_url_as_it_is_but_for_what_it_cannot() {
        assert_eq!(
            header_form("https://e.com/a?b={c}&d=%20#f"),
            "https://e.com/a?b={c}&d=%20#f"
        );
        assert_eq!(header_form("https://e.com/ü"), "https://e.com/%C3%BC");
    }
}
