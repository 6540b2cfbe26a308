//! One copy of one shard: as primary it numbers, logs and streams records, as secondary it follows.
//!
//! `replica` has the state and the entry, one function per stimulus; `primary` what a primary does, `streams` how it feeds
//! its copies, `commit` what in_sync adds to it; `secondary` following, `undo` giving back a tail that a failover cut off, `rebuild` the full copy.

pub mod branch;
mod commit;
pub mod message;
mod overlay;
mod pending;
mod primary;
mod rebuild;
pub mod replica;
mod secondary;
mod side;
mod streams;
mod trim;
mod undo;

pub use replica::{LogView, ReadAnswer, ReadLevel, Replica, Settings};
