//! One machine of a story: a disk of which the file says what becomes durable, and the process on it, if one runs.

use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use understudy_proto::failure::Failure;
use understudy_proto::{CopyId, Epoch, Incarnation, NodeId, ProcessId, ShardId, StoreId};
use understudy_protocol::effect::{Context, Effect, Input, Lease};
use understudy_protocol::pace::CopyPace;
use understudy_protocol::shard::{ReadAnswer, ReadLevel, Replica, Settings};
use understudy_protocol::store::Batch;
use understudy_protocol::testing::{KnownClients, MemoryStore};
use understudy_protocol::time::{Duration, Instant};

/// The one shard of all stories.
pub const SHARD: ShardId = ShardId(1);

/// 2026-01-01, when every story begins; only the age of logs depends on it.
const WALL_MS: u64 = 1_767_225_600_000;

pub struct Machine {
    pub node: NodeId,
    pub store: MemoryStore,
    pub replica: Option<Replica>,
    incarnation: u64,
    /// Written and not durable, oldest first.
    pub unsynced: VecDeque<Batch>,
    /// Durable, and the replica was not told yet.
    pub untold: Option<u64>,
    pub lease: Granted,
    pub clients: KnownClients,
    /// At which it sends full copies.
    pub pace: RefCell<CopyPace>,
}

/// The lease that the file gave this process.
#[derive(Default)]
pub struct Granted {
    pub epoch: Option<Epoch>,
    pub until: Option<Instant>,
    /// What its beacons ask for; `None`: it sends none and answers none.
    pub beacon: Option<Duration>,
}

impl Lease for Granted {
    fn holds(&self, _: ShardId, epoch: Epoch, now: Instant) -> bool {
        self.epoch == Some(epoch) && self.until.is_none_or(|until| now < until)
    }

    fn beacon(&self, _: Instant) -> Option<Duration> {
        self.beacon
    }
}

impl Machine {
    /// Which contents of the copy are the live ones.
    pub fn generation(&self) -> Result<u32, String> {
        let replica = self
            .replica
            .as_ref()
            .ok_or_else(|| format!("n{} does not run", self.node))?;
        Ok(replica.log_view().generation)
    }

    pub fn new(node: NodeId) -> Machine {
        Machine {
            node,
            store: MemoryStore::new(),
            replica: None,
            incarnation: 0,
            unsynced: VecDeque::new(),
            untold: None,
            lease: Granted::default(),
            clients: KnownClients::default(),
            pace: RefCell::new(CopyPace::new(0, Instant::ZERO)),
        }
    }

    pub fn copy(&self) -> CopyId {
        self.process().copy()
    }

    /// The process that runs, or ran last.
    pub fn process(&self) -> ProcessId {
        ProcessId {
            node: self.node,
            store: StoreId(u128::from(self.node.0)),
            incarnation: Incarnation(self.incarnation),
        }
    }

    pub fn start(&mut self, settings: Settings, now: Instant) -> Result<(), String> {
        if self.replica.is_some() {
            return Err(format!("n{} runs", self.node));
        }
        self.incarnation += 1;
        let saved = self
            .store
            .open_shard(SHARD)
            .map_err(|error| error.to_string())?;
        self.replica = Some(Replica::open(SHARD, self.process(), saved, settings, now));
        Ok(())
    }

    /// The process dies; of what was not durable the oldest `keep` batches happen to have reached the disk.
    pub fn crash(&mut self) {
        self.replica = None;
        self.lease = Granted::default();
        self.untold = None;
        self.unsynced.clear();
        self.store.crash(0);
    }

    /// The oldest unsynced batch becomes durable.
    pub fn sync_one(&mut self) -> Option<Batch> {
        let batch = self.unsynced.pop_front()?;
        self.store.sync_upto(1);
        self.untold = Some(batch.number);
        Some(batch)
    }

    pub fn step(&mut self, now: Instant, input: Input) -> Result<Vec<Effect>, String> {
        let mut effects = Vec::new();
        let context = context(now, &self.store, &self.lease, &self.clients, &self.pace);
        let down = || format!("n{} is down", self.node);
        self.replica
            .as_mut()
            .ok_or_else(down)?
            .step(&context, input, &mut effects);
        Ok(effects)
    }

    pub fn read(
        &self,
        now: Instant,
        keys: &[Bytes],
        level: ReadLevel,
    ) -> Result<Result<ReadAnswer, Failure>, String> {
        let context = context(now, &self.store, &self.lease, &self.clients, &self.pace);
        let down = || format!("n{} is down", self.node);
        Ok(self
            .replica
            .as_ref()
            .ok_or_else(down)?
            .read(&context, keys, level))
    }

    /// How old its copy is at most; `None`: it does not know.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let context = context(now, &self.store, &self.lease, &self.clients, &self.pace);
        self.replica.as_ref()?.age(&context)
    }

    /// Whether it holds a lease for the epoch in which it is primary.
    pub fn holds(&self, now: Instant) -> Option<Epoch> {
        let replica = self.replica.as_ref()?;
        let epoch = replica.claim()?;
        let either = self.lease.holds(SHARD, epoch, now) || replica.has_witnesses(now);
        either.then_some(epoch)
    }
}

fn context<'a>(
    now: Instant,
    store: &'a MemoryStore,
    lease: &'a Granted,
    clients: &'a KnownClients,
    pace: &'a RefCell<CopyPace>,
) -> Context<'a> {
    Context {
        now,
        wall_ms: WALL_MS + now.0 / 1_000,
        stored: store,
        lease,
        clients,
        pace,
    }
}
