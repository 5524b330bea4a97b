//! The order of a batch's cells as one number each: campaign, bucket, ad and place stand in it as they do in keys.

use crate::cell_list::Place;

/// How many bits the parts of a sorted number take in this batch.
#[derive(Clone, Copy)]
pub(crate) struct Widths {
    pub(crate) region: u32,
    pub(crate) creative: u32,
    pub(crate) owner: u32,
    pub(crate) bucket: u32,
}

/// Bits of a device number.
const DEVICE_BITS: u32 = 4;

impl Widths {
    /// All of them but the campaign's.
    pub(crate) fn sum(&self) -> u32 {
        DEVICE_BITS + self.region + self.creative + self.owner + self.bucket
    }

    /// The number of a campaign, bucket, owner and place.
    pub(crate) fn pack(&self, (campaign, bucket, owner, place): (u32, u64, u32, Place)) -> u64 {
        let mut packed = u64::from(campaign);
        packed = (packed << self.bucket) | bucket;
        packed = (packed << self.owner) | u64::from(owner);
        packed = (packed << self.creative) | u64::from(place.creative());
        packed = (packed << self.region) | u64::from(place.region());
        (packed << DEVICE_BITS) | u64::from(place.device())
    }
}

/// Bits that a number takes.
pub(crate) fn bits(n: u64) -> u32 {
    u64::BITS - n.leading_zeros()
}
