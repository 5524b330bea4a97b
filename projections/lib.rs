//! What it means: pure folds of the log into state, plans and rules over it.
//!
//! No IO, clock or randomness: state comes in as plain values and leaves as plain changes.

pub mod applied;
pub mod cells;
pub mod codec;
pub mod conversions;
pub mod directory;
pub mod family;
pub mod ids;
pub mod metrics;
pub mod spend;
pub mod symbols;
pub mod totals;
pub mod verdicts;
