//! The Raft log on disk: entries, vote and committed id in a RocksDB of its own, `raft/` inside the data folder.
//!
//! Writes go through the write-ahead log unsynced and are readable at once; the writer thread (`flush`) makes them
//! durable in the order in which they were written. RocksDB's log is a sequence, so what a crash leaves is a prefix of
//! what was written: never a later vote without an earlier entry. A log with a gap, or one that does not open, is an
//! error and never a shorter log.

use super::codec;
use super::flush::{Flusher, Waiter};
use super::types::{Entry, LogId, TypeConfig, Vote};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader, entry::RaftEntry};
use parking_lot::Mutex;
use rocksdb::{
    ColumnFamily, DB, DBRecoveryMode, Direction, IteratorMode, Options, ReadOptions, WriteBatch,
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Key: the index, big-endian. Value: the entry.
const LOG: &str = "log";
/// Key: one of the names below.
const META: &str = "meta";
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const IDENTITY: &[u8] = b"identity";

/// Entries are small; a memtable of this size holds many thousand, and a restart replays at most that much.
const MEMTABLE_BYTES: usize = 8 * 1024 * 1024;

/// The log store; clones share one database.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    // In the order in which they are dropped: the thread ends, then the last handle of the database goes.
    flusher: Flusher,
    db: Arc<DB>,
    ends: Mutex<Ends>,
    _closed: Closed,
}

/// Tells whoever stops the group that the database is closed and its folder's lock free.
struct Closed(Option<oneshot::Sender<()>>);

impl Drop for Closed {
    fn drop(&mut self) {
        if let Some(closed) = self.0.take() {
            let _ = closed.send(());
        }
    }
}

/// Both ends of the log. `last` is the purged id when no entry is left.
#[derive(Clone, Copy, Default)]
struct Ends {
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl Log {
    /// Opens or creates the log. The second value resolves when the last handle is gone and the folder can be opened
    /// again.
    pub(crate) fn open(folder: &Path) -> io::Result<(Log, oneshot::Receiver<()>)> {
        let db = Arc::new(open_database(folder)?);
        let ends = find_ends(&db)?;
        let (closed, until_closed) = oneshot::channel();
        let shared = Shared {
            flusher: Flusher::start(db.clone())?,
            db,
            ends: Mutex::new(ends),
            _closed: Closed(Some(closed)),
        };
        let log = Log {
            shared: Arc::new(shared),
        };
        Ok((log, until_closed))
    }

    /// The index of the last entry, or of the last one that was purged.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.shared.ends.lock().last.map(|id| id.index)
    }

    /// Who this log belongs to, as [`Log::save_identity`] stored it.
    pub(crate) fn identity<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.meta(IDENTITY)
    }

    /// Stores who this log belongs to, and makes it durable.
    pub(crate) fn save_identity<T: Serialize>(&self, identity: &T) -> io::Result<()> {
        self.put_meta(IDENTITY, identity)?;
        self.shared.db.flush_wal(true).map_err(storage)
    }

    fn log(&self) -> &ColumnFamily {
        column(&self.shared.db, LOG)
    }

    fn meta<T: DeserializeOwned>(&self, name: &[u8]) -> io::Result<Option<T>> {
        read_meta(&self.shared.db, name)
    }

    fn put_meta<T: Serialize>(&self, name: &[u8], value: &T) -> io::Result<()> {
        let meta = column(&self.shared.db, META);
        self.shared
            .db
            .put_cf(meta, name, codec::encode(value)?)
            .map_err(storage)
    }

    /// Writes entries behind the last one, or refuses them all.
    fn write_entries(&self, entries: impl Iterator<Item = Entry>) -> io::Result<()> {
        let mut ends = self.shared.ends.lock();
        let mut last = ends.last;
        let mut batch = WriteBatch::default();
        for entry in entries {
            let id = entry.log_id();
            refuse_gap(last, id)?;
            batch.put_cf(self.log(), id.index.to_be_bytes(), codec::encode(&entry)?);
            last = Some(id);
        }
        self.shared.db.write(batch).map_err(storage)?;
        ends.last = last;
        Ok(())
    }
}

/// An empty log may begin anywhere: with the first entry of all, or behind a snapshot.
fn refuse_gap(last: Option<LogId>, next: LogId) -> io::Result<()> {
    match last {
        Some(last) if next.index != last.index + 1 => Err(codec::invalid(format!(
            "entry {next} does not follow the log's last entry {last}"
        ))),
        _ => Ok(()),
    }
}

fn open_database(folder: &Path) -> io::Result<DB> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The default would open in silence without everything after a damaged block.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_atomic_flush(true);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_keep_log_file_num(4);
    options.set_max_open_files(64);
    DB::open_cf_with_opts(
        &options,
        folder,
        [(LOG, options.clone()), (META, options.clone())],
    )
    .map_err(storage)
}

/// Reads both ends and checks that nothing is missing between them.
fn find_ends(db: &DB) -> io::Result<Ends> {
    let purged: Option<LogId> = read_meta(db, PURGED)?;
    let mut last = purged;
    let from = purged.map_or(0, |id| id.index + 1);
    for item in entries_from(db, from) {
        let entry: Entry = codec::decode(&item?.1)?;
        refuse_gap(last, entry.log_id())?;
        last = Some(entry.log_id());
    }
    Ok(Ends { purged, last })
}

fn entries_from(db: &DB, from: u64) -> impl Iterator<Item = io::Result<(u64, Box<[u8]>)>> + '_ {
    let start = from.to_be_bytes();
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    db.iterator_cf_opt(
        column(db, LOG),
        options,
        IteratorMode::From(&start, Direction::Forward),
    )
    .map(|item| {
        let (key, value) = item.map_err(storage)?;
        let index = <[u8; 8]>::try_from(&key[..])
            .map_err(|_| codec::invalid("a key of the log is no index".to_string()))?;
        Ok((u64::from_be_bytes(index), value))
    })
}

fn read_meta<T: DeserializeOwned>(db: &DB, name: &[u8]) -> io::Result<Option<T>> {
    match db.get_cf(column(db, META), name).map_err(storage)? {
        Some(bytes) => codec::decode(&bytes).map(Some),
        None => Ok(None),
    }
}

fn column<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("opened with this column family")
}

fn storage(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

/// The indexes of a range, as [first, end).
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let first = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (first, end)
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (first, end) = bounds(&range);
        let mut entries: Vec<Entry> = Vec::new();
        for item in entries_from(&self.shared.db, first) {
            let (index, value) = item?;
            if index >= end {
                break;
            }
            let entry: Entry = codec::decode(&value)?;
            refuse_gap(entries.last().map(|entry| entry.log_id()), entry.log_id())?;
            entries.push(entry);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.meta(VOTE)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let ends = *self.shared.ends.lock();
        Ok(LogState {
            last_purged_log_id: ends.purged,
            last_log_id: ends.last,
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.put_meta(VOTE, vote)?;
        let (answer, durable) = oneshot::channel();
        self.shared.flusher.submit(Waiter::Vote(answer));
        durable
            .await
            .map_err(|_| io::Error::other("the log's writer thread has ended"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Not synced: an older one is right too, and recovery waits for the leader's.
        self.put_meta(COMMITTED, &committed)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.meta::<Option<LogId>>(COMMITTED)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.write_entries(entries.into_iter())?;
        self.shared.flusher.submit(Waiter::Append(callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let mut ends = self.shared.ends.lock();
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.log(), from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.shared.db.write(batch).map_err(storage)?;
        if ends.last.is_some_and(|last| last.index >= from) {
            ends.last = last_log_id;
        }
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut ends = self.shared.ends.lock();
        let from = ends.purged.map_or(0, |id| id.index + 1);
        let mut batch = WriteBatch::default();
        if from <= log_id.index {
            batch.delete_range_cf(
                self.log(),
                from.to_be_bytes(),
                (log_id.index + 1).to_be_bytes(),
            );
        }
        batch.put_cf(
            column(&self.shared.db, META),
            PURGED,
            codec::encode(&log_id)?,
        );
        self.shared.db.write(batch).map_err(storage)?;
        ends.purged = Some(log_id);
        ends.last = ends.last.max(Some(log_id));
        Ok(())
    }
}
