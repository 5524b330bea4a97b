//! How the fold grows: shards and events against rate, memory, disk and the time of a restart.
//!
//! Invariant: every row of the table is a process of its own, because the most memory that a process ever had cannot
//! be asked for twice. Its traffic is ten impressions to a click; making it is no part of what is measured.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Figure;
use super::mixed::{Mixed, ROUND_EVENTS};
use crate::projector::figures::{
    FoldRun, Framed, memory_bytes, peak_memory_bytes, process_cpu, thread_cpu, written_bytes,
};
use crate::store::{Limits, Shards};
use crate::telemetry;

/// How often memory is noted, where there are as many rounds.
const SAMPLES: u64 = 10;

/// Measures every combination, each in a process of its own; one combination in this one.
pub async fn run(folder: &Path, shards: &[u16], events: &[u64]) -> anyhow::Result<Vec<Figure>> {
    if let ([shards], [events]) = (shards, events) {
        let (folder, shards, events) = (folder.join("growth"), *shards, *events);
        let measured = tokio::task::spawn_blocking(move || measure(&folder, shards, events));
        return Ok(vec![measured.await??]);
    }
    let mut all = Vec::new();
    for shards in shards {
        for events in events {
            telemetry::say(&format!("{events} events on {shards} shards ..."));
            let words = ["bench", "--json", "--only", "growth"];
            let output = Command::new(std::env::current_exe()?)
                .args(words)
                .args([
                    "--shards",
                    &shards.to_string(),
                    "--events",
                    &events.to_string(),
                ])
                .stderr(std::process::Stdio::inherit())
                .output()
                .context("starting the process of one measurement")?;
            anyhow::ensure!(
                output.status.success(),
                "a measurement ended with {}",
                output.status
            );
            let rows: Vec<Figure> =
                serde_json::from_slice(&output.stdout).context("what a measurement says")?;
            all.extend(rows);
        }
    }
    Ok(all)
}

/// One shard's part of the measurement.
struct Lane {
    run: FoldRun,
    traffic: Mixed,
    /// Frames that are made and not folded.
    frames: Vec<Framed>,
}

impl Lane {
    fn new(run: FoldRun, shard: u16, events: u64) -> Self {
        Self {
            run,
            traffic: Mixed::new(shard, events),
            frames: Vec::new(),
        }
    }

    /// Makes the next frames; answers the processor time that it took.
    fn make(&mut self, events: u64) -> Duration {
        let before = thread_cpu();
        self.frames = self.traffic.frames(events);
        thread_cpu().saturating_sub(before)
    }

    fn fold(&mut self) -> anyhow::Result<()> {
        Ok(self.run.fold(&std::mem::take(&mut self.frames))?)
    }
}

/// Runs `work` on every lane at once, a thread each, and answers in their order.
fn on_all<T: Send>(
    lanes: &mut [Lane],
    work: impl Fn(&mut Lane) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = lanes
            .iter_mut()
            .map(|lane| scope.spawn(move || work(lane)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("the thread of a shard panicked"))
            })
            .collect()
    })
}

fn measure(folder: &Path, shards: u16, events: u64) -> anyhow::Result<Figure> {
    let open = || -> anyhow::Result<(Shards, Vec<FoldRun>, Duration)> {
        let began = Instant::now();
        let set = Shards::open(folder, shards, Limits::default())?;
        let open = set.set();
        let runs = open.iter().map(|shard| FoldRun::new(Arc::clone(shard)));
        let runs = runs.collect::<Result<_, _>>()?;
        Ok((set, runs, began.elapsed()))
    };
    let (set, runs, _) = open()?;
    let each = events / u64::from(shards);
    let mut lanes: Vec<Lane> = runs
        .into_iter()
        .zip(0..)
        .map(|(run, shard)| Lane::new(run, shard, each))
        .collect();
    let (cpu_before, written_before) = (process_cpu(), written_bytes());
    let (mut wall, mut making) = (Duration::ZERO, Duration::ZERO);
    let (mut done, mut samples, mut rocks) = (0, Vec::new(), Vec::new());
    while done < each {
        let round = ROUND_EVENTS.min(each - done);
        making += on_all(&mut lanes, |lane| Ok(lane.make(round)))?
            .iter()
            .sum::<Duration>();
        let began = Instant::now();
        on_all(&mut lanes, Lane::fold)?;
        wall += began.elapsed();
        done += round;
        if done * SAMPLES / each > (done - round) * SAMPLES / each {
            samples.push(mib(memory_bytes()));
            rocks.push(set.set().iter().next().map(|shard| shard.memory()));
        }
    }
    for shard in set.set().iter() {
        shard.settle()?;
    }
    let cpu = process_cpu().saturating_sub(cpu_before + making);
    let written = written_bytes()
        .zip(written_before)
        .map(|(now, then)| now - then);
    // Without closing it: what is not in files is read from the write-ahead log, as after a kill.
    drop((lanes, set));
    let (set, runs, after_kill) = open()?;
    set.close()?;
    drop((runs, set));
    let (set, _, after_stop) = open()?;
    set.close()?;
    let total = (each * u64::from(shards)) as f64;
    let most = |part: fn(&(usize, usize)) -> usize| {
        mib(rocks
            .iter()
            .flatten()
            .map(part)
            .max()
            .map(|bytes| bytes as u64))
    };
    Ok(Figure {
        name: format!("growth: {shards} shards, {:.0} M events", total / 1e6),
        value: format!(
            "{:.2} M/s, {:.2} M/s per CPU-second; memory in the course of it {} MiB, at most {} MiB, of which RocksDB's blocks {} MiB and unflushed writes {} MiB; {:.0} bytes an event on disk, {:.0} written; opened in {:.0} ms after a kill, {:.0} ms after a stop",
            total / wall.as_secs_f64() / 1e6,
            total / cpu.as_secs_f64() / 1e6,
            samples.join(" "),
            mib(peak_memory_bytes()),
            most(|memory| memory.0),
            most(|memory| memory.1),
            folder_bytes(folder)? as f64 / total,
            written.unwrap_or(0) as f64 / total,
            after_kill.as_secs_f64() * 1e3,
            after_stop.as_secs_f64() * 1e3,
        ),
        yardstick: "1024 MiB for a node".to_owned(),
        ratio: peak_memory_bytes().map(|bytes| bytes as f64 / (1u64 << 30) as f64),
    })
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or("?".to_owned(), |bytes| (bytes >> 20).to_string())
}

fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += match metadata.is_dir() {
            true => folder_bytes(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(sum)
}
