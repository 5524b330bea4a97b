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
    /// Region.
    Region = 4,
    /// Device.
    Device = 5,
    /// None: a cell a bucket.
    Total = 6,
}

impl Cuboid {
    /// Every one, by its number.
    pub const ALL: [Cuboid; 7] = [
        Cuboid::Full,
        Cuboid::RegionDevice,
        Cuboid::AdCreative,
        Cuboid::Few,
        Cuboid::Region,
        Cuboid::Device,
        Cuboid::Total,
    ];

    /// Those that the cells of a span are sealed in when they are not few, each behind that of [`Cuboid::made_of`].
    pub const SEPARATE: [Cuboid; 6] = [
        Cuboid::Full,
        Cuboid::AdCreative,
        Cuboid::RegionDevice,
        Cuboid::Region,
        Cuboid::Device,
        Cuboid::Total,
    ];

    /// The cuboid of whose cells its own are sums: the smallest that has its dimensions; none where they are those of
    /// rows.
    pub fn made_of(self) -> Option<Cuboid> {
        match self {
            Cuboid::Full | Cuboid::Few => None,
            Cuboid::RegionDevice | Cuboid::AdCreative => Some(Cuboid::Full),
            Cuboid::Region | Cuboid::Device => Some(Cuboid::RegionDevice),
            Cuboid::Total => Some(Cuboid::Device),
        }
    }

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
            Cuboid::Region => &[Dimension::Region],
            Cuboid::Device => &[Dimension::Device],
            Cuboid::Total => &[],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Cuboid::Full => "full",
            Cuboid::RegionDevice => "region_device",
            Cuboid::AdCreative => "ad_creative",
            Cuboid::Few => "few",
            Cuboid::Region => "region",
            Cuboid::Device => "device",
            Cuboid::Total => "total",
        }
    }

    /// The cuboid of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The smallest cuboid with all those dimensions; the campaign is in the key of every one. What is about regions and
    /// devices is smaller than what is about ads, whose cells grow with a campaign's ads.
    pub fn covering(wanted: impl Iterator<Item = Dimension>) -> Self {
        let wanted: Vec<Dimension> = wanted.filter(|d| *d != Dimension::CampaignId).collect();
        let covers = |cuboid: &Cuboid| wanted.iter().all(|d| cuboid.dimensions().contains(d));
        [
            Cuboid::Total,
            Cuboid::Device,
            Cuboid::Region,
            Cuboid::RegionDevice,
            Cuboid::AdCreative,
        ]
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
        let table: [(&[Dimension], Cuboid); 12] = [
            (&[], Cuboid::Total),
            (&[CampaignId], Cuboid::Total),
            (&[Region], Cuboid::Region),
            (&[CampaignId, Device], Cuboid::Device),
            (&[Region, Region, Device], Cuboid::RegionDevice),
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

    #[test]
    fn a_cuboid_is_made_of_one_before_it_that_has_its_dimensions() {
        for (at, cuboid) in Cuboid::SEPARATE.into_iter().enumerate() {
            let Some(whole) = cuboid.made_of() else {
                assert_eq!(cuboid, Cuboid::Full);
                continue;
            };
            assert!(Cuboid::SEPARATE[..at].contains(&whole), "{cuboid:?}");
            let has = |d: &Dimension| whole.dimensions().contains(d);
            assert!(cuboid.dimensions().iter().all(has), "{cuboid:?}");
        }
        for (number, cuboid) in Cuboid::ALL.into_iter().enumerate() {
            assert_eq!(cuboid as usize, number);
            assert_eq!(Cuboid::from_number(number as u8), Some(cuboid));
        }
        assert_eq!(Cuboid::from_number(Cuboid::ALL.len() as u8), None);
    }
}
