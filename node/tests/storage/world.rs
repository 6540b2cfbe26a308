//! The two stores behind one face, and the batches the tests write.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tempfile::TempDir;
use understudy_node::storage::{
    Clock, Database, Hook, Options, Report, Sink, State, Submitter, Writer,
};
use understudy_proto::{Pair, ShardId};
use understudy_protocol::store::{Batch, Orphan, Page, Saved, StoreChange, StoreError, Stored};
use understudy_protocol::testing::{History, MemoryStore};
use understudy_protocol::time::Instant;

pub const SHARD: ShardId = ShardId(5);

/// What the contract asks of a store, and how a test opens it again.
pub trait Store {
    fn new() -> Self;
    fn stored(&self) -> &dyn Stored;
    /// Durable when it returns.
    fn write(&mut self, batch: Batch);
    /// Closes and opens.
    fn reopen(&mut self);
    fn open_shard(&mut self, shard: ShardId) -> Result<Saved, StoreError>;
    fn shards(&self) -> Vec<ShardId>;
    fn orphans(&self, shard: ShardId, after: Option<Pair>, bytes_max: usize) -> Page<Orphan>;
}

impl Store for MemoryStore {
    fn new() -> Self {
        MemoryStore::new()
    }

    fn stored(&self) -> &dyn Stored {
        self
    }

    fn write(&mut self, batch: Batch) {
        let persisted = vec![(batch.shard, batch.number)];
        MemoryStore::write(self, batch).unwrap();
        assert_eq!(self.sync(), persisted);
    }

    fn reopen(&mut self) {
        self.crash(0);
    }

    fn open_shard(&mut self, shard: ShardId) -> Result<Saved, StoreError> {
        MemoryStore::open_shard(self, shard)
    }

    fn shards(&self) -> Vec<ShardId> {
        MemoryStore::shards(self).unwrap()
    }

    fn orphans(&self, shard: ShardId, after: Option<Pair>, max: usize) -> Page<Orphan> {
        MemoryStore::orphans(self, shard, after, max).unwrap()
    }
}

/// A store in a folder, with its writer.
pub struct Disk {
    pub database: Arc<Database>,
    pub node: Node,
    folder: TempDir,
}

/// One submitter of a writer and its mailbox.
pub struct Node {
    pub submitter: Submitter,
    pub reports: Receiver<Report>,
    pub writer: Writer,
}

struct Mailbox(Sender<Report>);

impl Sink for Mailbox {
    fn report(&self, report: Report) {
        // A test that has seen enough does not listen any more.
        let _ = self.0.send(report);
    }
}

/// Another submitter of a writer.
pub fn submitter(writer: &Writer) -> (Submitter, Receiver<Report>) {
    let (sender, reports) = channel();
    (writer.submitter(Mailbox(sender)), reports)
}

pub fn clock() -> Clock {
    let start = std::time::Instant::now();
    Arc::new(move || Instant(1 + start.elapsed().as_micros() as u64))
}

impl Node {
    pub fn start(database: &Arc<Database>, hook: Hook) -> Node {
        let writer = Writer::start_with_hook(database.clone(), clock(), hook);
        let (submitter, reports) = submitter(&writer);
        Node {
            submitter,
            reports,
            writer,
        }
    }

    /// The next report, or the test fails.
    pub fn report(&self) -> Report {
        self.reports
            .recv_timeout(Duration::from_secs(30))
            .expect("the writer reports in time")
    }

    /// Waits for a state.
    pub fn wait_for(&self, wanted: &State) {
        while self.report() != Report::State(wanted.clone()) {}
    }

    /// Waits until a shard's batch of this number is reported.
    pub fn wait_persisted(&self, shard: ShardId, number: u64) {
        loop {
            match self.report() {
                Report::Persisted(list) if list.contains(&(shard, number)) => return,
                _ => {}
            }
        }
    }
}

/// Memory that suits many stores at once.
pub fn small() -> Options {
    Options {
        cache_bytes: 8 << 20,
        write_buffer_bytes: 4 << 20,
        reserve_bytes: 0,
        ..Options::default()
    }
}

pub fn open(folder: &Path) -> Arc<Database> {
    Arc::new(Database::open(folder, &small()).unwrap())
}

impl Disk {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn submit(&self, batch: Batch) {
        self.node.submitter.submit(vec![batch]).unwrap();
    }

    /// Closes the store and gives its folder.
    pub fn close(self) -> TempDir {
        drop(self.node);
        let database = Arc::into_inner(self.database);
        drop(database.expect("nobody else has it open"));
        self.folder
    }

    pub fn of(folder: TempDir) -> Disk {
        Disk::with_hook(folder, Arc::new(|_| Ok(())))
    }

    pub fn with_hook(folder: TempDir, hook: Hook) -> Disk {
        let database = open(folder.path());
        let node = Node::start(&database, hook);
        Disk {
            database,
            node,
            folder,
        }
    }
}

impl Store for Disk {
    fn new() -> Self {
        Disk::of(tempfile::tempdir().unwrap())
    }

    fn stored(&self) -> &dyn Stored {
        &*self.database
    }

    fn write(&mut self, batch: Batch) {
        let (shard, number) = (batch.shard, batch.number);
        self.submit(batch);
        self.node.wait_persisted(shard, number);
    }

    fn reopen(&mut self) {
        take_mut(self, |disk| Disk::of(disk.close()));
    }

    fn open_shard(&mut self, shard: ShardId) -> Result<Saved, StoreError> {
        self.database.open_shard(shard)
    }

    fn shards(&self) -> Vec<ShardId> {
        self.database.shards().unwrap()
    }

    fn orphans(&self, shard: ShardId, after: Option<Pair>, max: usize) -> Page<Orphan> {
        self.database.orphans(shard, after, max).unwrap()
    }
}

/// Replaces a disk by what is made of it; in between an empty one stands in its place.
fn take_mut(disk: &mut Disk, change: impl FnOnce(Disk) -> Disk) {
    let old = std::mem::replace(disk, Disk::new());
    *disk = change(old);
}

pub fn batch(shard: ShardId, number: u64, changes: Vec<StoreChange>) -> Batch {
    Batch {
        shard,
        number,
        changes,
    }
}

/// The batches of a shard that starts its epoch and puts so many objects: `k1 = v1` and so on.
pub fn puts(shard: ShardId, count: u64) -> (History, Vec<Batch>) {
    let mut history = History::new(shard);
    let mut batches = vec![batch(shard, 1, history.start_epoch())];
    for number in 1..=count {
        let changes = history.put(format!("k{number}"), format!("v{number}"));
        batches.push(batch(shard, number + 1, changes));
    }
    (history, batches)
}

/// Everything that a generation holds, to compare.
pub fn contents(
    stored: &dyn Stored,
    shard: ShardId,
    generation: u32,
) -> (Vec<Bytes>, Vec<Pair>, usize) {
    let objects = stored
        .objects_after(shard, generation, None, usize::MAX)
        .unwrap();
    let records = stored
        .records(shard, generation, Default::default(), usize::MAX)
        .unwrap();
    let dedup = stored
        .dedup_after(shard, generation, None, usize::MAX)
        .unwrap();
    (
        objects.items.into_iter().map(|(key, _)| key).collect(),
        records.into_iter().map(|record| record.pair).collect(),
        dedup.items.len(),
    )
}

/// The record as the orphan log keeps it in these tests: of a branch with one epoch.
pub fn orphan(record: &understudy_protocol::record::EncodedRecord) -> Orphan {
    Orphan {
        record: record.clone(),
        epoch_starts: vec![Pair::new(1, 1)],
    }
}

/// Takes the record back into the orphan log.
pub fn undo(record: &understudy_protocol::record::EncodedRecord) -> StoreChange {
    StoreChange::MoveToOrphans {
        generation: 0,
        record: record.clone(),
        epoch_starts: orphan(record).epoch_starts,
    }
}
