//! A disk that is really full: a small file system of its own, where the machine lets us mount one.

use crate::world::{Node, SHARD, batch, open, puts, small};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use understudy_node::storage::{Database, Hook, Options, Stage, State};
use understudy_protocol::store::Stored;

/// A file system of so many MiB in memory; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u32) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("left out: no right to mount a file system here");
        }
        mounted.then_some(SmallDisk(folder))
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Leaves so many bytes free.
    fn fill(&self, leave: u64) -> PathBuf {
        let filler = self.0.path().join("filler");
        let free = rustix::fs::statvfs(self.0.path()).unwrap();
        let free = free.f_bavail * free.f_frsize;
        std::fs::write(&filler, vec![1; (free - leave) as usize]).unwrap();
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

fn started(data: &Path, options: &Options) -> (Arc<Database>, Node) {
    let database = Arc::new(Database::open(data, options).unwrap());
    let node = Node::start(&database, Arc::new(|_| Ok(())));
    (database, node)
}

#[test]
fn below_its_reserve_the_store_says_so_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(64) else {
        return;
    };
    let options = Options {
        reserve_bytes: 8 << 20,
        ..small()
    };
    let (database, node) = started(&disk.data(), &options);
    let (history, mut batches) = puts(SHARD, 20);
    let late = batches.split_off(10);
    node.submitter.submit(batches).unwrap();
    node.wait_persisted(SHARD, 10);
    let filler = disk.fill(1 << 20);
    node.submitter.submit(late).unwrap();
    node.wait_for(&State::Full);
    assert!(database.object(SHARD, 0, b"k9").unwrap().is_some());
    assert!(database.object(SHARD, 0, b"k10").unwrap().is_none());
    std::fs::remove_file(filler).unwrap();
    node.wait_persisted(SHARD, 21);
    assert_eq!(node.submitter.state(), State::Writing);
    let last = database.open_shard(SHARD).unwrap().last;
    assert_eq!(last, history.records.last().cloned());
}

/// The room goes between the look at it and the write, so that RocksDB itself meets the full disk.
#[test]
fn a_disk_that_fills_up_during_a_write_loses_nothing() {
    let Some(disk) = SmallDisk::mount(256) else {
        return;
    };
    let disk = Arc::new(disk);
    let (of_hook, fill) = (disk.clone(), Arc::new(AtomicBool::new(false)));
    let fill_now = fill.clone();
    let hook: Hook = Arc::new(move |stage| {
        if stage == Stage::Writing && fill_now.swap(false, Relaxed) {
            of_hook.fill(0);
        }
        Ok(())
    });
    let database = Arc::new(Database::open(&disk.data(), &small()).unwrap());
    let node = Node::start(&database, hook);
    let (mut history, batches) = puts(SHARD, 9);
    // More than RocksDB has set aside for its log already.
    let large = |n: u64| history.put(format!("large{n}"), vec![n as u8; 1 << 20]);
    let changes = (0..20).map(large);
    let late: Vec<_> = (11..)
        .zip(changes)
        .map(|(n, c)| batch(SHARD, n, c))
        .collect();
    node.submitter.submit(batches).unwrap();
    node.wait_persisted(SHARD, 10);
    fill.store(true, Relaxed);
    node.submitter.submit(late).unwrap();
    node.wait_for(&State::Full);
    assert!(database.object(SHARD, 0, b"k9").unwrap().is_some());
    std::fs::remove_file(disk.0.path().join("filler")).unwrap();
    node.wait_persisted(SHARD, 30);
    drop(node);
    drop(database);
    let database = open(&disk.data());
    let records = database.records(SHARD, 0, 1.into(), usize::MAX).unwrap();
    assert_eq!(records, history.records);
    assert_eq!(database.shards(), Ok(vec![SHARD]));
}
