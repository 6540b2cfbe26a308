//! The membership table: who the data nodes are, where they are reached, and in what state they are.
//!
//! A row is found by the node's name, which its operator chose; its id and incarnations are given here.

use super::command::{Refusal, check_name, invalid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use understudy_proto::ids::{CopyId, Incarnation, NodeId, ProcessId, Revision, StoreId};

/// Drawn anew for each process start, by the agent that starts it or else by the process itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaunchId(pub String);

/// The machine's boot, as its kernel names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// Where a service is reached: `host:port` for callers of the same site and for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub inside: String,
    pub outside: String,
}

impl Address {
    /// The address that a caller of `caller_site` uses for a node of `site`.
    pub fn seen_from(&self, caller_site: &str, site: &str) -> &str {
        if caller_site == site || self.outside.is_empty() {
            &self.inside
        } else {
            &self.outside
        }
    }
}

/// What a process says of itself when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub name: String,
    pub store: StoreId,
    /// Public gRPC (7420).
    pub public: Address,
    /// Internal gRPC (7421), between servers.
    pub internal: Address,
    pub site: String,
    pub labels: BTreeMap<String, String>,
    /// Relative weight in placement; 0 counts as 1.
    pub capacity: u32,
    pub launch: LaunchId,
    pub boot: BootId,
    /// host:port of the agent that started the process and takes wishes about it; empty: none.
    #[serde(default)]
    pub agent: String,
}

/// In which state a node is, as everybody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeState {
    /// Registered; its first heartbeat was not heard yet.
    Joining,
    Up,
    /// Not heard for a while; shown, with no further effect.
    Suspect,
    /// Not heard for a lease, or seen to have ended.
    Down,
    /// Alive; its primaries and copies move away.
    Draining,
    /// Forgotten at a person's wish. Its id is not given again.
    Removed,
}

/// A row of the membership table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    pub id: NodeId,
    pub revision: Revision,
    pub name: String,
    /// The store of the newest process.
    pub store: StoreId,
    /// The newest process.
    pub incarnation: Incarnation,
    /// Every process of `store` up to this incarnation has certainly ended. At most `incarnation`.
    pub ended: Incarnation,
    pub public: Address,
    pub internal: Address,
    pub site: String,
    pub labels: BTreeMap<String, String>,
    pub capacity: u32,
    pub launch: LaunchId,
    pub boot: BootId,
    pub state: NodeState,
    /// A person wants it empty.
    pub drain: bool,
    /// host:port of the agent that started the newest process; empty: none.
    #[serde(default)]
    pub agent: String,
}

impl NodeEntry {
    /// The newest process of the node.
    pub fn process(&self) -> ProcessId {
        ProcessId {
            node: self.id,
            store: self.store,
            incarnation: self.incarnation,
        }
    }

    /// The copies of this node are of its present store.
    pub fn copy(&self) -> CopyId {
        self.process().copy()
    }

    /// Whether that process has certainly ended: it can hold no lease. One of a former store is never known to have.
    pub fn has_ended(&self, process: ProcessId) -> bool {
        process.node == self.id && process.store == self.store && process.incarnation <= self.ended
    }

    /// The state of a node that was heard.
    pub fn alive_state(&self) -> NodeState {
        if self.drain {
            NodeState::Draining
        } else {
            NodeState::Up
        }
    }
}

/// All nodes that ever registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) revision: Revision,
    pub(super) last_id: NodeId,
    pub(super) nodes: BTreeMap<NodeId, NodeEntry>,
}

impl Membership {
    pub(super) fn by_name(&self, name: &str) -> Option<&NodeEntry> {
        let living = |n: &&NodeEntry| n.name == name && n.state != NodeState::Removed;
        self.nodes.values().find(living)
    }

    /// Gives the process its id and incarnation. The second value is false when nothing changed.
    pub(super) fn register(&mut self, r: &Registration) -> Result<(NodeEntry, bool), Refusal> {
        check_registration(r)?;
        self.check_store_is_free(r)?;
        let Some(old) = self.by_name(&r.name).cloned() else {
            self.last_id = self.last_id.next();
            let fresh = new_entry(self.last_id, r);
            return Ok((fresh, true));
        };
        let same_process = old.store == r.store && old.launch == r.launch && !r.launch.0.is_empty();
        if same_process && old.ended < old.incarnation {
            return Ok((old, false));
        }
        let gone = old.state == NodeState::Down || old.ended >= old.incarnation;
        if old.store != r.store && !gone {
            return Err(Refusal::NodeNameTaken {
                name: r.name.clone(),
                node: old.id,
            });
        }
        let mut new = new_entry(old.id, r);
        new.incarnation = old.incarnation.next();
        new.ended = old.incarnation;
        new.drain = old.drain;
        assert!(new.incarnation > old.incarnation, "{} goes back", old.id);
        Ok((new, true))
    }

    /// The node whose newest process registered with that launch id.
    pub(super) fn launched(&self, launch: &LaunchId) -> Option<&NodeEntry> {
        let living = |n: &&NodeEntry| n.launch == *launch && n.state != NodeState::Removed;
        let named = !launch.0.is_empty();
        self.nodes.values().find(living).filter(|_| named)
    }

    fn check_store_is_free(&self, r: &Registration) -> Result<(), Refusal> {
        let other = |n: &&NodeEntry| {
            n.store == r.store && n.name != r.name && n.state != NodeState::Removed
        };
        let removed = |n: &NodeEntry| n.store == r.store && n.state == NodeState::Removed;
        if self.nodes.values().any(removed) {
            let why = "this node was removed: stop its process, or start it with an empty folder";
            return Err(super::command::not_allowed(why));
        }
        match self.nodes.values().find(other) {
            Some(n) => Err(Refusal::StoreTaken {
                name: n.name.clone(),
                node: n.id,
            }),
            None => Ok(()),
        }
    }
}

fn new_entry(id: NodeId, r: &Registration) -> NodeEntry {
    NodeEntry {
        id,
        revision: Revision::ZERO,
        name: r.name.clone(),
        store: r.store,
        incarnation: Incarnation(1),
        ended: Incarnation::ZERO,
        public: r.public.clone(),
        internal: r.internal.clone(),
        site: r.site.clone(),
        labels: r.labels.clone(),
        capacity: r.capacity.max(1),
        launch: r.launch.clone(),
        boot: r.boot.clone(),
        state: NodeState::Joining,
        drain: false,
        agent: r.agent.clone(),
    }
}

fn check_registration(r: &Registration) -> Result<(), Refusal> {
    check_name("name", &r.name)?;
    if !r.site.is_empty() {
        check_name("site", &r.site)?;
    }
    if r.store == StoreId::default() {
        return Err(invalid("store", "is missing"));
    }
    if r.labels.len() > 64 {
        return Err(invalid("labels", "has more than 64"));
    }
    let texts = [
        &r.public.inside,
        &r.public.outside,
        &r.internal.inside,
        &r.internal.outside,
        &r.launch.0,
        &r.boot.0,
        &r.agent,
    ];
    let labels = r.labels.iter().flat_map(|(k, v)| [k, v]);
    if texts.into_iter().chain(labels).any(|t| t.len() > 1_024) {
        return Err(invalid("addresses", "has a text of more than 1,024 bytes"));
    }
    Ok(())
}
