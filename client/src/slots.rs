//! Who waits for which answer of a stream: a slab of one-shot senders, found by tag.
//!
//! A tag names its place and how often the place was used, so that an answer that comes after its question was given up
//! reaches nobody. Each slot knows whether its question was handed to the connection: one that was not certainly did
//! not run. Once closed, a slab takes nothing any more.

use crate::error::Trouble;
use tokio::sync::oneshot;

/// The end at which a caller waits.
pub(crate) type Waiting<T> = oneshot::Sender<Result<T, Trouble>>;

#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    closed: bool,
}

#[derive(Debug)]
struct Entry<T> {
    /// Raised whenever the place is freed.
    used: u32,
    waiting: Option<Waiting<T>>,
    sent: bool,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots {
            entries: Vec::new(),
            free: Vec::new(),
            closed: false,
        }
    }
}

impl<T> Slots<T> {
    /// A tag for a question; gives the sender back when the slab is closed.
    pub fn reserve(&mut self, waiting: Waiting<T>) -> Result<u64, Waiting<T>> {
        if self.closed {
            return Err(waiting);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                used: 0,
                waiting: None,
                sent: false,
            });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[place as usize];
        entry.waiting = Some(waiting);
        entry.sent = false;
        Ok(u64::from(entry.used) << 32 | u64::from(place))
    }

    /// The question is handed to the connection. False: nobody waits for it any more.
    pub fn mark_sent(&mut self, tag: u64) -> bool {
        match self.entry(tag) {
            Some(entry) => {
                entry.sent = true;
                true
            }
            None => false,
        }
    }

    /// Frees the slot: its sender, and whether the question was handed to the connection.
    pub fn take(&mut self, tag: u64) -> Option<(Waiting<T>, bool)> {
        let entry = self.entry(tag)?;
        let waiting = entry.waiting.take()?;
        let sent = entry.sent;
        entry.used = entry.used.wrapping_add(1);
        self.free.push(tag as u32);
        Some((waiting, sent))
    }

    /// Takes nothing any more; gives all that wait, and whether each question was handed to the connection.
    pub fn close(&mut self) -> Vec<(Waiting<T>, bool)> {
        self.closed = true;
        let waiting = self.entries.drain(..);
        waiting
            .filter_map(|entry| entry.waiting.map(|waiting| (waiting, entry.sent)))
            .collect()
    }

    pub fn closed(&self) -> bool {
        self.closed
    }

    fn entry(&mut self, tag: u64) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(tag as u32 as usize)?;
        let current = entry.used == (tag >> 32) as u32 && entry.waiting.is_some();
        current.then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_reaches_nobody() {
        let mut slots = Slots::<u32>::default();
        let (first, _first) = oneshot::channel();
        let old = slots.reserve(first).expect("open");
        assert!(slots.take(old).is_some());
        let (second, _second) = oneshot::channel();
        let new = slots.reserve(second).expect("open");
        assert_ne!(old, new, "the same place has another tag");
        assert!(!slots.mark_sent(old));
        assert!(slots.take(old).is_none());
        assert!(slots.mark_sent(new));
        assert!(matches!(slots.take(new), Some((_, true))));
    }

    #[test]
    fn a_closed_slab_gives_all_back_and_takes_nothing() {
        let mut slots = Slots::<u32>::default();
        let (sent, _sent) = oneshot::channel();
        let (unsent, _unsent) = oneshot::channel();
        let tag = slots.reserve(sent).expect("open");
        slots.reserve(unsent).expect("open");
        slots.mark_sent(tag);
        let sent: Vec<bool> = slots.close().into_iter().map(|(_, sent)| sent).collect();
        assert_eq!(sent, [true, false]);
        let (late, _late) = oneshot::channel();
        assert!(slots.reserve(late).is_err());
        assert!(slots.take(tag).is_none());
    }
}
