//! The command line as clap reads it. Flags that are settings carry no default of their own: [`super::settings`]
//! puts those that were given over environment, file and default.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::archive::Archive;
use super::producers::args::Producers;
use crate::config::units::Span;
use crate::log::connect::NatsOptions;

/// Counts ad impressions, clicks and conversions exactly once, on a NATS JetStream log.
#[derive(Debug, Parser)]
#[command(
    name = "adtally",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 the answer is no, 2 usage, 3 could not.\n\
                  Every flag that is a setting can also stand in the environment (ADTALLY_...) or in --config FILE."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// Folder of the deployment [default: adtally-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// TOML configuration file
    #[arg(long, global = true, value_name = "FILE", env = "ADTALLY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Output for programs: JSON on stdout, and JSON logs
    #[arg(long, global = true)]
    pub json: bool,
    /// What is logged, such as debug or adtally=debug,info [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// Where NATS is; without any, a nats-server of its own under the data folder.
    #[command(flatten)]
    pub nats: NatsOptions,
}

/// The commands of this version.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: collector, intake, projector, API and archiver
    Serve(Serve),
    /// Everything on this machine in one go: a broker, a catalogue, traffic, and the count of it
    Demo(Demo),
    /// Send believable traffic to a deployment and check its count
    Simulate(Simulate),
    /// Build the state anew from the log, beside the one in use, and switch to it
    Replay(Replay),
    /// Fold the log again and compare the state with that; exit 1 when it differs or something is lost
    Verify(Verify),
    /// Copy the state of every shard into a folder
    Backup(Backup),
    /// Put a backup into a data folder
    Restore(Restore),
    /// What an advertiser owes for a month, as of any past time, with its proof; and its closing
    Statement(Statement),
    /// The JetStream streams: make them, or check them
    #[command(subcommand)]
    Streams(Streams),
    /// Advertisers, campaigns and ads
    #[command(subcommand)]
    Catalog(Catalog),
    /// API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Who writes the log, and what of it is missing
    #[command(subcommand)]
    Producers(Producers),
    /// The log, decoded
    #[command(subcommand)]
    Events(Events),
    /// The log in Parquet: what is there, whether it is whole, and erasing one user
    #[command(subcommand)]
    Archive(Archive),
    /// Measure this machine: each figure beside its yardstick
    Bench(Bench),
    /// Check what adtally needs of this machine
    Doctor,
    /// Print a completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `adtally serve`.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// What this process does: collector, intake, projector, api, archiver [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ROLES")]
    pub roles: Vec<String>,
    /// Address of the HTTP server; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// How the streams are made where they are missing.
    #[command(flatten)]
    pub streams: StreamCounts,
}

/// `adtally demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Traffic before the table
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    pub seconds: u64,
    /// Events a second
    #[arg(long, default_value = "500", value_name = "RATE")]
    pub rate: f64,
    /// Seed of the traffic
    #[arg(long, default_value = "1", value_name = "SEED")]
    pub seed: u64,
    /// End after the table: 0 when it is equal, else 1
    #[arg(long)]
    pub exit: bool,
}

/// `adtally replay`.
#[derive(Debug, Default, Args)]
pub struct Replay {
    /// From the newest state at or before: beginning, a sequence (with --shard), a time of the log, or a span back
    /// from now such as 6h
    #[arg(long, value_name = "POSITION", required_unless_present = "prune")]
    pub from: Option<String>,
    /// Only up to a sequence (with --shard) or a time of the log; the new generation is then kept beside the one in use
    #[arg(long, value_name = "POSITION", requires = "from")]
    pub to: Option<String>,
    /// Only this shard
    #[arg(long, value_name = "P")]
    pub shard: Option<u16>,
    /// Remove every generation that is not in use; of a stopped folder only
    #[arg(long, conflicts_with = "to")]
    pub prune: bool,
}

/// `adtally verify`.
#[derive(Debug, Default, Args)]
pub struct Verify {
    /// From the newest checkpoint at or before: beginning, a sequence (with --shard), a time of the log, or a span back
    /// from now such as 6h
    #[arg(long, value_name = "POSITION", default_value = "beginning")]
    pub from: String,
    /// Not the state in use, but the newest checkpoint at or before a sequence (with --shard) or a time of the log
    #[arg(long, value_name = "POSITION")]
    pub to: Option<String>,
    /// Only this shard
    #[arg(long, value_name = "P")]
    pub shard: Option<u16>,
    /// Folder in which the log is folded again [default: in the data folder]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

/// `adtally backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The folder, which is empty or is not there yet
    pub dir: PathBuf,
}

/// `adtally restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The folder of the backup
    pub dir: PathBuf,
    /// Put it into use over the state that the data folder has, which stays beside it
    #[arg(long)]
    pub force: bool,
}

/// `adtally statement`.
#[derive(Debug, Args)]
pub struct Statement {
    /// Whose
    #[arg(long, value_name = "ID")]
    pub advertiser: String,
    /// Which month of the advertiser's calendar
    #[arg(long, value_name = "YYYY-MM")]
    pub month: String,
    /// As of this time of the log; the same bytes for ever [default: now]
    #[arg(long, value_name = "TIME")]
    pub as_of: Option<String>,
    /// Close the month: publish the statement, which never changes from then on
    #[arg(long)]
    pub close: bool,
}

/// `adtally simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// How many events [default: 10000, unless --for is given]
    #[arg(long, value_name = "N")]
    pub events: Option<u64>,
    /// Events a second; without it as fast as they are acknowledged
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// How long, such as 30s or 5m
    #[arg(long = "for", value_name = "D")]
    pub duration: Option<Span>,
    /// Seed of the traffic; by default another one every time
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// The events' way in
    #[arg(long, value_enum, default_value_t = Via::Http)]
    pub via: Via,
    /// Senders at once
    #[arg(long, default_value = "64", value_name = "N")]
    pub senders: usize,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Address of the API and collector, where the deployment does not say it
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// API key for POST, catalogue and queries [env: ADTALLY_HTTP_KEY]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// The ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The collector's paths and POST /api/v1/events
    Http,
    /// Single messages on ads.>
    Nats,
}

/// `adtally streams`.
#[derive(Debug, Subcommand)]
pub enum Streams {
    /// Make the streams that are missing; those that are there stay as they are
    Apply(StreamCounts),
    /// Print how the streams differ from their definitions; exit 1 when they do
    Check(StreamCounts),
}

/// How many streams, and how many copies of each.
#[derive(Debug, Default, Args)]
pub struct StreamCounts {
    /// EVENTS streams when they are made; fixed from then on [default: 8]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Copies of each stream in a cluster when it is made: 1, 3 or 5 [default: as the others have, else 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
}

/// `adtally catalog`.
#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// Check a catalogue file as a whole, then publish it; it counts for every event that arrives afterwards
    Apply {
        /// JSON: {"advertisers":[..],"campaigns":[..],"ads":[..]}; - reads stdin
        file: PathBuf,
    },
    /// Print one document
    Get {
        /// Its type
        #[arg(value_enum)]
        kind: DocumentKind,
        /// Its id
        id: String,
    },
    /// Print all documents; with --json and no type as a file that `apply` takes
    List {
        /// Only those of a type
        #[arg(value_enum)]
        kind: Option<DocumentKind>,
    },
}

/// The documents' types, as the API's paths name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentKind {
    /// Advertisers
    #[value(alias = "advertiser")]
    Advertisers,
    /// Campaigns
    #[value(alias = "campaign")]
    Campaigns,
    /// Ads
    #[value(alias = "ad")]
    Ads,
}

/// `adtally keys`.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key and print it; it is never shown again
    Create(CreateKey),
    /// List the keys
    List,
    /// Revoke a key
    Revoke {
        /// The key's id, as `keys list` shows it
        key_id: String,
    },
}

/// `adtally keys create`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("scope").required(true).multiple(false))]
pub struct CreateKey {
    /// For an advertiser: sees its own data, posts its own conversions
    #[arg(long, group = "scope", value_name = "ID")]
    pub advertiser: Option<String>,
    /// For a publisher: posts events, sees nothing
    #[arg(long, group = "scope")]
    pub publisher: bool,
    /// For an admin: does everything
    #[arg(long, group = "scope")]
    pub admin: bool,
    /// A name for people
    #[arg(long, default_value = "", value_name = "NAME")]
    pub name: String,
}

/// `adtally events`.
#[derive(Debug, Subcommand)]
pub enum Events {
    /// Print events of the log, one line of JSON each
    Tail(Tail),
    /// List events that did not count because another one, of other content, has their id
    Conflicts(Newest),
    /// List messages of the log that could not be applied
    Bad(Newest),
}

/// How much of a list.
#[derive(Debug, Args)]
pub struct Newest {
    /// How many of the newest; at most 1000
    #[arg(long, short = 'n', default_value = "1000", value_name = "N")]
    pub lines: usize,
}

/// `adtally events tail`.
#[derive(Debug, Default, Args)]
pub struct Tail {
    /// Only events of this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// From where: beginning, a sequence (with --shard), a time, or a span back from now such as 6h [default: the last --lines]
    #[arg(long, value_name = "POSITION")]
    pub from: Option<String>,
    /// Only this shard
    #[arg(long, value_name = "P")]
    pub shard: Option<u16>,
    /// How many of the newest events, without --from
    #[arg(long, short = 'n', default_value = "10", value_name = "N")]
    pub lines: usize,
    /// Go on with what comes
    #[arg(long, short = 'f')]
    pub follow: bool,
}

/// `adtally bench`.
#[derive(Debug, Default, Args)]
pub struct Bench {
    /// Seconds for each figure
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    pub seconds: u64,
    /// Only figures of a group: fold, archive, replay, shipping, whole, clicks, redirects, posts, freshness or frames; growth and
    /// queries only by this
    #[arg(long, value_name = "GROUP")]
    pub only: Option<String>,
    /// Events of each measured fold, the full measure is 10000000, which make 6 million minute cells; or of the year
    /// that is asked about, in full 26000000
    #[arg(long, default_value = "2000000", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1_000..))]
    pub events: Vec<u64>,
    /// Shards of the group growth, each with each number of events
    #[arg(long, default_value = "8", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Vec<u16>,
}
