//! Fail points: named steps at which a process can be made to end, to stand still or to fail, so that a test meets
//! each of them on purpose and not by luck.
//!
//! They are in every build, since what is tried must be what runs. `ADTALLY_FAIL_POINTS` arms them for one `serve`, or
//! one `replay` of a stopped folder, one `archive run`, one `backup` or `restore`; unset, a passing costs one load of a word that never changes. Invariant: a
//! point changes nothing unless it is armed, and an armed process says so before anything else.
//!
//! Why not the crate `fail` (0.5.1, October 2022): its points exist only in a build with a feature of its own, every
//! passing takes a lock and looks a text up, it cannot kill (a panic runs destructors and is caught by Tokio, which
//! is not what a power cut does), and a misspelt name is silently never passed.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable that arms them: `name=action[@N],…`.
pub const VARIABLE: &str = "ADTALLY_FAIL_POINTS";
/// The name that stands for every point.
const EVERY: &str = "every";

macro_rules! points {
    ($($variant:ident $name:literal $step:literal,)*) => {
        /// A durable step. Its name in the variable and in the documentation is [`Point::name`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $step] $variant,)*
        }

        impl Point {
            /// All of them, in the order in which an event meets them.
            pub const ALL: &'static [Point] = &[$(Point::$variant),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Point::$variant => $name,)* }
            }

            /// What has happened when it is passed, and what has not.
            #[cfg(test)]
            pub fn step(self) -> &'static str {
                match self { $(Point::$variant => $step,)* }
            }
        }
    };
}

points! {
    EpochChosen "epoch.chosen" "an outbox opens: its new epoch is chosen, nothing of it is on disk",
    EpochRecorded "epoch.recorded" "the epoch's record is synced, nothing has been said under it",
    EpochAnnounced "epoch.announced" "the broker holds an announcement of the epoch's watermark",
    EpochToldDrained "epoch.told-drained" "every shard is told that nothing more comes from an epoch, its record does not say so yet",
    EpochDrained "epoch.drained" "the epoch's record says that it is drained",
    EpochForgotten "epoch.forgotten" "a drained epoch of which nothing is kept has been deleted from the outbox",
    OutboxQueued "outbox.queued" "an event waits in the writer's queue, in memory only",
    OutboxBatched "outbox.batched" "the writer has put a batch together, nothing of it is written",
    OutboxWritten "outbox.written" "the batch is in the write-ahead log, not synced",
    OutboxSynced "outbox.synced" "the batch is synced, nobody has been answered",
    OutboxAnswered "outbox.answered" "everybody who waited for the batch has been answered",
    OutboxMarked "outbox.marked" "acknowledged positions are written to the outbox",
    OutboxEvicted "outbox.evicted" "acknowledged events have been deleted from the outbox",
    CollectorAnswering "collector.answering" "an event is durable and its HTTP answer is about to be sent",
    IntakeReceived "intake.received" "a batch has come from INTAKE, nothing of it is on disk",
    IntakeDurable "intake.durable" "the batch is synced in the outbox, INTAKE has no acknowledgement of it",
    IntakeAcknowledged "intake.acknowledged" "the batch is acknowledged to INTAKE",
    ShipperCut "shipper.cut" "a frame is cut and packed, not sent",
    ShipperSent "shipper.sent" "a message is on its way to the broker, which has not acknowledged it",
    ShipperAcknowledged "shipper.acknowledged" "the broker holds the frame, the outbox has not noted that",
    ShipperNoted "shipper.noted" "the lane knows in memory that the frame is acknowledged",
    QuarantineCut "quarantine.cut" "records of refused events are read from the outbox, not sent",
    QuarantineAcknowledged "quarantine.acknowledged" "the broker holds a record, the outbox has not noted that",
    FoldBuilt "fold.built" "a batch is folded, its changes and its position are not written",
    FoldDayMade "fold.day-made" "the family of ids of a log day is made, what goes into it is not written",
    FoldWritten "fold.written" "changes and position are written in one batch, nobody knows of it",
    FoldShown "fold.shown" "questions see the batch",
    SealBuilt "seal.built" "blocks of what is over are built, nothing of them is written",
    SealWritten "seal.written" "blocks are written and the rows they are made of deleted in one batch, nobody knows of it",
    FoldFlushed "fold.flushed" "a clean end has flushed a shard's state to tables",
    GenerationMade "generation.made" "a shard's new generation is made, nothing names it",
    GenerationWritten "generation.written" "the name of the generation is synced beside CURRENT, which is not replaced",
    GenerationNamed "generation.named" "CURRENT names the generation",
    GenerationReplayed "generation.replayed" "a replay has built a generation and flushed it, CURRENT names the old one",
    CheckpointLinked "checkpoint.linked" "a checkpoint's files are linked and copied, nothing says that it is whole",
    CheckpointMade "checkpoint.made" "a checkpoint is whole, those past the retention are not removed",
    ArchiveBuilt "archive.built" "a segment of the archive is made in memory, nothing of it is in the store",
    ArchivePut "archive.put" "a segment's file is in the store, no entry of the manifest names it",
    ArchiveVerified "archive.verified" "the file was read back and is whole, no entry names it",
    ArchiveCommitted "archive.committed" "the entry of a segment is in the store",
    ArchivePurging "archive.purging" "every file of what is to leave the stream was read back, nothing is purged",
    ArchivePurged "archive.purged" "the broker has purged the stream",
    BackupCopied "backup.copied" "a backup's files and its manifest are on the disk, and the manifest is not in its place",
    BackupNamed "backup.named" "a backup's manifest is in its place, the mark of an unfinished one is there still",
    RestoreCopied "restore.copied" "all shards of a backup are on the disk of a data folder, CURRENT names none of them",
    CatalogueWritten "catalogue.written" "the catalogue's new copy is synced beside the old one, which is not replaced",
    CatalogueCopied "catalogue.copied" "the catalogue's copy is replaced",
    CataloguePublished "catalogue.published" "the broker holds a document, who wrote it has no answer",
    DayKeyWritten "day-keys.written" "the new file of day keys is synced beside the old one, which is not replaced",
}

impl Point {
    /// Whether what is done here can fail, so that the action `error` means something.
    fn can_fail(self) -> bool {
        matches!(
            self,
            Point::OutboxWritten
                | Point::GenerationWritten
                | Point::CheckpointLinked
                | Point::CatalogueWritten
                | Point::DayKeyWritten
        )
    }
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// SIGKILL: no destructor, no flush, no goodbye.
    Kill,
    /// SIGSTOP: the process stands still there until somebody sends SIGCONT.
    Stop,
    /// The step fails, where it can: see [`Point::can_fail`].
    Error,
    /// The thread waits.
    Sleep(Duration),
    /// A line in the log says that it is passed.
    Log,
}

/// One armed point.
#[derive(Debug)]
struct Armed {
    point: Point,
    action: Action,
    /// At this passing only, counted from 1; none for every one.
    at: Option<u64>,
    passed: AtomicU64,
}

/// A step that was made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fail point {0} says that this fails")]
pub struct Injected(&'static str);

impl From<Injected> for std::io::Error {
    fn from(injected: Injected) -> Self {
        std::io::Error::other(injected)
    }
}

/// What the variable says is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}: {0}; it is name=action[@N],… with an action of kill, stop, error, log or sleep:MILLISECONDS, and a name of docs/fail-points.md or `{EVERY}`"
)]
pub struct BadFailPoints(String);

static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();

/// Arms what [`VARIABLE`] says, once, at the start of the process.
///
/// # Errors
/// [`BadFailPoints`] when it cannot be read: a point that is misspelt would be a test that tries nothing.
pub fn arm_from_environment() -> Result<(), BadFailPoints> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let armed = parse(&text.to_string_lossy())?;
    tracing::error!(
        points = %text.to_string_lossy(),
        "FAIL POINTS ARE ARMED by {VARIABLE}: this process ends, stops or fails on purpose. Never in production"
    );
    // A second call in the same process finds the same text.
    let _ = ARMED.set(armed);
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Armed>, BadFailPoints> {
    let mut armed = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let bad = |why: &str| BadFailPoints(format!("`{part}`: {why}"));
        let (name, action) = part.split_once('=').ok_or_else(|| bad("there is no ="))?;
        let (action, at) = match action.split_once('@') {
            None => (action, None),
            Some((action, at)) => match at.parse() {
                Ok(at) if at > 0 => (action, Some(at)),
                _ => return Err(bad("passings are counted from 1")),
            },
        };
        let action = match action.split_once(':').unwrap_or((action, "")) {
            ("kill", "") => Action::Kill,
            ("stop", "") => Action::Stop,
            ("error", "") => Action::Error,
            ("log", "") => Action::Log,
            ("sleep", ms) => Action::Sleep(Duration::from_millis(
                ms.parse().map_err(|_| bad("how many milliseconds?"))?,
            )),
            _ => return Err(bad("there is no such action")),
        };
        let every = name == EVERY;
        let before = armed.len();
        for point in Point::ALL
            .iter()
            .copied()
            .filter(|p| every || p.name() == name)
        {
            if action == Action::Error && !point.can_fail() {
                return Err(bad("nothing can fail at this step"));
            }
            armed.push(Armed {
                point,
                action,
                at,
                passed: AtomicU64::new(0),
            });
        }
        if armed.len() == before {
            return Err(bad("there is no such point"));
        }
    }
    Ok(armed)
}

/// The process is at that step.
#[inline]
pub fn pass(point: Point) {
    if let Some(armed) = ARMED.get() {
        // A point without an outcome cannot be armed with `error`.
        let _ = meet(armed, point);
    }
}

/// The process is at a step that may be made to fail.
///
/// # Errors
/// [`Injected`] when it is.
#[inline]
pub fn pass_or_fail(point: Point) -> Result<(), Injected> {
    match ARMED.get() {
        None => Ok(()),
        Some(armed) => meet(armed, point),
    }
}

/// Whether anything happens at that point: for a step that is taken apart only to have it.
#[inline]
pub fn is_armed(point: Point) -> bool {
    ARMED
        .get()
        .is_some_and(|armed| armed.iter().any(|a| a.point == point))
}

#[cold]
fn meet(armed: &[Armed], point: Point) -> Result<(), Injected> {
    for one in armed.iter().filter(|a| a.point == point) {
        let passing = one.passed.fetch_add(1, Ordering::Relaxed) + 1;
        if one.at.is_some_and(|at| at != passing) {
            continue;
        }
        match one.action {
            Action::Sleep(length) => std::thread::sleep(length),
            Action::Log => tell(&format_args!(
                "fail point {} passed, {passing}",
                point.name()
            )),
            Action::Error => return Err(Injected(point.name())),
            Action::Kill => end(point, passing, Signal::SIGKILL),
            Action::Stop => end(point, passing, Signal::SIGSTOP),
        }
    }
    Ok(())
}

fn end(point: Point, passing: u64, signal: Signal) {
    tell(&format_args!(
        "fail point {} at passing {passing}: {signal}",
        point.name()
    ));
    if let Err(error) = kill(Pid::this(), signal) {
        tell(&format_args!(
            "fail point {}: {signal} did not work: {error}",
            point.name()
        ));
    }
}

/// Straight to stderr: a log that is written later would not be written.
fn tell(line: &fmt::Arguments<'_>) {
    eprintln!("{line}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(&'static str, Action, Option<u64>)> {
        let armed = parse(text).unwrap();
        armed
            .iter()
            .map(|a| (a.point.name(), a.action, a.at))
            .collect()
    }

    #[test]
    fn the_variable_says_what_happens_where() {
        let ms = Duration::from_millis;
        assert_eq!(
            read("outbox.synced=kill@3, fold.written=sleep:20,outbox.written=error@1"),
            [
                ("outbox.synced", Action::Kill, Some(3)),
                ("fold.written", Action::Sleep(ms(20)), None),
                ("outbox.written", Action::Error, Some(1)),
            ]
        );
        assert_eq!(read("every=log@1").len(), Point::ALL.len());
        assert_eq!(read("").len(), 0);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        for text in [
            "outbox.synced",
            "outbox.sinced=kill",
            "outbox.synced=die",
            "outbox.synced=kill@0",
            "outbox.synced=kill@x",
            "outbox.synced=sleep",
            "outbox.synced=error",
            "every=error",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn a_point_acts_at_its_passing_only() {
        let armed = parse("outbox.written=error@2").unwrap();
        let outcomes: Vec<bool> = (0..4)
            .map(|_| meet(&armed, Point::OutboxWritten).is_ok())
            .collect();
        assert_eq!(outcomes, [true, false, true, true]);
        assert!(meet(&armed, Point::OutboxSynced).is_ok());
    }

    #[test]
    fn the_documentation_has_a_line_for_each() {
        let text = include_str!("../docs/fail-points.md");
        let rows: Vec<&str> = text.lines().filter(|l| l.starts_with("| `")).collect();
        let wanted: Vec<String> = Point::ALL
            .iter()
            .map(|p| {
                let also = if p.can_fail() { ", error" } else { "" };
                format!(
                    "| `{}` | {} | kill, stop, sleep, log{also} |",
                    p.name(),
                    p.step()
                )
            })
            .collect();
        assert_eq!(rows, wanted);
    }
}
