//! What a process does.

use serde::{Deserialize, Serialize};

/// What a process can do; several at once by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves the collector's paths and `POST /api/v1/events`.
    Collector,
    /// Takes single events from INTAKE.
    Intake,
    /// Folds the EVENTS streams.
    Projector,
    /// Answers queries.
    Api,
    /// Writes the log into the archive, and purges the streams of what that holds.
    Archiver,
}

impl Role {
    /// Every role of this version.
    pub const ALL: [Role; 5] = [
        Role::Collector,
        Role::Intake,
        Role::Projector,
        Role::Api,
        Role::Archiver,
    ];

    /// The role's name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Collector => "collector",
            Role::Intake => "intake",
            Role::Projector => "projector",
            Role::Api => "api",
            Role::Archiver => "archiver",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim();
        Role::ALL
            .into_iter()
            .find(|r| r.name() == name)
            .ok_or_else(|| {
                let known: Vec<&str> = Role::ALL.iter().map(|r| r.name()).collect();
                format!(
                    "there is no role `{name}` in this version; the roles are {}",
                    known.join(", ")
                )
            })
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
