//! A request to the collector, reduced to what is needed to decide about it and to answer it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::Method;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use ipnet::IpNet;

use super::answer::wants_image;
use super::query::{Given, Params, given_in_path};
use crate::border::address::UNKNOWN;
use crate::border::facts::{Sender, Texts};
use crate::border::headers::Headers;
use crate::quarantine::Source;

/// Which of the collector's paths was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/click`.
    Click,
    /// `/c/{ad_id}`.
    ClickByPath,
    /// `/i`.
    Impression,
    /// `/conversion`.
    Conversion,
}

/// What stands before the ad in the path of [`Route::ClickByPath`].
const AD_PATH: &str = "/c/";

impl Route {
    /// The route that a path names, where it is one of the collector's.
    pub fn of_path(path: &str) -> Option<Self> {
        match path {
            "/click" => Some(Route::Click),
            "/i" => Some(Route::Impression),
            "/conversion" => Some(Route::Conversion),
            _ => {
                let segment = path.strip_prefix(AD_PATH)?;
                (!segment.is_empty() && !segment.contains('/')).then_some(Route::ClickByPath)
            }
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The path's route.
    pub route: Route,
    /// GET, HEAD or POST.
    pub method: Method,
    /// Path and query as they came.
    pub target: PathAndQuery,
    /// The form of a POST; empty where there was none.
    pub form: Bytes,
    /// What the request tells of its sender.
    pub sender: Sender,
    /// Whether a conversion is answered with an image.
    pub wants_image: bool,
}

/// What the answer to a visit depends on, besides what is kept of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub route: Route,
    pub wants_image: bool,
}

impl Visit {
    /// The visit of a request to one of the collector's routes. `trusted` are the proxies whose word is taken for
    /// the address, `texts` what the connection's last request has said.
    pub fn new<H: Headers + ?Sized>(
        route: Route,
        (method, target): (Method, PathAndQuery),
        headers: &H,
        peer: IpAddr,
        trusted: &[IpNet],
        texts: &mut Texts,
    ) -> Self {
        Self {
            route,
            method,
            target,
            form: Bytes::new(),
            sender: Sender::of_browser(peer, headers, trusted, texts),
            wants_image: route == Route::Conversion && wants_image(headers),
        }
    }

    /// What its answer depends on, besides what is kept.
    pub(super) fn asks(&self) -> Asks {
        Asks {
            route: self.route,
            wants_image: self.wants_image,
        }
    }

    /// HEAD: answered as GET, and without a trace.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Its parameters: those of the query, then those of the form.
    pub fn params(&self) -> Params<'_> {
        let mut params = Params::parse(self.target.query().unwrap_or_default());
        if !self.form.is_empty() {
            params.add(&self.form);
        }
        params
    }

    /// The ad that a path names, where the route has it there.
    pub fn ad_in_path(&self) -> Given<'_> {
        let segment = self.target.path().strip_prefix(AD_PATH);
        given_in_path(segment.unwrap_or_default())
    }

    /// What its record in QUARANTINE is made of, and its sender.
    pub fn into_source(self) -> (Source, Sender) {
        let source = Source::Visit {
            method: self.method,
            target: self.target,
            form: self.form,
        };
        (source, self.sender)
    }
}

/// The other end of the connection.
pub fn peer_of(parts: &Parts) -> IpAddr {
    parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(UNKNOWN, |ConnectInfo(peer)| peer.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collectors_paths_and_no_others() {
        for (path, expected) in [
            ("/click", Some(Route::Click)),
            ("/i", Some(Route::Impression)),
            ("/conversion", Some(Route::Conversion)),
            ("/c/ad-1", Some(Route::ClickByPath)),
            ("/c/%2F", Some(Route::ClickByPath)),
            ("/c/", None),
            ("/c", None),
            ("/c/a/b", None),
            ("/click/", None),
            ("/CLICK", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Route::of_path(path), expected, "{path}");
        }
    }
}
