//! What nodes, agents and the manager's leader say to each other, apart from commands to the tables.
//!
//! Any of these may be lost, repeated, delayed or overtaken; whoever receives one judges by the ids in it.

use crate::effect::SealedCopy;
use crate::time::Duration;
use crate::writers::WriterShares;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use understudy_proto::ids::{
    ClientId, CopyId, Epoch, Incarnation, NodeId, Pair, ProcessId, Revision, ShardId,
};

use crate::tables::LaunchId;

/// Reports in one heartbeat; the others go with the next ones.
pub const REPORTS_PER_HEARTBEAT_MAX: usize = 4_096;
/// Client ids in one heartbeat; the others go with the next ones.
pub const CLIENTS_PER_HEARTBEAT_MAX: usize = 1_024;
/// Asks in one heartbeat; the others go with the next ones.
pub const ASKS_PER_HEARTBEAT_MAX: usize = 1_024;
/// Shards of which one heartbeat tells where their updates come from; the others go with the next ones.
pub const WRITERS_PER_HEARTBEAT_MAX: usize = 64;
/// Shards in one seal or hand-over request.
pub const SHARDS_PER_REQUEST_MAX: usize = 1_024;
/// Shards in one heartbeat answer whose copies may be deleted.
pub const DELETABLE_PER_ANSWER_MAX: usize = 1_024;

/// Bytes of a message: MessagePack with named fields.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(message).expect("a message holds nothing that MessagePack cannot")
}

/// Reads what [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(bytes).map_err(|e| e.to_string())
}

/// A shard and an epoch in which a process acts, or wants to act, as its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    pub shard: ShardId,
    pub epoch: Epoch,
}

/// Stands for a set of claims: both ends compute it and send the list only when it differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimDigest {
    pub count: u32,
    /// The hashes of all claims, combined by exclusive or: adding and taking away cost the same.
    pub hash: u64,
}

impl ClaimDigest {
    pub fn add(&mut self, claim: Claim) {
        self.count += 1;
        self.hash ^= hash(claim);
    }

    pub fn take(&mut self, claim: Claim) {
        assert!(self.count > 0, "{claim:?} is taken from no claims");
        self.count -= 1;
        self.hash ^= hash(claim);
    }
}

impl FromIterator<Claim> for ClaimDigest {
    fn from_iter<I: IntoIterator<Item = Claim>>(claims: I) -> ClaimDigest {
        let mut digest = ClaimDigest::default();
        claims.into_iter().for_each(|c| digest.add(c));
        digest
    }
}

fn hash(claim: Claim) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&claim.shard.0.to_be_bytes());
    bytes[8..].copy_from_slice(&claim.epoch.0.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// What a node says about its copy of a shard. Sent when it changed, and again until a leader acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    pub shard: ShardId,
    /// False: the copy was deleted, or never was.
    pub present: bool,
    pub last: Pair,
    /// The highest epoch it promised or saw.
    pub promised: Epoch,
    /// The newest epoch whose primary it follows, with all that was cut off moved to the orphan log; at the primary
    /// its own epoch.
    pub followed: Epoch,
    /// Records in its orphan log for the shard.
    pub orphans: u64,
}

/// What a primary asks of the manager. Sent again until the row shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ask {
    /// It can or may not go on in this epoch (it restarted, or met a higher promise): `at_least` is what it needs.
    NewEpoch {
        shard: ShardId,
        epoch: Epoch,
        at_least: Epoch,
    },
    /// That joining copy holds everything.
    Complete {
        shard: ShardId,
        epoch: Epoch,
        copy: CopyId,
    },
    /// That copy rebuilds, or lacks records that have to be trimmed.
    MarkJoining {
        shard: ShardId,
        epoch: Epoch,
        copy: CopyId,
    },
    /// That copy has everything that is committed, and the primary demands its acknowledgements: a member, if the row still has
    /// that revision.
    AddInSync {
        shard: ShardId,
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// That member acknowledges nothing.
    DropInSync {
        shard: ShardId,
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// That secondary answers beacons, and the primary demands its answers: a witness, if the row still has that revision.
    AddWitness {
        shard: ShardId,
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// That witness answers nothing, or is no secondary; the lease from the last one was given up. If the row still has that
    /// revision.
    DropWitness {
        shard: ShardId,
        epoch: Epoch,
        revision: Revision,
        copy: CopyId,
    },
    /// The primary found that it has other objects than copies that agree with each other: it is to hand over to that one.
    HandOver {
        shard: ShardId,
        epoch: Epoch,
        to: CopyId,
    },
}

impl Ask {
    pub fn shard(&self) -> ShardId {
        match self {
            Ask::NewEpoch { shard, .. }
            | Ask::Complete { shard, .. }
            | Ask::MarkJoining { shard, .. }
            | Ask::AddInSync { shard, .. }
            | Ask::DropInSync { shard, .. }
            | Ask::AddWitness { shard, .. }
            | Ask::DropWitness { shard, .. }
            | Ask::HandOver { shard, .. } => *shard,
        }
    }
}

/// How a node is, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    #[default]
    Serving,
    /// It was told to stop: its primaries move away.
    Stopping,
    /// Its store takes no writes (full): its primaries move away and it gets no new ones.
    StoreUnwell,
    /// Its store takes no writes any more. This process acts as primary no more, whatever leases it has: nobody waits for them.
    StoreFailed,
}

/// From a node's process to the manager that it believes to lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    pub process: ProcessId,
    /// From 1, rising with each one sent.
    pub sequence: u64,
    /// The node's wall clock; only for the median by which a new leader checks its own.
    pub wall_ms: u64,
    pub condition: Condition,
    pub claims: ClaimDigest,
    /// Only after an answer that wanted it.
    pub claim_list: Option<Vec<Claim>>,
    /// The term of the leader that last answered: what it acknowledged is not reported again.
    pub term: u64,
    pub reports: Vec<CopyReport>,
    pub asks: Vec<Ask>,
    /// Sessions that were active since the last acknowledged report of them.
    pub active: Vec<ClientId>,
    /// Of shards that the process claims, in turn.
    #[serde(default)]
    pub writers: Vec<WriterShares>,
}

/// For which claims an answer is a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grants {
    Nothing,
    /// All claims of the answered heartbeat but these.
    AllClaimed {
        except: Vec<Claim>,
    },
    Pairs(Vec<Claim>),
}

/// The leader's answer to one heartbeat. The lease counts from when that heartbeat was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    pub process: ProcessId,
    /// Of the answered heartbeat.
    pub sequence: u64,
    pub outcome: HeartbeatOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeartbeatOutcome {
    /// From a leader; all reports and sessions of that heartbeat are taken.
    Taken(Taken),
    Refused(HeartbeatRefusal),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub term: u64,
    pub grants: Grants,
    pub lease: Duration,
    pub heartbeat_interval: Duration,
    /// The digest does not fit the tables: the next heartbeat is to carry the list.
    pub claim_list_wanted: bool,
    /// This leader knows not all copies: report all of them.
    pub full_report_wanted: bool,
    /// Of the leader's tables: a node that knows less has something to fetch.
    pub tables_revision: Revision,
    /// Copies that may be deleted, each as long as the node knows no newer row of the shard than this revision.
    pub deletable: Vec<(ShardId, Revision)>,
}

/// Why a heartbeat has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeartbeatRefusal {
    /// Ask another manager; this one when it is known.
    NotLeading { leader: Option<NodeId> },
    /// No such node: register.
    Unknown,
    /// A later process, or another store, is registered for the node: this process has to end.
    Superseded,
    /// Overtaken by a later heartbeat, or repeated.
    Stale,
}

/// Asks a node's copies to promise an epoch each. Batched over the shards of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealRequest {
    pub to: ProcessId,
    pub term: u64,
    pub seals: Vec<Seal>,
    /// The longest lease that was ever set: for copies whose process started lately.
    pub longest: Duration,
}

/// Asks for one promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seal {
    pub shard: ShardId,
    /// To promise.
    pub epoch: Epoch,
    /// The old primary's leases are certainly over, because its process ended or it promised: no grace is waited out.
    pub over: bool,
}

impl Seal {
    pub fn claim(&self) -> Claim {
        Claim {
            shard: self.shard,
            epoch: self.epoch,
        }
    }

    /// As in [`crate::effect::Input::Seal`].
    pub fn grace(&self, longest: Duration) -> Option<Duration> {
        (!self.over).then_some(longest)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealAnswer {
    pub from: ProcessId,
    pub seals: Vec<(Claim, SealOutcome)>,
}

/// What became of one seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SealOutcome {
    /// The promise is durable, and this is the last record of the copy, durable too.
    Sealed { last: Pair },
    /// It answered a beacon a short while ago, or its process started a short while ago, and it promised nothing.
    GraceNotOver,
    /// It promised a higher epoch before.
    PromisedHigher { epoch: Epoch },
    /// It has no copy of the shard.
    NoCopy,
    /// The promise is durable; the copy is not complete and not to be promoted.
    SealedIncomplete,
}

impl SealOutcome {
    /// What the managers are told of a seal. `None`: the store has no copy of the shard.
    pub fn of(sealed: Option<SealedCopy>) -> SealOutcome {
        match sealed {
            Some(SealedCopy::Promised {
                position,
                complete: true,
                ..
            }) => SealOutcome::Sealed { last: position },
            Some(SealedCopy::Higher { epoch }) => SealOutcome::PromisedHigher { epoch },
            Some(SealedCopy::Promised { .. }) => SealOutcome::SealedIncomplete,
            Some(SealedCopy::GraceNotOver) => SealOutcome::GraceNotOver,
            Some(SealedCopy::NotHandedOver) | None => SealOutcome::NoCopy,
        }
    }
}

/// A failover that is under way, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverProgress {
    pub epoch: Epoch,
    /// Empty: it is carried out at any moment.
    pub waits_for: Vec<Awaited>,
}

/// What a failover waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// Its beginning is not recorded yet.
    TheTables,
    /// None of those that may be promoted promised the epoch yet.
    OneOfTheCandidates(Vec<CopyId>),
    /// The copy that a person chose did not promise the epoch yet.
    Seal(CopyId),
    /// The copy that a person chose has less than when that person looked.
    AsMuchAsShown { have: Pair, shown: Pair },
    /// None of these promised the epoch, so that the old primary may have a lease from them; or an exit report, or a person's word.
    OneOfTheWitnesses(Vec<CopyId>),
    /// The managers' lease that the old primary may have, for at most so long.
    LeaseOfTheManagers { left: Duration },
}

/// Asks a primary to hand over: hold new requests, wait until the target has everything, promise the new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverRequest {
    pub to: ProcessId,
    pub term: u64,
    pub hand_overs: Vec<HandOver>,
    /// Without the target's acknowledgement in that time the primary goes on in its epoch and answers `Failed`.
    pub limit: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// To promise.
    pub new_epoch: Epoch,
    pub target: CopyId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverAnswer {
    pub from: ProcessId,
    pub hand_overs: Vec<(HandOver, HandOverOutcome)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOverOutcome {
    /// The target has everything up to `last`, and the promise is durable.
    Promised { last: Pair },
    /// The primary goes on as before.
    Failed,
}

impl HandOverOutcome {
    pub fn of(sealed: SealedCopy) -> HandOverOutcome {
        match sealed {
            SealedCopy::Promised { position, .. } => HandOverOutcome::Promised { last: position },
            SealedCopy::Higher { .. } | SealedCopy::NotHandedOver | SealedCopy::GraceNotOver => {
                HandOverOutcome::Failed
            }
        }
    }
}

/// From an agent: it saw exactly the process of that launch end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Drawn by the agent for one start of one process, which registered with it.
    pub launch: LaunchId,
    /// As which node and incarnation the process registered, where the agent knows it. It has to fit the launch.
    pub process: Option<(NodeId, Incarnation)>,
}

/// To the agent that started a process: it is not heard any more, or its store takes no writes; it is to be started anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRequest {
    pub process: ProcessId,
    /// By which the agent knows it; a later start of the process is left alone.
    pub launch: LaunchId,
    /// host:port of the agent.
    pub agent: String,
}
