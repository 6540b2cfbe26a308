//! What a check may use: memory for all its threads together, and steps for one search where somebody bounds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Bytes that a thread takes at a time from what all have.
const PORTION: u64 = 1 << 20;
/// Steps from one look at the clock to the next.
const STEPS_TO_A_LOOK: u64 = 1_024;

pub struct Budget {
    shared: Arc<Shared>,
    /// Taken from the shared part and not used yet.
    ready: u64,
    /// Taken from the shared part in all.
    taken: u64,
    steps_left: u64,
    /// Looked at with every portion of memory and of steps.
    until: Option<Instant>,
    /// Somebody who began earlier found what this search would only find again.
    stop: Option<Arc<AtomicBool>>,
}

struct Shared {
    bytes_left: AtomicU64,
}

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        Budget {
            shared: Arc::new(Shared {
                bytes_left: AtomicU64::new(bytes),
            }),
            ready: 0,
            taken: 0,
            steps_left: u64::MAX,
            until: None,
            stop: None,
        }
    }

    /// For another search at the same time: the same memory, at most so many steps.
    pub fn for_search(&self, steps: u64) -> Budget {
        Budget {
            shared: self.shared.clone(),
            ready: 0,
            taken: 0,
            steps_left: steps,
            until: None,
            stop: None,
        }
    }

    pub fn until(mut self, stop: Arc<AtomicBool>) -> Budget {
        self.stop = Some(stop);
        self
    }

    pub fn before(mut self, until: Instant) -> Budget {
        self.until = Some(until);
        self
    }

    /// False when there is not so much.
    pub fn take(&mut self, steps: u64, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if self.steps_left < steps {
            return false;
        }
        self.steps_left -= steps;
        if steps > 0
            && self.steps_left.is_multiple_of(STEPS_TO_A_LOOK)
            && self.until.is_some_and(|until| Instant::now() > until)
        {
            return false;
        }
        if self.ready < bytes && !self.fetch(bytes) {
            return false;
        }
        self.ready -= bytes;
        true
    }

    pub fn give_back(&mut self, bytes: usize) {
        self.ready += bytes as u64;
    }

    fn fetch(&mut self, bytes: u64) -> bool {
        if self
            .stop
            .as_ref()
            .is_some_and(|stop| stop.load(Ordering::Relaxed))
        {
            return false;
        }
        let portion = bytes.max(PORTION);
        let left = &self.shared.bytes_left;
        let fetched = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(portion)
        });
        if fetched.is_ok() {
            self.ready += portion;
            self.taken += portion;
        }
        fetched.is_ok()
    }
}

/// What a search took is free again when it ends.
impl Drop for Budget {
    fn drop(&mut self) {
        self.shared
            .bytes_left
            .fetch_add(self.taken, Ordering::Relaxed);
    }
}
