//! The log store and the state machine alone: openraft's published suite, and what it does not ask.

use super::copy_folder;
use crate::manager::log::Log;
use crate::manager::machine::Machine;
use crate::manager::snapshot::Snapshots;
use crate::manager::types::{Entry, LogId, TypeConfig, Vote};
use openraft::RaftLogReader;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftVote;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Stores;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, Log, Machine), openraft::StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path());
        let machine = Machine::new(Snapshots::open(&folder.path().join("snapshot")).unwrap());
        Ok((folder, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_passes_the_published_suite() {
    Suite::test_all(Stores).await.unwrap();
}

fn open(folder: &Path) -> Log {
    Log::open(&folder.join("raft")).unwrap().0
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes
        .map(|index| Entry::new_blank(id(term, index)))
        .collect()
}

fn vote(term: u64) -> Vote {
    Vote::from_leader_id(LeaderId { term, node_id: 1 }, false)
}

async fn ids(log: &mut Log) -> Vec<LogId> {
    let entries = log.try_get_log_entries(0..).await.unwrap();
    entries.iter().map(|entry| entry.log_id()).collect()
}

/// What a crash at this moment leaves, opened.
fn after_a_crash(folder: &Path) -> (TempDir, Log) {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    let log = open(copy.path());
    (copy, log)
}

#[tokio::test]
async fn gaps_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append(entries(1, 0..=3)).await.unwrap();
    assert!(log.blocking_append(entries(1, 5..=6)).await.is_err());
    assert!(
        log.blocking_append(entries(1, 3..=4)).await.is_err(),
        "nothing is written over"
    );
    let with_a_hole = [entries(1, 4..=4), entries(1, 6..=6)].concat();
    assert!(log.blocking_append(with_a_hole).await.is_err());
    assert_eq!(
        ids(&mut log).await.len(),
        4,
        "a refused append leaves nothing"
    );
    log.purge(id(1, 3)).await.unwrap();
    assert!(
        log.blocking_append(entries(1, 5..=5)).await.is_err(),
        "also behind what was purged"
    );
    log.blocking_append(entries(1, 4..=4)).await.unwrap();
}

#[tokio::test]
async fn a_truncation_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append(entries(1, 0..=9)).await.unwrap();
    log.truncate_after(Some(id(1, 4))).await.unwrap();
    log.blocking_append(entries(2, 5..=6)).await.unwrap();
    let (_copy, mut again) = after_a_crash(folder.path());
    let expected: Vec<LogId> = (0..=4)
        .map(|i| id(1, i))
        .chain((5..=6).map(|i| id(2, i)))
        .collect();
    assert_eq!(ids(&mut again).await, expected);
    assert_eq!(
        again.get_log_state().await.unwrap().last_log_id,
        Some(id(2, 6))
    );

    again.truncate_after(None).await.unwrap();
    assert_eq!(again.get_log_state().await.unwrap().last_log_id, None);
    again.blocking_append(entries(3, 0..=0)).await.unwrap();
    assert_eq!(ids(&mut again).await, [id(3, 0)]);
}

#[tokio::test]
async fn a_vote_between_appends_is_kept_with_what_was_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append(entries(1, 0..=1)).await.unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    let (_first, mut crashed) = after_a_crash(folder.path());
    log.blocking_append(entries(2, 2..=3)).await.unwrap();
    log.save_vote(&vote(3)).await.unwrap();
    log.save_committed(Some(id(2, 3))).await.unwrap();
    let (_second, mut later) = after_a_crash(folder.path());

    assert_eq!(crashed.read_vote().await.unwrap(), Some(vote(2)));
    assert_eq!(ids(&mut crashed).await.len(), 2);
    assert_eq!(crashed.read_committed().await.unwrap(), None);
    assert_eq!(later.read_vote().await.unwrap(), Some(vote(3)));
    assert_eq!(ids(&mut later).await.len(), 4);
    assert_eq!(later.read_committed().await.unwrap(), Some(id(2, 3)));
}

#[tokio::test]
async fn a_purge_survives_a_restart_also_past_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append(entries(1, 0..=9)).await.unwrap();
    log.purge(id(1, 5)).await.unwrap();
    let (_copy, mut again) = after_a_crash(folder.path());
    let state = again.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(1, 5)), Some(id(1, 9)))
    );
    again.purge(id(2, 20)).await.unwrap();
    let (_copy, mut again) = after_a_crash(_copy.path());
    let state = again.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(2, 20)), Some(id(2, 20)))
    );
    assert!(ids(&mut again).await.is_empty());
}

/// RocksDB's own log of what was written.
fn write_ahead_log(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder.join("raft")).unwrap();
    let logs = files.map(|file| file.unwrap().path());
    let mut logs: Vec<PathBuf> = logs
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs.pop().unwrap()
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_damage_before_it_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    for index in 0..=9 {
        log.blocking_append(entries(1, index..=index))
            .await
            .unwrap();
    }
    let torn = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), torn.path());
    let damaged = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), damaged.path());

    let path = write_ahead_log(torn.path());
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length - 5)
        .unwrap();
    let mut again = open(torn.path());
    assert_eq!(
        ids(&mut again).await.len(),
        9,
        "the entry that was being written is not there"
    );
    again.blocking_append(entries(2, 9..=9)).await.unwrap();

    let path = write_ahead_log(damaged.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    assert!(
        Log::open(&damaged.path().join("raft")).is_err(),
        "never a shorter log"
    );
}

#[tokio::test]
async fn the_folder_can_be_opened_again_once_the_last_handle_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (log, closed) = Log::open(&folder.path().join("raft")).unwrap();
    let reader = log.clone();
    assert!(
        Log::open(&folder.path().join("raft")).is_err(),
        "one process, one handle"
    );
    drop(log);
    drop(reader);
    closed.await.unwrap();
    open(folder.path());
}
