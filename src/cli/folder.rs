//! A data folder and its broker, for commands that work on the state in it: they take a stopped folder for as long as
//! they run, and ask the `serve` that holds a running one.

use anyhow::Context as _;

use super::Usage;
use crate::config::Config;
use crate::data_dir::{self, DataDir, DataDirError};
use crate::deployment::{self, Deployment};
use crate::log::streams;

/// Who has the folder.
pub enum Holder {
    /// This command: by a lock of its own, or by that of the deployment that it has opened.
    Us {
        /// Held for as long as this is.
        _lock: Option<DataDir>,
    },
    /// A `serve`.
    Process(u32),
}

/// A data folder and its broker, for the time of the command.
pub struct Scene {
    /// The deployment.
    pub deployment: Deployment,
    /// Who has the folder.
    pub holder: Holder,
}

impl Scene {
    /// Finds who has the folder, takes it when nobody has, and its broker.
    ///
    /// # Errors
    /// When there is no deployment, or its broker does not answer.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let path = &config.data_dir;
        if !data_dir::exists(path) {
            return Err(DataDirError::Missing { path: path.clone() }.into());
        }
        let named = deployment::nats_options(&config.nats).is_some();
        let (own, pid) = match DataDir::take(path) {
            Ok(dir) => (Some(dir), None),
            Err(DataDirError::InUse { pid, .. }) => (None, pid.or(data_dir::holder_of(path))),
            Err(error) => return Err(error.into()),
        };
        if own.is_some() && !named {
            // An empty log of its own would make an empty state of one that was folded elsewhere.
            anyhow::ensure!(
                path.join("nats").is_dir(),
                "no nats-server of its own ever ran in {}: name the NATS of that deployment with --server",
                path.display()
            );
        }
        let held = own.is_some();
        // The embedded server of a stopped folder is started by the deployment, which takes the folder for that.
        let own = own.filter(|_| named);
        let deployment = Deployment::find(config, false).await?;
        let holder = match (held, pid) {
            (true, _) if named || deployment.own_folder().is_some() => Holder::Us { _lock: own },
            (false, Some(pid)) => Holder::Process(pid),
            _ => {
                deployment.close().await;
                return Err(DataDirError::InUse {
                    path: path.clone(),
                    pid,
                }
                .into());
            }
        };
        Ok(Self { deployment, holder })
    }

    /// Its shards, or one of them.
    ///
    /// # Errors
    /// When there are no streams, or not that shard.
    pub async fn shards(&self, one: Option<u16>) -> anyhow::Result<Vec<u16>> {
        let count = streams::shards_of_running(&self.deployment.jetstream()).await?;
        let count = count.context("there are no EVENTS streams on this NATS")?;
        match one {
            None => Ok((0..count).collect()),
            Some(shard) if shard < count => Ok(vec![shard]),
            Some(shard) => Err(Usage(format!(
                "--shard {shard}: this deployment has the shards 0 to {}",
                count.max(1) - 1
            ))
            .into()),
        }
    }
}
