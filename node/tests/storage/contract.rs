//! What any store owes a replica: each test runs on RocksDB and on the in-memory twin.

use crate::world::{Disk, SHARD, Store, batch, contents, orphan, puts, undo};
use bytes::Bytes;
use understudy_proto::{Epoch, Pair, RequestId, Sequence, ShardId, Version};
use understudy_protocol::record::Record;
use understudy_protocol::request::Op;
use understudy_protocol::store::{Contents, CopyProgress, Meta, Staged, Staging, StoreChange};
use understudy_protocol::testing::{History, MemoryStore};

macro_rules! on_both {
    ($($name:ident)*) => {
        mod rocksdb { $(#[test] fn $name() { super::$name::<super::Disk>() })* }
        mod memory { $(#[test] fn $name() { super::$name::<super::MemoryStore>() })* }
    };
}

on_both! {
    what_was_written_is_read_back
    an_empty_store_has_nothing
    a_page_ends_at_its_bytes_and_goes_on_after_its_last
    the_last_of_several_changes_of_one_thing_holds
    a_trimmed_log_begins_later
    an_undone_record_is_an_orphan
    a_staged_copy_stands_beside_the_live_one
    a_staged_delta_says_what_is_gone
    a_dropped_copy_leaves_promise_and_orphans
    shards_do_not_see_each_other
    data_without_meta_do_not_open
}

fn write_all<S: Store>(store: &mut S, count: u64) -> History {
    let (history, batches) = puts(SHARD, count);
    for batch in batches {
        store.write(batch);
    }
    history
}

fn what_was_written_is_read_back<S: Store>() {
    let mut store = S::new();
    let mut history = write_all(&mut store, 3);
    let key = Bytes::from_static(b"k2");
    let delete = history.run(vec![Op::Delete { key: key.clone() }], vec![]);
    store.write(batch(SHARD, 5, delete));
    for _ in 0..2 {
        let stored = store.stored();
        for (key, object) in &history.objects {
            assert_eq!(
                stored.object(SHARD, 0, key).as_ref(),
                Ok(&Some(object.clone()))
            );
        }
        assert_eq!(stored.object(SHARD, 0, &key), Ok(None));
        let records = stored.records(SHARD, 0, Version(1), usize::MAX).unwrap();
        assert_eq!(records, history.records);
        for record in &history.records {
            let found = stored.record(SHARD, 0, record.pair.version);
            assert_eq!(found, Ok(Some(record.clone())));
            let (decoded, _) = understudy_protocol::record::Record::decode(&record.bytes).unwrap();
            if let Some((id, entry)) = decoded.dedup() {
                assert_eq!(stored.dedup(SHARD, 0, id), Ok(Some(entry)));
            }
        }
        let saved = store.open_shard(SHARD).unwrap();
        assert_eq!(saved.meta.live.epoch_starts, [Pair::new(1, 1)]);
        assert_eq!(saved.last, history.records.last().cloned());
        assert_eq!((saved.staged_last, saved.orphans), (None, 0));
        store.reopen();
    }
}

fn an_empty_store_has_nothing<S: Store>() {
    let mut store = S::new();
    let saved = store.open_shard(SHARD).unwrap();
    assert_eq!(
        (saved.meta, saved.last, saved.orphans),
        (Meta::empty(), None, 0)
    );
    assert_eq!(contents(store.stored(), SHARD, 0), (vec![], vec![], 0));
    assert_eq!(store.shards(), []);
    assert!(store.orphans(SHARD, None, 100).done);
}

fn a_page_ends_at_its_bytes_and_goes_on_after_its_last<S: Store>() {
    let mut store = S::new();
    let history = write_all(&mut store, 30);
    let stored = store.stored();
    for bytes_max in [0, 1, 100, 200, 1000, usize::MAX] {
        let (mut keys, mut after) = (Vec::new(), None::<Bytes>);
        loop {
            let page = stored
                .objects_after(SHARD, 0, after.as_deref(), bytes_max)
                .unwrap();
            let size = |(key, object): &(Bytes, _)| key.len() + encoded(object);
            let size: usize = page.items.iter().map(size).sum();
            assert!(size <= bytes_max || page.items.len() == 1);
            after = page.items.last().map(|(key, _)| key.clone());
            keys.extend(page.items.into_iter().map(|(key, _)| key));
            if page.done {
                break;
            }
        }
        assert!(keys.iter().eq(history.objects.keys()), "at {bytes_max}");

        let (mut ids, mut after) = (0, None);
        loop {
            let page = stored.dedup_after(SHARD, 0, after, bytes_max).unwrap();
            ids += page.items.len();
            after = page.items.last().map(|(id, _)| *id).or(after);
            if page.done {
                break;
            }
        }
        assert_eq!(ids, 30);

        let mut records = Vec::new();
        loop {
            let from = Version(1 + records.len() as u64);
            let page = stored.records(SHARD, 0, from, bytes_max).unwrap();
            if page.is_empty() {
                break;
            }
            records.extend(page);
        }
        assert_eq!(records, history.records);
    }
}

fn encoded(object: &understudy_protocol::object::Object) -> usize {
    object.encode().len()
}

fn the_last_of_several_changes_of_one_thing_holds<S: Store>() {
    let mut store = S::new();
    let mut history = History::new(SHARD);
    let mut changes = history.start_epoch();
    changes.extend(history.put("k", "1"));
    changes.extend(history.put("k", "2"));
    changes.push(StoreChange::DropGeneration { generation: 0 });
    let kept = history.put("k", "3");
    changes.extend(kept);
    store.write(batch(SHARD, 1, changes));
    let (objects, records, dedup) = contents(store.stored(), SHARD, 0);
    assert_eq!(
        (objects.len(), records, dedup),
        (1, vec![Pair::new(1, 4)], 1)
    );
    let object = store.stored().object(SHARD, 0, b"k").unwrap();
    assert_eq!(object.as_ref(), history.objects.get(&b"k"[..]));
}

fn a_trimmed_log_begins_later<S: Store>() {
    let mut store = S::new();
    let history = write_all(&mut store, 9);
    let trim = |upto| StoreChange::TrimLog {
        generation: 0,
        upto: Version(upto),
    };
    store.write(batch(SHARD, 11, vec![trim(4)]));
    for _ in 0..2 {
        let stored = store.stored();
        let records = stored.records(SHARD, 0, Version(1), usize::MAX).unwrap();
        assert_eq!(records, history.records[4..]);
        assert_eq!(stored.record(SHARD, 0, Version(4)), Ok(None));
        assert_eq!(contents(stored, SHARD, 0).0.len(), 9);
        store.reopen();
    }
    let last = store.open_shard(SHARD).unwrap().last.unwrap();
    assert_eq!(last.pair, history.position());
    store.write(batch(SHARD, 1, vec![trim(u64::MAX)]));
    assert_eq!(store.open_shard(SHARD).unwrap().last, None);
}

fn an_undone_record_is_an_orphan<S: Store>() {
    let mut store = S::new();
    let history = write_all(&mut store, 3);
    let undone = history.records[2..].to_vec();
    for (at, record) in undone.iter().rev().enumerate() {
        let step = undo(record);
        store.write(batch(SHARD, 5 + at as u64, vec![step]));
    }
    let kept: Vec<_> = undone.iter().map(orphan).collect();
    for _ in 0..2 {
        let saved = store.open_shard(SHARD).unwrap();
        assert_eq!(
            (saved.orphans, saved.last),
            (2, Some(history.records[1].clone()))
        );
        let page = store.orphans(SHARD, None, 1);
        assert_eq!((page.items.as_slice(), page.done), (&kept[..1], false));
        let page = store.orphans(SHARD, Some(undone[0].pair), 1);
        assert_eq!((page.items.as_slice(), page.done), (&kept[1..], true));
        store.reopen();
    }
    let pair = undone[0].pair;
    store.write(batch(SHARD, 1, vec![StoreChange::DropOrphan { pair }]));
    assert_eq!(store.orphans(SHARD, None, usize::MAX).items, kept[1..]);
}

fn a_staged_copy_stands_beside_the_live_one<S: Store>() {
    let mut store = S::new();
    let live = write_all(&mut store, 2);
    let mut staged = History::new(SHARD);
    staged.generation = 1;
    let mut changes = staged.start_epoch();
    changes.extend(staged.put("staged", "s"));
    let mut meta = live.meta();
    meta.staging = Some(Staging {
        contents: staged.meta().live,
        consistent_at: Pair::new(1, 1),
        progress: CopyProgress::Records,
        delta_since: None,
        bytes: 0,
    });
    changes.push(StoreChange::PutMeta(meta));
    store.write(batch(SHARD, 4, changes));
    let saved = store.open_shard(SHARD).unwrap();
    assert_eq!(saved.last, live.records.last().cloned());
    assert_eq!(saved.staged_last, staged.records.last().cloned());
    assert_eq!(contents(store.stored(), SHARD, 0).0, ["k1", "k2"]);
    assert_eq!(contents(store.stored(), SHARD, 1).0, ["staged"]);

    let switch = vec![
        StoreChange::PutMeta(staged.meta()),
        StoreChange::DropGeneration { generation: 0 },
    ];
    store.write(batch(SHARD, 1, switch));
    store.reopen();
    let saved = store.open_shard(SHARD).unwrap();
    assert_eq!(
        (saved.meta, saved.last),
        (staged.meta(), staged.records.last().cloned())
    );
    assert_eq!(contents(store.stored(), SHARD, 0), (vec![], vec![], 0));
    assert_eq!(contents(store.stored(), SHARD, 1).0, ["staged"]);
}

/// Its parts stand under names of their own beside the live generation, what is gone among them, and survive a restart with
/// the meta that speaks of them.
fn a_staged_delta_says_what_is_gone<S: Store>() {
    let mut store = S::new();
    let live = write_all(&mut store, 2);
    let (record, _) = Record::decode(&live.records[1].bytes).unwrap();
    let (id, entry) = record.dedup().unwrap();
    let key = Bytes::from_static(b"k1");
    let object = live.objects.get(&key).cloned();
    assert!(object.is_some());
    let other = RequestId {
        sequence: Sequence(0),
        ..id
    };
    let mut parts = vec![
        Staged::Dedup {
            id,
            entry: Some(entry),
        },
        Staged::Dedup {
            id: other,
            entry: None,
        },
        Staged::Object { key, object },
        Staged::Object {
            key: Bytes::from_static(b"k2"),
            object: None,
        },
    ];
    let mut meta = live.meta();
    meta.staging = Some(Staging {
        contents: Contents {
            generation: 1,
            base: Pair::new(1, 9),
            ..Contents::default()
        },
        consistent_at: Pair::new(1, 9),
        progress: CopyProgress::Dedup { after: Some(id) },
        delta_since: Some(Pair::new(1, 3)),
        bytes: 70,
    });
    let put = |item| StoreChange::PutStaged {
        generation: 1,
        item,
    };
    let mut changes: Vec<StoreChange> = parts.iter().cloned().map(put).collect();
    changes.push(StoreChange::PutMeta(meta.clone()));
    store.write(batch(SHARD, 4, changes));
    parts.sort_by_key(Staged::key);
    for _ in 0..2 {
        let saved = store.open_shard(SHARD).unwrap();
        assert_eq!((&saved.meta, &saved.staged_last), (&meta, &None));
        let stored = store.stored();
        for part in &parts {
            let found = stored.staged(SHARD, 1, &part.key());
            assert_eq!(found, Ok(Some(part.clone())));
        }
        assert_eq!(stored.staged(SHARD, 1, b"\x01k3"), Ok(None));
        assert_eq!(stored.staged(SHARD, 2, &parts[0].key()), Ok(None));
        let all = stored.staged_after(SHARD, 1, None, usize::MAX).unwrap();
        assert_eq!((all.items.as_slice(), all.done), (&parts[..], true));
        let mut after = None;
        for part in &parts {
            let page = stored.staged_after(SHARD, 1, after.as_deref(), 1).unwrap();
            assert_eq!(page.items, std::slice::from_ref(part));
            after = Some(part.key());
        }
        // The live generation is as it was.
        assert_eq!(contents(store.stored(), SHARD, 0).0, ["k1", "k2"]);
        store.reopen();
    }
    let goes = StoreChange::DropGeneration { generation: 1 };
    store.write(batch(SHARD, 1, vec![goes]));
    let left = store
        .stored()
        .staged_after(SHARD, 1, None, usize::MAX)
        .unwrap();
    assert_eq!(left.items, []);
}

fn a_dropped_copy_leaves_promise_and_orphans<S: Store>() {
    let mut store = S::new();
    let history = write_all(&mut store, 2);
    let cut_off = history.records[2].clone();
    let promise = Meta {
        promise: Epoch(7),
        ..Meta::empty()
    };
    let changes = vec![
        undo(&cut_off),
        StoreChange::DropCopy,
        StoreChange::PutMeta(promise.clone()),
    ];
    store.write(batch(SHARD, 4, changes));
    store.reopen();
    let saved = store.open_shard(SHARD).unwrap();
    assert_eq!((saved.meta, saved.last, saved.orphans), (promise, None, 1));
    assert_eq!(contents(store.stored(), SHARD, 0), (vec![], vec![], 0));
    assert_eq!(
        store.orphans(SHARD, None, usize::MAX).items,
        [orphan(&cut_off)]
    );
    assert_eq!(store.shards(), [SHARD]);
}

fn shards_do_not_see_each_other<S: Store>() {
    let mut store = S::new();
    let shards = [1, 4, 5, 6, 255, 256, u64::MAX - 1].map(ShardId);
    for shard in shards {
        for batch in puts(shard, 2).1 {
            store.write(batch);
        }
    }
    assert_eq!(store.shards(), shards);
    store.write(batch(SHARD, 4, vec![StoreChange::DropCopy]));
    for shard in shards {
        let expected = if shard == SHARD { 0 } else { 2 };
        assert_eq!(contents(store.stored(), shard, 0).0.len(), expected);
        let has_log = store.open_shard(shard).unwrap().last.is_some();
        assert_eq!(has_log, shard != SHARD);
    }
    assert_eq!(
        store.shards(),
        shards
            .into_iter()
            .filter(|s| *s != SHARD)
            .collect::<Vec<_>>()
    );
}

fn data_without_meta_do_not_open<S: Store>() {
    let mut store = S::new();
    let mut history = History::new(SHARD);
    let mut changes = history.start_epoch();
    changes.retain(|change| !matches!(change, StoreChange::PutMeta(_)));
    store.write(batch(SHARD, 1, changes));
    let error = store.open_shard(SHARD).unwrap_err().to_string();
    assert!(error.contains("missing beside data"), "{error}");
    let contents = Contents::default();
    assert_eq!(contents.epoch_starts, []);
}
