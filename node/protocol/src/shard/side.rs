//! One generation of a copy's contents in memory: where its log ends, and what of it is on its way to the disk.

use super::overlay::Overlay;
use super::pending::Pending;
use crate::mutant::Mutant;
use crate::object::Object;
use crate::record::{EncodedRecord, Record};
use crate::request::DedupEntry;
use crate::store::{Contents, Generation, Staged, Staging, StoreChange, StoreError, Stored};
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::{Pair, RequestId, ShardId};

/// The live generation, or the one that is being rebuilt beside it.
#[derive(Debug)]
pub(super) struct Side {
    pub generation: Generation,
    /// The end of the log, durable or not.
    pub position: Pair,
    /// The running checksum there.
    pub checksum: u64,
    pub overlay: Overlay,
    /// in_sync: the commit point as far as it is known here; the objects, with what is on its way to the disk, hold the records
    /// up to it. `None`: lazy.
    pub applied: Option<Pair>,
    /// in_sync: the records after it.
    pub pending: Pending,
    /// A staged delta: what it does not speak of is as in this generation.
    pub over: Option<Generation>,
}

/// Bytes of records that are read at once.
const PENDING_READ_BYTES: usize = 4 * 1024 * 1024;

impl Side {
    pub fn open(contents: &Contents, last: Option<&EncodedRecord>) -> Side {
        let (position, checksum) = last.map_or((contents.base, contents.base_checksum), |record| {
            (record.pair, record.checksum)
        });
        Side {
            generation: contents.generation,
            position,
            checksum,
            overlay: Overlay::default(),
            applied: contents.applied,
            pending: Pending::default(),
            over: None,
        }
    }

    /// The side of a rebuild under way.
    pub fn open_staged(staging: &Staging, live: Generation, last: Option<&EncodedRecord>) -> Side {
        Side {
            over: staging.delta_since.map(|_| live),
            ..Side::open(&staging.contents, last)
        }
    }

    /// An object as this side keeps it.
    pub fn put_object(&self, key: Bytes, object: Option<Object>) -> StoreChange {
        let generation = self.generation;
        match self.over {
            None => StoreChange::PutObject {
                generation,
                key,
                object,
            },
            Some(_) => StoreChange::PutStaged {
                generation,
                item: Staged::Object { key, object },
            },
        }
    }

    /// A dedup entry likewise.
    pub fn put_dedup(&self, id: RequestId, entry: Option<DedupEntry>) -> StoreChange {
        let generation = self.generation;
        match self.over {
            None => StoreChange::PutDedup {
                generation,
                id,
                entry,
            },
            Some(_) => StoreChange::PutStaged {
                generation,
                item: Staged::Dedup { id, entry },
            },
        }
    }

    /// The state that the next write meets.
    pub fn newest(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        match self.pending.newest(key) {
            Some(state) => Ok(state.clone()),
            None => self.committed(shard, stored, key),
        }
    }

    /// in_sync: the state at the commit point. Lazy: the newest.
    pub fn committed(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        if let Some(state) = self.overlay.newest(key) {
            return Ok(state.clone());
        }
        let Some(live) = self.over else {
            return stored.object(shard, self.generation, key);
        };
        match stored.staged(shard, self.generation, &Staged::object_key(key))? {
            Some(Staged::Object { object, .. }) => Ok(object),
            _ => stored.object(shard, live, key),
        }
    }

    /// Whether what stands under a key came from the source, at a moment of its own. A delta that does not speak of an object
    /// leaves it as it is in the live generation.
    pub fn is_rebuilt(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        key: &[u8],
    ) -> Result<bool, StoreError> {
        if self.over.is_none() || self.overlay.newest(key).is_some() {
            return Ok(true);
        }
        let staged = stored.staged(shard, self.generation, &Staged::object_key(key))?;
        Ok(staged.is_some())
    }

    /// The state that a read sees.
    pub fn durable(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        match self.overlay.durable(key) {
            Some(state) => Ok(state.clone()),
            None => stored.object(shard, self.generation, key),
        }
    }

    /// The dedup entry of a request, and the batch that carries it (0: it is durable).
    pub fn dedup(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        id: RequestId,
    ) -> Result<Option<(u64, DedupEntry)>, StoreError> {
        match self.overlay.dedup(id) {
            Some((batch, entry)) => Ok(entry.clone().map(|entry| (*batch, entry))),
            None => Ok(stored
                .dedup(shard, self.generation, id)?
                .map(|entry| (0, entry))),
        }
    }

    /// After a start: reads what was not committed when the process ended.
    pub fn load_pending(&mut self, shard: ShardId, stored: &dyn Stored) -> Result<(), StoreError> {
        let applied = self.applied.unwrap_or(self.position).version.0;
        let wanted = self.position.version.0.saturating_sub(applied) as usize;
        if self.pending.len() == wanted {
            return Ok(());
        }
        let corrupt = |what: &str| StoreError::Corrupt(format!("shard {shard}: {what}"));
        self.pending.forget_ahead();
        while self.pending.len() < wanted {
            let next = (applied + self.pending.len() as u64 + 1).into();
            let records = stored.records(shard, self.generation, next, PENDING_READ_BYTES)?;
            if records.is_empty() {
                return Err(corrupt("a record that is not committed is missing"));
            }
            for encoded in records {
                let decoded = Record::decode(&encoded.bytes);
                let (record, _) = decoded.map_err(|malformed| corrupt(malformed.0))?;
                self.pending.push(record);
            }
        }
        Ok(())
    }

    /// The states that the pending records lead to: for a new primary, and for a copy that is about to run an operation.
    pub fn look_ahead(&mut self, shard: ShardId, stored: &dyn Stored) -> Result<(), StoreError> {
        self.pending.forget_ahead();
        let records: Vec<Record> = self.pending.records().cloned().collect();
        for record in records {
            match self.look_further(shard, stored, &record) {
                Ok(true) => {}
                looked => {
                    self.pending.forget_ahead();
                    return looked.and(Err(not_as_found(shard, record.pair)));
                }
            }
        }
        self.pending.has_looked();
        Ok(())
    }

    /// Moves the commit point: the objects take in the records up to it, in the log's order. What has to be written with it,
    /// the meta aside. `rebuilding` as in a rebuilt copy: only objects that are as the record found them.
    pub fn commit(
        &mut self,
        shard: ShardId,
        stored: &dyn Stored,
        batch: u64,
        upto: Pair,
        rebuilding: bool,
    ) -> Result<Vec<StoreChange>, StoreError> {
        assert!(
            self.applied.is_some_and(|applied| applied < upto) && upto <= self.position,
            "{shard}: the commit point goes from {:?} to {upto}, the log ends at {}",
            self.applied,
            self.position
        );
        let mut objects: BTreeMap<Bytes, Option<Object>> = BTreeMap::new();
        while let Some(record) = self.pending.take_upto(upto) {
            let Some(id) = record.request_id() else {
                continue;
            };
            for change in record.changes().iter().filter(|change| change.is_write()) {
                let before = self.committed(shard, stored, &change.key)?;
                let after = match change.apply(before.clone(), record.pair, id) {
                    Ok(after) => after,
                    Err(_) if Mutant::ApplyOutOfOrder.on() => continue,
                    Err(_) if rebuilding && self.is_rebuilt(shard, stored, &change.key)? => {
                        continue;
                    }
                    Err(_) => return Err(not_as_found(shard, record.pair)),
                };
                self.overlay
                    .put_object(batch, change.key.clone(), before, after.clone());
                objects.insert(change.key.clone(), after);
            }
        }
        self.applied = Some(upto);
        let put = |(key, object)| self.put_object(key, object);
        Ok(objects.into_iter().map(put).collect())
    }
}

fn not_as_found(shard: ShardId, pair: Pair) -> StoreError {
    StoreError::Corrupt(format!(
        "shard {shard}: an object is not as record {pair} found it"
    ))
}
