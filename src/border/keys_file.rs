//! The file of day keys: one line a day, `2024-02-09 <64 hex digits>`, readable by its owner only.
//!
//! It is replaced as a whole by a rename, so that a crash leaves the old file or the new one. A line that cannot
//! be read is passed over: the broker still has that key.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chrono::{Duration, NaiveDate};

use super::keys::DayKey;
use crate::fail_points::{Point, pass_or_fail};

/// The name of a UTC day, in the file and in the bucket: `2024-02-09`.
pub fn day_name(day: i64) -> String {
    let date =
        Duration::try_days(day).and_then(|days| NaiveDate::default().checked_add_signed(days));
    date.unwrap_or_default().to_string()
}

/// The day of that name.
pub fn day_from_name(name: &str) -> Option<i64> {
    let date: NaiveDate = name.parse().ok()?;
    Some(date.signed_duration_since(NaiveDate::default()).num_days())
}

/// Reads the file; a missing one holds no keys.
pub fn read(path: &Path) -> io::Result<BTreeMap<i64, DayKey>> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        match parse_line(line) {
            Some((day, key)) => {
                keys.insert(day, key);
            }
            None => {
                tracing::warn!(path = %path.display(), "a line of the day keys cannot be read and is passed over")
            }
        }
    }
    Ok(keys)
}

fn parse_line(line: &str) -> Option<(i64, DayKey)> {
    let (name, digits) = line.split_once(' ')?;
    let mut key = [0; 32];
    hex::decode_to_slice(digits, &mut key).ok()?;
    Some((day_from_name(name)?, key))
}

/// Replaces the file, durably.
pub fn write(path: &Path, keys: &BTreeMap<i64, DayKey>) -> io::Result<()> {
    let lines: String = keys
        .iter()
        .map(|(day, key)| format!("{} {}\n", day_name(*day), hex::encode(key)))
        .collect();
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(lines.as_bytes())?;
    file.sync_all()?;
    pass_or_fail(Point::DayKeyWritten)?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn days_have_their_dates_as_names() {
        // date -u -d @1707436800 and 1707436800 / 86400 = 19762
        assert_eq!(day_name(19_762), "2024-02-09");
        assert_eq!(day_from_name("2024-02-09"), Some(19_762));
        assert_eq!(day_name(0), "1970-01-01");
        assert_eq!(day_from_name("not-a-day"), None);
    }

    #[test]
    fn what_is_written_is_read_and_nobody_else_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("day-keys");
        assert!(read(&path).unwrap().is_empty());
        let keys = BTreeMap::from([(19_762, [0xab; 32]), (19_763, [1; 32])]);
        write(&path, &keys).unwrap();
        assert_eq!(read(&path).unwrap(), keys);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, b"2024-02-09 zz\n\xff\n2024-02-10 0101010101010101010101010101010101010101010101010101010101010101\n")
            .unwrap();
        assert_eq!(read(&path).unwrap(), BTreeMap::from([(19_763, [1; 32])]));
    }
}
