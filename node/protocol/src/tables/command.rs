//! What can be asked of the tables, under which request id, and what is answered.
//!
//! A command is applied at most once under its id. What the controllers propose about a shard is a compare-and-set on
//! the row's revision ([`EntryChange`]), so that a stale or repeated proposal changes nothing.

use super::forced::Forced;
use super::membership::{LaunchId, NodeState, Registration};
use super::naming::{Namespace, NamespaceSettings};
use super::sessions::Session;
use super::settings::SettingsChange;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::ids::{
    ClientId, ClusterId, CopyId, Epoch, Incarnation, NodeId, Pair, ProcessId, RequestId, Revision,
    ShardId,
};
use understudy_proto::limits;

/// Changes of shard rows in one command; beyond it the command is refused.
pub const ENTRY_CHANGES_MAX: usize = 1_024;
/// Client ids in one renewal of sessions; beyond it the command is refused.
pub const RENEWALS_MAX: usize = 4_096;

/// A command and the id under which it takes effect at most once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub id: RequestId,
    pub command: Command,
}

impl Envelope {
    /// The bytes of a log entry: MessagePack with named fields.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a command holds nothing that MessagePack cannot")
    }

    /// Reads what [`Envelope::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Envelope, String> {
        rmp_serde::from_slice(bytes).map_err(|e| e.to_string())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Gives the cluster its id; the first one wins and is answered to all.
    Found {
        cluster: ClusterId,
    },
    SetSettings(SettingsChange),
    /// By the leader, when the longer lease has certainly passed. Compare-and-set on the settings' revision.
    LowerLeaseLongest {
        revision: Revision,
        to: Duration,
    },

    RegisterNode(Registration),
    /// By the leader's detector. Compare-and-set on the node's revision.
    SetNodeState {
        node: NodeId,
        revision: Revision,
        state: NodeState,
    },
    /// An agent saw exactly that process end.
    ReportExit {
        node: NodeId,
        incarnation: Incarnation,
        launch: LaunchId,
    },
    DrainNode {
        node: NodeId,
        drain: bool,
    },
    /// Refused while a shard names a copy of the node.
    RemoveNode {
        node: NodeId,
    },

    CreateNamespace {
        name: String,
        shards: u32,
        settings: NamespaceSettings,
    },
    /// `revision` is that of the namespace; `None` takes it as it is.
    AlterNamespace {
        name: String,
        revision: Option<Revision>,
        settings: NamespaceSettings,
    },
    DeleteNamespace {
        name: String,
    },
    ChangeEntries(Vec<EntryChange>),
    /// A person says that the store will never come back: open cuts do not wait for it.
    DeclareStoreLost {
        copy: CopyId,
    },

    RegisterSession {
        client: ClientId,
    },
    RenewSessions {
        clients: Vec<ClientId>,
    },
    CloseSession {
        client: ClientId,
    },
    /// Raises the table's clock from `from_ms`, a compare-and-set. `step`: by a new leader, to its wall clock.
    RaiseClock {
        from_ms: u64,
        to_ms: u64,
        step: bool,
    },

    /// Binds or binds anew. `revision` is that of the binding as it is now, zero for none; `None` takes either.
    Bind {
        name: String,
        endpoints: Vec<String>,
        lease_ms: Option<u64>,
        revision: Option<Revision>,
    },
    Unbind {
        name: String,
        revision: Option<Revision>,
    },
    /// The leader, which was told of all activity, found these silent for the horizon. Those that are not are passed over.
    ExpireSessions {
        clients: Vec<ClientId>,
    },
    /// A person makes that copy the shard's primary, whatever others have that cannot be asked. Compare-and-set on the row's
    /// revision; what is under way is replaced.
    ForcePromotion {
        shard: ShardId,
        revision: Revision,
        forced: Forced,
    },
}

/// One change of one shard's row, made only while the row has that revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryChange {
    pub shard: ShardId,
    pub revision: Revision,
    pub op: EntryOp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryOp {
    /// The first placement, into epoch 1. All copies are empty, so all of them are complete.
    Place {
        primary: ProcessId,
        secondaries: Vec<CopyId>,
    },
    /// From here on nobody gets a lease for the shard below `epoch`. Again with a higher epoch when a copy
    /// promised a higher one.
    BeginFailover {
        epoch: Epoch,
        preferred: Option<CopyId>,
    },
    /// The end of the begun failover. `sealed` are all copies that promised `epoch`; the others are listed in an open cut.
    Promote {
        epoch: Epoch,
        promoted: ProcessId,
        last: Pair,
        sealed: BTreeSet<CopyId>,
    },
    /// Of one that leaves, without `leaving`: it stays.
    AddJoining {
        copy: CopyId,
        leaving: bool,
    },
    /// At the primary's request: the copy holds everything.
    Complete {
        epoch: Epoch,
        copy: CopyId,
    },
    MarkJoining {
        copy: CopyId,
    },
    /// The copy follows until it gave its orphans and is removed then.
    MarkLeaving {
        copy: CopyId,
    },
    Remove {
        copy: CopyId,
    },
    /// The store came back, followed that epoch's primary and has no orphans of the shard.
    CloseCuts {
        copy: CopyId,
        followed: Epoch,
    },
    /// At the request of the primary, which demands the copy's acknowledgements already; proposed with the revision that the
    /// primary knew, never with a later one.
    AddInSync {
        epoch: Epoch,
        copy: CopyId,
    },
    DropInSync {
        epoch: Epoch,
        copy: CopyId,
    },
    /// At the request of the primary, which demands the copy's answers already; proposed with the revision that the primary
    /// knew, never with a later one.
    AddWitness {
        epoch: Epoch,
        copy: CopyId,
    },
    /// Not of the last one.
    DropWitness {
        copy: CopyId,
    },
    /// At the request of the primary, which gave up the lease from it; proposed with the revision that the primary knew.
    DropLastWitness {
        epoch: Epoch,
        copy: CopyId,
    },
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The revision of the tables after it.
    Done {
        revision: Revision,
    },
    Founded {
        cluster: ClusterId,
    },
    Registered {
        process: ProcessId,
    },
    Namespace(Box<Namespace>),
    /// Each change stands for itself; the first refusal is told.
    Entries {
        applied: u32,
        refused: Option<(ShardId, Box<Refusal>)>,
    },
    Session(Session),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    Invalid {
        field: String,
        why: String,
    },
    TooMany {
        field: String,
        limit: u64,
    },
    NotFound {
        what: String,
    },
    AlreadyExists {
        what: String,
    },
    /// The compare-and-set failed; the revision as it is.
    Changed {
        revision: Revision,
    },
    NotAllowed {
        why: String,
    },
    /// A live process with another store bears that name.
    NodeNameTaken {
        name: String,
        node: NodeId,
    },
    /// A node of another name has that store.
    StoreTaken {
        name: String,
        node: NodeId,
    },
    ClientIdRefused {
        table_time_ms: u64,
        future: bool,
        why: String,
    },
    /// The id was used with another command.
    IdReused,
    /// The answer under this id is no longer kept: it may have run.
    Expired,
    Unimplemented {
        what: String,
    },
}

pub(super) fn invalid(field: &str, why: &str) -> Refusal {
    Refusal::Invalid {
        field: field.to_string(),
        why: why.to_string(),
    }
}

pub(super) fn not_allowed(why: &str) -> Refusal {
    Refusal::NotAllowed {
        why: why.to_string(),
    }
}

/// A name of a namespace, a site, a node or a binding.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX {
        return Err(invalid(field, "has to have 1 to 255 bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(field, "has a control character"));
    }
    Ok(())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Invalid { field, why } => write!(f, "{field} {why}"),
            Refusal::TooMany { field, limit } => write!(f, "{field}: the limit is {limit}"),
            Refusal::NotFound { what } => write!(f, "there is no {what}"),
            Refusal::AlreadyExists { what } => write!(f, "{what} exists already"),
            Refusal::Changed { revision } => {
                write!(
                    f,
                    "it changed meanwhile and has revision {revision}: look again"
                )
            }
            Refusal::NotAllowed { why } => f.write_str(why),
            Refusal::NodeNameTaken { name, node } => write!(
                f,
                "a live process with another data folder bears the name {name} (node {node}): stop it, wait until it \
                 is down, or choose another name"
            ),
            Refusal::StoreTaken { name, node } => write!(
                f,
                "this data folder belongs to {name} (node {node}): keep that name or use an empty folder"
            ),
            Refusal::ClientIdRefused { why, .. } => write!(f, "the client id is refused: {why}"),
            Refusal::IdReused => f.write_str("the request id was used with another command"),
            Refusal::Expired => f.write_str("the answer under this request id is no longer kept"),
            Refusal::Unimplemented { what } => write!(f, "this version does not have {what} yet"),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let text = refusal.to_string();
        match refusal {
            Refusal::Invalid { field, .. } => Failure::field(&field, text),
            Refusal::TooMany { field, limit } => Failure::no(Reason::TooLarge, text)
                .with("field", field)
                .with("limit", limit.to_string()),
            Refusal::NotFound { .. } => Failure::no(Reason::NotFound, text),
            Refusal::AlreadyExists { .. }
            | Refusal::NodeNameTaken { .. }
            | Refusal::StoreTaken { .. } => Failure::no(Reason::AlreadyExists, text),
            Refusal::Changed { revision } => {
                Failure::no(Reason::NotAllowed, text).with("revision", revision.to_string())
            }
            Refusal::NotAllowed { .. } => Failure::no(Reason::NotAllowed, text),
            Refusal::ClientIdRefused {
                table_time_ms,
                future,
                ..
            } => {
                let make = if future {
                    Failure::no
                } else {
                    Failure::unknown
                };
                make(Reason::ClientIdRefused, text).with("table_time_ms", table_time_ms.to_string())
            }
            Refusal::IdReused => Failure::no(Reason::RequestIdReused, text),
            Refusal::Expired => Failure::unknown(Reason::RequestExpired, text),
            Refusal::Unimplemented { .. } => Failure::no(Reason::Unimplemented, text),
        }
    }
}
