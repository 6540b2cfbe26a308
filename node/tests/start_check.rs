//! What a node does with its store before it serves: damage behind the log's back is repaired and counted, a store that
//! cannot be trusted is kept beside and replaced by an empty one under a new id, and the node gets its copies again.

mod asked;
mod damage;
mod real;

use damage::{find, overwrite, raw};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use understudy_node::cli::cluster_processes::{LocalCluster, http_get};
use understudy_node::data_folder::{DataFolder, Role};
use understudy_node::data_node::store::{Ready, Repairs, prepare};
use understudy_node::process::RoleError;
use understudy_node::storage::keys::{self, Family, StoreKey};
use understudy_node::storage::{Database, Options};
use understudy_proto::{ClientId, ClusterId, RequestId, Sequence, ShardId, Version};
use understudy_protocol::object::Value as ObjectValue;
use understudy_protocol::store::{Batch, Stored};
use understudy_protocol::testing::History;

const SHARDS: [ShardId; 2] = [ShardId(5), ShardId(6)];

fn options() -> Options {
    Options {
        cache_bytes: 8 << 20,
        write_buffer_bytes: 4 << 20,
        reserve_bytes: 0,
        ..Options::default()
    }
}

/// The folder of a node that joined, with a closed store: in each shard the keys k0 to k9.
fn filled() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(data.path(), Role::Node).unwrap();
    folder.belongs_to(ClusterId(7), 3).unwrap();
    let database = Database::open(data.path(), &options()).unwrap();
    for shard in SHARDS {
        let mut history = History::new(shard);
        let mut batches = vec![history.start_epoch()];
        batches.extend((0..10).map(|n| history.put(format!("k{n}"), format!("v{n}"))));
        for changes in batches {
            let batch = Batch {
                shard,
                number: 1,
                changes,
            };
            database.repair(&batch).unwrap();
        }
    }
    data
}

/// A start of the node, and the store id under which it would register.
fn start(data: &Path) -> (Result<Ready, RoleError>, DataFolder) {
    let mut folder = DataFolder::open(data, Role::Node).unwrap();
    (prepare(&mut folder, &options()), folder)
}

fn value(ready: &Ready, shard: ShardId, key: &str) -> Option<ObjectValue> {
    let object = ready.database.object(shard, 0, key.as_bytes()).unwrap()?;
    Some(object.components[0].value.clone())
}

fn request(shard: ShardId, sequence: u64) -> RequestId {
    RequestId {
        client: ClientId(u128::from(shard.0) + 1),
        sequence: Sequence(sequence),
    }
}

// capability A18
#[test]
fn a_sound_store_is_compared_and_left_alone() {
    let data = filled();
    let before = DataFolder::open(data.path(), Role::Node).unwrap();
    let store = before.identity().store;
    drop(before);
    let (ready, folder) = start(data.path());
    let ready = ready.unwrap();
    assert_eq!((ready.start.copies, ready.start.records), (2, 22));
    assert!(ready.start.repairs.is_empty() && !ready.start.replaced);
    assert_eq!(folder.identity().store, store);
}

// capability A18
#[test]
fn what_was_altered_behind_the_logs_back_is_repaired_once_and_counted() {
    let data = filled();
    let [five, six] = SHARDS;
    let object = |shard, key: &str| keys::object(shard, 0, key.as_bytes());
    // One object has another one's bytes, one is gone, one cannot be read; so is a dedup entry.
    raw(data.path(), |db| {
        let objects = db.cf_handle("objects").unwrap();
        let other = db.get_cf(objects, object(five, "k4")).unwrap().unwrap();
        db.put_cf(objects, object(five, "k3"), other).unwrap();
        db.delete_cf(objects, object(five, "k7")).unwrap();
        db.put_cf(objects, object(six, "k1"), b"?").unwrap();
        let dedup = db.cf_handle("dedup").unwrap();
        db.put_cf(dedup, keys::dedup(six, 0, request(six, 2)), b"?")
            .unwrap();
    });
    let (ready, _folder) = start(data.path());
    let ready = ready.unwrap();
    let repairs = |objects, dedup_entries| Repairs {
        objects,
        dedup_entries,
    };
    assert_eq!(ready.start.repairs[&five], repairs(2, 0));
    assert_eq!(ready.start.repairs[&six], repairs(1, 1));
    assert_eq!(ready.start.repaired(), repairs(3, 1));
    assert!(!ready.start.replaced && ready.start.set_aside.is_empty());
    for (shard, key) in [(five, "k3"), (five, "k7"), (six, "k1")] {
        let right = ObjectValue::Data(key.replace('k', "v").into());
        assert_eq!(value(&ready, shard, key), Some(right), "{shard} {key}");
    }
    assert!(
        ready
            .database
            .dedup(six, 0, request(six, 2))
            .unwrap()
            .is_some()
    );
    drop((ready, _folder));
    let (again, _folder) = start(data.path());
    assert!(again.unwrap().start.repairs.is_empty(), "it is durable");
}

/// The start after the damage: the old store is kept whole, the new one is empty and of another id.
fn is_set_aside(data: &Path, what: &str) {
    let before = DataFolder::open(data, Role::Node)
        .unwrap()
        .identity()
        .clone();
    let (ready, folder) = start(data);
    let ready = ready.unwrap_or_else(|error| panic!("{what}: {error}"));
    let now = folder.identity();
    assert_ne!(now.store, before.store, "{what}");
    assert_eq!((now.cluster, now.id), (before.cluster, before.id));
    assert_eq!(now.to_set_aside, None);
    assert!(ready.start.replaced);
    assert_eq!(ready.start.set_aside, [data.join("store.damaged-1")]);
    assert_eq!(ready.database.shards(), Ok(vec![]), "{what}");
    let note = std::fs::read_to_string(data.join("store.damaged-1/SET-ASIDE")).unwrap();
    let old = before.store.unwrap().to_string();
    assert!(note.contains(&old) && note.contains("why: "), "{note}");
    let store = now.store;
    drop((ready, folder));
    let (again, folder) = start(data);
    let again = again.unwrap();
    assert!(!again.start.replaced && again.start.set_aside.len() == 1);
    assert_eq!(
        folder.identity().store,
        store,
        "{what}: it keeps its new id"
    );
}

#[test]
fn a_log_that_does_not_verify_sets_the_store_aside() {
    let [shard, other] = SHARDS;
    let record = |version| keys::record(shard, 0, Version(version));

    let data = filled();
    overwrite(data.path(), Family::Log, &record(9), b"\x01garbage");
    is_set_aside(data.path(), "a record's bytes");

    let data = filled();
    raw(data.path(), |db| {
        db.delete_cf(db.cf_handle("log").unwrap(), record(6))
            .unwrap();
    });
    is_set_aside(data.path(), "a gap");

    // A record that is sound in itself, of another history: only the running checksum tells.
    let data = filled();
    let mut history = History::new(shard);
    history.start_epoch();
    for n in 0..8 {
        history.put(format!("k{n}"), "another value");
    }
    let foreign = history.records[7].bytes.clone();
    overwrite(data.path(), Family::Log, &record(8), &foreign);
    is_set_aside(data.path(), "a foreign record");

    let data = filled();
    overwrite(data.path(), Family::Meta, &keys::meta(other), b"\xff");
    is_set_aside(data.path(), "what a copy knows of itself");
}

#[test]
fn an_object_that_the_log_does_not_tell_sets_the_store_aside() {
    let data = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(data.path(), Role::Node).unwrap();
    let database = Database::open(data.path(), &options()).unwrap();
    let shard = SHARDS[0];
    let mut history = History::new(shard);
    let write = |changes| {
        let batch = Batch {
            shard,
            number: 1,
            changes,
        };
        database.repair(&batch).unwrap();
    };
    write(history.start_epoch());
    // More than the check looks at, and at the end an addition to an object that was made before.
    let add = |delta| understudy_protocol::request::Op::Add {
        key: "counter".into(),
        name: "n".into(),
        delta,
    };
    write(history.run(vec![add(1)], vec![]));
    for n in 0..1_000 {
        write(history.put(format!("k{n}"), "v"));
    }
    write(history.run(vec![add(2)], vec![]));
    drop((folder, database));
    let key = keys::object(shard, 0, b"counter");
    raw(data.path(), |db| {
        db.delete_cf(db.cf_handle("objects").unwrap(), &key)
            .unwrap();
    });
    is_set_aside(data.path(), "a counter");
}

fn tables(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("store")).unwrap();
    let is_table = |path: &PathBuf| path.extension().is_some_and(|e| e == "sst");
    files.map(|f| f.unwrap().path()).filter(is_table).collect()
}

#[test]
fn damaged_files_set_the_store_aside() {
    let data = filled();
    raw(data.path(), |db| {
        for family in Family::ALL {
            db.flush_cf(db.cf_handle(family.name()).unwrap()).unwrap();
        }
    });
    for file in tables(data.path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[20] ^= 0xff;
        std::fs::write(&file, bytes).unwrap();
    }
    is_set_aside(data.path(), "tables");

    let data = filled();
    std::fs::remove_file(data.path().join("store/CURRENT")).unwrap();
    is_set_aside(data.path(), "CURRENT");
}

#[test]
fn a_store_that_vanished_comes_back_under_a_new_id() {
    let data = filled();
    let before = DataFolder::open(data.path(), Role::Node)
        .unwrap()
        .identity()
        .store;
    std::fs::remove_dir_all(data.path().join("store")).unwrap();
    let (ready, folder) = start(data.path());
    assert!(ready.unwrap().start.replaced);
    assert_ne!(folder.identity().store, before);
}

#[test]
fn a_start_that_ended_between_the_new_id_and_the_move_goes_on_from_there() {
    let data = filled();
    let mut folder = DataFolder::open(data.path(), Role::Node).unwrap();
    folder.discard_store().unwrap();
    let drawn = folder.identity().store;
    drop(folder);
    // The store would open, and yet it must not be taken for one of the new id.
    let (ready, folder) = start(data.path());
    let ready = ready.unwrap();
    assert_eq!(ready.database.shards(), Ok(vec![]));
    assert!(ready.start.replaced && data.path().join("store.damaged-1").exists());
    assert_eq!(folder.identity().store, drawn);
}

#[test]
fn what_is_not_damage_is_refused_and_nothing_is_moved() {
    let data = filled();
    let format = keys::store(StoreKey::Format);
    overwrite(data.path(), Family::Meta, &format, &2u32.to_be_bytes());
    let (ready, folder) = start(data.path());
    assert!(
        matches!(ready, Err(RoleError::FolderUnusable(_))),
        "{ready:?}"
    );
    assert!(data.path().join("store").exists());
    assert!(!data.path().join("store.damaged-1").exists());
    drop(folder);

    let data = filled();
    let _held = Database::open(data.path(), &options()).unwrap();
    let (ready, _folder) = start(data.path());
    assert!(
        matches!(ready, Err(RoleError::FolderUnusable(_))),
        "{ready:?}"
    );
}

#[test]
fn a_disk_that_fails_and_a_volume_that_is_not_there_are_refused_and_nothing_is_moved() {
    let unreadable = |data: &Path| {
        std::fs::remove_file(data.join("store/CURRENT")).unwrap();
        std::fs::create_dir(data.join("store/CURRENT")).unwrap();
    };
    let not_mounted = |data: &Path| {
        std::fs::remove_dir_all(data.join("store")).unwrap();
        std::os::unix::fs::symlink(data.join("volume"), data.join("store")).unwrap();
    };
    let empty = |data: &Path| {
        std::fs::remove_dir_all(data.join("store")).unwrap();
        std::fs::create_dir(data.join("store")).unwrap();
    };
    let breakages: [&dyn Fn(&Path); 3] = [&unreadable, &not_mounted, &empty];
    for breakage in breakages {
        let data = filled();
        let before = std::fs::read_to_string(data.path().join("CLUSTER")).unwrap();
        breakage(data.path());
        let (ready, folder) = start(data.path());
        assert!(matches!(ready, Err(RoleError::Failed(_))), "{ready:?}");
        drop(folder);
        let after = std::fs::read_to_string(data.path().join("CLUSTER")).unwrap();
        assert_eq!(after, before, "the store id stays");
        assert!(data.path().join("store").symlink_metadata().is_ok());
        assert!(!data.path().join("store.damaged-1").exists());
    }
}

#[test]
fn the_files_of_another_store_are_refused() {
    let (ours, other) = (filled(), filled());
    for data in [&ours, &other] {
        start(data.path()).0.unwrap();
    }
    std::fs::remove_dir_all(ours.path().join("store")).unwrap();
    std::fs::rename(other.path().join("store"), ours.path().join("store")).unwrap();
    let why = start(ours.path()).0.unwrap_err();
    assert!(matches!(why, RoleError::FolderUnusable(_)), "{why}");
    assert!(why.to_string().contains("CLUSTER names"), "{why}");
    assert!(ours.path().join("store/CURRENT").exists());
}

#[test]
fn a_disk_that_damages_one_store_after_the_other_is_not_given_a_fourth() {
    let data = filled();
    for n in 1..=3 {
        std::fs::create_dir(data.path().join(format!("store.damaged-{n}"))).unwrap();
    }
    std::fs::remove_file(data.path().join("store/CURRENT")).unwrap();
    let (ready, folder) = start(data.path());
    let why = ready.unwrap_err().to_string();
    assert!(
        why.contains("3 damaged ones") && why.contains("move"),
        "{why}"
    );
    assert_eq!(folder.identity().to_set_aside, None, "nothing changed");
    assert!(data.path().join("store").exists());
}

// --- a cluster of processes ------------------------------------------------------------------------------------------

const LIMIT: Duration = Duration::from_secs(60);

struct World {
    cluster: LocalCluster,
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> World {
        let (cluster, folder) = real::cluster(1, 3, &[]).await;
        let world = World { cluster, folder };
        world.ask(&[
            "namespace",
            "create",
            "default",
            "--shards",
            "4",
            "--copies",
            "3",
        ]);
        world
    }

    fn ask(&self, args: &[&str]) -> String {
        let ended = asked::ask(&self.cluster.endpoints().join(","), args, b"");
        assert_eq!(ended.status, 0, "{args:?}: {}", ended.stderr);
        ended.stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// The node has a whole copy of every shard: it is listed, and joins no more.
    async fn wait_whole(&self, node: u64) {
        let began = Instant::now();
        loop {
            let shards = self.json(&["cluster", "shards"]);
            let has = |shard: &Value| {
                let full = shard["secondaries"].as_array().unwrap();
                let joins = shard["joining"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|one| *one == node);
                !joins && (shard["primary"] == node || full.iter().any(|one| *one == node))
            };
            let all = shards["shards"].as_array().unwrap();
            let status = self.json(&["cluster", "status"]);
            if all.iter().all(has) && status["shards_short_of_copies"] == 0 {
                return;
            }
            assert!(began.elapsed() < LIMIT, "node {node}: {shards} {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn status(&self, name: &str) -> Value {
        let port = self.cluster.member(name).unwrap().ports.admin;
        let (status, text) = http_get(port, "/status").await.unwrap();
        assert_eq!(status, 200);
        serde_json::from_str(&text).unwrap()
    }

    async fn restart(&mut self, name: &str) {
        self.cluster.restart(name).unwrap();
        self.cluster.wait_member_ready(name, LIMIT).await.unwrap();
    }
}

// capabilities A18, B16
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn a_node_mends_its_store_at_start_or_gets_its_copies_again() {
    let mut world = World::start().await;
    for n in 0..40 {
        world.ask(&["put", &format!("key-{n}"), &format!("value {n}")]);
    }
    let status = world.status("node-2").await;
    let (node, store) = (status["node"].as_u64().unwrap(), status["store"].clone());
    world.wait_whole(node).await;
    let data = world.folder.path().join("node-2");

    // An object is altered behind the log's back while the process is down.
    world.cluster.kill("node-2").await.unwrap();
    let key = find(&data, Family::Objects, |key| key.ends_with(b"key-7"));
    overwrite(&data, Family::Objects, &key, b"altered");
    world.restart("node-2").await;
    let status = world.status("node-2").await;
    assert_eq!(status["store"], store, "it is the same store");
    let checked = &status["start_check"];
    assert_eq!(checked["copies"], 4, "{checked}");
    assert_eq!(checked["objects_repaired"], 1, "{checked}");
    assert_eq!(checked["repaired_shards"][0]["objects"], 1, "{checked}");
    assert!(checked["records"].as_u64().unwrap() >= 40, "{checked}");
    let admin = world.cluster.member("node-2").unwrap().ports.admin;
    let metrics = http_get(admin, "/metrics").await.unwrap().1;
    assert!(
        metrics.contains("understudy_start_check_objects_repaired 1\n"),
        "{metrics}"
    );
    let log = std::fs::read_to_string(&world.cluster.member("node-2").unwrap().log).unwrap();
    assert!(log.contains("repaired at start"), "{log}");

    // The end of a log is damaged.
    world.cluster.kill("node-2").await.unwrap();
    let record = find(&data, Family::Log, |_| true);
    overwrite(&data, Family::Log, &record, b"damaged");
    world.restart("node-2").await;
    let status = world.status("node-2").await;
    assert_eq!(status["node"], node, "it is the same node");
    assert_ne!(status["store"], store, "with another store");
    assert_eq!(status["start_check"]["store_replaced"], true);
    assert!(data.join("store.damaged-1/SET-ASIDE").exists());
    let log = std::fs::read_to_string(&world.cluster.member("node-2").unwrap().log).unwrap();
    assert!(
        log.contains("was set aside") && log.contains("store.damaged-1"),
        "{log}"
    );

    // Writes go on, and the node gets every copy again: alone it still has everything.
    world.ask(&["put", "key-7", "later"]);
    world.wait_whole(node).await;
    world.cluster.kill("node-1").await.unwrap();
    world.cluster.kill("node-3").await.unwrap();
    for n in 0..40 {
        let expected = if n == 7 {
            "later\n".to_string()
        } else {
            format!("value {n}\n")
        };
        assert_eq!(world.ask(&["get", &format!("key-{n}")]), expected);
    }
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}
