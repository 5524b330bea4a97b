//! The number of shards that this data folder was used with, so that a collector can place events while the broker
//! is away. The broker's word counts as soon as it is there.

use std::io;
use std::path::Path;

/// The file's name.
const NAME: &str = "shards-count";

/// The number, where one is known.
pub fn read(data_dir: &Path) -> Option<u16> {
    std::fs::read_to_string(data_dir.join(NAME))
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|n| *n > 0)
}

/// Notes the number.
pub fn write(data_dir: &Path, shards: u16) -> io::Result<()> {
    let partial = data_dir.join(format!("{NAME}.new"));
    std::fs::write(&partial, format!("{shards}\n"))?;
    std::fs::rename(partial, data_dir.join(NAME))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_number_comes_back() {
        let folder = tempfile::TempDir::new().unwrap();
        assert_eq!(read(folder.path()), None);
        write(folder.path(), 8).unwrap();
        assert_eq!(read(folder.path()), Some(8));
    }
}
