//! Giving the rows of one user another name: the same file with a pseudonym in place of the user's hash.

use adtally_projections::sketch::Coupon;
use bytes::Bytes;
use parquet::basic::Type as Physical;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, Int32Type,
    Int64Type,
};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{
    SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter,
};
use sha2::{Digest, Sha256};

use crate::FormatError;
use crate::optional::{Optional, read, write, write_required};
use crate::row_group::USER_HASH_BYTES;
use crate::schema::{properties, schema};

/// Digits of a user's hash.
pub const USER_HASH_DIGITS: usize = 2 * USER_HASH_BYTES;

/// Whether that text could be a user's hash.
pub fn is_user_hash(text: &str) -> bool {
    text.len() == USER_HASH_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What stands in the place of a user, made of random bytes that nobody keeps.
#[derive(Clone, Debug)]
pub struct Pseudonym {
    user: String,
    key: [u8; 32],
}

impl Pseudonym {
    /// The pseudonym that those bytes make.
    pub fn of(random: [u8; 32]) -> Self {
        let mut user = Sha256::new_with_prefix(b"user");
        user.update(random);
        Self {
            user: hex::encode(&user.finalize()[..USER_HASH_BYTES]),
            key: random,
        }
    }

    /// An address that stays the same within these rows, and is nobody's.
    fn address(&self, hash: i64) -> i64 {
        self.number(hash) as i64
    }

    /// The mark of a visitor whom nobody knows: one and the same in all rows, so that as many are counted as before.
    fn mark(&self) -> i32 {
        Coupon::of(self.number(0)).bits() as i32
    }

    fn number(&self, of: i64) -> u64 {
        let mut digest = Sha256::new_with_prefix(self.key);
        digest.update(of.to_be_bytes());
        let digest = digest.finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(bytes)
    }
}

/// A file in which a user has another name.
#[derive(Debug)]
pub struct Erased {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Rows that were the user's.
    pub rows: u64,
}

/// Rewrites a file that has rows of that user; none when it has not.
///
/// The hashes of addresses in those rows, and the visitor's mark, are replaced too. A message whose own bytes were kept beside its rows loses
/// them when one of its events was the user's: the rows say the same events. Bytes of messages that nobody can read
/// stay as they are.
///
/// # Errors
/// [`FormatError`] when the file cannot be read.
pub fn erase(
    bytes: Bytes,
    user: &str,
    pseudonym: &Pseudonym,
) -> Result<Option<Erased>, FormatError> {
    let file = SerializedFileReader::new(bytes)?;
    let mut erased = 0;
    let mut out = SerializedFileWriter::new(Vec::new(), schema(), properties())?;
    for index in 0..file.num_row_groups() {
        let group = file.get_row_group(index)?;
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let rewrite = Rewrite::find(&*group, rows, user, pseudonym)?;
        erased += rewrite.user_rows.iter().filter(|user| **user).count() as u64;
        rewrite.write(&*group, out.next_row_group()?)?;
    }
    if erased == 0 {
        return Ok(None);
    }
    Ok(Some(Erased {
        bytes: out.into_inner()?,
        rows: erased,
    }))
}

/// What changes in a row group.
struct Rewrite<'a> {
    rows: usize,
    pseudonym: &'a Pseudonym,
    /// Whether a row is the user's.
    user_rows: Vec<bool>,
    /// Whether a row belongs to a message of which any row is.
    of_message: Vec<bool>,
}

impl<'a> Rewrite<'a> {
    fn find(
        group: &dyn RowGroupReader,
        rows: usize,
        user: &str,
        pseudonym: &'a Pseudonym,
    ) -> Result<Self, FormatError> {
        let users = read::<ByteArrayType>(group, place(group, "user_id_hash")?, rows)?;
        let sequences = read::<Int64Type>(group, place(group, "sequence")?, rows)?;
        let is_users = |hash: Option<&ByteArray>| hash.is_some_and(|h| h.data() == user.as_bytes());
        let user_rows: Vec<bool> = users.iter().map(is_users).collect();
        let mut of_message = Vec::with_capacity(rows);
        for message in sequences.values.chunk_by(|a, b| a == b) {
            let begin = of_message.len();
            let any = user_rows[begin..begin + message.len()].contains(&true);
            of_message.resize(begin + message.len(), any);
        }
        Ok(Self {
            rows,
            pseudonym,
            user_rows,
            of_message,
        })
    }

    fn write(
        &self,
        group: &dyn RowGroupReader,
        mut out: SerializedRowGroupWriter<'_, Vec<u8>>,
    ) -> Result<(), FormatError> {
        let columns = schema();
        for column in columns.get_fields() {
            let at = place(group, column.name())?;
            let next = out.next_column()?;
            let mut next =
                next.ok_or_else(|| FormatError::content("the schema has fewer columns"))?;
            match (column.name(), column.get_physical_type()) {
                ("user_id_hash", _) => self.rename(group, at, &mut next)?,
                ("visitor_mark", _) => self.remark(group, at, &mut next)?,
                ("ip_hash", _) => self.readdress(group, at, &mut next)?,
                ("raw" | "subject", _) => self.drop_bytes(group, at, &mut next)?,
                (_, Physical::BOOLEAN) => self.copy::<BoolType>(group, at, &mut next)?,
                (_, Physical::INT32) => self.copy::<Int32Type>(group, at, &mut next)?,
                (_, Physical::INT64) => self.copy::<Int64Type>(group, at, &mut next)?,
                (_, Physical::DOUBLE) => self.copy::<DoubleType>(group, at, &mut next)?,
                (_, Physical::FIXED_LEN_BYTE_ARRAY) => {
                    self.copy::<FixedLenByteArrayType>(group, at, &mut next)?;
                }
                (_, _) => self.copy::<ByteArrayType>(group, at, &mut next)?,
            }
            next.close()?;
        }
        out.close()?;
        Ok(())
    }

    fn copy<D: DataType>(
        &self,
        group: &dyn RowGroupReader,
        at: usize,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        let column = read::<D>(group, at, self.rows)?;
        let schema = group.metadata().column(at).column_descr_ptr();
        match schema.max_def_level() {
            0 => write_required::<D>(out, &column.values),
            _ => write::<D>(out, &column),
        }
    }

    fn rename(
        &self,
        group: &dyn RowGroupReader,
        at: usize,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        let name = ByteArray::from(self.pseudonym.user.as_str());
        let column = read::<ByteArrayType>(group, at, self.rows)?;
        let changed = changed(&column, &self.user_rows, |_| Some(name.clone()));
        write::<ByteArrayType>(out, &changed)
    }

    fn remark(
        &self,
        group: &dyn RowGroupReader,
        at: usize,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        let column = read::<Int32Type>(group, at, self.rows)?;
        let mark = self.pseudonym.mark();
        write::<Int32Type>(out, &changed(&column, &self.user_rows, |_| Some(mark)))
    }

    fn readdress(
        &self,
        group: &dyn RowGroupReader,
        at: usize,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        let column = read::<Int64Type>(group, at, self.rows)?;
        let other = |hash: &i64| Some(self.pseudonym.address(*hash));
        write::<Int64Type>(out, &changed(&column, &self.user_rows, other))
    }

    fn drop_bytes(
        &self,
        group: &dyn RowGroupReader,
        at: usize,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        let column = read::<ByteArrayType>(group, at, self.rows)?;
        write::<ByteArrayType>(out, &changed(&column, &self.of_message, |_| None))
    }
}

/// The column with other values in some rows; what has none keeps none.
fn changed<T: Clone>(
    column: &Optional<T>,
    rows: &[bool],
    change: impl Fn(&T) -> Option<T>,
) -> Optional<T> {
    let mut out = Optional::default();
    for (value, change_it) in column.iter().zip(rows) {
        out.push(match (value, change_it) {
            (Some(value), true) => change(value),
            (value, _) => value.cloned(),
        });
    }
    out
}

fn place(group: &dyn RowGroupReader, name: &str) -> Result<usize, FormatError> {
    let columns = group.metadata().columns();
    let found = columns
        .iter()
        .position(|c| c.column_path().string() == name);
    found.ok_or_else(|| FormatError::content(format!("it has no column {name}")))
}
