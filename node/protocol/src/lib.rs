//! Every decision of Understudy's replication protocol, as state machines without clock, I/O, async or globals.
//!
//! Whoever drives them (the node's threads, the simulator, a transcript) gives time and inputs and carries out effects.

pub mod change;
pub mod codec;
pub mod conflict;
pub mod control;
pub mod copies;
pub mod detector;
pub mod effect;
pub mod evaluate;
pub mod expiry;
pub mod forwarded;
pub mod invariants;
pub mod mutant;
pub mod object;
pub mod pace;
pub mod record;
pub mod request;
pub mod shard;
mod staged;
pub mod startup;
pub mod store;
pub mod tables;
pub mod testing;
pub mod time;
pub mod writers;
