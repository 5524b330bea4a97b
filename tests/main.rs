//! How we know: one integration binary against real nats-servers, real files, real HTTP.
#![allow(clippy::unwrap_used)]

mod archive;
mod backup;
mod bad_input;
mod block_cache;
mod catalogue;
mod checkpoints;
mod cluster;
mod collector;
mod commands;
mod derived;
mod docs;
mod fail_points;
mod faults;
mod geo;
mod helm;
mod intake;
mod keys;
mod openapi;
mod operators;
mod oracle;
mod printed_rows;
mod producers;
mod queries;
mod replay;
mod rooms;
mod sealing;
mod shards;
mod signed_urls;
mod statements;
mod streams;
mod support;
mod verify;
