//! One copy of one shard: as primary it numbers, logs and streams records, as secondary it follows.
//!
//! `replica` has the state and the entry, one function per stimulus; `primary` what a primary does, `streams` how it feeds
//! its copies; `secondary` following, `undo` giving back a tail that a failover cut off, `rebuild` the full copy; `reads`
//! what waits at any copy until it is fresh enough, `age` how fresh it is.

mod age;
pub mod branch;
pub mod message;
mod overlay;
mod primary;
mod reads;
mod rebuild;
pub mod replica;
mod secondary;
mod side;
mod streams;
mod trim;
mod undo;

pub use reads::Freshness;
pub use replica::{LogView, ReadAnswer, ReadLevel, Replica, Settings};
