//! What it means: pure folds of the log into state, plans and rules over it.
//!
//! No IO, clock or randomness: state comes in as plain values and leaves as plain changes.

pub mod applied;
pub mod block;
pub mod block_cells;
pub mod block_sums;
pub mod block_writer;
pub mod bounds;
pub mod buckets;
pub mod cell_list;
mod cell_sums;
pub mod cells;
pub mod codec;
pub mod compare;
pub mod completeness;
pub mod conversions;
mod creatives;
pub mod cuboid;
pub mod directory;
pub mod dump;
mod dump_cells;
pub mod family;
pub mod fold;
mod folded;
pub mod ids;
pub mod incidents;
mod kept;
pub mod ledger;
pub mod memory;
pub mod merged;
pub mod metrics;
#[cfg(test)]
mod model_tests;
pub mod month;
pub mod partial;
pub mod plan;
pub mod position;
pub mod printed;
pub mod ratios;
pub mod rolling;
pub mod seal;
mod seal_cells;
pub mod sections;
mod sift;
pub mod sketch;
pub mod spans;
pub mod spend;
pub mod statement;
pub mod sums;
pub mod sweep;
pub mod symbols;
pub mod totals;
pub mod trending;
pub mod uniques;
pub mod unpacked;
pub mod verdicts;
pub mod waiting;
