//! Writing a row group: its columns in the order of [`crate::schema::schema`].

use std::io::Write;

use parquet::data_type::{BoolType, DoubleType, Int32Type, Int64Type};
use parquet::file::writer::{SerializedColumnWriter, SerializedRowGroupWriter};

use super::RowGroup;
use crate::FormatError;
use crate::optional::{write, write_required};

/// The columns of a row group, one after the other.
struct Columns<'f, W: Write + Send>(SerializedRowGroupWriter<'f, W>);

impl<W: Write + Send> Columns<'_, W> {
    fn next(
        &mut self,
        write: impl FnOnce(&mut SerializedColumnWriter<'_>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let column = self.0.next_column()?;
        let mut column =
            column.ok_or_else(|| FormatError::content("the schema has fewer columns"))?;
        write(&mut column)?;
        Ok(column.close()?)
    }
}

impl RowGroup {
    /// Writes the rows.
    pub(crate) fn write<W: Write + Send>(
        mut self,
        group: SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), FormatError> {
        let mut out = Columns(group);
        self.write_names(&mut out)?;
        self.write_values(&mut out)?;
        out.0.close()?;
        Ok(())
    }

    /// The columns that say which event it is, and of whom.
    fn write_names<W: Write + Send>(
        &mut self,
        out: &mut Columns<'_, W>,
    ) -> Result<(), FormatError> {
        out.next(|c| self.kind.write_required(c))?;
        out.next(|c| write_required::<Int64Type>(c, &self.sequence))?;
        out.next(|c| write_required::<Int32Type>(c, &self.position))?;
        out.next(|c| write_required::<Int64Type>(c, &self.broker_time))?;
        out.next(|c| self.producer.write(c))?;
        for numbers in [
            &self.epoch,
            &self.counter,
            &self.event_timestamp,
            &self.arrival_timestamp,
        ] {
            out.next(|c| write::<Int64Type>(c, numbers))?;
        }
        for ids in [
            &mut self.impression_id,
            &mut self.click_id,
            &mut self.conversion_id,
        ] {
            out.next(|c| ids.uuid.write_fixed(c))?;
            out.next(|c| ids.text.write(c))?;
        }
        out.next(|c| self.order_id.write(c))?;
        for texts in [
            &self.ad_id,
            &self.campaign_id,
            &self.advertiser_id,
            &self.currency_code,
        ] {
            out.next(|c| texts.write(c))?;
        }
        Ok(())
    }

    /// The columns that say what it was, and what its message was.
    fn write_values<W: Write + Send>(
        &mut self,
        out: &mut Columns<'_, W>,
    ) -> Result<(), FormatError> {
        out.next(|c| write::<Int32Type>(c, &self.utc_offset_s))?;
        for texts in [
            &self.creative,
            &self.device_type,
            &self.geo_country,
            &self.geo_region,
        ] {
            out.next(|c| texts.write(c))?;
        }
        out.next(|c| write::<Int64Type>(c, &self.amount_micros))?;
        out.next(|c| write::<Int32Type>(c, &self.flags))?;
        out.next(|c| self.verdict.write(c))?;
        out.next(|c| write::<BoolType>(c, &self.is_fraudulent))?;
        out.next(|c| write::<DoubleType>(c, &self.fraud_score))?;
        out.next(|c| write::<Int64Type>(c, &self.content_hash))?;
        out.next(|c| write::<Int64Type>(c, &self.ip_hash))?;
        out.next(|c| self.user_id_hash.write(c))?;
        out.next(|c| write::<Int32Type>(c, &self.visitor_mark))?;
        out.next(|c| self.user_agent.write(c))?;
        out.next(|c| self.referrer_url.write(c))?;
        out.next(|c| self.landing_url.write(c))?;
        out.next(|c| write::<Int64Type>(c, &self.catalogue_revision))?;
        out.next(|c| write::<Int32Type>(c, &self.frame_checksum))?;
        out.next(|c| self.watermark.write(c))?;
        out.next(|c| self.retired.write(c))?;
        out.next(|c| self.subject.write(c))?;
        out.next(|c| self.raw.write(c))?;
        Ok(())
    }
}
