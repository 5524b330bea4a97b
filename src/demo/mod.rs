//! `adtally demo`: a deployment on this machine, traffic through it, and the count beside what was sent.
//!
//! What a stranger runs first, so it needs nothing but the binary and a nats-server, takes free ports, and says at
//! the end what to try next, in lines that work as they are printed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::api_client::Api;
use crate::config::Config;
use crate::data_dir::{self, DataDir};
use crate::runner::Runner;
use crate::simulate::over_nats::Broker;
use crate::simulate::plan::{Plan, now_ms};
use crate::simulate::report::Report;
use crate::simulate::{Run, Way, unique_tag};

/// The data folder, unless another one is named; emptied at every start.
pub const FOLDER: &str = "adtally-demo";
/// Senders at once, over both ways.
const SENDERS: usize = 32;
/// The rate at which traffic goes on after the table, at most: it only has to keep the numbers moving.
const AFTERWARDS_RATE: f64 = 50.0;

/// What the demo does.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long traffic flows before the table.
    pub traffic: Duration,
    /// Events a second.
    pub rate: f64,
    /// Seed of the traffic.
    pub seed: u64,
    /// End after the table.
    pub exit: bool,
    /// The data folder that was named.
    pub data_dir: Option<PathBuf>,
}

/// A demo that has shown its table.
#[derive(Debug)]
pub struct Demo {
    runner: Runner,
    run: Run,
    folder: PathBuf,
}

impl Demo {
    /// Starts the deployment and sends traffic for as long as the options say.
    pub async fn start(
        options: &Options,
        config: &Config,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let folder = folder(options.data_dir.as_deref())?;
        let fresh = !data_dir::exists(&folder);
        let mut config = config.clone();
        config.data_dir.clone_from(&folder);
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        // The traffic comes from this machine and says for whom, as a proxy would.
        config.collector.trusted_proxies =
            vec!["127.0.0.0/8".parse().context("the loopback network")?];
        let runner = Runner::start(&config).await?;
        let started = Self::begin(&runner, options, fresh).await;
        let run = match started {
            Ok(run) => run,
            Err(error) => {
                runner.stop().await;
                return Err(error);
            }
        };
        let mut demo = Self {
            runner,
            run,
            folder,
        };
        let plan = Plan {
            events: None,
            rate: Some(options.rate),
            duration: Some(options.traffic),
        };
        if let Err(error) = demo.run.send(plan, stop).await {
            demo.runner.stop().await;
            return Err(error);
        }
        Ok(demo)
    }

    async fn begin(runner: &Runner, options: &Options, fresh: bool) -> anyhow::Result<Run> {
        let api = Api::new(&runner.http_url(), None)?;
        let way = Way::Both(Broker {
            jetstream: async_nats::jetstream::new(runner.client().clone()),
            refusals: runner.refusals().clone(),
        });
        // Ids are plain in a fresh folder; a kept one has counts of its own under them.
        let tag = if fresh {
            String::new()
        } else {
            unique_tag(options.seed, now_ms())
        };
        let mut run = Run::new(api, way, options.seed, tag, SENDERS);
        runner.ready().await?;
        run.prepare()
            .await
            .context("applying the sample catalogue")?;
        Ok(run)
    }

    /// Waits until everything is visible, and compares.
    pub async fn report(&self) -> anyhow::Result<Report> {
        self.run.report().await.context("comparing with the API")
    }

    /// Lines to try, each on its own.
    pub fn lines(&self) -> Vec<String> {
        let (http, sample) = (self.runner.http_url(), &self.run.sample);
        let (campaign, ad) = (&sample.campaigns[0].campaign_id, &sample.ads[0].ad_id);
        let advertiser = &sample.advertisers[0].advertiser_id;
        let nats = self.runner.nats_url().unwrap_or_default();
        let adtally =
            std::env::current_exe().map_or_else(|_| "adtally".into(), |p| p.display().to_string());
        let folder = self.folder.display();
        vec![
            format!("curl -s '{http}/api/v1/analytics?campaign_id={campaign}&granularity=minute'"),
            format!(
                "curl -s '{http}/api/v1/analytics?advertiser_id={advertiser}&group_by=ad_id,device&granularity=total&format=csv'"
            ),
            format!("curl -s '{http}/api/v1/campaigns/{campaign}/spend'"),
            format!("curl -s '{http}/api/v1/fraud?campaign_id={campaign}'"),
            format!("curl -si -A Mozilla/5.0 '{http}/click?ad_id={ad}&user_id=me'"),
            format!(
                "nats --server {nats} pub ads.click.{ad} '{{\"click_id\":\"by-hand-1\",\"user_id\":\"me\"}}'"
            ),
            format!("nats --server {nats} stream view QUARANTINE 5"),
            format!("{adtally} events tail --kind click --follow --data-dir {folder}"),
            format!("{adtally} producers list --data-dir {folder}"),
        ]
    }

    /// Keeps traffic flowing until `stop`.
    pub async fn go_on(&mut self, rate: f64, stop: &CancellationToken) -> anyhow::Result<()> {
        let plan = Plan {
            events: None,
            rate: Some(rate.min(AFTERWARDS_RATE)),
            duration: None,
        };
        self.run.send(plan, stop).await
    }

    /// Drains and ends the deployment.
    pub async fn end(self) {
        self.runner.stop().await;
    }
}

/// The folder to use: the one that was named as it is, else an emptied one of the demo's own.
fn folder(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_path_buf());
    }
    let own = PathBuf::from(FOLDER);
    if data_dir::exists(&own) {
        // Only a folder that this program made and nobody holds is emptied.
        drop(DataDir::take(&own)?);
        std::fs::remove_dir_all(&own).with_context(|| format!("emptying {FOLDER}"))?;
    } else if own.exists() {
        anyhow::bail!(
            "{FOLDER} is here and is not a demo's: move it, or name a folder with --data-dir"
        );
    }
    Ok(own)
}
