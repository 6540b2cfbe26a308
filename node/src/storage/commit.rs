//! From the protocol's batches to one RocksDB batch, and from RocksDB's errors to what a caller can act on.

use super::keys::{self, Family, KeyRange, StoreKey};
use super::open::Database;
use super::writer::WriteFailure;
use rocksdb::{ErrorKind, WriteBatch, WriteOptions};
use understudy_proto::ShardId;
use understudy_proto::failure::Reason;
use understudy_protocol::object::{Component, Object};
use understudy_protocol::request::{DedupEntry, OpResult, Outcome};
use understudy_protocol::store::{Batch, Generation, Orphan, Staged, StoreChange};

/// About how many bytes a batch puts into a round; what it removes costs next to nothing.
pub(super) fn weight(batch: &Batch) -> usize {
    batch.changes.iter().map(change_weight).sum::<usize>() + CHANGE_HEAD
}

/// Key and head of an entry in the write-ahead log, about.
const CHANGE_HEAD: usize = 64;

fn change_weight(change: &StoreChange) -> usize {
    CHANGE_HEAD
        + match change {
            StoreChange::AppendRecord { record, .. }
            | StoreChange::MoveToOrphans { record, .. } => record.bytes.len(),
            StoreChange::PutObject { key, object, .. } => {
                key.len() + object.as_ref().map_or(0, object_weight)
            }
            StoreChange::PutDedup { entry, .. } => entry.as_ref().map_or(0, outcome_weight),
            StoreChange::PutMeta(meta) => meta.live.epoch_starts.len() * 4,
            StoreChange::PutStaged { item, .. } => match item {
                Staged::Object { key, object } => {
                    key.len() + object.as_ref().map_or(0, object_weight)
                }
                Staged::Dedup { entry, .. } => entry.as_ref().map_or(0, outcome_weight),
            },
            _ => 0,
        }
}

fn outcome_weight(entry: &DedupEntry) -> usize {
    let result = |result: &OpResult| match result {
        OpResult::Object(Some(object)) => object_weight(object),
        _ => 8,
    };
    match &entry.outcome {
        Outcome::Applied(results) => results.iter().map(result).sum(),
        Outcome::ConditionFailed(_) | Outcome::Failed(..) => 8,
    }
}

fn object_weight(object: &Object) -> usize {
    let component = |c: &Component| c.name.len() + c.value.size() + 24;
    object.components.iter().map(component).sum()
}

impl Database {
    /// Writes the batches as one, durable when it returns. Without batches it writes the probe.
    pub(super) fn write_synced<'a>(
        &self,
        batches: impl Iterator<Item = &'a Batch>,
        bytes: usize,
    ) -> Result<(), WriteFailure> {
        let mut out = WriteBatch::with_capacity_bytes(bytes);
        for batch in batches {
            for change in &batch.changes {
                self.put_change(batch.shard, change, &mut out);
            }
        }
        if out.is_empty() {
            let probe = keys::store(StoreKey::Probe);
            out.put_cf(self.family(Family::Meta), probe, b"");
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(out, &options).map_err(|e| classify(&e))?;
        self.note_reached();
        Ok(())
    }

    /// Writes what the check at start repairs, durable when it returns. Only before there is a [`super::Writer`].
    pub fn repair(&self, batch: &Batch) -> Result<(), WriteFailure> {
        self.write_synced(std::iter::once(batch), weight(batch))
    }

    fn put_change(&self, shard: ShardId, change: &StoreChange, out: &mut WriteBatch) {
        match change {
            StoreChange::AppendRecord { generation, record } => out.put_cf(
                self.family(Family::Log),
                keys::record(shard, *generation, record.pair.version),
                &record.bytes,
            ),
            StoreChange::PutObject {
                generation,
                key,
                object,
            } => {
                let key = keys::object(shard, *generation, key);
                let value = object.as_ref().map(Object::encode);
                self.put_or_delete(Family::Objects, &key, value.as_deref(), out);
            }
            StoreChange::PutDedup {
                generation,
                id,
                entry,
            } => {
                let key = keys::dedup(shard, *generation, *id);
                let value = entry.as_ref().map(|entry| entry.encode());
                self.put_or_delete(Family::Dedup, &key, value.as_deref(), out);
            }
            StoreChange::PutMeta(meta) => {
                out.put_cf(self.family(Family::Meta), keys::meta(shard), meta.encode());
            }
            StoreChange::MoveToOrphans {
                generation,
                record,
                epoch_starts,
            } => {
                let version = record.pair.version;
                let from = keys::record(shard, *generation, version);
                out.delete_cf(self.family(Family::Log), from);
                let to = keys::orphan(shard, record.pair);
                let orphan = Orphan {
                    record: record.clone(),
                    epoch_starts: epoch_starts.clone(),
                };
                out.put_cf(self.family(Family::Orphans), to, orphan.encode());
            }
            StoreChange::RemoveRecord {
                generation,
                version,
            } => {
                let key = keys::record(shard, *generation, *version);
                out.delete_cf(self.family(Family::Log), key);
            }
            StoreChange::DropOrphan { pair } => {
                out.delete_cf(self.family(Family::Orphans), keys::orphan(shard, *pair));
            }
            StoreChange::TrimLog { generation, upto } => {
                let mut range = keys::of_generation(shard, *generation);
                range.to = keys::after(&keys::record(shard, *generation, *upto));
                self.delete_range(Family::Log, &range, out);
            }
            StoreChange::DropGeneration { generation } => {
                self.drop_generation(shard, *generation, out);
            }
            StoreChange::PutStaged { generation, item } => out.put_cf(
                self.family(Family::Objects),
                keys::object(shard, *generation, &item.key()),
                item.value(),
            ),
            StoreChange::DropCopy => {
                let range = keys::of_shard(shard);
                for family in [Family::Objects, Family::Log, Family::Dedup] {
                    self.delete_range(family, &range, out);
                }
                out.delete_cf(self.family(Family::Meta), keys::meta(shard));
            }
        }
    }

    fn drop_generation(&self, shard: ShardId, generation: Generation, out: &mut WriteBatch) {
        let range = keys::of_generation(shard, generation);
        for family in [Family::Objects, Family::Log, Family::Dedup] {
            self.delete_range(family, &range, out);
        }
    }

    fn put_or_delete(
        &self,
        family: Family,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut WriteBatch,
    ) {
        match value {
            Some(value) => out.put_cf(self.family(family), key, value),
            None => out.delete_cf(self.family(family), key),
        }
    }

    fn delete_range(&self, family: Family, range: &KeyRange, out: &mut WriteBatch) {
        out.delete_range_cf(self.family(family), &range.from, &range.to);
    }
}

/// What a failed write means. A full disk gets room again; everything else is final for this process: after a failed sync
/// nobody knows what the disk holds.
fn classify(error: &rocksdb::Error) -> WriteFailure {
    let text = error.to_string();
    let full = ["No space left", "Disk quota exceeded", "Space limit"];
    let reason = match error.kind() {
        ErrorKind::Corruption => Reason::StorageCorrupt,
        _ if full.iter().any(|sign| text.contains(sign)) => Reason::StorageFull,
        _ => Reason::StorageFailed,
    };
    WriteFailure {
        reason,
        message: text,
    }
}
