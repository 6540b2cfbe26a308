//! The contract between a replica and whoever drives it: inputs, effects, and what is given with each step.
//!
//! No effect waits for another. The driver keeps each kind of effect in order (persists among persists of a shard,
//! messages per peer) and does nothing else: what must follow a disk write, the replica emits on `Persisted`.

use crate::request::{Outcome, Request};
use crate::shard::message::{Fate, Message};
use crate::shard::{Freshness, ReadAnswer, ScrubbedPage};
use crate::store::{Batch, StoreError, Stored};
use crate::tables::{ConflictPolicy, Forward};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::BTreeSet;
use understudy_proto::failure::Failure;
use understudy_proto::{
    ClientId, CopyId, Epoch, NodeId, Pair, ProcessId, RequestId, Revision, ShardId, limits,
};

/// What the driver gives with every step.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The process's suspend-proof clock.
    pub now: Instant,
    /// The machine's wall clock in milliseconds since 1970; goes into records for people, decides nothing but the age of logs.
    pub wall_ms: u64,
    pub stored: &'a dyn Stored,
    pub lease: &'a dyn Lease,
    pub clients: &'a dyn Clients,
    pub pace: &'a dyn Pace,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({:?})", self.now)
    }
}

/// What the process knows of its leases beyond its shards: the one from the managers, and what beacons are to ask for.
pub trait Lease {
    /// Whether the lease from the managers holds.
    fn holds(&self, shard: ShardId, epoch: Epoch, now: Instant) -> bool;

    /// The lease that a beacon asks its witness for. `None`: the node makes no progress, or does not know the length yet, and
    /// neither sends beacons nor answers them.
    fn beacon(&self, now: Instant) -> Option<Duration> {
        let _ = now;
        None
    }

    /// The process acts as primary no more, whatever leases it has.
    fn retired(&self) -> bool {
        false
    }
}

/// How much of full copies the process may send, over all its shards.
pub trait Pace {
    /// Whether another chunk may go now.
    fn may_copy(&self, now: Instant) -> bool;
    /// About so many bytes of one went.
    fn copied(&self, bytes: u64, now: Instant);
}

/// Without a bound.
#[derive(Clone, Copy, Debug)]
pub struct Unbounded;

impl Pace for Unbounded {
    fn may_copy(&self, _: Instant) -> bool {
        true
    }

    fn copied(&self, _: u64, _: Instant) {}
}

/// What the managers' tables say of clients, as far as this process knows them.
pub trait Clients {
    fn session(&self, client: ClientId) -> ClientSession;
    /// Of the tables by which it answers.
    fn revision(&self) -> Revision;
    /// How many outcomes the shard's namespace keeps, and how long.
    fn keep(&self, shard: ShardId) -> Keep;
    /// What the shard's namespace wants done with what failovers cut off.
    fn conflicts(&self, shard: ShardId) -> ConflictPolicy {
        let _ = shard;
        ConflictPolicy::default()
    }
    /// What the shard's namespace wants sent to the copies.
    fn forward(&self, shard: ShardId) -> Forward {
        let _ = shard;
        Forward::default()
    }
}

/// How a client's session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientSession {
    Open,
    /// For good: its id can never be registered again.
    Ended,
    /// This process does not know it yet.
    Unknown,
}

/// Which outcomes are kept of a client whatever it marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// In each shard, for each client.
    pub entries: u32,
    pub age: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep {
            entries: limits::DEDUP_ENTRIES_PER_CLIENT as u32,
            age: Duration::from_millis(limits::DEDUP_AGE_MS),
        }
    }
}

/// Who waits for an answer: a number that the driver made and understands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Caller(pub u64);

/// A shard's row in the naming table, as far as a replica needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub revision: Revision,
    pub epoch: Epoch,
    /// The process that acts; `None`: the shard has no primary at the moment.
    pub primary: Option<ProcessId>,
    pub secondaries: Vec<CopyId>,
    /// Copies that follow and are not complete, and those that leave and still give their orphans.
    pub joining: Vec<CopyId>,
    /// The lowest old epoch of an open cut: nothing logged after its cut may be trimmed.
    pub oldest_open_cut: Option<Pair>,
    /// Whether an open cut lists this copy's store.
    pub open_cut_lists_me: bool,
    /// Of an `in_sync` shard; `None`: lazy.
    pub in_sync: Option<InSyncSet>,
    /// Whose answers the lease from the witnesses needs; with none there is no such lease.
    pub witnesses: BTreeSet<CopyId>,
    /// The newest epoch that a forced promotion began: what an in_sync copy undoes of earlier epochs may have been acknowledged.
    pub forced: Option<Epoch>,
}

/// Who has to have a record before it is committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InSyncSet {
    /// The primary's copy is one of them.
    pub members: BTreeSet<CopyId>,
    /// With fewer members nothing commits.
    pub min: u32,
}

impl InSyncSet {
    pub fn commits(&self) -> bool {
        self.members.len() >= self.min as usize
    }
}

impl Assignment {
    /// Of a shard that was deleted.
    pub fn of_nobody(revision: Revision) -> Assignment {
        Assignment {
            revision,
            epoch: Epoch::ZERO,
            primary: None,
            secondaries: Vec::new(),
            joining: Vec::new(),
            oldest_open_cut: None,
            open_cut_lists_me: false,
            in_sync: None,
            witnesses: BTreeSet::new(),
            forced: None,
        }
    }

    /// Whether the row wants a copy on that store, in whatever role.
    pub fn names(&self, copy: CopyId) -> bool {
        self.primary.is_some_and(|primary| primary.copy() == copy)
            || self.secondaries.contains(&copy)
            || self.joining.contains(&copy)
    }
}

/// One stimulus.
#[derive(Clone, Debug)]
pub enum Input {
    /// The newest row of the naming table that the process has seen; older revisions are ignored.
    Assignment(Assignment),
    /// A client's update. `copies`: answer when that many secondaries have it, or at the deadline.
    Write {
        caller: Caller,
        request: Request,
        copies: u32,
        deadline: Instant,
    },
    Message {
        from: NodeId,
        message: Message,
    },
    /// The batch of this number, and all before it, are durable.
    Persisted {
        number: u64,
    },
    /// The manager leader seals the copy for an epoch. With `hand_over_to` the primary first holds new requests until that
    /// copy has everything, or answers that it does not get there by `give_up_at`.
    Seal {
        caller: Caller,
        epoch: Epoch,
        hand_over: Option<HandOver>,
        /// The longest lease that a beacon ever asked for: so long a copy waits after its process's start, as it does not know
        /// what an earlier one answered. `None`: the old primary's leases are over already, and nothing is waited for.
        grace: Option<Duration>,
    },
    /// The managers say that this copy may be deleted, as long as no newer row than this is known for the shard.
    Delete {
        revision: Revision,
    },
    /// At least every 20 ms.
    Tick,
    /// A read that waits, until the deadline, for the copy to be fresh enough.
    Read {
        caller: Caller,
        keys: Vec<Bytes>,
        freshness: Freshness,
        deadline: Instant,
    },
    /// At a primary: compare the objects after a key, a page of them, with those of all copies. At the deadline what did not
    /// answer was not compared.
    Scrub {
        caller: Caller,
        after: Option<Bytes>,
        /// Of objects in the page, at least one.
        bytes_max: usize,
        deadline: Instant,
    },
}

/// A clean change of primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandOver {
    pub to: CopyId,
    pub give_up_at: Instant,
}

/// What the driver carries out.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    Persist(Batch),
    Send {
        to: NodeId,
        message: Message,
    },
    /// The answer to a `Write`.
    Reply {
        caller: Caller,
        answer: Result<Answer, Failure>,
    },
    /// The answer to a `Seal`; the promise is durable.
    Sealed {
        caller: Caller,
        answer: SealedCopy,
    },
    /// Something that only the managers can do. Repeated until the assignment shows that it was done.
    Ask(Ask),
    /// It no longer asks for that: what was asked and not answered yet is to be forgotten.
    Unask(Ask),
    /// The copy cannot go on: a read failed or its data contradict the log. The driver reports it.
    Broken(StoreError),
    /// The answer to a `Read`. `as_primary`: it holds because of the lease, which the driver looks at once more.
    Read {
        caller: Caller,
        answer: Result<ReadAnswer, Failure>,
        as_primary: bool,
    },
    /// in_sync: a record that was cut off and never acknowledged is gone from the log. The driver logs it.
    Dropped {
        pair: Pair,
        request: RequestId,
    },
    /// What a failover cut off was judged, and leaves a record: recorded again, a conflict, or discarded. For people.
    Judged(Fate),
    /// At a copy: what was forwarded and what it came to here are not the same. For people.
    Differs {
        pair: Pair,
        what: Difference,
    },
    /// The answer to a `Scrub`. Copies that differ are rebuilt, whoever asked.
    Scrubbed {
        caller: Caller,
        answer: Result<ScrubbedPage, Failure>,
    },
}

/// How a copy differs from what its primary forwarded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The operation came to another record here, or could not be read or run. Nothing of it was taken: the copy asks for whole
    /// records.
    NotTaken,
    /// The object under this key was another here: the primary's took its place.
    Mended(Bytes),
}

/// What a write came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub outcome: Outcome,
    pub pair: Pair,
    pub duplicate: bool,
    /// How many secondaries had it durable.
    pub copies_durable: u32,
    /// A record of the request was cut off by a failover and is a conflict that nobody resolved yet.
    pub conflict: bool,
    pub level: Level,
}

/// Where a write is durable when it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// On the primary.
    #[default]
    Primary,
    /// On as many secondaries as were asked for, too.
    Copies,
    /// On every member of the in-sync set.
    InSync,
}

/// What a copy answers when it is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealedCopy {
    /// It promised the epoch; the end of its log, and whether it is complete.
    Promised {
        epoch: Epoch,
        position: Pair,
        complete: bool,
    },
    /// It promised a higher one before.
    Higher { epoch: Epoch },
    /// The hand-over came to nothing: its target did not get everything in time and the primary goes on, or the primary
    /// was sealed or replaced meanwhile.
    NotHandedOver,
    /// A beacon that it answered, or may have answered before its process's start, may still give a lease: it promised nothing.
    GraceNotOver,
}

/// What a replica asks of the managers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The entry names this process's node as primary, but for an earlier process start or below its promise, or the
    /// copy is broken.
    NewEpoch { epoch: Epoch },
    /// A joining copy has everything: let it be a secondary.
    Complete { epoch: Epoch, copy: CopyId },
    /// The log can no longer be kept for this secondary: mark it joining.
    TooFarBehind { epoch: Epoch, copy: CopyId },
    /// in_sync: the copy has everything that is committed, and its acknowledgements are demanded: let it be a member, if the row
    /// has that revision.
    AddInSync {
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// in_sync: the member acknowledges nothing: let it be one no more.
    DropInSync {
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// The copy answers beacons, and its answers are demanded: let it be a witness, if the row has that revision.
    AddWitness {
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// The witness answers no beacon, or is no secondary any more: let it be none, if the row has that revision. Of the last
    /// one only after the lease from the witnesses was given up.
    DropWitness {
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// Copies that agree with each other have other objects than the primary: let one of them be primary.
    HandOver { epoch: Epoch, to: CopyId },
}

/// What a replica tells of itself, for heartbeats, status pages and checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub promise: Epoch,
    pub position: Pair,
    pub durable: Pair,
    pub checksum: u64,
    pub orphans: u64,
    pub complete: bool,
    /// The newest epoch in which it was found on its primary's branch, with all that was cut off in its orphan log; at the
    /// primary its own.
    pub followed: Epoch,
    /// The epoch in which it serves as primary.
    pub serving: Option<Epoch>,
    /// Up to here its objects hold the log, durably: in_sync the commit point as it was learned, lazy the whole log.
    pub applied: Pair,
    /// in_sync: up to here everything is committed, as far as this copy knows; its own disk may still lack the objects. Lazy: as
    /// `applied`.
    pub committed: Pair,
}
