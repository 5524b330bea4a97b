//! What happened: event types, the border's decision, and the frames that carry events on the log.
//!
//! Pure code over plain data: no clock, no randomness, no IO.

pub mod admit;
pub mod event;
pub mod frame;
pub mod id;
pub mod lane;
pub mod money;
pub mod names;
pub mod parse;
pub mod refusal;
pub mod time;
pub mod watermark;
