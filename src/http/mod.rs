//! The HTTP surface of the queries: routes, keys, problems, health and the API's own description.
//!
//! Nothing here knows how the pieces were started: the runner hands in handles and gets a router back.

pub mod auth;
pub mod problem;
