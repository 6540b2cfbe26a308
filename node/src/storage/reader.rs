//! Reads of the store: the protocol's `Stored`, what a replica needs to open, orphans, ranges for scans, and sizes.
//!
//! A read sees what is durable: RocksDB shows a batch only after its sync. Each page comes from one iterator and is thus
//! consistent in itself. Bytes that do not read back are `Corrupt` and name their key; nothing is skipped.

use super::keys::{self, Family, KeyRange, UnknownKey};
use super::open::Database;
use bytes::Bytes;
use rocksdb::{DBRawIterator, ErrorKind, ReadOptions};
use understudy_proto::{Pair, RequestId, ShardId, Version};
use understudy_protocol::codec::Malformed;
use understudy_protocol::object::Object;
use understudy_protocol::record::EncodedRecord;
use understudy_protocol::request::DedupEntry;
use understudy_protocol::store::{
    Generation, Meta, Orphan, Page, PageBudget, Saved, Staged, StoreError, Stored,
};

/// Which objects of a generation, in key order: those that begin with the prefix, from `start` on, before `end`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectRange {
    pub prefix: Bytes,
    pub start: Bytes,
    pub end: Option<Bytes>,
}

/// A page of a scan, and the state that it is of.
#[derive(Debug)]
pub struct Scanned {
    pub page: Page<(Bytes, Object)>,
    pub generation: Generation,
    /// The objects of the page hold the log up to here, no more and no less.
    pub position: Pair,
}

/// Bytes on disk, about: what is still in memory or dead and not yet compacted is not counted exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    pub objects: u64,
    pub log: u64,
    pub dedup: u64,
    pub orphans: u64,
}

impl Database {
    /// What a copy holds, for a replica that starts.
    pub fn open_shard(&self, shard: ShardId) -> Result<Saved, StoreError> {
        let orphans = self.count_orphans(shard)?;
        let Some(bytes) = self.get(Family::Meta, &keys::meta(shard))? else {
            return self.without_meta(shard, orphans);
        };
        let mut meta =
            Meta::decode(&bytes).map_err(|e| corrupt(Family::Meta, &keys::meta(shard), e))?;
        let staged = meta.staging.as_ref().map(|s| s.contents.generation);
        let staged_last = match staged.map(|generation| self.last_record(shard, generation)) {
            None => None,
            Some(Err(StoreError::Corrupt(what))) => {
                // It can be had again; what is left of it goes when the next rebuild begins.
                tracing::warn!(%shard, "what was staged of a rebuild is damaged and given up: {what}");
                meta.staging = None;
                None
            }
            Some(last) => last?,
        };
        Ok(Saved {
            last: self.last_record(shard, meta.live.generation)?,
            staged_last,
            orphans,
            meta,
        })
    }

    /// Records without meta would be a copy whose promise was lost.
    fn without_meta(&self, shard: ShardId, orphans: u64) -> Result<Saved, StoreError> {
        for family in [Family::Objects, Family::Log, Family::Dedup] {
            if self.first_key(family, &keys::of_shard(shard))?.is_some() {
                let missing = Malformed("missing beside data");
                return Err(corrupt(Family::Meta, &keys::meta(shard), missing));
            }
        }
        Ok(Saved {
            meta: Meta::empty(),
            last: None,
            staged_last: None,
            orphans,
        })
    }

    fn last_record(
        &self,
        shard: ShardId,
        generation: Generation,
    ) -> Result<Option<EncodedRecord>, StoreError> {
        let range = keys::of_generation(shard, generation);
        let mut iterator = self.iterator(Family::Log, &range, true);
        iterator.seek_to_last();
        match current(&iterator, Family::Log)? {
            None => Ok(None),
            Some((key, value)) => decode_record(shard, key, value).map(Some),
        }
    }

    /// The shards of which anything is stored.
    pub fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        let mut shards = Vec::new();
        for family in Family::ALL {
            let mut from = Vec::new();
            let end = keys::meta(keys::NO_SHARD).to_vec();
            while let Some(key) = self.first_key(
                family,
                &KeyRange {
                    from,
                    to: end.clone(),
                },
            )? {
                let shard = keys::shard_of(&key).map_err(|e| unknown(family, &key, e))?;
                let shard = shard.expect("the range ends before NO_SHARD");
                shards.push(shard);
                from = keys::of_shard(shard).to;
            }
        }
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
        let mut range = keys::of_shard(shard);
        if let Some(pair) = after {
            range.from = keys::after(&keys::orphan(shard, pair));
        }
        self.page(
            Family::Orphans,
            &range,
            bytes_max,
            usize::MAX,
            |key, value| {
                let pair = keys::parse_orphan(key).map_err(|e| unknown(Family::Orphans, key, e))?;
                let orphan = Orphan::decode(shard, pair, &Bytes::copy_from_slice(value))
                    .map_err(|e| corrupt(Family::Orphans, key, e))?;
                Ok((value.len(), orphan))
            },
        )
    }

    fn count_orphans(&self, shard: ShardId) -> Result<u64, StoreError> {
        let mut iterator = self.iterator(Family::Orphans, &keys::of_shard(shard), true);
        iterator.seek_to_first();
        let mut count = 0;
        while current(&iterator, Family::Orphans)?.is_some() {
            count += 1;
            iterator.next();
        }
        Ok(count)
    }

    /// Objects of a range of the live generation after a key, until so many bytes or objects are reached, and where the copy stood
    /// at the same moment.
    pub fn scan(
        &self,
        shard: ShardId,
        range: &ObjectRange,
        after: Option<&[u8]>,
        objects_max: usize,
        bytes_max: usize,
    ) -> Result<Scanned, StoreError> {
        let snapshot = self.db.snapshot();
        let meta_key = keys::meta(shard);
        let meta = snapshot
            .get_pinned_cf(self.family(Family::Meta), meta_key)
            .map_err(|e| read_error(Family::Meta, &meta_key, &e))?;
        let meta = match meta {
            Some(bytes) => Meta::decode(&Bytes::copy_from_slice(&bytes))
                .map_err(|e| corrupt(Family::Meta, &meta_key, e))?,
            None => Meta::empty(),
        };
        let generation = meta.live.generation;
        // in_sync: the objects hold the log up to the commit point.
        let position = match meta.live.applied {
            Some(applied) => applied,
            None => {
                let log = keys::of_generation(shard, generation);
                let options = bounds(&log, false);
                let mut log = snapshot.raw_iterator_cf_opt(self.family(Family::Log), options);
                log.seek_to_last();
                match current(&log, Family::Log)? {
                    Some((key, _)) => end_of_log(&meta, key)?,
                    None => meta.live.base,
                }
            }
        };
        let mut page = Page {
            items: Vec::new(),
            done: true,
        };
        if let Some(within) = within(shard, generation, range, after) {
            let options = bounds(&within, false);
            let iterator = snapshot.raw_iterator_cf_opt(self.family(Family::Objects), options);
            page = take_page(
                iterator,
                Family::Objects,
                bytes_max,
                objects_max,
                read_object,
            )?;
        }
        Ok(Scanned {
            page,
            generation,
            position,
        })
    }

    /// How much the parts of a shard take on disk.
    pub fn sizes(&self, shard: ShardId) -> Sizes {
        let of = |family| {
            let range = keys::of_shard(shard);
            let range = rocksdb::Range::new(&range.from, &range.to);
            self.db
                .get_approximate_sizes_cf(self.family(family), &[range])[0]
        };
        Sizes {
            objects: of(Family::Objects),
            log: of(Family::Log),
            dedup: of(Family::Dedup),
            orphans: of(Family::Orphans),
        }
    }

    /// About how many keys a family has, over all shards.
    pub fn estimated_keys(&self, family: Family) -> u64 {
        let estimate = rocksdb::properties::ESTIMATE_NUM_KEYS;
        let found = self.db.property_int_value_cf(self.family(family), estimate);
        found.ok().flatten().unwrap_or(0)
    }

    /// Memory of the block cache, memtables included.
    pub fn memory(&self) -> u64 {
        self.cache.get_usage().max(self.write_buffers.get_usage()) as u64
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self
            .db
            .get_pinned_cf(self.family(family), key)
            .map_err(|e| read_error(family, key, &e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn first_key(&self, family: Family, range: &KeyRange) -> Result<Option<Vec<u8>>, StoreError> {
        let mut iterator = self.iterator(family, range, true);
        iterator.seek_to_first();
        Ok(current(&iterator, family)?.map(|(key, _)| key.to_vec()))
    }

    fn iterator(&self, family: Family, range: &KeyRange, fill: bool) -> DBRawIterator<'_> {
        self.db
            .raw_iterator_cf_opt(self.family(family), bounds(range, fill))
    }

    fn page<T>(
        &self,
        family: Family,
        range: &KeyRange,
        bytes_max: usize,
        items_max: usize,
        read: impl FnMut(&[u8], &[u8]) -> Result<(usize, T), StoreError>,
    ) -> Result<Page<T>, StoreError> {
        let iterator = self.iterator(family, range, false);
        take_page(iterator, family, bytes_max, items_max, read)
    }
}

/// The pair of the last record, whose stored key this is: its epoch is the last that began at or before it.
fn end_of_log(meta: &Meta, key: &[u8]) -> Result<Pair, StoreError> {
    let malformed = |what| corrupt(Family::Log, key, Malformed(what));
    let version = keys::parse_record(key).map_err(|_| malformed("an unknown key"))?;
    let starts = meta.live.epoch_starts.iter().rev();
    let start = starts.copied().find(|start| start.version <= version);
    let start = start.ok_or_else(|| malformed("a record before the first epoch"))?;
    Ok(Pair {
        epoch: start.epoch,
        version,
    })
}

/// `fill`: whether what is read may push other blocks out of the cache.
fn bounds(range: &KeyRange, fill: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.from.clone());
    options.set_iterate_upper_bound(range.to.clone());
    options.fill_cache(fill);
    options
}

/// Takes items while they fit; `read` gives an item and its bytes.
fn take_page<T>(
    mut iterator: DBRawIterator<'_>,
    family: Family,
    bytes_max: usize,
    items_max: usize,
    mut read: impl FnMut(&[u8], &[u8]) -> Result<(usize, T), StoreError>,
) -> Result<Page<T>, StoreError> {
    let mut budget = PageBudget::new(bytes_max);
    let mut items = Vec::new();
    iterator.seek_to_first();
    while let Some((key, value)) = current(&iterator, family)? {
        let (bytes, item) = read(key, value)?;
        if !budget.takes(bytes) || items.len() == items_max {
            return Ok(Page { items, done: false });
        }
        items.push(item);
        iterator.next();
    }
    Ok(Page { items, done: true })
}

/// The stored keys of a range after a key; `None`: there are none.
fn within(
    shard: ShardId,
    generation: Generation,
    range: &ObjectRange,
    after: Option<&[u8]>,
) -> Option<KeyRange> {
    let mut within = keys::starting_with(&keys::object(shard, generation, &range.prefix));
    let start = keys::object(shard, generation, &range.start);
    within.from = within.from.max(start);
    if let Some(end) = &range.end {
        within.to = within.to.min(keys::object(shard, generation, end));
    }
    if let Some(key) = after {
        let next = keys::after(&keys::object(shard, generation, key));
        within.from = within.from.max(next);
    }
    (within.from < within.to).then_some(within)
}

impl Stored for Database {
    fn object(
        &self,
        shard: ShardId,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        let at = keys::object(shard, generation, key);
        let found = self.get(Family::Objects, &at)?;
        found
            .map(|bytes| Object::decode(bytes).map_err(|e| corrupt(Family::Objects, &at, e)))
            .transpose()
    }

    fn dedup(
        &self,
        shard: ShardId,
        generation: Generation,
        id: RequestId,
    ) -> Result<Option<DedupEntry>, StoreError> {
        let at = keys::dedup(shard, generation, id);
        let found = self.get(Family::Dedup, &at)?;
        found
            .map(|bytes| DedupEntry::decode(bytes).map_err(|e| corrupt(Family::Dedup, &at, e)))
            .transpose()
    }

    fn record(
        &self,
        shard: ShardId,
        generation: Generation,
        version: Version,
    ) -> Result<Option<EncodedRecord>, StoreError> {
        let at = keys::record(shard, generation, version);
        let found = self.get(Family::Log, &at)?;
        found
            .map(|bytes| check_record(shard, &at, version, bytes))
            .transpose()
    }

    fn records(
        &self,
        shard: ShardId,
        generation: Generation,
        from: Version,
        bytes_max: usize,
    ) -> Result<Vec<EncodedRecord>, StoreError> {
        let mut range = keys::of_generation(shard, generation);
        range.from = keys::record(shard, generation, from).to_vec();
        let mut expected = None;
        let page = self.page(Family::Log, &range, bytes_max, usize::MAX, |key, value| {
            let record = decode_record(shard, key, value)?;
            let version = record.pair.version;
            if expected.is_some_and(|expected| expected != version) {
                return Err(corrupt(
                    Family::Log,
                    key,
                    Malformed("records before it are missing"),
                ));
            }
            expected = Some(Version(version.0.saturating_add(1)));
            Ok((value.len(), record))
        })?;
        Ok(page.items)
    }

    fn objects_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Page<(Bytes, Object)>, StoreError> {
        let all = ObjectRange::default();
        match within(shard, generation, &all, after) {
            Some(within) => self.page(Family::Objects, &within, bytes_max, usize::MAX, read_object),
            None => Ok(Page {
                items: Vec::new(),
                done: true,
            }),
        }
    }

    fn dedup_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<RequestId>,
        bytes_max: usize,
    ) -> Result<Page<(RequestId, DedupEntry)>, StoreError> {
        let mut range = keys::of_generation(shard, generation);
        if let Some(id) = after {
            range.from = keys::after(&keys::dedup(shard, generation, id));
        }
        self.page(
            Family::Dedup,
            &range,
            bytes_max,
            usize::MAX,
            |key, value| {
                let id = keys::parse_dedup(key).map_err(|e| unknown(Family::Dedup, key, e))?;
                let entry = DedupEntry::decode(Bytes::copy_from_slice(value))
                    .map_err(|e| corrupt(Family::Dedup, key, e))?;
                // The id's 24 bytes and the value, without shard and generation.
                Ok((24 + value.len(), (id, entry)))
            },
        )
    }

    fn orphans(
        &self,
        shard: ShardId,
        after: Option<Pair>,
        bytes_max: usize,
    ) -> Result<Page<Orphan>, StoreError> {
        Database::orphans(self, shard, after, bytes_max)
    }

    fn staged(
        &self,
        shard: ShardId,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Staged>, StoreError> {
        let at = keys::object(shard, generation, key);
        let found = self.get(Family::Objects, &at)?;
        found
            .map(|bytes| Staged::decode(key, &bytes).map_err(|e| corrupt(Family::Objects, &at, e)))
            .transpose()
    }

    fn staged_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Page<Staged>, StoreError> {
        let mut range = keys::of_generation(shard, generation);
        if let Some(key) = after {
            range.from = keys::after(&keys::object(shard, generation, key));
        }
        self.page(
            Family::Objects,
            &range,
            bytes_max,
            usize::MAX,
            |key, value| {
                let name = keys::parse_object(key).map_err(|e| unknown(Family::Objects, key, e))?;
                let item = Staged::decode(name, &Bytes::copy_from_slice(value))
                    .map_err(|e| corrupt(Family::Objects, key, e))?;
                Ok((name.len() + value.len(), item))
            },
        )
    }
}

fn read_object(key: &[u8], value: &[u8]) -> Result<(usize, (Bytes, Object)), StoreError> {
    let name = keys::parse_object(key).map_err(|e| unknown(Family::Objects, key, e))?;
    let object = Object::decode(Bytes::copy_from_slice(value))
        .map_err(|e| corrupt(Family::Objects, key, e))?;
    Ok((
        name.len() + value.len(),
        (Bytes::copy_from_slice(name), object),
    ))
}

fn decode_record(shard: ShardId, key: &[u8], value: &[u8]) -> Result<EncodedRecord, StoreError> {
    let version = keys::parse_record(key).map_err(|e| unknown(Family::Log, key, e))?;
    check_record(shard, key, version, Bytes::copy_from_slice(value))
}

fn check_record(
    shard: ShardId,
    key: &[u8],
    version: Version,
    bytes: Bytes,
) -> Result<EncodedRecord, StoreError> {
    EncodedRecord::check(shard, bytes)
        .and_then(|record| under_its_key(record.pair.version == version, record))
        .map_err(|e| corrupt(Family::Log, key, e))
}

fn under_its_key(is: bool, record: EncodedRecord) -> Result<EncodedRecord, Malformed> {
    is.then_some(record)
        .ok_or(Malformed("record under another one's key"))
}

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// Where the iterator stands; `None` at the end of its range. An iterator that failed is not at its end.
fn current<'a>(
    iterator: &'a DBRawIterator<'_>,
    family: Family,
) -> Result<Option<Entry<'a>>, StoreError> {
    match iterator.item() {
        Some(item) => Ok(Some(item)),
        None => match iterator.status() {
            Ok(()) => Ok(None),
            Err(error) => Err(read_error(family, b"", &error)),
        },
    }
}

fn read_error(family: Family, key: &[u8], error: &rocksdb::Error) -> StoreError {
    let what = format!("{} {}: {error}", family.name(), key.escape_ascii());
    match error.kind() {
        ErrorKind::Corruption => StoreError::Corrupt(what),
        _ => StoreError::Io(what),
    }
}

fn corrupt(family: Family, key: &[u8], error: Malformed) -> StoreError {
    StoreError::Corrupt(format!("{} {}: {error}", family.name(), key.escape_ascii()))
}

fn unknown(family: Family, key: &[u8], _: UnknownKey) -> StoreError {
    corrupt(family, key, Malformed("a key of no known shape"))
}
