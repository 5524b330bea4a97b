//! Which producers of a shard are open, which alone say how far it is complete: of every start of a collector there is a row for
//! good, and to read them all for each question takes longer with every one.
//!
//! Invariant: what is kept is of one version of the set of open producers ([`super::versions::Versions::of_producers`]). A batch that only
//! raises what these producers have announced leaves the set and its version as they are; any other one with a row of a
//! producer makes another version.

use std::sync::Arc;

use adtally_projections::completeness::Producer;

use super::of_version::OfVersion;
use super::versions::Version;

/// Keys of the rows of the producers that are not drained, and how many rows there are in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// The keys.
    pub keys: Vec<Box<[u8]>>,
    /// How many rows of producers there are, drained ones included.
    pub rows: usize,
}

/// What is kept.
#[derive(Debug, Default)]
pub struct OpenProducers(OfVersion<Arc<Open>>);

impl OpenProducers {
    /// What was found in that version; none where nobody looked.
    pub fn get(&self, version: Version) -> Option<Arc<Open>> {
        self.0.read(version, |open| Some(Arc::clone(open)))
    }

    /// Keeps what was found in that version.
    pub fn keep(&self, version: Version, open: Open) {
        self.0.change(version, |kept| *kept = Arc::new(open));
    }

    /// Whether a row of a producer leaves the open ones of that version as they are. Where that is not known, it does not.
    pub fn stay(&self, version: Version, key: &[u8], value: &[u8]) -> bool {
        let is_open = self
            .get(version)
            .is_some_and(|open| open.keys.iter().any(|open| **open == *key));
        is_open && Producer::decode(key, value).is_ok_and(|p| !p.watermark.drained)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adtally_projections::completeness;
    use adtally_streams::id::{Epoch, Id};

    use super::*;

    fn version(sequence: u64) -> Version {
        Version {
            opened: 1,
            sequence,
        }
    }

    fn row(epoch: u64, drained: bool) -> (Vec<u8>, Vec<u8>) {
        let id = Id::new("collector-1").unwrap();
        let mut producer = Producer::new(&id, Epoch(epoch), 50);
        producer.watermark.drained = drained;
        let (mut key, mut value) = (Vec::new(), Vec::new());
        completeness::key(&mut key, &id, producer.epoch);
        producer.encode(&mut value);
        (key, value)
    }

    #[test]
    fn only_what_an_open_one_announces_leaves_the_open_ones_as_they_are() {
        let producers = OpenProducers::default();
        let stay =
            |version, (key, value): (Vec<u8>, Vec<u8>)| producers.stay(version, &key, &value);
        assert!(!stay(version(5), row(1, false)), "nobody has looked");
        let open = Open {
            keys: vec![row(1, false).0.into()],
            rows: 3,
        };
        producers.keep(version(5), open.clone());
        assert_eq!(producers.get(version(5)).as_deref(), Some(&open));
        assert!(producers.get(version(6)).is_none());
        assert!(stay(version(5), row(1, false)));
        assert!(!stay(version(6), row(1, false)), "of another version");
        assert!(!stay(version(5), row(1, true)), "it is drained");
        assert!(!stay(version(5), row(2, false)), "it is new");
        let (key, _) = row(1, false);
        assert!(!stay(version(5), (key, vec![1])), "it cannot be read");
        // A snapshot from before changes nothing.
        producers.keep(version(4), Open::default());
        assert_eq!(producers.get(version(5)).as_deref(), Some(&open));
    }
}
