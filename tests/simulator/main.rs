//! Runs worlds by their seeds: `simulate [--seeds N] [--start N] [--seed N [--trace]] [--bug NAME]`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Instant;

use adtally_simulator::bugs::Bug;
use adtally_simulator::report::Coverage;
use adtally_simulator::run;

/// A world is made of small pieces that live as briefly as it does.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is to be run.
#[derive(Debug)]
struct Arguments {
    start: u64,
    seeds: u64,
    is_traced: bool,
    bug: Option<Bug>,
}

fn arguments() -> Result<Arguments, String> {
    let mut given = Arguments {
        start: 0,
        seeds: 10_000,
        is_traced: false,
        bug: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("{word}: {text} is no number"))
        };
        match word.as_str() {
            "--start" => given.start = number(value()?)?,
            "--seeds" => given.seeds = number(value()?)?,
            "--seed" => (given.start, given.seeds) = (number(value()?)?, 1),
            "--trace" => given.is_traced = true,
            "--bug" => {
                let name = value()?;
                let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
                let bug = Bug::from_name(&name);
                given.bug = Some(bug.ok_or(format!("--bug: one of {}", names.join(", ")))?);
            }
            _ => {
                return Err(format!(
                    "{word} is no argument: --start, --seeds, --seed, --trace, --bug"
                ));
            }
        }
    }
    Ok(given)
}

fn main() -> ExitCode {
    let given = match arguments() {
        Ok(given) => given,
        Err(what) => {
            eprintln!("simulate: {what}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let cpu_before = cpu_seconds();
    let mut coverage = Coverage::default();
    let mut virtual_ms = 0;
    for seed in given.start..given.start + given.seeds {
        let report = run(seed, given.bug, given.is_traced);
        report.trace.iter().for_each(|line| println!("{line}"));
        coverage.merge(&report.coverage);
        virtual_ms += report.virtual_ms;
        if let Some(what) = &report.violation {
            println!("seed {seed}: {what}");
            println!("once more, with a trace: make simulate SEED={seed} TRACE=1");
            return ExitCode::FAILURE;
        }
    }
    coverage.lines().iter().for_each(|line| println!("{line}"));
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_before.zip(cpu_seconds()));
    let cpu = cpu.map_or(took, |(before, after)| after - before);
    println!(
        "{} seeds from {} on, {:.1} virtual hours, nothing was wrong: {took:.1} s, of which {cpu:.1} s on the processor; {:.0} seeds a minute of one core",
        given.seeds,
        given.start,
        virtual_ms as f64 / 3_600_000.0,
        given.seeds as f64 / cpu * 60.0,
    );
    ExitCode::SUCCESS
}

/// Seconds that this process has had a processor, where the system says so: other programs take none of it.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
