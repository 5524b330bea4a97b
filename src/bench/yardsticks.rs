//! Programs in Python by which DuckDB and ClickHouse are given what adtally is given, and asked the same.
//!
//! Invariant: they are optional. Where they are not installed that is said, and nothing is measured beside them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use crate::telemetry;

/// The variable that names the Python interpreter with DuckDB and ClickHouse.
const PYTHON: &str = "ADTALLY_BENCH_PYTHON";
/// The variable that names one of the programs; the others lie beside it.
const PROGRAM: &str = "ADTALLY_BENCH_YARDSTICKS";
/// Who is measured, by the programs' names.
const ENGINES: [&str; 2] = ["duckdb", "clickhouse"];

/// One of the programs.
pub struct Program {
    python: PathBuf,
    program: PathBuf,
}

impl Program {
    /// The program of that file name; none where they are not installed, which is said.
    pub fn find(name: &str) -> Option<Self> {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let (Some(python), Some(program)) = (named(PYTHON), named(PROGRAM)) else {
            telemetry::say(
                "DuckDB and ClickHouse are not measured: `tools/setup --bench` installs them, and `make bench` does both",
            );
            return None;
        };
        Some(Self {
            python: python.into(),
            program: PathBuf::from(program).with_file_name(name),
        })
    }

    fn call(&self, words: &[&Path]) -> anyhow::Result<Vec<u8>> {
        let output = Command::new(&self.python)
            .arg(&self.program)
            .args(words)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("running {}", self.program.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "{} {:?} ended with {}",
            self.program.display(),
            words,
            output.status
        );
        Ok(output.stdout)
    }

    /// Makes a Parquet file of a CSV file in a folder, removes the latter, and asks everybody in turn, each with a
    /// folder of its own; `more` is what the program takes besides.
    ///
    /// # Errors
    /// When a program cannot be run, fails, or says something else than is expected.
    pub fn ask<T: DeserializeOwned>(
        &self,
        folder: &Path,
        csv: &Path,
        more: &[&Path],
    ) -> anyhow::Result<Vec<T>> {
        let parquet = folder.join("events.parquet");
        self.call(&[Path::new("parquet"), csv, &parquet])?;
        std::fs::remove_file(csv).with_context(|| format!("removing {}", csv.display()))?;
        let ask = |name: &&str| {
            telemetry::say(&format!("{name} ..."));
            let own = folder.join(name);
            let told = self.call(&[&[Path::new(name), &parquet, &own], more].concat())?;
            serde_json::from_slice(&told).with_context(|| format!("what {name} says"))
        };
        ENGINES.iter().map(ask).collect()
    }
}
