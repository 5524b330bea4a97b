//! How we know: adtally's own logic over a seeded model of disks, a broker and clients, in virtual time.
//!
//! Under test is what is shipped, called in the order in which the running program calls it: `admit`, the outbox's
//! rows, group commits, lanes, packing, delivery, watermarks and recovery, frames, the ledger, the id index and the
//! fold. Modelled is what those stand on: disks that lose what was not synced, a broker that loses, repeats,
//! reorders and forgets, and clients that ask again. One generator decides everything, so a seed is a world that can
//! be looked at again. The oracle knows what was answered and counts it by hand.
//!
//! | room | what is in it |
//! |---|---|
//! | `world` | everything on one agenda, and the loop |
//! | `plan`, `operator` | what goes wrong in a seed's world, and when |
//! | `disk`, `broker`, `network` | the models |
//! | `clients`, `catalogue` | what is said, and what it means then |
//! | `border`, `outbox`, `opening`, `kept`, `process` | drivers of the way in, the outbox, its epochs, its disk and its process |
//! | `projector`, `folding`, `resend` | drivers of the fold, and of an operator who mends a gap |
//! | `replay` | an operator who folds a shard again, from a checkpoint and the archive |
//! | `oracle`, `verdict` | what must be true at every moment, and at the end |
//! | `bugs` | bugs that are planted to see that they are found |

mod agenda;
mod border;
mod broker;
pub mod bugs;
mod catalogue;
mod clients;
mod disk;
mod folding;
mod kept;
mod network;
mod opening;
mod operator;
mod oracle;
mod outbox;
mod plan;
mod process;
mod projector;
mod random;
mod replay;
pub mod report;
mod resend;
#[cfg(test)]
mod tests;
mod verdict;
mod world;

pub use world::run;
