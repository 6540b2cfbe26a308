//! All tables together, and how they are read.

use super::answers::Answers;
use super::bindings::{Binding, Bindings};
use super::entry::ShardEntry;
use super::membership::{LaunchId, Membership, NodeEntry};
use super::naming::{Namespace, Naming};
use super::sessions::{Session, Sessions};
use super::settings::ClusterSettings;
use super::watch::{Change, ChangeLog, Compacted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use understudy_proto::ids::{
    ClientId, ClusterId, CopyId, NamespaceId, NodeId, ProcessId, Revision, ShardId,
};

/// The manager's replicated tables. `Default` is the state before the first command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Rises by one with each command that changed something that watchers see.
    pub(super) revision: Revision,
    /// The index of the last command applied.
    pub(super) applied: u64,
    pub(super) settings: ClusterSettings,
    pub(super) membership: Membership,
    pub(super) naming: Naming,
    pub(super) sessions: Sessions,
    pub(super) bindings: Bindings,
    pub(super) answers: Answers,
    pub(super) changes: ChangeLog,
}

impl Tables {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The index of the managers' log up to which this state holds.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        self.settings.cluster
    }

    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    pub fn node(&self, node: NodeId) -> Option<&NodeEntry> {
        self.membership.nodes.get(&node)
    }

    pub fn node_by_name(&self, name: &str) -> Option<&NodeEntry> {
        self.membership.by_name(name)
    }

    /// The node whose newest process was started under that launch id.
    pub fn launched(&self, launch: &LaunchId) -> Option<&NodeEntry> {
        self.membership.launched(launch)
    }

    /// In the order of their ids; the removed ones too.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.membership.nodes.values()
    }

    /// The newest process that holds this copy's store; `None` when the node has another store now or is unknown.
    pub fn process_of(&self, copy: CopyId) -> Option<ProcessId> {
        let node = self.node(copy.node)?;
        (node.store == copy.store).then(|| node.process())
    }

    /// Whether that process has certainly ended (exit report, or a later process of the same store).
    pub fn has_ended(&self, process: ProcessId) -> bool {
        self.node(process.node)
            .is_some_and(|n| n.has_ended(process))
    }

    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        self.naming.namespaces.get(&id)
    }

    pub fn namespace_by_name(&self, name: &str) -> Option<&Namespace> {
        self.naming.by_name(name)
    }

    /// By name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let ids = self.naming.names.values();
        ids.filter_map(|id| self.naming.namespaces.get(id))
    }

    pub fn shard(&self, shard: ShardId) -> Option<&ShardEntry> {
        self.naming.shards.get(&shard)
    }

    pub fn shards(&self) -> &BTreeMap<ShardId, ShardEntry> {
        &self.naming.shards
    }

    /// Whether there was such a shard and its namespace was deleted. Its copies may be deleted.
    pub fn shard_is_deleted(&self, shard: ShardId) -> bool {
        shard <= self.naming.last_shard
            && shard > ShardId::ZERO
            && !self.naming.shards.contains_key(&shard)
    }

    pub fn is_lost(&self, copy: CopyId) -> bool {
        self.naming.lost.contains(&copy)
    }

    pub fn session(&self, client: ClientId) -> Option<&Session> {
        self.sessions.rows.get(&client)
    }

    pub fn sessions(&self) -> &BTreeMap<ClientId, Session> {
        &self.sessions.rows
    }

    /// The clients of which nothing was heard for the horizon, at most so many.
    pub fn silent_clients(&self, most: usize) -> Vec<ClientId> {
        let rows = self.sessions.rows.iter();
        let silent = rows.filter(|(_, row)| self.sessions.is_silent(row));
        silent.map(|(client, _)| *client).take(most).collect()
    }

    /// Of the last change of a session.
    pub fn sessions_revision(&self) -> Revision {
        self.sessions.revision
    }

    /// The revisions of membership, naming and bindings: of their last change.
    pub fn membership_revision(&self) -> Revision {
        self.membership.revision
    }

    pub fn naming_revision(&self) -> Revision {
        self.naming.revision
    }

    pub fn bindings_revision(&self) -> Revision {
        self.bindings.revision
    }

    /// The tables' clock in milliseconds since 1970; zero before a leader stepped it.
    pub fn clock_ms(&self) -> u64 {
        self.sessions.clock_ms
    }

    /// Client ids dated at or before it are refused.
    pub fn registration_floor_ms(&self) -> u64 {
        self.sessions.floor_ms
    }

    pub fn binding(&self, name: &str) -> Option<&Binding> {
        self.bindings.rows.get(name)
    }

    /// The binding of that name and those below it, in the order of their names.
    pub fn bindings<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Binding)> + 'a {
        self.bindings.list(prefix)
    }

    /// What changed after that revision, oldest first, without a hole; or that it is no longer kept.
    pub fn changes_after(
        &self,
        after: Revision,
    ) -> Result<impl Iterator<Item = &Change> + '_, Compacted> {
        self.changes.after(after)
    }
}
