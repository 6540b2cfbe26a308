//! What became of orphans at the primaries here, counted since the process began, and what a person should hear of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use understudy_proto::ShardId;
use understudy_protocol::shard::message::{Fate, FateKind};

#[derive(Debug, Default)]
pub struct Judged {
    /// Recorded again, with their changes.
    pub applied: AtomicU64,
    /// Recorded again as the failed outcomes that they are.
    pub outcome_only: AtomicU64,
    pub conflicts: AtomicU64,
    /// By the namespace's policy.
    pub discarded: AtomicU64,
}

impl Judged {
    pub fn note(&self, shard: ShardId, fate: Fate) {
        let Fate { pair, kind, stands } = fate;
        let counter = match kind {
            // Asked again, it is found again.
            FateKind::Stands => return,
            FateKind::Applied => &self.applied,
            FateKind::OutcomeOnly => &self.outcome_only,
            FateKind::Conflict(reason) => {
                if is_told(&self.conflicts) {
                    tracing::warn!(%shard, %pair, %stands, reason = reason.as_str(), "what a failover cut off is a conflict: understudy conflicts list");
                }
                &self.conflicts
            }
            FateKind::Discarded => {
                if is_told(&self.discarded) {
                    tracing::warn!(%shard, %pair, %stands, "what a failover cut off is discarded, as the namespace's policy says");
                }
                &self.discarded
            }
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// The first, the second, the fourth and so on: a failover may cut off a hundred thousand, and all of them are counted.
fn is_told(so_far: &AtomicU64) -> bool {
    (so_far.load(Relaxed) + 1).is_power_of_two()
}
