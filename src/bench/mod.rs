//! x
pub mod clicks;
pub mod fsync;
