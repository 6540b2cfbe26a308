//! A shard's history made by hand: requests are run one after another and come out as the changes a primary would store.

use crate::evaluate::evaluate;
use crate::object::Object;
use crate::record::{Body, EncodedRecord, Record, RequestBody};
use crate::request::{Op, Precondition, Request};
use crate::store::{Contents, Generation, Meta, StoreChange};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::convert::Infallible;
use understudy_proto::{ClientId, NamespaceId, Pair, RequestId, Sequence, ShardId};

/// The newest state of a shard and its whole log.
#[derive(Clone, Debug)]
pub struct History {
    pub shard: ShardId,
    pub generation: Generation,
    pub objects: BTreeMap<Bytes, Object>,
    pub records: Vec<EncodedRecord>,
    pub epoch_starts: Vec<Pair>,
    position: Pair,
    checksum: u64,
    requests: u64,
}

impl History {
    /// A shard of which nothing is logged yet.
    pub fn new(shard: ShardId) -> History {
        History {
            shard,
            generation: 0,
            objects: BTreeMap::new(),
            records: Vec::new(),
            epoch_starts: Vec::new(),
            position: Pair::ZERO,
            checksum: 0,
            requests: 0,
        }
    }

    /// The pair of the newest record.
    pub fn position(&self) -> Pair {
        self.position
    }

    /// What a copy that has all of it knows of itself.
    pub fn meta(&self) -> Meta {
        Meta {
            promise: self.position.epoch,
            live: Contents {
                generation: self.generation,
                epoch_starts: self.epoch_starts.clone(),
                ..Contents::default()
            },
            staging: None,
        }
    }

    /// The next epoch begins: its record, and the meta that names it.
    pub fn start_epoch(&mut self) -> Vec<StoreChange> {
        let pair = Pair {
            epoch: self.position.epoch.next(),
            version: self.position.version.next(),
        };
        let (_, record) = self.log(pair, Body::EpochStart);
        self.epoch_starts.push(pair);
        vec![record, StoreChange::PutMeta(self.meta())]
    }

    /// Runs a request of a client of its own: record, dedup entry and objects.
    pub fn run(&mut self, ops: Vec<Op>, preconditions: Vec<Precondition>) -> Vec<StoreChange> {
        self.requests += 1;
        let id = RequestId {
            client: ClientId(u128::from(self.shard.0) + 1),
            sequence: Sequence(self.requests),
        };
        let request = Request::new(id, NamespaceId(1), ops, preconditions, Sequence::ZERO);
        let pair = Pair {
            epoch: self.position.epoch,
            version: self.position.version.next(),
        };
        let lookup = |key: &Bytes| Ok::<_, Infallible>(self.objects.get(key).cloned());
        let evaluated = match evaluate(&request, pair, lookup) {
            Ok(evaluated) => evaluated,
            Err(never) => match never {},
        };
        let body = Body::Request(Box::new(RequestBody {
            id,
            fingerprint: request.fingerprint,
            ops: request.ops,
            preconditions: request.preconditions,
            outcome: evaluated.outcome,
            changes: evaluated.changes,
            earlier: Vec::new(),
        }));
        let (record, append) = self.log(pair, body);
        let (id, entry) = record.dedup().expect("it is a request");
        let mut changes = vec![
            append,
            StoreChange::PutDedup {
                generation: self.generation,
                id,
                entry: Some(entry),
            },
        ];
        for (key, object) in evaluated.written {
            match &object {
                Some(object) => self.objects.insert(key.clone(), object.clone()),
                None => self.objects.remove(&key),
            };
            changes.push(StoreChange::PutObject {
                generation: self.generation,
                key,
                object,
            });
        }
        changes
    }

    /// Puts one plain value.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Vec<StoreChange> {
        let (key, value) = (key.into(), value.into());
        self.run(vec![Op::Put { key, value }], vec![])
    }

    fn log(&mut self, pair: Pair, body: Body) -> (Record, StoreChange) {
        let record = Record {
            shard: self.shard,
            pair,
            previous: self.position,
            previous_epoch_start: self.epoch_starts.last().copied().unwrap_or(Pair::ZERO),
            previous_checksum: self.checksum,
            time_ms: 0,
            body,
        };
        let encoded = record.encode();
        self.position = pair;
        self.checksum = encoded.checksum;
        self.records.push(encoded.clone());
        let append = StoreChange::AppendRecord {
            generation: self.generation,
            record: encoded,
        };
        (record, append)
    }
}
