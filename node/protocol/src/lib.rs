//! Every decision of Understudy's replication protocol, as state machines without clock, I/O, async or globals.
//!
//! Whoever drives them (the node's threads, the simulator, a transcript) gives time and inputs and carries out effects.

pub mod control;
pub mod detector;
pub mod mutant;
pub mod tables;
pub mod time;
