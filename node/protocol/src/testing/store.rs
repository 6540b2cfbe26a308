//! The in-memory twin of a node's store: what is written stays volatile until it is synced, and a crash loses the rest.
//!
//! A batch is kept whole or lost whole, and batches are lost from the newest backwards, as a write-ahead log loses them.
//! Beyond the real store it asserts what a replica owes: batches numbered without a gap, records appended in order.

use super::tables::Tables;
use crate::codec::Malformed;
use crate::object::Object;
use crate::record::EncodedRecord;
use crate::request::DedupEntry;
use crate::store::{
    Batch, Generation, Meta, Orphan, Page, PageBudget, Saved, Staged, StoreError, Stored,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use understudy_proto::failure::Reason;
use understudy_proto::{Pair, RequestId, Sequence, ShardId, Version};

/// What reads see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reads {
    /// What is synced, as the real store shows it: a batch becomes readable when it is durable, never before.
    #[default]
    Durable,
    /// Also what is only written. A harsher disk than the contract allows, to see what leans on it.
    Written,
}

/// A stored value, for damaging it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    Object(Generation, Bytes),
    Record(Generation, Version),
    Dedup(Generation, RequestId),
    Orphan(Pair),
    Meta,
}

/// One node's store. A clone is a copy of the whole disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    durable: Tables,
    /// Written and not synced, oldest first.
    unsynced: VecDeque<Batch>,
    /// Durable plus unsynced; kept only for [`Reads::Written`].
    written: Option<Tables>,
    /// The number of each shard's last batch since the shard was opened.
    numbers: BTreeMap<ShardId, u64>,
    fail_next: Option<Reason>,
    failed: Option<Reason>,
    fail_reads: Option<StoreError>,
}

impl MemoryStore {
    /// An empty disk.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Chooses what reads see.
    pub fn set_reads(&mut self, reads: Reads) {
        self.written = match reads {
            Reads::Durable => None,
            Reads::Written => {
                let mut tables = self.durable.clone();
                self.unsynced.iter().for_each(|batch| tables.apply(batch));
                Some(tables)
            }
        };
    }

    /// Takes a batch; a crash before the next sync may lose it. After an error the batch is not written, and but for
    /// `StorageFull` the store takes nothing more until it is opened anew ([`MemoryStore::crash`]).
    pub fn write(&mut self, batch: Batch) -> Result<(), Reason> {
        if let Some(reason) = self.failed {
            return Err(reason);
        }
        if let Some(reason) = self.fail_next.take() {
            self.failed = (reason != Reason::StorageFull).then_some(reason);
            return Err(reason);
        }
        let before = self.numbers.insert(batch.shard, batch.number);
        assert!(
            before.is_none_or(|before| before + 1 == batch.number),
            "shard {} wrote batch {} after batch {before:?}",
            batch.shard,
            batch.number
        );
        if let Some(written) = &mut self.written {
            written.apply(&batch);
        }
        self.unsynced.push_back(batch);
        Ok(())
    }

    /// How many batches a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Makes everything durable; tells per shard the number up to which its batches are.
    pub fn sync(&mut self) -> Vec<(ShardId, u64)> {
        self.sync_upto(usize::MAX)
    }

    /// Makes the oldest `count` unsynced batches durable.
    pub fn sync_upto(&mut self, count: usize) -> Vec<(ShardId, u64)> {
        let mut persisted = BTreeMap::new();
        for batch in self.unsynced.drain(..count.min(self.unsynced.len())) {
            self.durable.apply(&batch);
            persisted.insert(batch.shard, batch.number);
        }
        persisted.into_iter().collect()
    }

    /// The process or the machine dies: of the unsynced batches the oldest `keep` happen to have reached the disk, the
    /// others are lost. Injected faults end; every shard is to be opened anew.
    pub fn crash(&mut self, keep: usize) {
        self.sync_upto(keep);
        self.unsynced.clear();
        self.numbers.clear();
        self.fail_next = None;
        self.failed = None;
        self.fail_reads = None;
        if self.written.is_some() {
            self.written = Some(self.durable.clone());
        }
    }

    /// The next write fails with this reason.
    pub fn fail_next_write(&mut self, reason: Reason) {
        self.fail_next = Some(reason);
    }

    /// Every read fails from now on, or none any more.
    pub fn fail_reads(&mut self, error: Option<StoreError>) {
        self.fail_reads = error;
    }

    /// Changes the stored bytes of one value behind the store's back; `false`: there is none.
    pub fn damage(&mut self, shard: ShardId, part: &Part, how: impl Fn(&mut Vec<u8>)) -> bool {
        let damage = |tables: &mut Tables| {
            let value = match part {
                Part::Object(g, key) => tables.objects.get_mut(&(shard, *g, key.clone())),
                Part::Record(g, version) => tables.log.get_mut(&(shard, *g, *version)),
                Part::Dedup(g, id) => tables.dedup.get_mut(&(shard, *g, *id)),
                Part::Orphan(pair) => tables.orphans.get_mut(&(shard, *pair)),
                Part::Meta => tables.meta.get_mut(&shard),
            };
            value.is_some_and(|value| {
                let mut bytes = value.to_vec();
                how(&mut bytes);
                *value = bytes.into();
                true
            })
        };
        if let Some(written) = &mut self.written {
            damage(written);
        }
        damage(&mut self.durable)
    }

    /// Takes a stored object away behind the store's back, as damage does; `false`: there is none.
    pub fn lose_object(&mut self, shard: ShardId, generation: Generation, key: &[u8]) -> bool {
        let key = (shard, generation, Bytes::copy_from_slice(key));
        if let Some(written) = &mut self.written {
            written.objects.remove(&key);
        }
        self.durable.objects.remove(&key).is_some()
    }

    /// What a copy holds, for a replica that starts; its batches are then numbered anew.
    pub fn open_shard(&mut self, shard: ShardId) -> Result<Saved, StoreError> {
        self.numbers.remove(&shard);
        let tables = self.tables()?;
        let Some(bytes) = tables.meta.get(&shard) else {
            return self.without_meta(shard);
        };
        let meta = Meta::decode(bytes).map_err(|error| corrupt(shard, "meta", error))?;
        let staged = meta.staging.as_ref().map(|s| s.contents.generation);
        Ok(Saved {
            last: self.last(shard, meta.live.generation)?,
            staged_last: match staged {
                Some(generation) => self.last(shard, generation)?,
                None => None,
            },
            orphans: self.orphan_range(tables, shard, None).count() as u64,
            meta,
        })
    }

    /// Records without meta would be a copy whose promise was lost.
    fn without_meta(&self, shard: ShardId) -> Result<Saved, StoreError> {
        let tables = self.tables()?;
        let has_data = tables.log.keys().any(|key| key.0 == shard)
            || tables.objects.keys().any(|key| key.0 == shard)
            || tables.dedup.keys().any(|key| key.0 == shard);
        if has_data {
            return Err(corrupt(shard, "meta", Malformed("missing beside data")));
        }
        Ok(Saved {
            meta: Meta::empty(),
            last: None,
            staged_last: None,
            orphans: self.orphan_range(tables, shard, None).count() as u64,
        })
    }

    fn last(
        &self,
        shard: ShardId,
        generation: Generation,
    ) -> Result<Option<EncodedRecord>, StoreError> {
        match self.tables()?.last_version(shard, generation) {
            None => Ok(None),
            Some(version) => self.record(shard, generation, version),
        }
    }

    /// The shards of which anything is stored.
    pub fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        let tables = self.tables()?;
        let mut shards: Vec<ShardId> = tables.meta.keys().copied().collect();
        shards.extend(tables.log.keys().map(|key| key.0));
        shards.extend(tables.objects.keys().map(|key| key.0));
        shards.extend(tables.dedup.keys().map(|key| key.0));
        shards.extend(tables.orphans.keys().map(|key| key.0));
        shards.sort_unstable();
        shards.dedup();
        Ok(shards)
    }

    /// Records of the orphan log after a pair, in order, until the bytes are reached.
    pub fn orphans(
        &self,
        shard: ShardId,
        after: Option<Pair>,
        bytes_max: usize,
    ) -> Result<Page<Orphan>, StoreError> {
        let range = self.orphan_range(self.tables()?, shard, after);
        page(bytes_max, range, |(key, bytes)| {
            let orphan = Orphan::decode(shard, key.1, bytes)
                .map_err(|error| corrupt(shard, &format!("orphan {}", key.1), error))?;
            Ok((bytes.len(), orphan))
        })
    }

    fn orphan_range<'a>(
        &self,
        tables: &'a Tables,
        shard: ShardId,
        after: Option<Pair>,
    ) -> impl Iterator<Item = (&'a (ShardId, Pair), &'a Bytes)> + use<'a> {
        let from = match after {
            None => Bound::Included((shard, Pair::ZERO)),
            Some(pair) => Bound::Excluded((shard, pair)),
        };
        let upto = Bound::Included((shard, Pair::new(u64::MAX, u64::MAX)));
        tables.orphans.range((from, upto))
    }

    fn tables(&self) -> Result<&Tables, StoreError> {
        match &self.fail_reads {
            Some(error) => Err(error.clone()),
            None => Ok(self.written.as_ref().unwrap_or(&self.durable)),
        }
    }
}

impl Stored for MemoryStore {
    fn object(
        &self,
        shard: ShardId,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        let at = (shard, generation, Bytes::copy_from_slice(key));
        let bytes = self.tables()?.objects.get(&at);
        bytes
            .map(|bytes| decode_object(shard, key, bytes))
            .transpose()
    }

    fn dedup(
        &self,
        shard: ShardId,
        generation: Generation,
        id: RequestId,
    ) -> Result<Option<DedupEntry>, StoreError> {
        let bytes = self.tables()?.dedup.get(&(shard, generation, id));
        bytes
            .map(|bytes| decode_dedup(shard, id, bytes))
            .transpose()
    }

    fn record(
        &self,
        shard: ShardId,
        generation: Generation,
        version: Version,
    ) -> Result<Option<EncodedRecord>, StoreError> {
        let bytes = self.tables()?.log.get(&(shard, generation, version));
        bytes
            .map(|bytes| decode_record(shard, version, bytes))
            .transpose()
    }

    fn records(
        &self,
        shard: ShardId,
        generation: Generation,
        from: Version,
        bytes_max: usize,
    ) -> Result<Vec<EncodedRecord>, StoreError> {
        let range = (shard, generation, from)..=(shard, generation, Version(u64::MAX));
        let mut expected = None;
        let page = page(
            bytes_max,
            self.tables()?.log.range(range),
            |(key, bytes)| {
                let version = key.2;
                if expected.is_some_and(|expected| expected != version) {
                    let what = format!("log before version {version}");
                    return Err(corrupt(shard, &what, Malformed("records are missing")));
                }
                expected = Some(Version(version.0.saturating_add(1)));
                Ok((bytes.len(), decode_record(shard, version, bytes)?))
            },
        )?;
        Ok(page.items)
    }

    fn objects_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Page<(Bytes, Object)>, StoreError> {
        let from = match after {
            None => Bound::Included((shard, generation, Bytes::new())),
            Some(key) => Bound::Excluded((shard, generation, Bytes::copy_from_slice(key))),
        };
        let range = self.tables()?.objects.range((from, Bound::Unbounded));
        let range = range.take_while(|(key, _)| (key.0, key.1) == (shard, generation));
        page(bytes_max, range, |((_, _, key), bytes)| {
            let object = decode_object(shard, key, bytes)?;
            Ok((key.len() + bytes.len(), (key.clone(), object)))
        })
    }

    fn dedup_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<RequestId>,
        bytes_max: usize,
    ) -> Result<Page<(RequestId, DedupEntry)>, StoreError> {
        let first = RequestId {
            client: Default::default(),
            sequence: Sequence::ZERO,
        };
        let from = match after {
            None => Bound::Included((shard, generation, first)),
            Some(id) => Bound::Excluded((shard, generation, id)),
        };
        let range = self.tables()?.dedup.range((from, Bound::Unbounded));
        let range = range.take_while(|(key, _)| (key.0, key.1) == (shard, generation));
        page(bytes_max, range, |((_, _, id), bytes)| {
            let entry = decode_dedup(shard, *id, bytes)?;
            Ok((DEDUP_ID_BYTES + bytes.len(), (*id, entry)))
        })
    }

    fn orphans(
        &self,
        shard: ShardId,
        after: Option<Pair>,
        bytes_max: usize,
    ) -> Result<Page<Orphan>, StoreError> {
        MemoryStore::orphans(self, shard, after, bytes_max)
    }

    fn staged(
        &self,
        shard: ShardId,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Staged>, StoreError> {
        let at = (shard, generation, Bytes::copy_from_slice(key));
        let bytes = self.tables()?.objects.get(&at);
        bytes
            .map(|bytes| decode_staged(shard, key, bytes))
            .transpose()
    }

    fn staged_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Page<Staged>, StoreError> {
        let from = match after {
            None => Bound::Included((shard, generation, Bytes::new())),
            Some(key) => Bound::Excluded((shard, generation, Bytes::copy_from_slice(key))),
        };
        let range = self.tables()?.objects.range((from, Bound::Unbounded));
        let range = range.take_while(|(key, _)| (key.0, key.1) == (shard, generation));
        page(bytes_max, range, |((_, _, key), bytes)| {
            let item = decode_staged(shard, key, bytes)?;
            Ok((key.len() + bytes.len(), item))
        })
    }
}

/// What an id counts for in a page: client (16) and sequence (8), as in the real store's key.
const DEDUP_ID_BYTES: usize = 24;

/// Takes items while they fit; `read` gives an item and its bytes.
fn page<T, I: Iterator>(
    bytes_max: usize,
    range: I,
    mut read: impl FnMut(I::Item) -> Result<(usize, T), StoreError>,
) -> Result<Page<T>, StoreError> {
    let mut budget = PageBudget::new(bytes_max);
    let mut items = Vec::new();
    for entry in range {
        let (bytes, item) = read(entry)?;
        if !budget.takes(bytes) {
            return Ok(Page { items, done: false });
        }
        items.push(item);
    }
    Ok(Page { items, done: true })
}

fn decode_object(shard: ShardId, key: &[u8], bytes: &Bytes) -> Result<Object, StoreError> {
    Object::decode(bytes.clone())
        .map_err(|error| corrupt(shard, &format!("object {}", key.escape_ascii()), error))
}

fn decode_staged(shard: ShardId, key: &[u8], bytes: &Bytes) -> Result<Staged, StoreError> {
    Staged::decode(key, bytes)
        .map_err(|error| corrupt(shard, &format!("staged {}", key.escape_ascii()), error))
}

fn decode_dedup(shard: ShardId, id: RequestId, bytes: &Bytes) -> Result<DedupEntry, StoreError> {
    DedupEntry::decode(bytes.clone())
        .map_err(|error| corrupt(shard, &format!("dedup entry {id}"), error))
}

fn decode_record(
    shard: ShardId,
    version: Version,
    bytes: &Bytes,
) -> Result<EncodedRecord, StoreError> {
    EncodedRecord::check(shard, bytes.clone())
        .and_then(|record| match record.pair.version == version {
            true => Ok(record),
            false => Err(Malformed("record under another version")),
        })
        .map_err(|error| corrupt(shard, &format!("record {version}"), error))
}

fn corrupt(shard: ShardId, what: &str, error: Malformed) -> StoreError {
    StoreError::Corrupt(format!("shard {shard}, {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::LastWrite;
    use crate::record::{Body, Record};
    use crate::request::plain_object;
    use crate::store::StoreChange;
    use understudy_proto::{ClientId, Epoch};

    const SHARD: ShardId = ShardId(4);

    fn record(version: u64) -> EncodedRecord {
        let record = Record {
            shard: SHARD,
            pair: Pair::new(1, version),
            previous: Pair::ZERO,
            previous_epoch_start: Pair::ZERO,
            previous_checksum: 0,
            time_ms: 0,
            body: Body::EpochStart,
        };
        record.encode()
    }

    fn batch(number: u64) -> Batch {
        let last = LastWrite {
            pair: Pair::new(1, number),
            request: RequestId {
                client: ClientId(1),
                sequence: Sequence(number),
            },
        };
        let meta = Meta {
            promise: Epoch(1),
            ..Meta::empty()
        };
        Batch {
            shard: SHARD,
            number,
            changes: vec![
                StoreChange::PutMeta(meta),
                StoreChange::AppendRecord {
                    generation: 0,
                    record: record(number),
                },
                StoreChange::PutObject {
                    generation: 0,
                    key: Bytes::from(format!("k{number}")),
                    object: Some(plain_object(Bytes::from_static(b"v"), last)),
                },
            ],
        }
    }

    fn with_batches(count: u64) -> MemoryStore {
        let mut store = MemoryStore::new();
        for number in 1..=count {
            store.write(batch(number)).unwrap();
        }
        store
    }

    fn held(store: &mut MemoryStore) -> (u64, usize) {
        let saved = store.open_shard(SHARD).unwrap();
        let objects = store.objects_after(SHARD, 0, None, usize::MAX).unwrap();
        let version = saved.last.map_or(0, |record| record.pair.version.0);
        (version, objects.items.len())
    }

    #[test]
    fn a_crash_keeps_whole_batches_from_the_oldest_on() {
        for (synced, kept, expected) in [(0, 0, 0), (0, 2, 2), (1, 0, 1), (2, 1, 3), (3, 9, 4)] {
            let mut store = with_batches(4);
            store.sync_upto(synced);
            store.crash(kept);
            assert_eq!(held(&mut store), (expected, expected as usize));
        }
    }

    #[test]
    fn what_is_not_synced_is_not_read_unless_asked_for() {
        let mut store = with_batches(2);
        assert_eq!(held(&mut store), (0, 0));
        store.set_reads(Reads::Written);
        assert_eq!(held(&mut store), (2, 2));
        assert_eq!(store.sync(), vec![(SHARD, 2)]);
        store.set_reads(Reads::Durable);
        assert_eq!(held(&mut store), (2, 2));
    }

    #[test]
    fn a_failed_store_takes_nothing_more_but_a_full_one_does() {
        let mut store = with_batches(1);
        store.fail_next_write(Reason::StorageFull);
        assert_eq!(store.write(batch(2)), Err(Reason::StorageFull));
        assert_eq!(store.write(batch(2)), Ok(()));
        store.fail_next_write(Reason::StorageFailed);
        assert_eq!(store.write(batch(3)), Err(Reason::StorageFailed));
        assert_eq!(store.write(batch(3)), Err(Reason::StorageFailed));
        store.sync();
        store.crash(0);
        assert_eq!(held(&mut store), (2, 2));
    }

    #[test]
    #[should_panic(expected = "wrote batch 3 after batch Some(1)")]
    fn a_batch_that_is_left_out_is_noticed() {
        let mut store = with_batches(1);
        let _ = store.write(batch(3));
    }

    #[test]
    fn a_record_that_vanished_is_damage_and_not_the_end() {
        let mut store = with_batches(3);
        store.sync();
        store.durable.log.remove(&(SHARD, 0, Version(2)));
        assert!(matches!(
            store.records(SHARD, 0, Version(1), usize::MAX),
            Err(StoreError::Corrupt(_))
        ));
    }
}
