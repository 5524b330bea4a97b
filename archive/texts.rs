//! A column of texts of which many are the same: each is looked for once a frame and not once an event.

use std::sync::Arc;

use bytes::Bytes;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::RowGroupReader;
use parquet::file::writer::SerializedColumnWriter;
use rustc_hash::FxHashMap;

use crate::FormatError;
use crate::optional::{CHUNK_ROWS, Optional, read};

/// The texts of a row group's column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    entries: Vec<ByteArray>,
    places: FxHashMap<Box<str>, u32>,
    /// Which entry stands in a row.
    pub(crate) symbols: Optional<u32>,
}

impl Texts {
    /// The symbol of that text.
    pub(crate) fn symbol(&mut self, text: &str) -> u32 {
        if let Some(symbol) = self.places.get(text) {
            return *symbol;
        }
        let symbol = self.entries.len() as u32;
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.entries.push(ByteArray::from(bytes));
        self.places.insert(text.into(), symbol);
        symbol
    }

    /// A row with that text, so many times.
    pub(crate) fn repeat(&mut self, text: &str, rows: usize) {
        let symbol = self.symbol(text);
        self.symbols.extend(std::iter::repeat_n(symbol, rows));
    }

    /// Rows without a text.
    pub(crate) fn skip(&mut self, rows: usize) {
        self.symbols.skip(rows);
    }

    /// Writes it.
    pub(crate) fn write(&self, out: &mut SerializedColumnWriter<'_>) -> Result<(), FormatError> {
        self.hand_over(out, true)
    }

    /// Writes a column that has a text in every row.
    pub(crate) fn write_required(
        &self,
        out: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), FormatError> {
        self.hand_over(out, false)
    }

    fn hand_over(
        &self,
        out: &mut SerializedColumnWriter<'_>,
        optional: bool,
    ) -> Result<(), FormatError> {
        let mut symbols = self.symbols.values.iter();
        let mut values: Vec<ByteArray> = Vec::with_capacity(CHUNK_ROWS);
        for levels in self.symbols.levels.chunks(CHUNK_ROWS) {
            values.clear();
            let there = levels.iter().filter(|level| **level > 0).count();
            let now = symbols.by_ref().take(there);
            values.extend(now.map(|symbol| self.entries[*symbol as usize].clone()));
            out.typed::<ByteArrayType>()
                .write_batch(&values, optional.then_some(levels), None)?;
        }
        Ok(())
    }
}

/// The texts of a column that is read: what was made of each, and which stands in a row.
#[derive(Debug)]
pub(crate) struct ReadTexts<T> {
    pub(crate) entries: Vec<T>,
    /// [`NO_TEXT`] where none stands.
    pub(crate) symbols: Vec<u32>,
}

/// No text stands in the row.
pub(crate) const NO_TEXT: u32 = u32::MAX;

impl<T> ReadTexts<T> {
    /// Reads a column, and makes something of each distinct text.
    pub(crate) fn read(
        group: &dyn RowGroupReader,
        column: usize,
        rows: usize,
        make: impl Fn(&str) -> Result<T, FormatError>,
    ) -> Result<Self, FormatError> {
        let found = read::<ByteArrayType>(group, column, rows)?;
        let mut places: FxHashMap<&[u8], u32> = FxHashMap::default();
        let (mut entries, mut symbols) = (Vec::new(), Vec::with_capacity(rows));
        for value in found.iter() {
            let Some(value) = value else {
                symbols.push(NO_TEXT);
                continue;
            };
            let bytes = value.data();
            let symbol = match places.get(bytes) {
                Some(symbol) => *symbol,
                None => {
                    let text = std::str::from_utf8(bytes)
                        .map_err(|_| FormatError::content("a text is not UTF-8"))?;
                    entries.push(make(text)?);
                    let symbol = entries.len() as u32 - 1;
                    places.insert(bytes, symbol);
                    symbol
                }
            };
            symbols.push(symbol);
        }
        Ok(Self { entries, symbols })
    }

    /// What was made of the row's text.
    pub(crate) fn at(&self, row: usize) -> Option<&T> {
        self.entries.get(self.symbols[row] as usize)
    }
}

/// A shared text.
pub(crate) fn shared(text: &str) -> Result<Arc<str>, FormatError> {
    Ok(Arc::from(text))
}
