//! What a state's cells come to, to be held against what other programs made of the same events.

use std::ops::ControlFlow;

use adtally_projections::cells::{self, Grain};
use adtally_projections::codec::Damaged;
use adtally_projections::metrics::Metrics;
use serde::Deserialize;

use crate::store::{ShardSnapshot, StoreError};

/// Sums over all cells of one grain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GrainSums {
    /// How many cells there are.
    pub cells: u64,
    /// Impressions and clicks in them.
    pub events: i64,
    /// The squares of each cell's impressions and clicks: equal only if the events are in the cells alike.
    pub squares: i64,
    /// Their cost in micros.
    pub cost_micros: i64,
}

/// The sums of each grain, in the order of [`Grain::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Stored {
    /// Minute, hour and day.
    pub grains: [GrainSums; Grain::ALL.len()],
}

impl Stored {
    /// Reads all cells of a shard.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn of(snapshot: &ShardSnapshot<'_>) -> Result<Self, StoreError> {
        let mut stored = Self::default();
        for (sums, grain) in stored.grains.iter_mut().zip(Grain::ALL) {
            let mut damaged = Ok(());
            snapshot.scan(grain.family(), &[], None, |key, value| {
                damaged = cells::each(grain, key, value, |_, cell| {
                    let metrics = Metrics::decode(cell)?;
                    let events = metrics.impressions + metrics.gross_clicks;
                    sums.cells += 1;
                    sums.events += events;
                    sums.squares += events * events;
                    sums.cost_micros += metrics.cost_micros();
                    Ok::<_, Damaged>(())
                });
                match damaged {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
            damaged.map_err(|error| snapshot.damaged(error))?;
        }
        Ok(stored)
    }
}
