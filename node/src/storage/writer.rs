//! Group commit: one thread writes the batches of all shards that wait as one RocksDB batch with one sync.
//!
//! Batches become durable in the order in which they were submitted. A full disk holds the queue and is tried again, in
//! the same order; any other failed write is final: from then on nothing is written or reported by this process, because
//! nobody knows what the disk holds. Reads go on in both cases. A batch whose write failed may yet be found after a restart.

use super::commit;
use super::open::Database;
use super::progress::Progress;
use super::queue::{Lane, Next, Queue, Round, Waiting};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use understudy_proto::ShardId;
use understudy_proto::failure::Reason;
use understudy_protocol::store::{Batch, StoreChange};
use understudy_protocol::time::Instant;

/// Where a submitter's reports go. Called on the writer's thread: hand it on and return, never wait.
pub trait Sink: Send + Sync {
    fn report(&self, report: Report);
}

/// By shard: the number up to which its batches are durable.
pub type Persisted = Vec<(ShardId, u64)>;

/// What a submitter is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// One for each round that held batches of this submitter: up to which number each shard's batches are durable.
    Persisted(Persisted),
    /// The state of the store changed. Every submitter is told.
    State(State),
    /// [`Submitter::has_room`] said no before, and would say yes now.
    Room,
}

/// What the store takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum State {
    #[default]
    Writing,
    /// The disk has less room than its reserve: no client's write may be begun (`STORAGE_FULL`). What is submitted all the
    /// same (promises, trims, what was begun before) is written while the reserve lasts, and waits in order after that.
    Full,
    /// Nothing is written any more; reads go on.
    Failed(WriteFailure),
}

/// Why a write failed: `StorageFull`, `StorageFailed` or `StorageCorrupt`, and what the disk said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteFailure {
    pub reason: Reason,
    pub message: String,
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for WriteFailure {}

/// Where a round stands, for tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The batches were taken from the queue.
    Taken,
    /// They are about to be written.
    Writing,
    /// They are durable. An error here stands for a write that landed and was reported as failed.
    Written,
    /// The reports went out.
    Reported,
}

/// Called at each stage of a round with batches: an error takes the place of the write's own.
pub type Hook = Arc<dyn Fn(Stage) -> Result<(), WriteFailure> + Send + Sync>;

/// The node's suspend-proof clock.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The one writer of a store. Dropping it writes what waits and ends its thread.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One thread's way to the writer. Its batches keep their order; batches of one shard come from one submitter.
#[derive(Clone)]
pub struct Submitter {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
}

struct Shared {
    database: Arc<Database>,
    queue: Queue,
    progress: Progress,
    clock: Clock,
    hook: Hook,
}

/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// How often the room is looked at while nothing is written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Writer {
    pub fn start(database: Arc<Database>, clock: Clock) -> Writer {
        Writer::start_with_hook(database, clock, Arc::new(|_| Ok(())))
    }

    pub fn start_with_hook(database: Arc<Database>, clock: Clock, hook: Hook) -> Writer {
        let shared = Arc::new(Shared {
            database,
            queue: Queue::default(),
            progress: Progress::default(),
            clock,
            hook,
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || of_thread.run())
            .expect("a process that cannot start a thread cannot work");
        Writer {
            shared,
            thread: Some(thread),
        }
    }

    /// A way in for one thread; its reports go to the sink.
    pub fn submitter(&self, sink: impl Sink + 'static) -> Submitter {
        Submitter {
            lane: self.shared.queue.add_lane(Box::new(sink)),
            shared: self.shared.clone(),
        }
    }

    /// Asks for a synced write, so that [`Progress::last_synced`] tells whether the disk accepts one. Returns at once; a
    /// round that is due anyway counts. Works on a full disk as long as the reserve lasts.
    pub fn probe(&self) {
        self.shared.queue.ask_probe();
    }

    pub fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    pub fn state(&self) -> State {
        self.shared.queue.state()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was already told by its own message.
            let _ = thread.join();
        }
    }
}

impl Submitter {
    /// Hands batches over; each is reported by its number when it is durable. Returns at once. An error: the writer failed
    /// before, the batches are not taken, and no later ones will be.
    pub fn submit(&self, batches: Vec<Batch>) -> Result<(), WriteFailure> {
        let waiting = |batch| Waiting {
            lane: self.lane.clone(),
            bytes: commit::weight(&batch),
            batch,
        };
        let batches: Vec<Waiting> = batches.into_iter().map(waiting).collect();
        let queued = self.shared.queue.push(batches)?;
        self.shared
            .progress
            .queued_bytes
            .store(queued as u64, Relaxed);
        Ok(())
    }

    /// Whether the queue is below its bound. A driver that hears no takes no new work (clients' writes, records of a
    /// stream) until [`Report::Room`]; what its replicas emit meanwhile it submits all the same.
    pub fn has_room(&self) -> bool {
        self.shared.queue.has_room(&self.lane)
    }

    pub fn state(&self) -> State {
        self.shared.queue.state()
    }
}

impl Shared {
    fn run(&self) {
        self.look_at_room();
        loop {
            match self.queue.next(LOOK_INTERVAL) {
                Next::Stop => return,
                Next::Look => self.look_at_room(),
                Next::Write(round) => match self.commit(&round) {
                    Ok(()) => self.report(&round),
                    Err(failure) if failure.reason == Reason::StorageFull => return,
                    Err(failure) => return self.queue.set_state(State::Failed(failure)),
                },
            }
        }
    }

    /// Writes a round, however long the disk is full. `StorageFull` comes out only when the writer is to stop.
    fn commit(&self, round: &Round) -> Result<(), WriteFailure> {
        loop {
            match self.try_commit(round) {
                Err(failure) if failure.reason == Reason::StorageFull => {
                    self.progress.failures.fetch_add(1, Relaxed);
                    self.queue.set_state(State::Full);
                    let pause = self.queue.pause(FULL_RETRY);
                    if pause.stop {
                        return Err(failure);
                    }
                    if pause.probe {
                        self.probe()?;
                    }
                }
                Err(failure) => {
                    self.progress.failures.fetch_add(1, Relaxed);
                    return Err(failure);
                }
                Ok(()) => {
                    self.look_at_room();
                    return Ok(());
                }
            }
        }
    }

    fn try_commit(&self, round: &Round) -> Result<(), WriteFailure> {
        if round.batches.is_empty() {
            return self.write(round);
        }
        (self.hook)(Stage::Taken)?;
        if !self.room(round.bytes as u64, RESERVE_FLOOR)? {
            return Err(WriteFailure {
                reason: Reason::StorageFull,
                message: "the room that is kept on the disk is used up".into(),
            });
        }
        (self.hook)(Stage::Writing)?;
        self.write(round)?;
        (self.hook)(Stage::Written)
    }

    fn write(&self, round: &Round) -> Result<(), WriteFailure> {
        let began = (self.clock)();
        let batches = round.batches.iter().map(|waiting| &waiting.batch);
        self.database.write_synced(batches, round.bytes)?;
        self.progress.on_synced(began, (self.clock)());
        Ok(())
    }

    /// A probe while a round waits for room. That the disk is full is no news.
    fn probe(&self) -> Result<(), WriteFailure> {
        match self.write(&Round::default()) {
            Err(failure) if failure.reason != Reason::StorageFull => Err(failure),
            _ => Ok(()),
        }
    }

    /// One report to each submitter of the round.
    fn report(&self, round: &Round) {
        let batches = &round.batches;
        if batches.is_empty() {
            return;
        }
        let records = batches.iter().map(|waiting| records(&waiting.batch)).sum();
        self.progress
            .on_round(batches.len() as u64, records, round.bytes as u64);
        self.progress
            .queued_bytes
            .store(self.queue.bytes() as u64, Relaxed);
        for (lane, persisted) in by_lane(batches) {
            lane.sink.report(Report::Persisted(persisted));
        }
        self.queue.tell_room();
        // Only a test's hook acts here, and by ending the process.
        let _ = (self.hook)(Stage::Reported);
    }

    fn look_at_room(&self) {
        let was_full = self.queue.state() == State::Full;
        // A little more than the reserve ends the state, so that it does not flicker.
        let share = if was_full { Share(9, 8) } else { Share(1, 1) };
        match self.room(0, share) {
            Ok(true) => self.queue.set_state(State::Writing),
            Ok(false) => self.queue.set_state(State::Full),
            // The disk does not tell; the next write will.
            Err(_) => {}
        }
    }

    fn room(&self, bytes: u64, reserve: Share) -> Result<bool, WriteFailure> {
        let Share(numerator, denominator) = reserve;
        self.database
            .has_room(bytes, numerator, denominator)
            .map_err(|error| WriteFailure {
                reason: Reason::StorageFailed,
                message: format!("the disk does not tell its room: {error}"),
            })
    }
}

/// A part of the reserve.
#[derive(Clone, Copy)]
struct Share(u64, u64);

/// What was begun may use up the reserve to this part; the rest is for RocksDB's own flushes and for probes.
const RESERVE_FLOOR: Share = Share(1, 4);

fn records(batch: &Batch) -> u64 {
    let is_record = |change: &&StoreChange| matches!(change, StoreChange::AppendRecord { .. });
    batch.changes.iter().filter(is_record).count() as u64
}

/// The highest number of each shard, by submitter.
fn by_lane(batches: &[Waiting]) -> Vec<(&Arc<Lane>, Persisted)> {
    let mut lanes: Vec<(&Arc<Lane>, BTreeMap<ShardId, u64>)> = Vec::new();
    for waiting in batches {
        let lane = &waiting.lane;
        let at = lanes.iter().position(|(known, _)| Arc::ptr_eq(known, lane));
        let at = at.unwrap_or_else(|| {
            lanes.push((lane, BTreeMap::new()));
            lanes.len() - 1
        });
        lanes[at]
            .1
            .insert(waiting.batch.shard, waiting.batch.number);
    }
    let listed = |(lane, numbers): (_, BTreeMap<_, _>)| (lane, numbers.into_iter().collect());
    lanes.into_iter().map(listed).collect()
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({:?})", self.state())
    }
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Submitter({:?})", self.state())
    }
}
