//! What was written and is not yet reported as durable: the newest state for the next write, the durable one for reads.
//!
//! For each object on its way to the disk it holds a chain: the durable state first, then one state per batch. A read
//! takes the front, an evaluation the back, and neither waits for the disk.

use crate::object::Object;
use crate::request::DedupEntry;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::RequestId;

/// Chains of states by key, and the dedup entries on their way.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    objects: BTreeMap<Bytes, VecDeque<(u64, Option<Object>)>>,
    dedup: BTreeMap<RequestId, (u64, Option<DedupEntry>)>,
    batches: VecDeque<(u64, Vec<Bytes>, Vec<RequestId>)>,
}

impl Overlay {
    /// The state that the next write meets; `None`: the store has it.
    pub fn newest(&self, key: &[u8]) -> Option<&Option<Object>> {
        self.objects
            .get(key)
            .map(|chain| &chain.back().expect("a chain is never empty").1)
    }

    /// The state that a read sees; `None`: the store has it.
    pub fn durable(&self, key: &[u8]) -> Option<&Option<Object>> {
        self.objects
            .get(key)
            .map(|chain| &chain.front().expect("a chain is never empty").1)
    }

    /// The entry of a request on its way, and the batch that carries it.
    pub fn dedup(&self, id: RequestId) -> Option<&(u64, Option<DedupEntry>)> {
        self.dedup.get(&id)
    }

    /// Notes that a batch takes an object from one state to the next.
    pub fn put_object(
        &mut self,
        batch: u64,
        key: Bytes,
        before: Option<Object>,
        after: Option<Object>,
    ) {
        let chain = self
            .objects
            .entry(key.clone())
            .or_insert_with(|| VecDeque::from([(0, before)]));
        match chain.back_mut() {
            Some((last, state)) if *last == batch => *state = after,
            _ => chain.push_back((batch, after)),
        }
        self.note(batch).1.push(key);
    }

    pub fn put_dedup(&mut self, batch: u64, id: RequestId, entry: Option<DedupEntry>) {
        self.dedup.insert(id, (batch, entry));
        self.note(batch).2.push(id);
    }

    fn note(&mut self, batch: u64) -> &mut (u64, Vec<Bytes>, Vec<RequestId>) {
        if self.batches.back().is_none_or(|last| last.0 != batch) {
            assert!(
                self.batches.back().is_none_or(|last| last.0 < batch),
                "batches are noted in order"
            );
            self.batches.push_back((batch, Vec::new(), Vec::new()));
        }
        self.batches.back_mut().expect("it was just pushed")
    }

    /// Everything up to this batch is durable: the store has it.
    pub fn persisted(&mut self, number: u64) {
        while self.batches.front().is_some_and(|front| front.0 <= number) {
            let (_, keys, ids) = self.batches.pop_front().expect("it has a front");
            for key in keys {
                self.settle(&key, number);
            }
            for id in ids {
                if self
                    .dedup
                    .get(&id)
                    .is_some_and(|(batch, _)| *batch <= number)
                {
                    self.dedup.remove(&id);
                }
            }
        }
    }

    fn settle(&mut self, key: &Bytes, number: u64) {
        let Some(chain) = self.objects.get_mut(key) else {
            return;
        };
        while chain.get(1).is_some_and(|(batch, _)| *batch <= number) {
            chain.pop_front();
        }
        if chain.len() == 1 {
            self.objects.remove(key);
        }
    }
}
