//! Ends of the process at every boundary of a round, and a write-ahead log whose end is torn: what was reported is there,
//! every batch is there whole or not at all, and they are lost from the newest backwards only.

use crate::world::{Disk, SHARD, Store, contents, open, puts, small};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use understudy_node::storage::{Database, Hook, Stage};
use understudy_protocol::store::Stored;

const STAGES: [Stage; 4] = [
    Stage::Taken,
    Stage::Writing,
    Stage::Written,
    Stage::Reported,
];
/// Tells the child process what to do: the folder, the round and the stage at which it dies.
const CHILD: &str = "UNDERSTUDY_TEST_STORAGE_CHILD";
const BATCHES: u64 = 6;

// capability A15; trap G2
#[test]
fn a_process_that_dies_at_any_boundary_leaves_whole_batches() {
    for round in [1, 3, 6] {
        for (at, stage) in STAGES.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let order = format!("{at} {round} {}", folder.path().display());
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash::child", "--nocapture"])
                .env(CHILD, order)
                .output()
                .unwrap();
            assert!(!child.status.success(), "the child dies");
            let reported = std::fs::read_to_string(folder.path().join("reported"));
            let reported: u64 = reported.unwrap_or_default().parse().unwrap_or(0);
            let held = held(&open(folder.path()));
            let landed = matches!(stage, Stage::Written | Stage::Reported);
            assert_eq!(held, round - u64::from(!landed), "{stage:?} of {round}");
            assert!(held >= reported && reported >= round - 1);
        }
    }
}

/// Not a test of its own: the process that dies.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else {
        return;
    };
    let mut order = order.splitn(3, ' ');
    let mut next = || order.next().unwrap();
    let stage = STAGES[next().parse::<usize>().unwrap()];
    let round: u64 = next().parse().unwrap();
    let folder = PathBuf::from(next());
    let rounds = AtomicU64::new(0);
    let hook: Hook = Arc::new(move |now| {
        if now == Stage::Taken {
            rounds.fetch_add(1, Relaxed);
        }
        if now == stage && rounds.load(Relaxed) == round {
            std::process::abort();
        }
        Ok(())
    });
    let database = open(&folder);
    let node = crate::world::Node::start(&database, hook);
    for batch in puts(SHARD, BATCHES - 1).1 {
        let number = batch.number;
        node.submitter.submit(vec![batch]).unwrap();
        node.wait_persisted(SHARD, number);
        // Renamed, because the writer's thread may end the process in the middle of this.
        std::fs::write(folder.join("reported.new"), number.to_string()).unwrap();
        std::fs::rename(folder.join("reported.new"), folder.join("reported")).unwrap();
    }
    // The stage after the last report may come while the process waits.
    std::thread::park();
}

/// How many batches of [`puts`] the store holds, after checking that it holds them whole and no part of another.
fn held(database: &Database) -> u64 {
    let (history, _) = puts(SHARD, BATCHES - 1);
    let (objects, records, dedup) = contents(database, SHARD, 0);
    let count = records.len();
    assert_eq!(objects.len(), count.saturating_sub(1));
    assert_eq!(dedup, count.saturating_sub(1));
    let expected = &history.records[..count];
    assert_eq!(
        database.records(SHARD, 0, 1.into(), usize::MAX).unwrap(),
        expected
    );
    let saved = database.open_shard(SHARD).unwrap();
    assert_eq!(saved.last.as_ref(), expected.last());
    count as u64
}

/// A store with all batches in its write-ahead log, and the log's length after each. It forgets how far it came, as after a
/// power cut.
fn logged() -> (tempfile::TempDir, PathBuf, Vec<u64>) {
    let mut disk = Disk::new();
    let log = write_ahead_log(disk.folder());
    let length = || std::fs::metadata(&log).unwrap().len();
    let mut ends = vec![length()];
    for batch in puts(SHARD, BATCHES - 1).1 {
        disk.write(batch);
        ends.push(length());
    }
    let folder = disk.close();
    std::fs::remove_file(folder.path().join("store/REACHED")).unwrap();
    (folder, log.file_name().unwrap().into(), ends)
}

fn write_ahead_log(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder.join("store")).unwrap();
    let is_log = |path: &PathBuf| path.extension().is_some_and(|e| e == "log");
    let logs = files.map(|file| file.unwrap().path()).filter(is_log);
    logs.max().expect("there is a write-ahead log")
}

/// A copy of a data folder.
fn copied(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("store")).unwrap();
    for file in std::fs::read_dir(folder.join("store")).unwrap() {
        let from = file.unwrap().path();
        let to = copy.path().join("store").join(from.file_name().unwrap());
        std::fs::copy(&from, to).unwrap();
    }
    copy
}

#[test]
fn a_torn_end_of_the_log_loses_only_batches_that_were_not_complete() {
    let (folder, log, ends) = logged();
    let (start, end) = (ends[0], ends[BATCHES as usize]);
    let around = ends.iter().flat_map(|e| [e.saturating_sub(1), *e, e + 1]);
    let cuts = (start..end).step_by(97).chain(around);
    for cut in cuts.filter(|cut| *cut <= end) {
        let copy = copied(folder.path());
        let file = std::fs::File::options()
            .write(true)
            .open(copy.path().join("store").join(&log))
            .unwrap();
        file.set_len(cut).unwrap();
        let complete = ends[1..].iter().filter(|end| **end <= cut).count() as u64;
        assert_eq!(held(&open(copy.path())), complete, "cut at {cut} of {end}");
    }
}

#[test]
fn a_log_that_lost_what_was_durable_does_not_open_shorter() {
    let (_, log, ends) = logged();
    let mut disk = Disk::new();
    for batch in puts(SHARD, BATCHES - 1).1 {
        disk.write(batch);
    }
    let folder = disk.close();
    for cut in [0, ends[1], ends[3], ends[BATCHES as usize] - 1] {
        let copy = copied(folder.path());
        let path = copy.path().join("store").join(&log);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(cut).unwrap();
        let error = Database::open(copy.path(), &small()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
    let copy = copied(folder.path());
    std::fs::remove_file(copy.path().join("store").join(&log)).unwrap();
    assert!(Database::open(copy.path(), &small()).is_err());
}

#[test]
fn a_flipped_bit_in_the_log_never_makes_it_shorter_in_silence() {
    let mut disk = Disk::new();
    let log = write_ahead_log(disk.folder());
    for batch in puts(SHARD, BATCHES - 1).1 {
        disk.write(batch);
    }
    let folder = disk.close();
    let name = log.file_name().unwrap();
    let bytes = std::fs::read(folder.path().join("store").join(name)).unwrap();
    let mut refused = 0;
    let places: Vec<usize> = (0..bytes.len()).step_by(53).collect();
    for at in &places {
        let copy = copied(folder.path());
        let mut damaged = bytes.clone();
        damaged[*at] ^= 0x40;
        std::fs::write(copy.path().join("store").join(name), damaged).unwrap();
        match Database::open(copy.path(), &small()) {
            Err(_) => refused += 1,
            Ok(database) => assert_eq!(held(&database), BATCHES, "byte {at}"),
        }
    }
    assert!(refused * 2 > places.len(), "{refused} of {}", places.len());
}
