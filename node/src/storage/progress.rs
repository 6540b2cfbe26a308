//! What the writer did so far, as plain counters that anybody may read while it works.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use understudy_protocol::time::Instant;

/// Counters since the writer's start. They are read one by one and may be of different moments.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rounds that had batches.
    pub rounds: AtomicU64,
    pub batches: AtomicU64,
    /// Records appended.
    pub records: AtomicU64,
    /// About the bytes of the batches.
    pub bytes: AtomicU64,
    /// Synced writes, probes included.
    pub syncs: AtomicU64,
    /// Time spent in them.
    pub sync_us: AtomicU64,
    /// The longest of them.
    pub sync_us_max: AtomicU64,
    /// Writes that failed, retries on a full disk included.
    pub failures: AtomicU64,
    /// Bytes that wait for a round.
    pub queued_bytes: AtomicU64,
    /// When the last synced write ended, on the node's clock in microseconds; 0: none yet.
    last_synced_us: AtomicU64,
}

impl Progress {
    /// When the disk last accepted a synced write. Heartbeats and beacons are for a node whose disk did so within the interval.
    pub fn last_synced(&self) -> Option<Instant> {
        let at = self.last_synced_us.load(Relaxed);
        (at != 0).then_some(Instant(at))
    }

    pub(super) fn on_synced(&self, began: Instant, ended: Instant) {
        let took = ended.since(began).0;
        self.syncs.fetch_add(1, Relaxed);
        self.sync_us.fetch_add(took, Relaxed);
        self.sync_us_max.fetch_max(took, Relaxed);
        self.last_synced_us.store(ended.0, Relaxed);
    }

    pub(super) fn on_round(&self, batches: u64, records: u64, bytes: u64) {
        self.rounds.fetch_add(1, Relaxed);
        self.batches.fetch_add(batches, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}
