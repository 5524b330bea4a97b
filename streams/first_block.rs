//! A part that is packed as one zstd frame, of which a reader may want no more than the beginning.
//!
//! The writer ends zstd's first block behind what a fold reads. To any reader it is one frame like others; one that
//! wants the beginning unpacks that block alone. What it does not understand it reports, and unpacks all of it.

use zstd::bulk::Compressor;
use zstd::zstd_safe::{
    CCtx, DCtx, InBuffer, OutBuffer, ResetDirective, SafeResult, compress_bound,
};

/// What a flush adds to zstd's bound, at most: a block's header, and one more for the block behind it.
const FLUSH_BYTES: usize = 16;

/// Packs `plain` with a block that ends at `first`, which is no further than its end; says whether that made it
/// smaller.
pub(crate) fn pack(
    zstd: &mut Compressor<'_>,
    plain: &[u8],
    first: usize,
    packed: &mut Vec<u8>,
) -> bool {
    packed.clear();
    packed.reserve(compress_bound(plain.len()) + FLUSH_BYTES);
    stream(zstd.context_mut(), plain.split_at(first), packed)
        .expect("zstd packs any bytes into a buffer of its bound");
    packed.len() < plain.len()
}

fn stream(zstd: &mut CCtx<'_>, (head, tail): (&[u8], &[u8]), packed: &mut Vec<u8>) -> SafeResult {
    zstd.reset(ResetDirective::SessionOnly)?;
    zstd.set_pledged_src_size(Some((head.len() + tail.len()) as u64))?;
    let mut out = OutBuffer::around(packed);
    let mut input = InBuffer::around(head);
    while input.pos() < head.len() {
        zstd.compress_stream(&mut out, &mut input)?;
    }
    while zstd.flush_stream(&mut out)? > 0 {}
    let mut input = InBuffer::around(tail);
    while input.pos() < tail.len() {
        zstd.compress_stream(&mut out, &mut input)?;
    }
    while zstd.end_stream(&mut out)? > 0 {}
    Ok(0)
}

/// Unpacks the first block of a frame into `buffer`, which is as long as the whole; none when it is the only one, or
/// anything is unusual about it.
pub(crate) fn unpack<'b>(
    zstd: &mut DCtx<'_>,
    packed: &[u8],
    buffer: &'b mut [u8],
) -> Option<&'b [u8]> {
    let input = packed.get(..end_of_first_block(packed)?)?;
    zstd.reset(ResetDirective::SessionOnly).ok()?;
    let length = {
        let mut input = InBuffer::around(input);
        let mut out = OutBuffer::around(&mut *buffer);
        loop {
            let before = (input.pos(), out.pos());
            zstd.decompress_stream(&mut out, &mut input).ok()?;
            if (input.pos(), out.pos()) == before {
                break out.pos();
            }
        }
    };
    Some(&buffer[..length])
}

/// Where the first block of a zstd frame ends (RFC 8878, sections 3.1.1.1 and 3.1.1.2); none when it is the last one.
fn end_of_first_block(packed: &[u8]) -> Option<usize> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let descriptor = *packed.strip_prefix(&MAGIC)?.first()?;
    let single_segment = descriptor >> 5 & 1;
    let window = usize::from(1 - single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(single_segment),
        flag => 1 << flag,
    };
    let at = MAGIC.len() + 1 + window + dictionary + content;
    let [a, b, c] = *packed.get(at..)?.first_chunk()?;
    let header = u32::from_le_bytes([a, b, c, 0]);
    let (last, kind, size) = (header & 1, header >> 1 & 3, header >> 3);
    const RUN: u32 = 1;
    let stored = if kind == RUN { 1 } else { size as usize };
    (last == 0).then_some(at + 3 + stored)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The most that a block of zstd holds (RFC 8878, section 3.1.1.2.4).
    const BLOCK_BYTES: usize = 128 << 10;

    proptest! {
        #[test]
        fn the_beginning_and_the_whole_come_back(
            word in proptest::collection::vec(any::<u8>(), 1..60),
            times in 0usize..4_000,
            cut in 0usize..100,
        ) {
            let plain = word.repeat(times);
            let first = plain.len() * cut / 100;
            let mut packed = Vec::new();
            pack(&mut Compressor::new(1).unwrap(), &plain, first, &mut packed);
            let whole = zstd::bulk::decompress(&packed, plain.len()).unwrap();
            prop_assert_eq!(&whole, &plain);
            let mut buffer = vec![0; plain.len()];
            let block = unpack(&mut DCtx::create(), &packed, &mut buffer);
            // A longer beginning is more than one block; where nothing is behind it, it may be the last one. Where
            // none was asked for, zstd ends its first block where it likes: see the test below.
            match block {
                Some(block) if first == 0 => prop_assert!(plain.starts_with(block)),
                Some(block) => prop_assert_eq!(block, &plain[..first.min(BLOCK_BYTES)]),
                None => prop_assert!(first == plain.len() || first == 0),
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), magic: bool) {
            if magic && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
            }
            let mut buffer = vec![0; 300];
            let _ = unpack(&mut DCtx::create(), &bytes, &mut buffer);
        }
    }

    #[test]
    fn of_more_than_a_block_without_a_beginning_a_block_comes_back() {
        let plain = [0; BLOCK_BYTES + 8];
        let mut packed = Vec::new();
        assert!(pack(
            &mut Compressor::new(1).unwrap(),
            &plain,
            0,
            &mut packed
        ));
        let mut buffer = vec![1; plain.len()];
        let block = unpack(&mut DCtx::create(), &packed, &mut buffer).unwrap();
        assert_eq!(block, &plain[..BLOCK_BYTES]);
    }

    #[test]
    fn a_frame_in_one_block_has_no_beginning() {
        let packed = zstd::bulk::compress(&[7; 300], 1).unwrap();
        assert_eq!(end_of_first_block(&packed), None);
    }
}
