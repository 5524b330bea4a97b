//! Deleting the blocks that are past their retention.
//!
//! Invariant: what is deleted is before the horizon, and is in no answer any more whether or not it is there.

use std::ops::ControlFlow;

use crate::block::{self, BlockKey};
use crate::cells::Grain;
use crate::codec::Damaged;
use crate::family::Changes;
use crate::seal::{Rows, SealError, note_deleted};
use crate::spans::Horizon;

/// Deletes blocks of a grain before the horizon, from a key on, at most `most` of them; answers the key from which to
/// go on, none at the end. Blocks of a campaign and cuboid lie in the order of time, so those that stay are passed
/// over with one look.
///
/// # Errors
/// [`SealError`] when the state cannot be read.
pub fn sweep<R: Rows>(
    rows: &R,
    grain: Grain,
    from: &[u8],
    horizon: &Horizon,
    most: usize,
    out: &mut Changes,
) -> Result<Option<Vec<u8>>, SealError<R::Error>> {
    let mut from = from.to_vec();
    let before = out.len();
    let mut next_from = None;
    for _ in 0..most {
        let mut next: Option<Result<BlockKey, Damaged>> = None;
        let mut deleted = 0;
        let end = [0xff; 32];
        rows.range(grain.blocks(), &from, &end, &mut |key, _| {
            let block = BlockKey::decode(grain, key);
            match &block {
                Ok(block) if !horizon.keeps(block.span) && deleted < most => {
                    out.delete(grain.blocks(), |k| k.extend_from_slice(key));
                    deleted += 1;
                    ControlFlow::Continue(())
                }
                _ => {
                    next = Some(block);
                    ControlFlow::Break(())
                }
            }
        })
        .map_err(SealError::Read)?;
        next_from = None;
        let Some(stays) = next.transpose()? else {
            break;
        };
        from = match horizon.keeps(stays.span) {
            true => block::range(stays.campaign, stays.cuboid, 0, i32::MAX).1,
            false => block::range(stays.campaign, stays.cuboid, stays.span.number, 0).0,
        };
        next_from = Some(from.clone());
        if out.len() - before >= most {
            break;
        }
    }
    if out.len() > before {
        note_deleted(horizon, out);
    }
    Ok(next_from)
}
