//! The log days that have a family of ids, each with the greatest key of every sort in it.
//!
//! Invariant: no key of a day is past the greatest one of its sort, so an id that is need not be looked for in that
//! day. A UUIDv7 is past all days before its own, and past nearly all of what its own day got before its batch; of ids
//! that are random nearly all must be looked for.

use std::collections::BTreeMap;

use super::shard::Db;

/// Bytes that a key begins with which say its sort: the event's kind and the form of its id.
const SORT_BYTES: usize = 2;

/// The greatest key of each sort that a day may hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Greatest(Vec<Vec<u8>>);

impl Greatest {
    /// Takes in a key that is there or is about to be.
    pub(super) fn take(&mut self, key: &[u8]) {
        match self
            .0
            .iter_mut()
            .find(|greatest| is_one_sort(greatest, key))
        {
            Some(greatest) if key > greatest.as_slice() => {
                greatest.clear();
                greatest.extend_from_slice(key);
            }
            Some(_) => {}
            None => self.0.push(key.to_vec()),
        }
    }

    /// Whether a key may be there.
    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        let greatest = self.0.iter().find(|greatest| is_one_sort(greatest, key));
        greatest.is_some_and(|greatest| key <= greatest.as_slice())
    }
}

fn is_one_sort(a: &[u8], b: &[u8]) -> bool {
    a.get(..SORT_BYTES) == b.get(..SORT_BYTES)
}

/// By log day.
pub(super) type IdDays = BTreeMap<i32, Greatest>;

/// The greatest key of each sort in a family of ids.
pub(super) fn greatest_ids(db: &Db, family: &str) -> Result<Greatest, rocksdb::Error> {
    let mut greatest = Greatest::default();
    let Some(handle) = db.cf_handle(family) else {
        return Ok(greatest);
    };
    let mut rows = db.raw_iterator_cf(&handle);
    rows.seek_to_last();
    while let Some(key) = rows.key() {
        match key.split_first_chunk::<SORT_BYTES>() {
            Some((sort, [_, ..])) => {
                let sort = *sort;
                greatest.take(key);
                rows.seek_for_prev(sort);
            }
            // No id is as short as that.
            _ => rows.prev(),
        }
    }
    rows.status()?;
    Ok(greatest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_that_is_not_past_the_greatest_of_its_sort_may_be_there() {
        let mut day = Greatest::default();
        assert!(!day.may_hold(&[1, 0, 0]));
        day.take(&[1, 0, 5]);
        day.take(&[1, 0, 3]);
        assert!(day.may_hold(&[1, 0, 4]) && day.may_hold(&[1, 0, 5]));
        assert!(!day.may_hold(&[1, 0, 5, 0]) && !day.may_hold(&[1, 0, 6]));
        // Of another kind, and in another form.
        assert!(!day.may_hold(&[0, 0, 4]) && !day.may_hold(&[1, 1, 4]));
        day.take(&[1, 1, 9]);
        day.take(&[1, 0, 7]);
        assert!(day.may_hold(&[1, 1, 4]) && day.may_hold(&[1, 0, 6]));
        assert!(!day.may_hold(&[1, 0, 8]));
    }
}
