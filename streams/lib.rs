//! What happened: event types, the border's decision, and the frames that carry events on the log.
//!
//! Pure code over plain data: no clock, no randomness, no IO.

pub mod admit;
mod announcement;
pub mod catalogue;
mod columns;
pub mod commit;
pub mod delivery;
pub mod dimensions;
mod document_json;
pub mod document_keys;
pub mod documents;
mod envelope;
pub mod event;
pub mod event_row;
mod first_block;
pub mod frame;
mod frame_columns;
mod frame_error;
mod frame_events;
mod frame_hot;
mod frame_reader;
#[cfg(test)]
mod frame_tests;
mod frame_writer;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod hostile_tests;
pub mod id;
mod id_column;
pub mod items;
pub mod landing;
pub mod lane;
pub mod lanes;
pub mod money;
pub mod names;
pub mod packing;
pub mod parse;
mod payload;
pub mod recovery;
pub mod refusal;
pub mod row;
#[cfg(any(test, feature = "testing"))]
pub mod strategies;
pub mod time;
mod uuid_text;
mod view;
pub mod visitor;
pub mod watermark;
