//! Where copies go: evenly over nodes by their capacity, over sites, the primary to the least loaded of them.

use super::leader::{Leader, Turn};
use super::message::Condition;
use super::plan::FirstPlace;
use crate::detector::Verdict;
use crate::tables::{EntryOp, NamespaceSettings, NodeEntry, NodeState, ShardEntry};
use understudy_proto::ids::{CopyId, NodeId, ProcessId, ShardId};

impl Leader {
    /// Whether a node may get new copies and primaries: this leader heard it, and nothing speaks against it.
    pub(super) fn is_usable(&self, turn: &Turn, node: NodeId) -> bool {
        let Some(entry) = turn.tables.node(node) else {
            return false;
        };
        let heard = self.heard.get(&node);
        entry.state == NodeState::Up
            && !entry.drain
            && heard.is_some_and(|h| h.condition == Condition::Serving)
            && self.verdict(turn, node) == Verdict::Alive
    }

    fn usable<'t>(&self, turn: &Turn<'t>, settings: &NamespaceSettings) -> Vec<&'t NodeEntry> {
        let nodes = turn.tables.nodes();
        nodes
            .filter(|n| self.is_usable(turn, n.id) && settings.allows_site(&n.site))
            .collect()
    }

    /// All copies of a new shard at once. With too few nodes it waits a little for more.
    pub(super) fn first_place(
        &mut self,
        turn: &Turn,
        shard: ShardId,
        entry: &ShardEntry,
    ) -> Option<EntryOp> {
        let settings = &turn.tables.namespace(entry.namespace)?.settings;
        let since = *self.short.entry(shard).or_insert(turn.now);
        let usable = self.usable(turn, settings);
        let patient = turn.now.since(since) < turn.settings.placement_patience;
        let few = usable.len() < settings.copies as usize;
        if usable.is_empty() || (few && patient) {
            return None;
        }
        let FirstPlace {
            primary,
            secondaries,
        } = self.spread(turn, settings, usable)?;
        Some(EntryOp::Place {
            primary,
            secondaries,
        })
    }

    fn spread(
        &self,
        turn: &Turn,
        settings: &NamespaceSettings,
        mut usable: Vec<&NodeEntry>,
    ) -> Option<FirstPlace> {
        let mut chosen: Vec<&NodeEntry> = Vec::new();
        while chosen.len() < settings.copies as usize && !usable.is_empty() {
            let in_site = |n: &NodeEntry| chosen.iter().filter(|c| c.site == n.site).count();
            let (best, _) = usable.iter().enumerate().min_by_key(|(_, n)| {
                (
                    in_site(n),
                    settings.site_rank(&n.site),
                    self.fullness(n),
                    n.id,
                )
            })?;
            chosen.push(usable.remove(best));
        }
        let primary = chosen.iter().min_by_key(|n| {
            let rank = settings.site_rank(&n.site);
            (rank, self.load(turn.tables, n.id, 0), n.id)
        })?;
        let primary: ProcessId = primary.process();
        let copies = chosen.iter().map(|n| n.copy());
        let mut secondaries: Vec<CopyId> = copies.filter(|c| *c != primary.copy()).collect();
        // The order of succession: the preferred site first, then who carries least.
        secondaries.sort_by_key(|c| {
            let node = turn.tables.node(c.node);
            let rank = node.map(|n| settings.site_rank(&n.site));
            (rank, self.load(turn.tables, c.node, 0), c.node)
        });
        Some(FirstPlace {
            primary,
            secondaries,
        })
    }

    /// The place for one more copy of a shard that exists; `None` when no node can take one now.
    pub(super) fn place_for_one_more(&self, turn: &Turn, entry: &ShardEntry) -> Option<CopyId> {
        let settings = &turn.tables.namespace(entry.namespace)?.settings;
        let free = |n: &&NodeEntry| {
            let joins = self.view.joining_at(n.id) + self.planned.copies_at(n.id);
            !entry.names(n.copy()) && joins < turn.settings.joins_max
        };
        let in_site = |n: &NodeEntry| {
            let site = |c: &CopyId| turn.tables.node(c.node).map(|n| n.site.as_str());
            let here = |c: &CopyId| site(c) == Some(n.site.as_str());
            entry.copies().filter(here).count()
        };
        let usable = self.usable(turn, settings).into_iter().filter(free);
        let best = usable.min_by_key(|n| {
            let rank = settings.site_rank(&n.site);
            (in_site(n), rank, self.fullness(n), n.id)
        })?;
        Some(best.copy())
    }

    pub(super) fn fullness(&self, node: &NodeEntry) -> usize {
        let copies = self.view.copies_at(node.id) + self.planned.copies_at(node.id);
        copies * 1_024 / node.capacity.max(1) as usize
    }
}
