//! The fault detector: heartbeats in, suspicion out. It knows nothing of shards, leases or the manager.

use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// What silence says about one watched thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Alive,
    Suspect,
    Down,
}

/// When each watched thing was last heard.
#[derive(Clone, Debug, Default)]
pub struct Detector<K> {
    heard: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Detector<K> {
    pub fn new() -> Detector<K> {
        Detector {
            heard: BTreeMap::new(),
        }
    }

    /// Watches from now on: a thing that is never heard becomes suspect like one that fell silent.
    pub fn watch(&mut self, key: K, now: Instant) {
        self.heard.entry(key).or_insert(now);
    }

    pub fn heard(&mut self, key: K, now: Instant) {
        let last = self.heard.entry(key).or_insert(now);
        *last = (*last).max(now);
    }

    pub fn forget(&mut self, key: K) {
        self.heard.remove(&key);
    }

    /// What is not watched is not suspected.
    pub fn verdict(&self, key: K, now: Instant, suspect: Duration, down: Duration) -> Verdict {
        let silent = self.heard.get(&key).map(|last| now.since(*last));
        match silent {
            Some(silent) if silent >= down => Verdict::Down,
            Some(silent) if silent >= suspect => Verdict::Suspect,
            _ => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // capability B07
    #[test]
    fn silence_is_suspected_and_then_taken_for_the_end() {
        let ms = |ms| Instant::ZERO + Duration::from_millis(ms);
        let mut detector = Detector::new();
        detector.watch('a', ms(0));
        let at = |d: &Detector<char>, t| {
            d.verdict(
                'a',
                ms(t),
                Duration::from_millis(500),
                Duration::from_millis(1_000),
            )
        };
        assert_eq!(at(&detector, 499), Verdict::Alive);
        assert_eq!(at(&detector, 500), Verdict::Suspect);
        assert_eq!(at(&detector, 1_000), Verdict::Down);
        detector.heard('a', ms(1_200));
        detector.heard('a', ms(900));
        assert_eq!(
            at(&detector, 1_600),
            Verdict::Alive,
            "an older sign does not count back"
        );
        detector.forget('a');
        assert_eq!(at(&detector, 9_999), Verdict::Alive);
    }
}
