//! What `adtally producers` takes.

use std::path::PathBuf;

use adtally_streams::event::Kind;
use adtally_streams::id::{Epoch, Id};
use clap::{Args, Subcommand};

/// `adtally producers`.
#[derive(Debug, Subcommand)]
pub enum Producers {
    /// Every producer and epoch: how far it is, and what is missing; exit 1 when something is
    List(List),
    /// Send again, from the outboxes that still hold it, what the log has lost; exit 1 when something stays missing
    Resend(Resend),
    /// Declare that a producer will never send again, so that completeness no longer waits for it
    Retire(Retire),
    /// Read what can be read of a damaged outbox, and copy it to a new one; exit 1 when events are lost
    Salvage(Salvage),
}

/// `adtally producers list`.
#[derive(Debug, Default, Args)]
pub struct List {
    /// Read the log itself, not the projector's state: it may have lost since what the state has long applied
    #[arg(long)]
    pub log_itself: bool,
}

/// `adtally producers resend`.
#[derive(Debug, Default, Args)]
pub struct Resend {
    /// Only what this producer wrote
    #[arg(long, value_name = "P", value_parser = parse_id)]
    pub producer: Option<Id>,
    /// Only what was written under this epoch
    #[arg(long, value_name = "E", value_parser = parse_epoch)]
    pub epoch: Option<Epoch>,
    /// Only this shard
    #[arg(long, value_name = "N")]
    pub shard: Option<u16>,
    /// Only this kind
    #[arg(long, value_name = "K", value_parser = parse_kind)]
    pub kind: Option<Kind>,
    /// From this counter on, whether it is missing or not
    #[arg(long, value_name = "N", requires_all = ["epoch", "shard", "kind", "last"])]
    pub first: Option<u64>,
    /// To this counter
    #[arg(long, value_name = "N", requires = "first")]
    pub last: Option<u64>,
    /// Find what is missing in the log itself, not in the projector's state
    #[arg(long)]
    pub log_itself: bool,
    /// Only say what would be sent, and by whom
    #[arg(long)]
    pub dry_run: bool,
}

/// `adtally producers retire`.
#[derive(Debug, Args)]
pub struct Retire {
    /// Which producer, as `producers list` names it
    #[arg(long, value_name = "P", value_parser = parse_id)]
    pub producer: Id,
    /// Only this epoch of it
    #[arg(long, value_name = "E", value_parser = parse_epoch)]
    pub epoch: Option<Epoch>,
    /// Why: it is written into the log
    #[arg(long, value_name = "R")]
    pub reason: String,
    /// Even though it was heard of lately, or its outbox is there
    #[arg(long)]
    pub force: bool,
}

/// `adtally producers salvage`.
#[derive(Debug, Default, Args)]
pub struct Salvage {
    /// The damaged outbox [default: those in the data folder that will not open]
    #[arg(long, value_name = "PATH")]
    pub outbox: Option<PathBuf>,
    /// Folder of the new outbox; without it nothing is written, and only said what could be
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Put the new outbox in the place of the damaged one, which is kept beside it
    #[arg(long, conflicts_with = "to")]
    pub replace: bool,
}

fn parse_id(text: &str) -> Result<Id, String> {
    Id::new(text).map_err(|e| e.to_string())
}

fn parse_epoch(text: &str) -> Result<Epoch, String> {
    text.parse()
        .map_err(|_| "an epoch is sixteen hexadecimal digits, as `producers list` shows it".into())
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| "the kinds are impression, click and conversion".into())
}
