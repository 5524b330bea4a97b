//! A column that may have no value in a row.

use parquet::column::reader::get_typed_column_reader;
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType,
};
use parquet::file::reader::RowGroupReader;
use parquet::file::writer::SerializedColumnWriter;

use bytes::Bytes;

use crate::FormatError;

/// Rows that are handed to Parquet at once, so that what is made for them alone stays in the processor's cache.
pub(crate) const CHUNK_ROWS: usize = 4_096;

/// Values of a column, and in which rows they stand.
#[derive(Clone, Debug)]
pub(crate) struct Optional<T> {
    /// The values that are there.
    pub(crate) values: Vec<T>,
    /// A row each: 1 where a value is there, else 0, as Parquet has it.
    pub(crate) levels: Vec<i16>,
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            levels: Vec::new(),
        }
    }
}

impl<T> Optional<T> {
    /// A row with a value or none.
    pub(crate) fn push(&mut self, value: Option<T>) {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
    }

    /// Rows with values.
    pub(crate) fn extend(&mut self, values: impl ExactSizeIterator<Item = T>) {
        self.levels.resize(self.levels.len() + values.len(), 1);
        self.values.extend(values);
    }

    /// Rows without.
    pub(crate) fn skip(&mut self, rows: usize) {
        self.levels.resize(self.levels.len() + rows, 0);
    }

    /// A row with that value and `rows - 1` without.
    pub(crate) fn first_of(&mut self, value: Option<T>, rows: usize) {
        self.push(value);
        self.skip(rows - 1);
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.levels.len()
    }

    /// Its rows one by one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&T>> {
        let mut values = self.values.iter();
        self.levels.iter().map(move |level| match level {
            0 => None,
            _ => values.next(),
        })
    }
}

/// Writes a column whose values Parquet takes as they are.
pub(crate) fn write<D: DataType>(
    out: &mut SerializedColumnWriter<'_>,
    column: &Optional<D::T>,
) -> Result<(), FormatError> {
    let mut values = column.values.as_slice();
    for levels in column.levels.chunks(CHUNK_ROWS) {
        let there = levels.iter().filter(|level| **level > 0).count();
        let (now, later) = values.split_at(there);
        out.typed::<D>().write_batch(now, Some(levels), None)?;
        values = later;
    }
    Ok(())
}

/// Writes a column that has a value in every row.
pub(crate) fn write_required<D: DataType>(
    out: &mut SerializedColumnWriter<'_>,
    values: &[D::T],
) -> Result<(), FormatError> {
    let writer: &mut ColumnWriterImpl<'_, D> = out.typed::<D>();
    writer.write_batch(values, None, None)?;
    Ok(())
}

/// Reads a column of a row group of so many rows.
pub(crate) fn read<D: DataType>(
    group: &dyn RowGroupReader,
    column: usize,
    rows: usize,
) -> Result<Optional<D::T>, FormatError> {
    let mut reader = get_typed_column_reader::<D>(group.get_column_reader(column)?);
    let mut read = Optional::default();
    let mut records = 0;
    while records < rows {
        let (more, ..) = reader.read_records(
            rows - records,
            Some(&mut read.levels),
            None,
            &mut read.values,
        )?;
        if more == 0 {
            break;
        }
        records += more;
    }
    if read.levels.is_empty() {
        // A column that must have a value has no levels.
        read.levels.resize(read.values.len(), 1);
    }
    if read.levels.len() != rows {
        return Err(FormatError::content(format!(
            "column {column} has {} rows and its row group {rows}",
            read.levels.len()
        )));
    }
    Ok(read)
}

/// Bytes one after the other, so that a row costs no allocation; of any length, or all of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blobs {
    bytes: Vec<u8>,
    /// Where each value ends.
    ends: Optional<usize>,
}

impl Blobs {
    /// A row with these bytes or none.
    pub(crate) fn push(&mut self, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.bytes.extend_from_slice(value);
        }
        self.ends.push(value.map(|_| self.bytes.len()));
    }

    /// Rows without.
    pub(crate) fn skip(&mut self, rows: usize) {
        self.ends.skip(rows);
    }

    /// A row with these bytes and `rows - 1` without.
    pub(crate) fn first_of(&mut self, value: Option<&[u8]>, rows: usize) {
        self.push(value);
        self.skip(rows - 1);
    }

    /// Bytes in memory.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes it, as texts or bytes of any length.
    pub(crate) fn write(
        &mut self,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        self.hand_over(|values: &[ByteArray], levels| {
            out.typed::<ByteArrayType>()
                .write_batch(values, Some(levels), None)
                .map(drop)
        })
    }

    /// Writes it, as values of one length.
    pub(crate) fn write_fixed(
        &mut self,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        self.hand_over(|values: &[FixedLenByteArray], levels| {
            out.typed::<FixedLenByteArrayType>()
                .write_batch(values, Some(levels), None)
                .map(drop)
        })
    }

    fn hand_over<V: From<ByteArray>>(
        &mut self,
        mut write: impl FnMut(&[V], &[i16]) -> parquet::errors::Result<()>,
    ) -> Result<(), FormatError> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let (mut begin, mut ends) = (0, self.ends.values.iter());
        let mut values = Vec::with_capacity(CHUNK_ROWS);
        for levels in self.ends.levels.chunks(CHUNK_ROWS) {
            values.clear();
            let there = levels.iter().filter(|level| **level > 0).count();
            values.extend(ends.by_ref().take(there).map(|end| {
                let value = bytes.slice(begin..*end);
                begin = *end;
                V::from(ByteArray::from(value))
            }));
            write(&values, levels)?;
        }
        Ok(())
    }
}
