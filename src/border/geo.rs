//! From an address to a region, by a MaxMind database (GeoLite2-City, GeoLite2-Country and their like).
//!
//! The file is read once, at the start, and a file that cannot be read stops the start: a silently empty region
//! would be wrong in every report from then on. What the file says is held against ISO 3166, as a publisher's
//! `geo` is, so that no database can blow up the counters.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adtally_streams::dimensions;
use adtally_streams::names::OTHER;
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

    /// The address's region: `US-CA` where ISO 3166 has the subdivision that the database names, else the country,
    /// or `other` for a country that ISO 3166 does not have. None for an address that the database does not know.
    pub fn region(&self, address: IpAddr) -> Option<Arc<str>> {
        let city: geoip2::City<'_> = self
            .reader
            .lookup(address.to_canonical())
            .ok()?
            .decode()
            .ok()??;
        let country = city.country.iso_code?;
        let subdivision = city.subdivisions.first().and_then(|s| s.iso_code);
        subdivision
            .and_then(|subdivision| dimensions::region(&format!("{country}-{subdivision}")))
            .filter(|region| **region != *OTHER)
            .or_else(|| dimensions::region(country))
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

    #[test]
    fn regions_are_those_of_iso_3166() {
        // tests/fixtures/make_geo.py says what stands in it.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/geo.mmdb");
        let geo = Geo::open(Path::new(path)).unwrap();
        for (address, region) in [
            ("192.0.2.0", Some("US-CA")),
            ("192.0.2.127", Some("US-CA")),
            ("::ffff:192.0.2.1", Some("US-CA")),
            ("192.0.2.128", Some("DE")),
            // The outer one of two subdivisions.
            ("198.51.100.1", Some("GB-ENG")),
            ("2001:db8::1", Some("US-NY")),
            // A subdivision, and a country, that ISO 3166 does not have.
            ("198.51.100.65", Some("FR")),
            ("198.51.100.129", Some("other")),
            // An entry without a country, and no entry.
            ("198.51.100.193", None),
            ("203.0.113.1", None),
            ("2001:db8:8000::1", None),
        ] {
            let found = geo.region(address.parse().unwrap());
            assert_eq!(found.as_deref(), region, "{address}");
        }
    }
}
