//! The settings of the archive.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Span;

/// Where the log goes from its streams, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Archive {
    /// `s3://BUCKET/PREFIX` or `file:///FOLDER`; none: a folder of the data folder.
    pub url: Option<String>,
    /// How long a message stays in its stream after it was archived.
    pub keep_in_stream: Span,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            url: None,
            keep_in_stream: Span(Duration::from_secs(7 * 86_400)),
        }
    }
}
