//! The manager group's types for openraft: what is proposed, what is answered, how a manager is reached.

use serde::{Deserialize, Serialize};
use std::fmt;
use understudy_protocol::tables::{Answer, Envelope, Refusal};

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = ManagerNode,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, super::machine::Machine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, bytes::Bytes>;

/// A command of the tables, as an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Proposal(pub Envelope);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {}", self.0.id)
    }
}

/// What the tables answered; nothing for the entries of Raft itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Reply(pub Option<Result<Answer, Refusal>>);

/// Where a manager is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerNode {
    /// host:port of the internal port: Raft, heartbeats.
    pub internal_address: String,
    /// host:port of the public port.
    pub public_address: String,
}
