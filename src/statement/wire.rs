//! A closed statement as a message of STATEMENTS: its bytes, or where a message cannot hold them, the same bytes packed.
//!
//! Invariant: what was closed is read again byte for byte. A statement that a message can hold is stored as it is, so
//! that anybody reads it with the nats CLI; a packed one begins with zstd's magic number (RFC 8878, 3.1.1) and so
//! `nats stream get STATEMENTS SEQUENCE` and `zstd -d` show it.

use adtally_projections::statement::BadStatement;
use bytes::Bytes;

use super::StatementError;

/// The longest statement that is closed, in bytes: some three hundred thousand lines.
pub const STATEMENT_MAX_BYTES: usize = 64 << 20;
/// How hard it is packed. A month is closed once.
const LEVEL: i32 = 9;
/// What stands before everything that zstd has packed, and never before a JSON object.
const MAGIC: [u8; 4] = zstd::zstd_safe::MAGICNUMBER.to_le_bytes();

/// The message of a statement, at most `most` bytes.
///
/// # Errors
/// [`StatementError::TooLong`], and [`StatementError::TooLarge`] where a message cannot hold it packed either.
pub fn packed(sealed: &[u8], most: usize) -> Result<Bytes, StatementError> {
    let bytes = sealed.len();
    if bytes <= most {
        return Ok(Bytes::copy_from_slice(sealed));
    }
    if bytes > STATEMENT_MAX_BYTES {
        return Err(StatementError::TooLong { bytes });
    }
    let packed = zstd::bulk::compress(sealed, LEVEL)
        .expect("zstd fails only for want of room, and it takes as much as it needs");
    let bytes = packed.len();
    if bytes > most {
        return Err(StatementError::TooLarge { bytes, most });
    }
    Ok(packed.into())
}

/// The bytes that a message holds.
///
/// # Errors
/// [`BadStatement::Unreadable`] for packed bytes that are damaged, or longer than [`STATEMENT_MAX_BYTES`].
pub fn unpacked(message: &[u8]) -> Result<Vec<u8>, BadStatement> {
    if !message.starts_with(&MAGIC) {
        return Ok(message.to_vec());
    }
    zstd::bulk::decompress(message, STATEMENT_MAX_BYTES)
        .map_err(|error| BadStatement::Unreadable(format!("it cannot be unpacked: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Lines as a statement has them, each another one.
    fn lines(count: usize) -> Vec<u8> {
        let line = |n| {
            format!(
                "{{\"campaign_id\":\"c-{n}\",\"cost_micros\":{}}}",
                n * 7_919
            )
        };
        let lines: Vec<String> = (0..count).map(line).collect();
        format!("{{\"lines\":[{}]}}", lines.join(",")).into_bytes()
    }

    #[test]
    fn what_a_message_can_hold_is_stored_as_it_is() {
        let sealed = lines(10);
        let message = packed(&sealed, sealed.len()).unwrap();
        assert_eq!(message, sealed);
        assert_eq!(unpacked(&message).unwrap(), sealed);
    }

    #[test]
    fn what_it_cannot_hold_is_packed_and_read_again_byte_for_byte() {
        let sealed = lines(100_000);
        let most = sealed.len() - 1;
        let message = packed(&sealed, most).unwrap();
        assert!(message.len() <= most / 4, "{} of {most}", message.len());
        assert_eq!(unpacked(&message).unwrap(), sealed);
    }

    #[test]
    fn what_is_too_much_is_refused_and_what_is_damaged_too() {
        let sealed = lines(1_000);
        assert!(matches!(
            packed(&sealed, 100),
            Err(StatementError::TooLarge { most: 100, .. })
        ));
        let long = vec![b' '; STATEMENT_MAX_BYTES + 1];
        assert!(matches!(
            packed(&long, 1 << 20),
            Err(StatementError::TooLong { .. })
        ));
        let bomb = zstd::bulk::compress(&long, 1).unwrap();
        assert!(
            unpacked(&bomb).is_err(),
            "it would take more than is allowed"
        );
        let message = packed(&sealed, sealed.len() - 1).unwrap();
        assert!(unpacked(&message[..message.len() / 2]).is_err());
    }
}
