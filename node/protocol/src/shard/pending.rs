//! in_sync: the records of a copy's log that are not committed yet, and, where requests are evaluated, the states that they lead
//! to: at a primary, and at a copy that gets operations.
//!
//! They are in the log and in no object. The next write is evaluated on the states after them; a read sees none of them.

use crate::object::Object;
use crate::record::Record;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::Pair;

/// The log after the commit point, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pending {
    records: VecDeque<Record>,
    /// Where the next request is evaluated here: for each object that they write, its state after each of them. A chain is never
    /// empty.
    ahead: BTreeMap<Bytes, VecDeque<(Pair, Option<Object>)>>,
    /// Whether `ahead` speaks of all of them.
    looks_ahead: bool,
}

impl Pending {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.iter()
    }

    pub fn push(&mut self, record: Record) {
        assert!(
            self.records
                .back()
                .is_none_or(|last| last.pair < record.pair),
            "{} comes after what is pending",
            record.pair
        );
        self.records.push_back(record);
    }

    /// Whether the states that the records lead to are known; else only whoever looks needs them.
    pub fn looks_ahead(&self) -> bool {
        self.looks_ahead
    }

    /// All of them were looked at.
    pub fn has_looked(&mut self) {
        self.looks_ahead = true;
    }

    /// Notes what a record makes of an object.
    pub fn put_ahead(&mut self, key: Bytes, pair: Pair, state: Option<Object>) {
        self.ahead.entry(key).or_default().push_back((pair, state));
    }

    /// The state that the next write meets; `None`: nothing pending writes the object.
    pub fn newest(&self, key: &[u8]) -> Option<&Option<Object>> {
        self.ahead
            .get(key)
            .map(|chain| &chain.back().expect("a chain is never empty").1)
    }

    /// The oldest record, when it lies at or before that pair: it is pending no more.
    pub fn take_upto(&mut self, upto: Pair) -> Option<Record> {
        self.records.front().filter(|front| front.pair <= upto)?;
        let record = self.records.pop_front()?;
        for change in record.changes() {
            let Some(chain) = self.ahead.get_mut(&change.key) else {
                continue;
            };
            while chain.front().is_some_and(|(pair, _)| *pair <= record.pair) {
                chain.pop_front();
            }
            if chain.is_empty() {
                self.ahead.remove(&change.key);
            }
        }
        Some(record)
    }

    /// The newest record is undone.
    pub fn take_back(&mut self, pair: Pair) {
        let last = self.records.pop_back().map(|record| record.pair);
        assert_eq!(last, Some(pair), "the newest pending record is undone");
        self.forget_ahead();
    }

    /// The role of a primary ended, or a record is not what was looked at.
    pub fn forget_ahead(&mut self) {
        self.ahead.clear();
        self.looks_ahead = false;
    }
}
