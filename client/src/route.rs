//! The cached route of one namespace: its shards, their copies in order, and where the nodes are.
//!
//! Pure data, changed by redirects, by watches and by what the managers answer. Epochs only move forward: an older answer
//! never replaces a newer one, so a late packet cannot send a client back to a deposed primary. The order of a shard's
//! copies is kept (A08): the next server is the next one of this list, and no manager is asked for it.

use crate::retry::Wanted;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::failure::{Advice, Failure, Reason};
use understudy_proto::{Epoch, NamespaceId, NodeId, Revision, ShardId, shard_of_key, v1};

/// Where the copies of one shard are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRoute {
    /// The index inside the namespace.
    pub index: u32,
    /// The id in the cluster.
    pub shard: ShardId,
    pub epoch: Epoch,
    /// `None`: the tables name none at the moment.
    pub primary: Option<NodeId>,
    /// All complete copies, in the order in which they are asked. Holds the primary when there is one.
    pub copies: Vec<NodeId>,
    /// The same, those at the caller's site first.
    near: Vec<NodeId>,
    /// How many of `near` are at the caller's site; all when none is.
    near_count: usize,
}

impl ShardRoute {
    /// The copies in the order in which a request asks them.
    pub fn order(&self, wanted: Wanted) -> impl Iterator<Item = NodeId> + '_ {
        let (list, start, span) = match wanted {
            Wanted::Primary => {
                let at = self
                    .copies
                    .iter()
                    .position(|node| Some(*node) == self.primary);
                (&self.copies, at.unwrap_or(0), self.copies.len())
            }
            Wanted::Any(spread) => {
                let span = self.near_count.max(1);
                (
                    &self.near,
                    spread as usize % span,
                    span.min(self.near.len()),
                )
            }
        };
        let first = (0..span).map(move |i| list[(start + i) % span]);
        first.chain(list[span..].iter().copied())
    }

    fn from_wire(wire: &v1::ShardRoute) -> ShardRoute {
        let primary = Some(NodeId(wire.primary)).filter(|node| node.0 != 0);
        let mut copies: Vec<NodeId> = primary.into_iter().collect();
        for node in wire.secondaries.iter().map(|node| NodeId(*node)) {
            if node.0 != 0 && !copies.contains(&node) {
                copies.push(node);
            }
        }
        ShardRoute {
            index: wire.index,
            shard: ShardId(wire.shard),
            epoch: Epoch(wire.epoch),
            primary,
            near: copies.clone(),
            near_count: copies.len(),
            copies,
        }
    }

    fn sort_by_site(&mut self, nodes: &BTreeMap<NodeId, Node>, site: &str) {
        let is_near = |node: &NodeId| nodes.get(node).is_some_and(|known| known.site == site);
        let (mut near, far): (Vec<_>, Vec<_>) = self.copies.iter().partition(|node| is_near(node));
        self.near_count = if near.is_empty() {
            far.len()
        } else {
            near.len()
        };
        near.extend(far);
        self.near = near;
    }
}

/// A node that the route names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub site: String,
    /// host:port of the public port.
    pub address: String,
}

/// The route of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub namespace: NamespaceId,
    /// The revision of the tables that the newest full or watched part was read at.
    pub revision: Revision,
    /// By index, without a gap.
    pub shards: Vec<ShardRoute>,
    pub nodes: BTreeMap<NodeId, Node>,
    /// Public addresses of the managers.
    pub managers: Vec<String>,
    /// The caller's site.
    site: String,
}

/// A server's hint where the primary is: the metadata of NOT_PRIMARY and STALE_EPOCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub epoch: Epoch,
    pub primary: Option<NodeId>,
    pub address: Option<String>,
}

impl Redirect {
    /// `None` when the failure is no redirect to a primary.
    pub fn of(failure: &Failure) -> Option<Redirect> {
        if failure.reason.advice() != Advice::Follow || failure.reason == Reason::NotLeader {
            return None;
        }
        let number = |key: &str| failure.metadata.get(key)?.parse::<u64>().ok();
        Some(Redirect {
            epoch: Epoch(number("epoch").unwrap_or(0)),
            primary: number("primary").filter(|node| *node != 0).map(NodeId),
            address: failure
                .metadata
                .get("address")
                .filter(|address| !address.is_empty())
                .cloned(),
        })
    }
}

impl Route {
    /// The first answer must name every shard once; anything else is no route.
    pub fn from_wire(wire: &v1::RouteResponse, site: &str) -> Result<Route, Failure> {
        let mut shards: Vec<ShardRoute> = wire.shards.iter().map(ShardRoute::from_wire).collect();
        shards.sort_by_key(|shard| shard.index);
        let whole = !shards.is_empty()
            && shards.len() == wire.shard_count as usize
            && shards
                .iter()
                .zip(0..)
                .all(|(shard, index)| shard.index == index);
        if !whole {
            let have = shards.len();
            let message = format!("a route names {have} of {} shards", wire.shard_count);
            return Err(Failure::no(Reason::Internal, message));
        }
        let mut route = Route {
            namespace: NamespaceId(wire.namespace_id),
            revision: Revision(wire.revision),
            shards,
            nodes: BTreeMap::new(),
            managers: wire.managers.clone(),
            site: site.to_string(),
        };
        route.learn_nodes(&wire.nodes);
        route.sort_by_site();
        Ok(route)
    }

    /// Takes over what is newer. True when something a request could care about changed.
    pub fn apply(&mut self, wire: &v1::RouteResponse) -> bool {
        if wire.namespace_id != self.namespace.0 {
            return self.replace(wire);
        }
        let before = self.clone();
        let newer = wire.revision >= self.revision.0;
        self.learn_nodes(&wire.nodes);
        if newer && !wire.managers.is_empty() {
            self.managers.clone_from(&wire.managers);
        }
        for shard in &wire.shards {
            self.apply_shard(ShardRoute::from_wire(shard), newer);
        }
        self.revision = self.revision.max(Revision(wire.revision));
        self.sort_by_site();
        (&before.shards, &before.nodes, &before.managers)
            != (&self.shards, &self.nodes, &self.managers)
    }

    /// Follows a redirect. True when it told something newer than what was known.
    pub fn redirect(&mut self, index: u32, redirect: &Redirect) -> bool {
        if !self.is_news(index, redirect) {
            return false;
        }
        let (Some(primary), Some(shard)) = (redirect.primary, self.shards.get_mut(index as usize))
        else {
            return false;
        };
        shard.epoch = redirect.epoch;
        shard.primary = Some(primary);
        if !shard.copies.contains(&primary) {
            shard.copies.insert(0, primary);
        }
        if let Some(address) = &redirect.address {
            let node = self.nodes.entry(primary).or_insert_with(|| Node {
                name: String::new(),
                site: String::new(),
                address: String::new(),
            });
            node.address.clone_from(address);
        }
        self.sort_by_site();
        true
    }

    /// Whether a redirect tells something newer than what is known, and usable.
    pub fn is_news(&self, index: u32, redirect: &Redirect) -> bool {
        let (Some(primary), Some(shard)) = (redirect.primary, self.shards.get(index as usize))
        else {
            return false;
        };
        let names_first = redirect.epoch == shard.epoch && shard.primary.is_none();
        let reachable = self.nodes.contains_key(&primary) || redirect.address.is_some();
        reachable && (redirect.epoch > shard.epoch || names_first)
    }

    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|node| node.address.as_str())
    }

    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The shard of all these keys; more than one is CROSS_SHARD.
    pub fn shard_of<'a>(
        &self,
        mut keys: impl Iterator<Item = &'a Bytes>,
    ) -> Result<&ShardRoute, Failure> {
        let first = keys
            .next()
            .ok_or_else(|| Failure::field("ops", "a request names at least one key"))?;
        let index = shard_of_key::shard_index(first, self.shard_count());
        if keys.any(|key| shard_of_key::shard_index(key, self.shard_count()) != index) {
            let message = "the keys are in more than one shard; a common tag in braces, like {7}, keeps them together";
            return Err(Failure::no(Reason::CrossShard, message));
        }
        Ok(&self.shards[index as usize])
    }

    /// A namespace made again under the same name has another id; the younger id wins.
    fn replace(&mut self, wire: &v1::RouteResponse) -> bool {
        if wire.namespace_id < self.namespace.0 {
            return false;
        }
        match Route::from_wire(wire, &self.site) {
            Ok(route) => {
                *self = route;
                true
            }
            Err(_) => false,
        }
    }

    fn apply_shard(&mut self, shard: ShardRoute, newer: bool) {
        let Some(known) = self.shards.get_mut(shard.index as usize) else {
            return;
        };
        // Inside an epoch the copies change with the revision; over epochs the higher one wins whatever the revision.
        if shard.epoch > known.epoch || (shard.epoch == known.epoch && newer) {
            *known = shard;
        }
    }

    fn learn_nodes(&mut self, nodes: &[v1::NodeAddress]) {
        for node in nodes {
            let known = Node {
                name: node.name.clone(),
                site: node.site.clone(),
                address: node.address.clone(),
            };
            self.nodes.insert(NodeId(node.node), known);
        }
    }

    fn sort_by_site(&mut self) {
        for shard in &mut self.shards {
            shard.sort_by_site(&self.nodes, &self.site);
        }
    }
}
