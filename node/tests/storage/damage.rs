//! Damaged, foreign and locked stores: an error that names what is wrong, never a panic, never less than there was.

use crate::world::{Disk, SHARD, Store, open, puts, small};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use understudy_node::storage::keys::{self, Family, StoreKey};
use understudy_node::storage::{Database, OpenError};
use understudy_proto::{ClientId, Pair, RequestId, Sequence, Version};
use understudy_protocol::store::{StoreError, Stored};
use understudy_protocol::testing::{MemoryStore, Part};

/// Opens the store behind our back.
fn raw(folder: &Path, act: impl FnOnce(&rocksdb::DB)) {
    let names = Family::ALL.map(Family::name);
    let options = rocksdb::Options::default();
    act(&rocksdb::DB::open_cf(&options, folder.join("store"), names).unwrap());
}

/// A closed store of ten objects and an orphan.
fn filled() -> tempfile::TempDir {
    let mut disk = Disk::new();
    fill(&mut disk);
    disk.close()
}

fn fill<S: Store>(store: &mut S) {
    let (history, batches) = puts(SHARD, 10);
    for batch in batches {
        store.write(batch);
    }
    let record = history.records[10].clone();
    let undo = crate::world::undo(&record);
    store.write(crate::world::batch(SHARD, 12, vec![undo]));
}

fn id() -> RequestId {
    RequestId {
        client: ClientId(u128::from(SHARD.0) + 1),
        sequence: Sequence(3),
    }
}

/// A value that each family holds, where it is, and a read that meets it.
fn places() -> Vec<(Family, Vec<u8>, Part)> {
    let orphan = Pair::new(1, 11);
    vec![
        (
            Family::Objects,
            keys::object(SHARD, 0, b"k3"),
            Part::Object(0, Bytes::from_static(b"k3")),
        ),
        (
            Family::Log,
            keys::record(SHARD, 0, Version(10)).to_vec(),
            Part::Record(0, Version(10)),
        ),
        (
            Family::Dedup,
            keys::dedup(SHARD, 0, id()).to_vec(),
            Part::Dedup(0, id()),
        ),
        (
            Family::Orphans,
            keys::orphan(SHARD, orphan).to_vec(),
            Part::Orphan(orphan),
        ),
        (Family::Meta, keys::meta(SHARD).to_vec(), Part::Meta),
    ]
}

/// Reads whatever lies in the family, by key and in order.
fn reads<S: Stored>(
    store: &S,
    family: Family,
    open_shard: impl FnOnce() -> Result<(), StoreError>,
    orphans: impl FnOnce() -> Result<(), StoreError>,
) -> Vec<Result<(), StoreError>> {
    match family {
        Family::Objects => vec![
            store.object(SHARD, 0, b"k3").map(drop),
            store.objects_after(SHARD, 0, None, usize::MAX).map(drop),
        ],
        Family::Log => vec![
            store.record(SHARD, 0, Version(10)).map(drop),
            store.records(SHARD, 0, Version(1), usize::MAX).map(drop),
            open_shard(),
        ],
        Family::Dedup => vec![
            store.dedup(SHARD, 0, id()).map(drop),
            store.dedup_after(SHARD, 0, None, usize::MAX).map(drop),
        ],
        Family::Orphans => vec![orphans()],
        Family::Meta => vec![open_shard()],
    }
}

/// Values that nobody wrote.
const HOSTILE: [&[u8]; 5] = [b"", b"\x01", b"\x02garbage", &[0xff; 40], &[0; 40]];

#[test]
fn hostile_values_are_damage_in_every_family() {
    for hostile in HOSTILE {
        for (family, key, _) in places() {
            let folder = filled();
            raw(folder.path(), |db| {
                db.put_cf(db.cf_handle(family.name()).unwrap(), &key, hostile)
                    .unwrap();
            });
            let database = open(folder.path());
            let open_shard = || database.open_shard(SHARD).map(drop);
            let orphans = || database.orphans(SHARD, None, usize::MAX).map(drop);
            for read in reads(&*database, family, open_shard, orphans) {
                let Err(StoreError::Corrupt(what)) = read else {
                    panic!("{family:?} {hostile:?}: {read:?}");
                };
                assert!(what.starts_with(family.name()), "{what}");
            }
        }
    }
}

#[test]
fn hostile_values_are_damage_in_the_twin_too() {
    for hostile in HOSTILE {
        for (family, _, part) in places() {
            let mut store = MemoryStore::new();
            fill(&mut store);
            assert!(store.damage(SHARD, &part, |bytes| *bytes = hostile.to_vec()));
            let mut opened = store.clone();
            let open_shard = || opened.open_shard(SHARD).map(drop);
            let orphans = || store.orphans(SHARD, None, usize::MAX).map(drop);
            for read in reads(&store, family, open_shard, orphans) {
                assert!(matches!(read, Err(StoreError::Corrupt(_))), "{family:?}");
            }
        }
    }
}

#[test]
fn hostile_keys_are_damage_and_not_skipped() {
    let prefix = keys::object(SHARD, 0, b"");
    for (family, key) in [
        (Family::Log, [&prefix[..], b"short"].concat()),
        (Family::Dedup, [&prefix[..], b"short"].concat()),
        (Family::Orphans, [&prefix[..8], b"short"].concat()),
    ] {
        let folder = filled();
        raw(folder.path(), |db| {
            db.put_cf(db.cf_handle(family.name()).unwrap(), &key, b"x")
                .unwrap();
        });
        let database = open(folder.path());
        let found = match family {
            Family::Log => database.records(SHARD, 0, Version(0), usize::MAX).map(drop),
            Family::Dedup => database.dedup_after(SHARD, 0, None, usize::MAX).map(drop),
            _ => database.orphans(SHARD, None, usize::MAX).map(drop),
        };
        assert!(matches!(found, Err(StoreError::Corrupt(_))), "{family:?}");
    }
    let folder = filled();
    raw(folder.path(), |db| {
        db.put_cf(db.cf_handle("meta").unwrap(), b"x", b"x")
            .unwrap();
    });
    assert!(open(folder.path()).shards().is_err());
}

#[test]
fn a_record_that_vanished_is_damage_and_not_the_end() {
    let folder = filled();
    raw(folder.path(), |db| {
        let key = keys::record(SHARD, 0, Version(4));
        db.delete_cf(db.cf_handle("log").unwrap(), key).unwrap();
    });
    let database = open(folder.path());
    let records = database.records(SHARD, 0, Version(1), usize::MAX);
    assert!(matches!(records, Err(StoreError::Corrupt(_))));
}

#[test]
fn an_orphan_of_another_shard_is_damage() {
    let folder = filled();
    let key = |shard| keys::orphan(shard, Pair::new(1, 11));
    let other = understudy_proto::ShardId(SHARD.0 + 1);
    raw(folder.path(), |db| {
        let orphans = db.cf_handle("orphans").unwrap();
        let value = db.get_cf(orphans, key(SHARD)).unwrap().unwrap();
        db.put_cf(orphans, key(other), value).unwrap();
    });
    let found = open(folder.path()).orphans(other, None, usize::MAX);
    assert!(matches!(found, Err(StoreError::Corrupt(_))));
}

#[test]
fn a_damaged_block_is_an_error_for_every_read_that_needs_it() {
    let folder = filled();
    raw(folder.path(), |db| {
        for family in Family::ALL {
            db.flush_cf(db.cf_handle(family.name()).unwrap()).unwrap();
        }
    });
    for file in tables(folder.path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        // The first block: the data.
        bytes[20] ^= 0xff;
        std::fs::write(&file, bytes).unwrap();
    }
    let Ok(database) = Database::open(folder.path(), &small()) else {
        return;
    };
    let errors = [
        database.object(SHARD, 0, b"k3").map(drop),
        database.objects_after(SHARD, 0, None, usize::MAX).map(drop),
        database.records(SHARD, 0, Version(1), usize::MAX).map(drop),
        database.dedup_after(SHARD, 0, None, usize::MAX).map(drop),
        database.orphans(SHARD, None, usize::MAX).map(drop),
        database.open_shard(SHARD).map(drop),
        database.shards().map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(StoreError::Corrupt(_))), "{error:?}");
    }
}

fn tables(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("store")).unwrap();
    let is_table = |path: &PathBuf| path.extension().is_some_and(|e| e == "sst");
    files.map(|f| f.unwrap().path()).filter(is_table).collect()
}

fn damaged(folder: &Path) -> String {
    match Database::open(folder, &small()) {
        Err(OpenError::Damaged(what)) => what,
        other => panic!("not damaged: {other:?}"),
    }
}

#[test]
fn what_is_missing_is_never_a_fresh_store() {
    let folder = filled();
    std::fs::remove_file(folder.path().join("store/CURRENT")).unwrap();
    damaged(folder.path());

    let folder = filled();
    raw(folder.path(), |db| {
        db.flush_cf(db.cf_handle("objects").unwrap()).unwrap()
    });
    std::fs::remove_file(&tables(folder.path())[0]).unwrap();
    damaged(folder.path());

    let folder = filled();
    let names = Family::ALL.map(Family::name);
    let options = rocksdb::Options::default();
    let mut db = rocksdb::DB::open_cf(&options, folder.path().join("store"), names).unwrap();
    db.drop_cf("dedup").unwrap();
    drop(db);
    assert!(damaged(folder.path()).contains("families"));

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store")).unwrap();
    let opened = Database::open(folder.path(), &small());
    assert!(
        matches!(&opened, Err(OpenError::Io(why)) if why.contains("volume")),
        "{opened:?}"
    );
}

#[test]
fn a_store_that_is_set_aside_makes_room_for_an_empty_one() {
    let folder = filled();
    std::fs::remove_file(folder.path().join("store/CURRENT")).unwrap();
    let place = Database::set_aside(folder.path()).unwrap();
    assert!(place.ends_with("store.damaged-1") && place.exists());
    assert_eq!(open(folder.path()).shards(), Ok(vec![]));
}

#[test]
fn a_store_of_another_format_is_refused() {
    let folder = filled();
    raw(folder.path(), |db| {
        let meta = db.cf_handle("meta").unwrap();
        db.put_cf(meta, keys::store(StoreKey::Format), 2u32.to_be_bytes())
            .unwrap();
    });
    let error = Database::open(folder.path(), &small()).unwrap_err();
    assert!(matches!(error, OpenError::Format { found: 2 }), "{error}");
}

#[test]
fn a_store_that_was_never_completed_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store.creating")).unwrap();
    std::fs::write(folder.path().join("store.creating/IDENTITY"), "half").unwrap();
    assert_eq!(open(folder.path()).shards(), Ok(vec![]));
    assert!(!folder.path().join("store.creating").exists());
}

#[test]
fn a_folder_belongs_to_one_process() {
    let disk = Disk::new();
    let error = Database::open(disk.folder(), &small()).unwrap_err();
    let pid = format!("pid {}", std::process::id());
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().contains(&pid), "{error}");
    let folder = disk.close();
    drop(open(folder.path()));
}
