//! The five column families of a store as ordered maps: keys as types, values in their stored form.
//!
//! Values are kept encoded on purpose: the twin then exercises the same formats as the real store, and damage done to a
//! value is met by the same checks.

use crate::record::EncodedRecord;
use crate::store::{Batch, Generation, Orphan, StoreChange};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use understudy_proto::{Pair, RequestId, ShardId, Version};

type ObjectKey = (ShardId, Generation, Bytes);
type LogKey = (ShardId, Generation, Version);
type DedupKey = (ShardId, Generation, RequestId);

#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub objects: BTreeMap<ObjectKey, Bytes>,
    pub log: BTreeMap<LogKey, Bytes>,
    pub dedup: BTreeMap<DedupKey, Bytes>,
    pub orphans: BTreeMap<(ShardId, Pair), Bytes>,
    pub meta: BTreeMap<ShardId, Bytes>,
}

impl Tables {
    pub fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            self.apply_change(batch.shard, change);
        }
    }

    fn apply_change(&mut self, shard: ShardId, change: &StoreChange) {
        match change {
            StoreChange::AppendRecord { generation, record } => {
                self.append(shard, *generation, record);
            }
            StoreChange::PutObject {
                generation,
                key,
                object,
            } => set(
                &mut self.objects,
                (shard, *generation, key.clone()),
                object.as_ref().map(|object| object.encode()),
            ),
            StoreChange::PutDedup {
                generation,
                id,
                entry,
            } => set(
                &mut self.dedup,
                (shard, *generation, *id),
                entry.as_ref().map(|entry| entry.encode()),
            ),
            StoreChange::PutMeta(meta) => {
                self.meta.insert(shard, meta.encode());
            }
            StoreChange::MoveToOrphans {
                generation,
                record,
                epoch_starts,
            } => {
                let taken = self.log.remove(&(shard, *generation, record.pair.version));
                assert_eq!(
                    taken.as_ref(),
                    Some(&record.bytes),
                    "shard {shard} moves record {} to the orphan log, but its log does not hold it",
                    record.pair
                );
                let orphan = Orphan {
                    record: record.clone(),
                    epoch_starts: epoch_starts.clone(),
                };
                self.orphans.insert((shard, record.pair), orphan.encode());
            }
            StoreChange::RemoveRecord {
                generation,
                version,
            } => {
                self.log.remove(&(shard, *generation, *version));
            }
            StoreChange::DropOrphan { pair } => {
                self.orphans.remove(&(shard, *pair));
            }
            StoreChange::TrimLog { generation, upto } => {
                let range = (shard, *generation, Version::ZERO)..=(shard, *generation, *upto);
                remove_range(&mut self.log, range);
            }
            StoreChange::DropGeneration { generation } => {
                self.drop_generations(shard, *generation..=*generation);
            }
            StoreChange::PutStaged { generation, item } => {
                self.objects
                    .insert((shard, *generation, item.key()), item.value());
            }
            StoreChange::DropCopy => {
                self.drop_generations(shard, 0..=Generation::MAX);
                self.meta.remove(&shard);
            }
        }
    }

    fn append(&mut self, shard: ShardId, generation: Generation, record: &EncodedRecord) {
        let last = self.last_version(shard, generation);
        assert!(
            last.is_none_or(|last| last.next() == record.pair.version),
            "shard {shard} appends record {} after version {last:?}",
            record.pair
        );
        self.log.insert(
            (shard, generation, record.pair.version),
            record.bytes.clone(),
        );
    }

    fn drop_generations(&mut self, shard: ShardId, generations: RangeInclusive<Generation>) {
        let gone =
            |of: ShardId, generation: &Generation| of == shard && generations.contains(generation);
        self.objects.retain(|(of, g, _), _| !gone(*of, g));
        self.dedup.retain(|(of, g, _), _| !gone(*of, g));
        self.log.retain(|(of, g, _), _| !gone(*of, g));
    }

    pub fn last_version(&self, shard: ShardId, generation: Generation) -> Option<Version> {
        let range = (shard, generation, Version::ZERO)..=(shard, generation, Version(u64::MAX));
        let ((_, _, version), _) = self.log.range(range).next_back()?;
        Some(*version)
    }
}

fn set<K: Ord>(table: &mut BTreeMap<K, Bytes>, key: K, value: Option<Bytes>) {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    };
}

fn remove_range<K: Ord + Clone>(table: &mut BTreeMap<K, Bytes>, range: RangeInclusive<K>) {
    let keys: Vec<K> = table.range(range).map(|(key, _)| key.clone()).collect();
    for key in keys {
        table.remove(&key);
    }
}
