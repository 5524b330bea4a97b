//! Cuboids: sums of sealed cells over fewer dimensions, so that a question reads no more of them than it asks about.
//!
//! Invariant: the cells of every cuboid of a span are sums of the very same cells, made and written together, so that
//! whichever one is read, a question it covers is answered alike. Cells of a span with few stand in [`Cuboid::Few`] and in
//! no other, so a question reads those beside the cuboid that it picks.

use serde::Serialize;

use crate::partial::Dimension;

/// Which dimensions the cells of a block have, besides campaign and bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Cuboid {
    /// Ad, creative, region and device.
    Full = 0,
    /// Region and device.
    RegionDevice = 1,
    /// Ad and creative.
    AdCreative = 2,
    /// All four, of a span with so few cells that they are kept this once and read whatever is asked.
    Few = 3,
}

impl Cuboid {
    /// Those that the cells of a span are sealed in when they are not few.
    pub const SEPARATE: [Cuboid; 3] = [Cuboid::Full, Cuboid::RegionDevice, Cuboid::AdCreative];

    /// Its dimensions, in the order in which its cells are sorted.
    pub fn dimensions(self) -> &'static [Dimension] {
        match self {
            Cuboid::Full | Cuboid::Few => &[
                Dimension::AdId,
                Dimension::Creative,
                Dimension::Region,
                Dimension::Device,
            ],
            Cuboid::RegionDevice => &[Dimension::Region, Dimension::Device],
            Cuboid::AdCreative => &[Dimension::AdId, Dimension::Creative],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Cuboid::Full => "full",
            Cuboid::RegionDevice => "region_device",
            Cuboid::AdCreative => "ad_creative",
            Cuboid::Few => "few",
        }
    }

    /// The cuboid of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Cuboid::Full,
            Cuboid::RegionDevice,
            Cuboid::AdCreative,
            Cuboid::Few,
        ]
        .get(usize::from(number))
        .copied()
    }

    /// The smallest cuboid with all those dimensions; the campaign is in the key of every one. What asks for no
    /// dimension reads (region, device), whose cells do not grow with a campaign's ads.
    pub fn covering(wanted: impl Iterator<Item = Dimension>) -> Self {
        let wanted: Vec<Dimension> = wanted.filter(|d| *d != Dimension::CampaignId).collect();
        let covers = |cuboid: &Cuboid| wanted.iter().all(|d| cuboid.dimensions().contains(d));
        [Cuboid::RegionDevice, Cuboid::AdCreative]
            .into_iter()
            .find(covers)
            .unwrap_or(Cuboid::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dimension::{AdId, CampaignId, Creative, Device, Region};

    #[test]
    fn the_smallest_cuboid_that_has_everything_is_read() {
        let table: [(&[Dimension], Cuboid); 10] = [
            (&[], Cuboid::RegionDevice),
            (&[CampaignId], Cuboid::RegionDevice),
            (&[Region], Cuboid::RegionDevice),
            (&[Device, CampaignId, Region], Cuboid::RegionDevice),
            (&[AdId], Cuboid::AdCreative),
            (&[Creative, CampaignId], Cuboid::AdCreative),
            (&[AdId, Creative], Cuboid::AdCreative),
            (&[AdId, Region], Cuboid::Full),
            (&[Creative, Device], Cuboid::Full),
            (&[AdId, Creative, Region, Device], Cuboid::Full),
        ];
        for (wanted, want) in table {
            assert_eq!(Cuboid::covering(wanted.iter().copied()), want, "{wanted:?}");
        }
    }
}
