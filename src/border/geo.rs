//! From an address to a region, by a MaxMind database (GeoLite2-City, GeoLite2-Country and their like).
//!
//! The file is read once, at the start, and a file that cannot be read stops the start: a silently empty region
//! would be wrong in every report from then on.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maxminddb::geoip2;

/// An open database.
pub struct Geo {
    reader: maxminddb::Reader<Vec<u8>>,
}

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the GeoIP database {}: {source}; give a MaxMind .mmdb file of the City or Country kind", path.display())]
pub struct GeoError {
    path: PathBuf,
    source: maxminddb::MaxMindDbError,
}

impl Geo {
    /// Reads a database into memory.
    pub fn open(path: &Path) -> Result<Self, GeoError> {
        let failed = |source| GeoError {
            path: path.to_owned(),
            source,
        };
        Ok(Self {
            reader: maxminddb::Reader::open_readfile(path).map_err(failed)?,
        })
    }

    /// The address's region as an ISO 3166 code: `US-CA` where the database knows the subdivision, else `US`.
    pub fn region(&self, address: IpAddr) -> Option<Arc<str>> {
        let city: geoip2::City<'_> = self.reader.lookup(address).ok()?.decode().ok()??;
        let country = city.country.iso_code?;
        match city.subdivisions.first().and_then(|s| s.iso_code) {
            Some(subdivision) => Some(Arc::from(format!("{country}-{subdivision}"))),
            None => Some(Arc::from(country)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("geo.mmdb");
        std::fs::write(&path, b"not a database").unwrap();
        for path in [path, dir.path().join("missing.mmdb")] {
            let error = Geo::open(&path).err().unwrap().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
