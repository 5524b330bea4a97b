//! Data goes to stdout, and nothing else does.
//!
//! A reader that goes away (`adtally events tail | head`) ends the command quietly.

use std::io::{self, Write};

use serde::Serialize;

use super::Exit;
use crate::table::table;
use crate::telemetry;

/// How a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// For programs.
    pub json: bool,
}

impl Output {
    /// One line of text.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        self.raw(&format!("{text}\n"))
    }

    /// Text as it stands.
    pub fn raw(&self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(anyhow::Error::from)
    }

    /// A value as one line of JSON.
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(value)?)
    }

    /// Says on stderr why the answer is no, as errors are said.
    pub fn no(&self, why: &str) -> Exit {
        match self.json {
            true => telemetry::say(&serde_json::json!({"error": why}).to_string()),
            false => telemetry::say(why),
        }
        Exit::No
    }

    /// Rows as one JSON array, or as a table.
    pub fn rows<T: Serialize>(
        &self,
        header: &[&str],
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        if self.json {
            return self.json(&rows);
        }
        let mut table = table(header);
        for row in rows {
            table.add_row(cells(row));
        }
        self.line(&table.to_string())
    }
}

/// Whether an error is that of a reader that went away.
pub fn reader_left(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
