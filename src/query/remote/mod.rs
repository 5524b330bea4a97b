//! Shards elsewhere: an API that folds nothing asks the processes that do, shard by shard.
//!
//! A question opens each shard with one of the processes that have it, which holds a snapshot for it. Sums are made
//! there, and only they travel; what is small is read row by row. A process that goes away in the middle fails the
//! question, which is then asked again as a whole: no answer is of two moments of one shard, nor of fewer shards.

mod ask;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

pub use ask::Remote;
pub use serve::serve;
pub use watch::watch;
