//! The log, the fold's view of it and the outboxes around it, as far as a command can reach them.
//!
//! NATS options name a deployment by its broker; without any the data folder does. A running `serve` is asked; the
//! outboxes of a stopped one are opened by the command, which holds the folder meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::cli::state;
use crate::config::Config;
use crate::control::{self, ControlError, Verb};
use crate::data_dir::{self, DataDir, DataDirError};
use crate::deployment::{self, Deployment};
use crate::producers::holders::{self, Holder};
use crate::producers::{self, Row, from_log};
use crate::stretch::Stretch;

/// How long the fold of what a command has written is waited for.
const FOLDED_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Rows, and where they are from.
pub struct Rows {
    /// The rows.
    pub rows: Vec<Row>,
    /// They are from the log itself, since that was asked for or nobody has folded it.
    pub from_log: bool,
}

/// A deployment for the time of a command.
pub struct Scene {
    /// Its broker.
    pub deployment: Deployment,
    /// The data folder, when the command took it besides a broker that is named otherwise.
    folder: Option<DataDir>,
}

impl Scene {
    /// Finds it.
    ///
    /// # Errors
    /// When there is no deployment, or its broker cannot be reached.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        // A folder that was used with a broker elsewhere holds no log, and an empty one would say that all is well.
        if let Some(dir) = state::stopped(config)? {
            anyhow::ensure!(
                dir.path().join("nats").is_dir(),
                "no nats-server of its own ever ran in {}: name the NATS of that deployment with --server",
                dir.path().display()
            );
        }
        let deployment = Deployment::find(config, false).await?;
        let named = deployment::nats_options(&config.nats).is_some();
        let folder = if named && data_dir::exists(&config.data_dir) {
            match DataDir::take(&config.data_dir) {
                Ok(folder) => Some(folder),
                // Whoever serves it is asked over NATS.
                Err(DataDirError::InUse { .. }) => None,
                Err(error) => return Err(error.into()),
            }
        } else {
            None
        };
        Ok(Self { deployment, folder })
    }

    /// Who writes the log: of the projector that runs; where none does, or `from_log`, of the log itself.
    ///
    /// # Errors
    /// When neither can be read.
    pub async fn rows(&self, from_log: bool) -> anyhow::Result<Rows> {
        if !from_log {
            let asked = control::ask(&self.deployment.client, Verb::Producers, &Value::Null).await;
            match asked {
                Ok(answer) => {
                    return Ok(Rows {
                        rows: holders::read(answer)?,
                        from_log: false,
                    });
                }
                Err(ControlError::Nobody { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Rows {
            rows: from_log::list(&self.deployment.jetstream()).await?,
            from_log: true,
        })
    }

    /// The outboxes that can be reached, with what they hold of the stretches.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn holders(&self, wanted: &[Stretch]) -> anyhow::Result<Vec<Holder>> {
        let mut holders = holders::running(&self.deployment.client, wanted).await?;
        let own = self.deployment.own_folder();
        if let Some(folder) = self.folder.as_ref().map(DataDir::path).or(own) {
            holders.extend(tokio::task::block_in_place(|| holders::stopped(folder)));
        }
        Ok(holders)
    }

    /// Waits until the projector has folded up to these sequences of the shards.
    ///
    /// # Errors
    /// When it does not within a minute, or cannot be asked.
    pub async fn folded(&self, sequences: &BTreeMap<u16, u64>) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + FOLDED_WITHIN;
        loop {
            let asked =
                control::ask(&self.deployment.client, Verb::Positions, &Value::Null).await?;
            let behind = sequences.iter().find(|(shard, sequence)| {
                asked["positions"][usize::from(**shard)].as_u64() < Some(**sequence)
            });
            let Some((shard, sequence)) = behind else {
                return Ok(());
            };
            anyhow::ensure!(
                tokio::time::Instant::now() < until,
                "shard {shard} is not folded up to message {sequence} within {} s; `adtally producers list` says later what came of it",
                FOLDED_WITHIN.as_secs()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends what was started for the command.
    pub async fn close(self) {
        self.deployment.close().await;
    }
}

/// The rows of a stopped deployment as its folder's state has them, and the outboxes of that folder; none when it
/// runs, is named by its broker, or has never been folded.
///
/// # Errors
/// When the folder or the state cannot be read.
pub fn of_stopped_folder(config: &Config) -> anyhow::Result<Option<(Vec<Row>, Vec<Holder>)>> {
    let Some(dir) = state::stopped(config)? else {
        return Ok(None);
    };
    if state::shards_on_disk(dir.path()) == 0 {
        return Ok(None);
    }
    let rows = state::read_folder(&dir, producers::list)?;
    Ok(Some((rows, holders::stopped(dir.path()))))
}

/// Notes in the rows which outbox holds what of their gaps.
///
/// # Errors
/// When an outbox cannot be read.
pub fn note_holders(rows: &mut [Row], holders: &[Holder]) -> anyhow::Result<()> {
    let wanted: Vec<Stretch> = gaps(rows);
    for holder in holders {
        let held = holder.holds(&wanted)?;
        for gap in rows.iter_mut().flat_map(|row| &mut row.gaps) {
            let left: u64 = gap.stretch.without(&held).iter().map(Stretch::events).sum();
            let has = gap.stretch.events() - left;
            if has > 0 {
                gap.healable = gap.healable.max(has);
                gap.held_by.push(holder.name());
            }
        }
    }
    Ok(())
}

/// Every gap that the rows name.
pub fn gaps(rows: &[Row]) -> Vec<Stretch> {
    let gaps = rows.iter().flat_map(|row| &row.gaps);
    gaps.map(|gap| gap.stretch).collect()
}
