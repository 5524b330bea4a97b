//! The binary `adtally`: records every impression, click and conversion once, and answers how many there were.
//!
//! The rooms: a request meets the *border* (facts about it), is *admitted* by the crate `adtally-streams`, waits in
//! an *outbox* until the *log* (NATS JetStream) has it, is folded by the *projector* with the crate
//! `adtally-projections` into the *store*, and is asked for by *query* behind *http*. The *archive* keeps what the
//! log has no longer. The command line, *replay*,
//! the *runner* that wires the roles, the *demo* and *simulate* stand around them.

mod api_client;
mod archive;
mod backup;
mod bench;
mod border;
mod catalogue_feed;
mod cli;
mod clock_watch;
mod collector;
mod config;
mod control;
mod data_dir;
mod demo;
mod deployment;
mod fail_points;
mod frozen;
mod http;
mod incidents;
mod intake;
mod listen;
mod log;
mod metric_names;
mod misspelt;
mod outbox;
mod post_events;
mod producers;
mod projector;
mod quarantine;
mod query;
mod read_body;
mod replay;
mod runner;
mod scratch;
mod signals;
mod simulate;
mod statement;
mod store;
mod stream_info;
mod stretch;
mod table;
mod telemetry;
mod tls;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// The allocator of the whole process, RocksDB's included. An event's memory is taken by one thread and given back by
/// another, which glibc's allocator answers with locks and with returning pages to the system: a durable redirect
/// took 37 us of processor time with it and takes 27 with this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tls::provide();
    cli::run(&cli::args::Cli::parse())
}
