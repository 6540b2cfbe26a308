//! The leader's index over the tables: which process is primary of what, which node has which copies.
//!
//! Kept up by the tables' own change log, so that no change can be missed, and rebuilt when that was compacted.

use super::message::{Claim, ClaimDigest};
use crate::tables::{Changed, ShardEntry, Tables};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::{CopyId, NodeId, ProcessId, Revision, ShardId};

/// The shards that name one process as primary, with the digest of the claims that it should make.
#[derive(Debug, Default)]
pub(super) struct Primaries {
    pub(super) shards: BTreeSet<ShardId>,
    pub(super) digest: ClaimDigest,
}

#[derive(Debug, Default)]
struct Known {
    primary: Option<(ProcessId, Claim)>,
    copies: Vec<CopyId>,
    joining: Vec<NodeId>,
}

#[derive(Debug, Default)]
pub(super) struct View {
    seen: Option<Revision>,
    known: BTreeMap<ShardId, Known>,
    pub(super) primaries: BTreeMap<ProcessId, Primaries>,
    /// By node, whatever the store.
    pub(super) copies: BTreeMap<NodeId, BTreeSet<ShardId>>,
    pub(super) joining: BTreeMap<NodeId, BTreeSet<ShardId>>,
}

/// What changed since the last look.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) shards: BTreeSet<ShardId>,
    pub(super) nodes: BTreeSet<NodeId>,
}

impl View {
    pub(super) fn catch_up(&mut self, tables: &Tables) -> News {
        if self.seen == Some(tables.revision()) {
            return News::default();
        }
        let news = self.news(tables);
        for shard in &news.shards {
            self.set(*shard, tables.shard(*shard));
        }
        self.seen = Some(tables.revision());
        news
    }

    fn news(&self, tables: &Tables) -> News {
        let changes = self.seen.and_then(|seen| tables.changes_after(seen).ok());
        let mut news = News::default();
        let Some(changes) = changes else {
            news.shards = self
                .known
                .keys()
                .chain(tables.shards().keys())
                .copied()
                .collect();
            news.nodes = tables.nodes().map(|n| n.id).collect();
            return news;
        };
        for change in changes {
            match &change.what {
                Changed::Shard(shard, _) | Changed::ShardDeleted(shard) => {
                    news.shards.insert(*shard);
                }
                Changed::Node(node) => {
                    news.nodes.insert(node.id);
                }
                Changed::Namespace(namespace) => news.shards.extend(namespace.shard_ids()),
                _ => {}
            }
        }
        news
    }

    fn set(&mut self, shard: ShardId, entry: Option<&ShardEntry>) {
        if let Some(old) = self.known.remove(&shard) {
            self.take(shard, &old);
        }
        let Some(entry) = entry else { return };
        let epoch = entry.epoch;
        let new = Known {
            primary: entry.primary.map(|p| (p, Claim { shard, epoch })),
            copies: entry.copies().collect(),
            joining: entry.joining.iter().map(|c| c.node).collect(),
        };
        if let Some((process, claim)) = new.primary {
            let of = self.primaries.entry(process).or_default();
            of.shards.insert(shard);
            of.digest.add(claim);
        }
        for copy in &new.copies {
            self.copies.entry(copy.node).or_default().insert(shard);
        }
        for node in &new.joining {
            self.joining.entry(*node).or_default().insert(shard);
        }
        self.known.insert(shard, new);
    }

    fn take(&mut self, shard: ShardId, old: &Known) {
        if let Some((process, claim)) = old.primary
            && let Some(of) = self.primaries.get_mut(&process)
        {
            of.shards.remove(&shard);
            of.digest.take(claim);
            if of.shards.is_empty() {
                self.primaries.remove(&process);
            }
        }
        for node in old.copies.iter().map(|c| c.node) {
            remove(&mut self.copies, node, shard);
        }
        for node in &old.joining {
            remove(&mut self.joining, *node, shard);
        }
    }

    /// How many shards name a process of that node as primary.
    pub(super) fn primaries_at(&self, node: NodeId) -> usize {
        let of_node = |p: &&ProcessId| p.node == node;
        let at = self.primaries.keys().filter(of_node);
        at.map(|p| self.primaries[p].shards.len()).sum()
    }

    pub(super) fn copies_at(&self, node: NodeId) -> usize {
        self.copies.get(&node).map_or(0, BTreeSet::len)
    }

    pub(super) fn joining_at(&self, node: NodeId) -> usize {
        self.joining.get(&node).map_or(0, BTreeSet::len)
    }
}

fn remove(index: &mut BTreeMap<NodeId, BTreeSet<ShardId>>, node: NodeId, shard: ShardId) {
    if let Some(shards) = index.get_mut(&node) {
        shards.remove(&shard);
        if shards.is_empty() {
            index.remove(&node);
        }
    }
}

impl View {
    /// The claim that the row of that shard lets the process make.
    pub(super) fn claim(&self, shard: ShardId, process: ProcessId) -> Option<Claim> {
        let (primary, claim) = self.known.get(&shard)?.primary?;
        (primary == process).then_some(claim)
    }
}
