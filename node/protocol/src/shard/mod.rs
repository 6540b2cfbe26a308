//! One copy of one shard: as primary it numbers, logs and streams records, as secondary it follows.
//!
//! `replica` has the state and the entry, one function per stimulus; `primary` what a primary does, `streams` how it feeds
//! its copies, `forward` what it sends of each record and what a copy makes of that, `commit` what in_sync adds to it;
//! `secondary` following, `undo` taking back a tail that a failover cut off, `submit` giving it to the new primary, `reconcile`
//! what that makes of it, `rebuild` the full copy; `walk` the coalesced delta at a primary, `delta` at a copy; `reads` what
//! waits at any copy until it is fresh enough, `age` how fresh it is; `witness` the lease that the copies give their primary;
//! `expire` which dedup entries a primary lets go; `scrub` compares the objects of all copies.

mod age;
pub mod branch;
mod commit;
mod delta;
mod expire;
mod forward;
pub mod message;
mod overlay;
mod pending;
mod primary;
mod reads;
mod rebuild;
mod reconcile;
pub mod replica;
mod scrub;
mod secondary;
mod side;
mod streams;
mod submit;
mod trim;
mod undo;
mod walk;
mod witness;

pub use reads::Freshness;
pub use replica::{LogView, ReadAnswer, ReadLevel, Replica, Settings};
pub use scrub::{ScrubbedCopy, ScrubbedPage};
