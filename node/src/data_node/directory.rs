//! A node's copy of the naming and membership tables, as the managers' stream brings it.
//!
//! It may be behind; nothing is decided by it alone. A row makes a replica follow, and the replica judges by revision and
//! promise.

use crate::manager::MANAGER_BINDINGS;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use understudy_proto::{ClientId, CopyId, NamespaceId, NodeId, Revision, ShardId};
use understudy_protocol::effect::{Assignment, ClientSession, Clients, Keep};
use understudy_protocol::tables::{
    Binding, Change, Changed, ConflictPolicy, Forward, Namespace, NodeEntry, SessionState,
    ShardEntry, Tables,
};

/// What the node knows of the cluster.
#[derive(Debug, Default)]
pub struct Directory {
    pub revision: Revision,
    by_name: HashMap<String, Arc<Namespace>>,
    by_id: HashMap<NamespaceId, Arc<Namespace>>,
    shards: BTreeMap<ShardId, ShardEntry>,
    nodes: BTreeMap<NodeId, NodeEntry>,
    /// Sessions that the tables know; the value: still open.
    sessions: HashMap<ClientId, bool>,
    /// As in the tables that were read whole; later ones have at least this.
    registration_floor_ms: u64,
    /// Public addresses of the managers, by the name of the binding that tells them.
    managers: BTreeMap<String, String>,
    site: String,
}

/// What the shards' threads ask of it.
pub struct KnownClients(pub Arc<RwLock<Directory>>);

impl Clients for KnownClients {
    fn session(&self, client: ClientId) -> ClientSession {
        self.0.read().client_session(client)
    }

    fn revision(&self) -> Revision {
        self.0.read().revision
    }

    fn keep(&self, shard: ShardId) -> Keep {
        self.0.read().keep(shard)
    }

    fn conflicts(&self, shard: ShardId) -> ConflictPolicy {
        let directory = self.0.read();
        let namespace = directory.namespace_of(shard);
        namespace.map_or(ConflictPolicy::default(), |namespace| {
            namespace.settings.conflicts
        })
    }

    fn forward(&self, shard: ShardId) -> Forward {
        let directory = self.0.read();
        let namespace = directory.namespace_of(shard);
        namespace.map_or(Forward::default(), |namespace| namespace.settings.forward)
    }
}

impl Directory {
    pub fn new(site: String) -> Directory {
        Directory {
            site,
            ..Directory::default()
        }
    }

    pub fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.by_name.get(name).cloned()
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.by_name.values()
    }

    pub fn shard(&self, shard: ShardId) -> Option<&ShardEntry> {
        self.shards.get(&shard)
    }

    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardEntry)> {
        self.shards.iter().map(|(shard, entry)| (*shard, entry))
    }

    pub fn node(&self, node: NodeId) -> Option<&NodeEntry> {
        self.nodes.get(&node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.values()
    }

    /// Whether the tables know the session, and whether it is open.
    pub fn session(&self, client: ClientId) -> Option<bool> {
        self.sessions.get(&client).copied()
    }

    /// The managers registered it. What the stream told of it meanwhile is newer.
    pub fn know_session(&mut self, client: ClientId) {
        self.sessions.entry(client).or_insert(true);
    }

    /// How the client's session stands. One that the tables do not have and that could not be registered any more has ended.
    pub fn client_session(&self, client: ClientId) -> ClientSession {
        match self.session(client) {
            Some(true) => ClientSession::Open,
            Some(false) => ClientSession::Ended,
            None if client.unix_ms() <= self.registration_floor_ms => ClientSession::Ended,
            None => ClientSession::Unknown,
        }
    }

    /// Which outcomes the shard's namespace keeps.
    pub fn keep(&self, shard: ShardId) -> Keep {
        let namespace = self.namespace_of(shard);
        namespace.map_or(Keep::default(), |namespace| namespace.settings.keep())
    }

    fn namespace_of(&self, shard: ShardId) -> Option<&Arc<Namespace>> {
        self.by_id.get(&self.shards.get(&shard)?.namespace)
    }

    /// Public addresses of the managers.
    pub fn managers(&self) -> Vec<String> {
        self.managers.values().cloned().collect()
    }

    fn bound(&mut self, name: String, binding: Option<&Binding>) {
        if !name.starts_with(MANAGER_BINDINGS) {
            return;
        }
        match binding.and_then(|binding| binding.endpoints.first()) {
            Some(address) => self.managers.insert(name, address.clone()),
            None => self.managers.remove(&name),
        };
    }

    pub fn primary(&self, shard: ShardId) -> Option<NodeId> {
        self.shards.get(&shard)?.primary.map(|primary| primary.node)
    }

    pub fn internal_address(&self, node: NodeId) -> Option<String> {
        let entry = self.nodes.get(&node)?;
        Some(
            entry
                .internal
                .seen_from(&self.site, &entry.site)
                .to_string(),
        )
    }

    /// The public address as a caller of that site uses it.
    pub fn public_address(&self, node: NodeId, site: &str) -> Option<String> {
        let entry = self.nodes.get(&node)?;
        Some(entry.public.seen_from(site, &entry.site).to_string())
    }

    pub fn site(&self) -> &str {
        &self.site
    }

    /// All tables anew. Gives the shards whose rows there are.
    pub fn replace(&mut self, tables: &Tables) -> Vec<ShardId> {
        self.revision = tables.revision();
        let namespaces = tables
            .namespaces()
            .map(|n| (n.name.clone(), Arc::new(n.clone())));
        self.by_name = namespaces.collect();
        let namespaces = self.by_name.values();
        self.by_id = namespaces.map(|n| (n.id, n.clone())).collect();
        let gone: Vec<ShardId> = self
            .shards
            .keys()
            .filter(|shard| tables.shard(**shard).is_none())
            .copied()
            .collect();
        self.shards = tables.shards().clone();
        self.managers.clear();
        for (name, binding) in tables.bindings(MANAGER_BINDINGS.trim_end_matches('/')) {
            self.bound(name.to_string(), Some(binding));
        }
        self.nodes = tables.nodes().map(|node| (node.id, node.clone())).collect();
        self.registration_floor_ms = tables.registration_floor_ms();
        self.sessions = tables
            .sessions()
            .iter()
            .map(|(id, session)| (*id, session.state == SessionState::Open))
            .collect();
        self.shards.keys().copied().chain(gone).collect()
    }

    /// Takes one change. Gives the shard whose row it was.
    pub fn change(&mut self, change: Change) -> Option<ShardId> {
        self.revision = self.revision.max(change.revision);
        match change.what {
            Changed::Shard(shard, entry) => {
                self.shards.insert(shard, entry);
                return Some(shard);
            }
            Changed::ShardDeleted(shard) => {
                self.shards.remove(&shard);
                return Some(shard);
            }
            Changed::Node(node) => {
                self.nodes.insert(node.id, node);
            }
            Changed::Namespace(namespace) => {
                let namespace = Arc::new(namespace);
                self.by_id.insert(namespace.id, namespace.clone());
                self.by_name.insert(namespace.name.clone(), namespace);
            }
            Changed::NamespaceDeleted(id) => {
                self.by_id.remove(&id);
                self.by_name.retain(|_, namespace| namespace.id != id);
            }
            Changed::Session(client, session) => {
                self.sessions
                    .insert(client, session.state == SessionState::Open);
            }
            Changed::Bound(name, binding) => self.bound(name, Some(&binding)),
            Changed::Unbound(name) => self.bound(name, None),
            Changed::Settings(_) => {}
        }
        None
    }

    /// A shard's row as a replica needs it.
    pub fn assignment(&self, shard: ShardId, me: CopyId) -> Option<Assignment> {
        Some(self.shards.get(&shard)?.assignment(me))
    }
}
