//! A shard's sums on their way to another process, with the names of their numbers.
//!
//! Invariant: what is read is what was written, and reading reserves for no more rows than an answer may have.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{DIMENSIONS, Dimension, MAX_ROWS, Names, ShardSums, TooManyRows};
use crate::buckets::BucketKey;
use crate::codec::{Damaged, Reader, put_bytes, put_signed, put_varint};
use crate::metrics::{METRICS, add_sums, encode_sums};
use crate::sums::add;

impl ShardSums {
    /// Appends the sums, and the names of the numbers in use.
    ///
    /// # Errors
    /// [`TooManyRows`] when there are more than an answer may have.
    pub fn encode(&mut self, names: &Names, out: &mut Vec<u8>) -> Result<(), TooManyRows> {
        for column in names {
            put_varint(out, column.len() as u64);
            for (symbol, name) in column {
                put_varint(out, u64::from(*symbol));
                put_bytes(out, name.as_bytes());
            }
        }
        let (buckets, groups) = (self.table.buckets().to_vec(), self.table.groups().to_vec());
        let rows = self.table.rows()?;
        put_varint(out, rows.len() as u64);
        let mut sums = Vec::with_capacity(32);
        for (bucket, group, row) in rows {
            let bucket = buckets[bucket as usize];
            put_signed(out, bucket.at);
            put_signed(out, i64::from(bucket.offset_s));
            for number in &groups[group as usize][..self.group_by.len()] {
                put_varint(out, u64::from(*number));
            }
            sums.clear();
            encode_sums(&row, &mut sums);
            put_bytes(out, &sums);
        }
        Ok(())
    }

    /// Reads what [`ShardSums::encode`] wrote of sums that are grouped by distinct dimensions.
    ///
    /// # Errors
    /// [`Damaged`] when the bytes are nothing such.
    pub fn decode(group_by: &[Dimension], bytes: &[u8]) -> Result<(Self, Names), Damaged> {
        let mut r = Reader::new(bytes, "part of an answer");
        let mut names: Names = Vec::with_capacity(DIMENSIONS);
        for _ in group_by {
            let mut column = FxHashMap::default();
            for _ in 0..r.varint()? {
                column.insert(r.varint32()?, Arc::from(r.text()?));
            }
            names.push(column);
        }
        let mut sums = ShardSums::new(group_by);
        let rows = r.varint()?;
        if rows > MAX_ROWS as u64 {
            return Err(r.damaged());
        }
        for _ in 0..rows {
            let at = r.signed()?;
            let offset_s = i32::try_from(r.signed()?).map_err(|_| r.damaged())?;
            let mut group = [0; DIMENSIONS];
            for number in &mut group[..group_by.len()] {
                *number = r.varint32()?;
            }
            let mut fields = [0; METRICS];
            add_sums(&mut fields, r.bytes()?)?;
            let bucket = sums.table.bucket(BucketKey { at, offset_s });
            let group = sums.table.group(group);
            add(
                sums.table.row(bucket, group).map_err(|_| r.damaged())?,
                &fields,
            );
        }
        r.end()?;
        Ok((sums, names))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every row by its bucket and group.
    fn rows_of(
        sums: &mut ShardSums,
    ) -> FxHashMap<(BucketKey, super::super::Group), [i64; METRICS]> {
        let table = &mut sums.table;
        let (buckets, groups) = (table.buckets().to_vec(), table.groups().to_vec());
        let row = |(bucket, group, row): (u32, u32, [i64; METRICS])| {
            ((buckets[bucket as usize], groups[group as usize]), row)
        };
        table.rows().unwrap().map(row).collect()
    }

    proptest! {
        #[test]
        fn sums_return(
            rows in proptest::collection::hash_map(
                (any::<i64>(), any::<i32>(), 0u32..9, any::<u32>()),
                proptest::array::uniform10(any::<i64>()), 0..40),
            names in proptest::collection::hash_map(any::<u32>(), "[a-z]{0,9}", 0..9),
        ) {
            let group_by = [Dimension::AdId, Dimension::Region];
            let mut sums = ShardSums::new(&group_by);
            for ((at, offset_s, ad, region), row) in rows {
                let bucket = sums.table.bucket(BucketKey { at, offset_s });
                let group = sums.table.group([ad, region, 0, 0, 0]);
                *sums.table.row(bucket, group).unwrap() = row;
            }
            let column: FxHashMap<u32, Arc<str>> = names.into_iter().map(|(n, name)| (n, name.into())).collect();
            let names = vec![column.clone(), column];
            let mut out = Vec::new();
            sums.encode(&names, &mut out).unwrap();
            let (mut read, read_names) = ShardSums::decode(&group_by, &out).unwrap();
            prop_assert_eq!(rows_of(&mut read), rows_of(&mut sums));
            prop_assert_eq!(read_names, names);
            prop_assert!(ShardSums::decode(&group_by, &out[..out.len() - 1]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = ShardSums::decode(&[Dimension::Device], &bytes);
        }
    }
}
