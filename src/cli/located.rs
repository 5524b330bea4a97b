//! The data folder of a deployment that is named by its NATS alone: the `serve` that has the role says which.
//!
//! A folder that was named is never exchanged for another: who mistypes it is told so, and nothing is done elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{Config, Role};
use crate::control::{self, Verb};
use crate::data_dir;
use crate::deployment::{self, Deployment};

/// The configuration of a command that works on what a role keeps in its data folder, with that folder.
///
/// # Errors
/// When the NATS that is named cannot be reached, or no `serve` of this machine has the role there, or several do.
pub async fn located(config: &Config, role: Role) -> anyhow::Result<Config> {
    let is_named = config.data_dir != Config::default().data_dir;
    let has_nats = deployment::nats_options(&config.nats).is_some();
    if is_named || !has_nats || data_dir::exists(&config.data_dir) {
        return Ok(config.clone());
    }
    let deployment = Deployment::find(config, false).await?;
    let answers = control::ask_all(&deployment.client, Verb::Info, &Value::Null).await;
    deployment.close().await;
    let answers = answers?;
    let keepers: Vec<Keeper> = answers
        .iter()
        .filter_map(|i| Keeper::read(i, role))
        .collect();
    let data_dir = the_one(&keepers, role, &config.data_dir)?;
    Ok(Config {
        data_dir,
        ..config.clone()
    })
}

/// A process that has the role.
#[derive(Debug)]
struct Keeper {
    folder: PathBuf,
    process: u32,
}

impl Keeper {
    fn read(info: &Value, wanted: Role) -> Option<Self> {
        let roles = info.get("roles")?.as_array()?;
        if !roles.iter().any(|role| role == wanted.name()) {
            return None;
        }
        Some(Self {
            folder: info.get("data_dir")?.as_str()?.into(),
            process: info.get("process")?.as_u64()?.try_into().ok()?,
        })
    }

    /// Whether the folder of that name on this machine is that process's.
    fn is_here(&self) -> bool {
        data_dir::holder_of(&self.folder) == Some(self.process)
    }
}

fn the_one(keepers: &[Keeper], role: Role, default: &Path) -> anyhow::Result<PathBuf> {
    let here: BTreeSet<&PathBuf> = keepers
        .iter()
        .filter(|f| f.is_here())
        .map(|f| &f.folder)
        .collect();
    let list = |folders: &mut dyn Iterator<Item = &PathBuf>| {
        let folders: Vec<String> = folders.map(|f| f.display().to_string()).collect();
        folders.join(", ")
    };
    match here.len() {
        1 => Ok(here.into_iter().next().cloned().unwrap_or_default()),
        0 if keepers.is_empty() => anyhow::bail!(
            "no `adtally serve` with the role {} answers on this NATS, and there is no deployment in {}: name its folder with --data-dir",
            role.name(),
            default.display()
        ),
        0 => anyhow::bail!(
            "the {} of this deployment is on another machine, in {}: run this command there",
            role.name(),
            list(&mut keepers.iter().map(|f| &f.folder))
        ),
        _ => anyhow::bail!(
            "several processes of this machine are {} of this deployment, in {}: name one of the folders with --data-dir",
            role.name(),
            list(&mut here.into_iter())
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;

    #[test]
    fn only_one_folder_of_this_machine_is_taken() {
        let (one, another) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _held = [one.path(), another.path()].map(|path| DataDir::take(path).unwrap());
        let keeper = |folder: &Path, process| Keeper {
            folder: folder.into(),
            process,
        };
        let own = std::process::id();
        let found = |keepers: &[Keeper]| {
            the_one(keepers, Role::Projector, Path::new("none")).map_err(|e| e.to_string())
        };
        // A folder of the same name that another process holds is another machine's.
        let elsewhere = || keeper(another.path(), own + 1);
        assert_eq!(
            found(&[keeper(one.path(), own), elsewhere()]).unwrap(),
            one.path()
        );
        assert!(
            found(&[elsewhere()])
                .unwrap_err()
                .contains("another machine")
        );
        assert!(found(&[]).unwrap_err().contains("no `adtally serve`"));
        let both = [keeper(one.path(), own), keeper(another.path(), own)];
        assert!(found(&both).unwrap_err().contains("several processes"));
    }
}
