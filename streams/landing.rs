//! Landing URLs: which ones an ad may have, and how their macros are filled.
//!
//! What comes out goes into a `Location` header: visible ASCII only, and no value that a visitor can choose reaches
//! the part of the URL that names the host.

use std::fmt::Write as _;

/// The longest landing URL, in bytes, before its macros are filled.
pub const LANDING_URL_MAX_BYTES: usize = 2_048;
/// What may stand in a landing URL to be filled at each click.
pub const MACROS: [&str; 4] = ["{click_id}", "{ad_id}", "{campaign_id}", "{creative}"];

/// A text that a visitor is not redirected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Neither `http://` nor `https://`.
    #[error("a landing URL begins with http:// or https://")]
    Scheme,
    /// No host, or a host with a character that hosts do not have.
    #[error("a landing URL names a host after http:// or https://")]
    Host,
    /// A macro where the host is named, so that its value could choose the host.
    #[error("macros may stand behind the host only")]
    MacroInHost,
    /// A control character or a space.
    #[error("a landing URL has no control characters and no spaces")]
    Character,
    /// More than [`LANDING_URL_MAX_BYTES`].
    #[error("a landing URL has at most {LANDING_URL_MAX_BYTES} bytes")]
    TooLong,
}

/// Checks a URL that visitors are redirected to, with or without macros.
pub fn check_landing_url(url: &str) -> Result<(), BadUrl> {
    if url.len() > LANDING_URL_MAX_BYTES {
        return Err(BadUrl::TooLong);
    }
    if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(BadUrl::Character);
    }
    let authority = authority(url).ok_or(BadUrl::Scheme)?;
    if MACROS.iter().any(|m| authority.contains(m)) {
        return Err(BadUrl::MacroInHost);
    }
    let (_, host_and_port) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = match host_and_port.strip_prefix('[') {
        Some(v6) => v6
            .split_once(']')
            .map(|(host, _)| host)
            .ok_or(BadUrl::Host)?,
        None => host_and_port
            .split_once(':')
            .map_or(host_and_port, |(host, _)| host),
    };
    if host.is_empty()
        || host.contains(['<', '>', '"', '\\', '^', '`', '{', '|', '}', '[', ']', '%'])
    {
        return Err(BadUrl::Host);
    }
    Ok(())
}

/// What stands between the scheme and the path, if the scheme is one of the web's.
fn authority(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    // Browsers take a backslash for a slash, so the host ends there too.
    Some(&rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())])
}

/// Fills the macros, each value percent-encoded, and encodes what a header may not carry. Text in braces that is
/// not a macro stays as it is; a value is never searched for macros again.
pub fn expand_landing_url(
    url: &str,
    click_id: &str,
    ad_id: &str,
    campaign_id: &str,
    creative: &str,
) -> String {
    let values = [click_id, ad_id, campaign_id, creative];
    let mut out = String::with_capacity(url.len() + 64);
    let mut rest = url;
    while let Some(open) = rest.find('{') {
        push_visible(&mut out, &rest[..open]);
        rest = &rest[open..];
        match MACROS
            .iter()
            .zip(values)
            .find(|(name, _)| rest.starts_with(**name))
        {
            Some((name, value)) => {
                push_encoded(&mut out, value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    push_visible(&mut out, rest);
    out
}

/// Appends a part of a URL; what is not visible ASCII is percent-encoded.
fn push_visible(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return out.push_str(text);
    }
    for c in text.chars() {
        if c.is_ascii_graphic() {
            out.push(c)
        } else {
            push_percent(out, c)
        }
    }
}

/// Appends a value; everything but the unreserved characters of RFC 3986 is percent-encoded.
fn push_encoded(out: &mut String, value: &str) {
    let is_unreserved = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    if value.bytes().all(|byte| is_unreserved(char::from(byte))) {
        return out.push_str(value);
    }
    for c in value.chars() {
        if is_unreserved(c) {
            out.push(c)
        } else {
            push_percent(out, c)
        }
    }
}

fn push_percent(out: &mut String, c: char) {
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_web_is_a_landing_place() {
        let long = format!("https://example.com/{}", "a".repeat(2_028));
        assert_eq!(long.len(), 2_048);
        let good = [
            "http://example.com",
            "https://example.com/",
            "HTTPS://Example.com:8443/p?q=1#f",
            "https://example.com/{click_id}?a={ad_id}&c={campaign_id}&v={creative}",
            "https://example.com?x={click_id}",
            "https://example.com/{unknown}",
            "https://user@example.com/",
            "http://127.0.0.1:8080/x",
            "http://[::1]:8080/x",
            "https://bücher.example/straße",
            &long,
        ];
        for url in good {
            assert_eq!(check_landing_url(url), Ok(()), "{url}");
        }
        let bad = [
            ("", BadUrl::Scheme),
            ("example.com", BadUrl::Scheme),
            ("//example.com/", BadUrl::Scheme),
            ("javascript:alert(1)", BadUrl::Scheme),
            ("javascript://example.com/%0aalert(1)", BadUrl::Scheme),
            ("data:text/html,x", BadUrl::Scheme),
            ("ftp://example.com/", BadUrl::Scheme),
            ("https:/example.com/", BadUrl::Scheme),
            ("https:\\\\example.com/", BadUrl::Scheme),
            ("https://", BadUrl::Host),
            ("https:///path", BadUrl::Host),
            ("https://:80/", BadUrl::Host),
            ("https://?q", BadUrl::Host),
            ("https://user@/", BadUrl::Host),
            ("https://[::1/", BadUrl::Host),
            ("https://{host}/", BadUrl::Host),
            ("https://exa%6dple.com/", BadUrl::Host),
            ("https://{creative}.example.com/", BadUrl::MacroInHost),
            ("https://example.com{creative}/", BadUrl::MacroInHost),
            ("https://{ad_id}@example.com/", BadUrl::MacroInHost),
            ("https://example.com/a b", BadUrl::Character),
            (" https://example.com/", BadUrl::Character),
            ("https://example.com/\r\nSet-Cookie: a=b", BadUrl::Character),
            ("https://example.com/\u{0}", BadUrl::Character),
            ("https://example.com/\u{85}", BadUrl::Character),
            ("https://example.com/\u{2028}", BadUrl::Character),
        ];
        for (url, problem) in bad {
            assert_eq!(check_landing_url(url), Err(problem), "{url:?}");
        }
        assert_eq!(check_landing_url(&format!("{long}a")), Err(BadUrl::TooLong));
    }

    #[test]
    fn macros_are_filled_once_and_encoded() {
        let fill = |url| expand_landing_url(url, "c:1", "ad_1", "k-1", "blue & {ad_id}/ü\r\n");
        assert_eq!(fill("https://e.com/{click_id}"), "https://e.com/c%3A1");
        assert_eq!(
            fill("https://e.com/?a={ad_id}&c={campaign_id}"),
            "https://e.com/?a=ad_1&c=k-1"
        );
        assert_eq!(
            fill("https://e.com/{creative}/x"),
            "https://e.com/blue%20%26%20%7Bad_id%7D%2F%C3%BC%0D%0A/x"
        );
        assert_eq!(
            fill("https://e.com/{{click_id}}{x}{"),
            "https://e.com/{c%3A1}{x}{"
        );
        assert_eq!(
            fill("https://e.com/straße?q=%20"),
            "https://e.com/stra%C3%9Fe?q=%20"
        );
        assert_eq!(
            expand_landing_url("https://e.com/{creative}", "", "", "", ""),
            "https://e.com/"
        );
    }

    proptest! {
        #[test]
        fn what_comes_out_fits_a_header(url in "\\PC{0,60}", path in "[{}a-z_/ü]{0,60}", creative in "(?s).{0,40}") {
            for url in [url, format!("https://example.com/{path}")] {
                let out = expand_landing_url(&url, "c1", "a1", "k1", &creative);
                prop_assert!(out.bytes().all(|b| b.is_ascii_graphic()));
                if check_landing_url(&url).is_ok() {
                    let host = authority(&url).map(|a| expand_landing_url(a, "", "", "", ""));
                    prop_assert_eq!(authority(&out).map(str::to_owned), host);
                }
            }
        }
    }
}
