//! How fast a node sends full copies, over all its shards together, so that moving shards leaves room for everything else.
//!
//! Credit grows with time, up to that of a second. A chunk goes while there is any and may overdraw it; the next one waits
//! until that is made up for. Records do not count: neither writers nor complete copies wait for it.

use crate::effect::Pace;
use crate::time::{Duration, Instant};
use std::cell::RefCell;

const SECOND: Duration = Duration::from_millis(1_000);

/// The credit of one node.
#[derive(Clone, Debug)]
pub struct CopyPace {
    /// Zero: no bound.
    bytes_per_second: u64,
    /// Below zero: overdrawn.
    credit: i64,
    at: Instant,
}

impl CopyPace {
    /// `bytes_per_second` of zero is no bound.
    pub fn new(bytes_per_second: u64, now: Instant) -> CopyPace {
        // So that it stays far from the ends of its arithmetic.
        let bytes_per_second = bytes_per_second.min(1 << 40);
        CopyPace {
            bytes_per_second,
            credit: bytes_per_second as i64,
            at: now,
        }
    }

    pub fn may_copy(&mut self, now: Instant) -> bool {
        if self.bytes_per_second == 0 {
            return true;
        }
        self.grow(now);
        self.credit > 0
    }

    pub fn copied(&mut self, bytes: u64, now: Instant) {
        if self.bytes_per_second > 0 {
            self.grow(now);
            self.credit -= bytes.min(1 << 40) as i64;
        }
    }

    fn grow(&mut self, now: Instant) {
        let most = self.bytes_per_second;
        let passed = now.since(self.at).0;
        let grown = u128::from(most) * u128::from(passed) / u128::from(SECOND.0);
        if grown == 0 {
            // What passed since is not lost: it counts with the rest of its byte.
            return;
        }
        let grown = i64::try_from(grown).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_add(grown).min(most as i64);
        self.at = now;
    }
}

impl Pace for RefCell<CopyPace> {
    fn may_copy(&self, now: Instant) -> bool {
        self.borrow_mut().may_copy(now)
    }

    fn copied(&self, bytes: u64, now: Instant) {
        self.borrow_mut().copied(bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn over_time_no_more_goes_than_the_rate_and_one_second() {
        const RATE: u64 = 3_000_000;
        const CHUNK: u64 = 1_000_000;
        let mut pace = CopyPace::new(RATE, at(0));
        let mut sent = 0;
        for ms in 0..20_000 {
            while pace.may_copy(at(ms)) {
                pace.copied(CHUNK, at(ms));
                sent += CHUNK;
            }
            let most = RATE + RATE * ms / 1_000 + CHUNK;
            assert!(sent <= most, "{sent} after {ms} ms");
        }
        assert!(sent >= 19 * RATE, "{sent}");
    }

    #[test]
    fn credit_is_saved_for_a_second_only() {
        let mut pace = CopyPace::new(1_000, at(0));
        pace.copied(1_000, at(0));
        assert!(!pace.may_copy(at(0)));
        assert!(pace.may_copy(at(60_000)));
        pace.copied(1_001, at(60_000));
        assert!(!pace.may_copy(at(60_000)));
        assert!(pace.may_copy(at(60_003)));
    }

    #[test]
    fn a_slow_rate_that_is_asked_often_still_grows() {
        let mut pace = CopyPace::new(10, at(0));
        pace.copied(20, at(0));
        let first = (0..5_000).find(|ms| pace.may_copy(at(*ms)));
        assert_eq!(first, Some(1_100));
    }

    #[test]
    fn zero_is_no_bound() {
        let mut pace = CopyPace::new(0, at(0));
        pace.copied(u64::MAX, at(0));
        assert!(pace.may_copy(at(0)));
    }
}
