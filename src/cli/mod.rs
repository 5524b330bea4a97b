//! x
pub mod args;
pub mod output;
pub mod settings;
