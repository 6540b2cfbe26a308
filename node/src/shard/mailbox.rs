//! What waits for one shard thread. Taken all at once, so that what came together is handled, written and answered together.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Many writers, one reader.
pub(super) struct Mailbox<T> {
    waiting: Mutex<Vec<T>>,
    arrived: Condvar,
}

impl<T> Mailbox<T> {
    pub fn new() -> Mailbox<T> {
        Mailbox {
            waiting: Mutex::new(Vec::new()),
            arrived: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A writer that panicked left the list whole: a push is one step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, item: T) {
        let mut waiting = self.lock();
        waiting.push(item);
        if waiting.len() == 1 {
            self.arrived.notify_one();
        }
    }

    /// Takes the item unless so many wait already; then it is given back.
    pub fn push_bounded(&self, item: T, limit: usize) -> Result<(), T> {
        let mut waiting = self.lock();
        if waiting.len() >= limit {
            return Err(item);
        }
        waiting.push(item);
        if waiting.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Everything that waits, in order; waits for the first so long.
    pub fn drain(&self, timeout: Duration, into: &mut Vec<T>) {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .arrived
            .wait_timeout_while(waiting, timeout, |waiting| waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        into.append(&mut waiting);
    }
}
