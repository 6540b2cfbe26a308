//! What the clients of a load tell while they run: who acknowledged what when, shard by shard.
//!
//! The demo's timeline, the gaps of a failover and the bench read it. Clients only count here; they never wait for one
//! another beyond an atomic, or a short lock while a fault is being timed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use understudy_proto::NodeId;

/// The width of one step of the timeline.
pub const BUCKET: Duration = Duration::from_millis(100);

/// Acknowledgements as they arrive.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    shards: usize,
    /// Acknowledgements by bucket and shard, bucket first.
    counts: Vec<AtomicU32>,
    total: AtomicU64,
    errors: AtomicU64,
    /// Microseconds since the start.
    last: AtomicU64,
    longest_pause: AtomicU64,
    timing: AtomicBool,
    timed: Mutex<Option<Timed>>,
}

/// The shards that lost their primary, and when each was acknowledged by another one.
#[derive(Clone, Debug)]
pub struct Timed {
    lost: NodeId,
    back: Vec<(u32, Option<Duration>)>,
    /// When the lost one acknowledged each of them last.
    last: BTreeMap<u32, Duration>,
}

impl Timed {
    pub fn complete(&self) -> bool {
        self.back.iter().all(|(_, back)| back.is_some())
    }

    /// The longest time between the last acknowledgement of the lost one and the first of another, over the shards that were
    /// acknowledged by both.
    pub fn longest_pause(&self) -> Option<Duration> {
        let pauses = self.back.iter().filter_map(|(shard, back)| {
            let last = self.last.get(shard)?;
            Some(back.as_ref()?.saturating_sub(*last))
        });
        pauses.max()
    }

    /// When each shard was back, since the start; `None`: not yet.
    pub fn back(&self) -> &[(u32, Option<Duration>)] {
        &self.back
    }
}

impl Pulse {
    /// Acknowledgements later than `longest` after now count in the last bucket.
    pub fn new(shards: u32, longest: Duration) -> Pulse {
        let buckets = longest.div_duration_f64(BUCKET).ceil() as usize + 1;
        let shards = shards.max(1) as usize;
        Pulse {
            started: Instant::now(),
            shards,
            counts: (0..buckets * shards).map(|_| AtomicU32::new(0)).collect(),
            total: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last: AtomicU64::new(0),
            longest_pause: AtomicU64::new(0),
            timing: AtomicBool::new(false),
            timed: Mutex::default(),
        }
    }

    /// Since the start.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A client got its answer from this primary.
    pub fn acknowledged(&self, shard: u32, primary: NodeId) {
        let now = self.now();
        let micros = now.as_micros() as u64;
        let before = self.last.fetch_max(micros, Ordering::Relaxed);
        self.longest_pause
            .fetch_max(micros.saturating_sub(before), Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        let bucket = (now.as_micros() / BUCKET.as_micros()) as usize;
        let at = bucket.min(self.buckets() - 1) * self.shards + shard as usize;
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if self.timing.load(Ordering::Acquire) {
            self.time(shard, primary, now);
        }
    }

    /// A client was told that its request did not run, or that nobody knows.
    pub fn went_wrong(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// From now on, note when each of these shards is acknowledged by another node than the lost one.
    pub fn start_timing(&self, lost: NodeId, shards: &[u32]) {
        let back = shards.iter().map(|shard| (*shard, None)).collect();
        let last = BTreeMap::new();
        *self.timed() = Some(Timed { lost, back, last });
        self.timing.store(true, Ordering::Release);
    }

    /// What was noted so far.
    pub fn timing(&self) -> Option<Timed> {
        self.timed().clone()
    }

    pub fn stop_timing(&self) -> Option<Timed> {
        self.timing.store(false, Ordering::Release);
        self.timed().take()
    }

    /// Forgets the longest pause so far.
    pub fn start_watching_pauses(&self) {
        let now = self.now().as_micros() as u64;
        self.last.fetch_max(now, Ordering::Relaxed);
        self.longest_pause.store(0, Ordering::Relaxed);
    }

    /// The longest time between two acknowledgements, wherever, since `start_watching_pauses`; the one that still lasts
    /// counts too.
    pub fn longest_pause(&self) -> Duration {
        let now = self.now().as_micros() as u64;
        let open = now.saturating_sub(self.last.load(Ordering::Relaxed));
        Duration::from_micros(open.max(self.longest_pause.load(Ordering::Relaxed)))
    }

    /// Acknowledgements of one bucket, by shard.
    pub fn bucket(&self, bucket: usize) -> Vec<u32> {
        let from = bucket.min(self.buckets() - 1) * self.shards;
        let counts = &self.counts[from..from + self.shards];
        counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect()
    }

    pub fn buckets(&self) -> usize {
        self.counts.len() / self.shards
    }

    fn time(&self, shard: u32, primary: NodeId, now: Duration) {
        let mut timed = self.timed();
        let Some(timed) = timed.as_mut() else {
            return;
        };
        if timed.lost == primary {
            timed.last.insert(shard, now);
            return;
        }
        let entry = timed.back.iter_mut().find(|(known, _)| *known == shard);
        if let Some((_, back)) = entry {
            back.get_or_insert(now);
        }
    }

    /// The value is whole between any two calls, so a panic elsewhere does not spoil it.
    fn timed(&self) -> MutexGuard<'_, Option<Timed>> {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_back_when_another_node_acknowledges_it() {
        let pulse = Pulse::new(2, Duration::from_secs(1));
        pulse.start_timing(NodeId(1), &[0, 1]);
        pulse.acknowledged(0, NodeId(1));
        pulse.acknowledged(1, NodeId(2));
        let timed = pulse.timing().expect("it was started");
        assert!(!timed.complete());
        assert!(timed.back()[0].1.is_none() && timed.back()[1].1.is_some());
        pulse.acknowledged(0, NodeId(3));
        let timed = pulse.stop_timing().expect("it was started");
        assert!(timed.complete());
        // Of shard 1 the lost one acknowledged nothing, so there is no pause to tell.
        let last = timed.back()[0]
            .1
            .map(|back| back >= timed.longest_pause().unwrap());
        assert_eq!(last, Some(true));
        assert_eq!(pulse.total(), 3);
    }
}
