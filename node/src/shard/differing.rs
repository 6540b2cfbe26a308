//! What copies here found otherwise than their primaries forwarded it, counted since the process began, and what a person should
//! hear of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use understudy_proto::{Pair, ShardId};
use understudy_protocol::effect::Difference;

#[derive(Debug, Default)]
pub struct Differing {
    /// Operations that came to another record here; the copy then got whole records.
    pub mismatches: AtomicU64,
    /// Objects whose place the primary's took.
    pub mended: AtomicU64,
}

impl Differing {
    pub fn note(&self, shard: ShardId, pair: Pair, what: &Difference) {
        let counter = match what {
            Difference::NotTaken => {
                tracing::warn!(%shard, %pair, "an operation comes to another record at this copy, which asks for whole records: compare the copies with understudy cluster verify");
                &self.mismatches
            }
            Difference::Mended(key) => {
                let key = key.escape_ascii();
                tracing::warn!(%shard, %pair, %key, "an object was another at this copy; the primary's took its place");
                &self.mended
            }
        };
        counter.fetch_add(1, Relaxed);
    }
}
