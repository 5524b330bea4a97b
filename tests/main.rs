//! How we know: one integration binary against real nats-servers, real files, real HTTP.
#![allow(clippy::unwrap_used)]

mod collector;
mod oracle;
mod support;
