//! Evens out what failovers, returning nodes and new nodes left uneven: one copy or one primary at a time, and only while all is
//! calm for long.
//!
//! A copy moves as it always does: one more joins, and when it is complete the fullest node's is let go. So nothing has fewer
//! copies on the way than it should. That only one is under way bounds what it costs.

use super::leader::{Leader, Turn};
use crate::tables::{EntryOp, NodeEntry, NodeState, ShardEntry};
use crate::time::{Duration, Instant};
use understudy_proto::ids::{CopyId, NodeId, ShardId};

/// Nodes at each end of the order that are tried with each other.
const ENDS: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Since when every node is up and every shard has its copies.
    pub(super) calm_since: Option<Instant>,
    moved: Option<Instant>,
    /// The copy that joins though the shard has enough. Another leader does not know it, and lets it go again.
    pub(super) joins: Option<(ShardId, CopyId)>,
}

impl Leader {
    pub(super) fn balance(&mut self, turn: &mut Turn) {
        let (after, pause) = (turn.settings.balance_after, turn.settings.balance_pause);
        if after == Duration::ZERO {
            return;
        }
        if !self.is_calm(turn) {
            self.balance.calm_since = None;
            return;
        }
        let since = *self.balance.calm_since.get_or_insert(turn.now);
        let rests = self
            .balance
            .moved
            .is_some_and(|at| turn.now.since(at) < pause);
        if turn.now.since(since) < after || rests || self.is_moving() {
            return;
        }
        self.balance.moved = Some(turn.now);
        if let Some((shard, copy)) = self.uneven_copy(turn) {
            if let Some(entry) = turn.tables.shard(shard) {
                let leaving = false;
                self.balance.joins = Some((shard, copy));
                self.change(turn, shard, entry, EntryOp::AddJoining { copy, leaving });
            }
        } else if let Some((shard, target)) = self.uneven_primary(turn) {
            self.start_hand_over(turn, shard, target);
        }
    }

    fn is_calm(&self, turn: &Turn) -> bool {
        let well = |node: &NodeEntry| match node.state {
            NodeState::Removed => true,
            _ => self.is_usable(turn, node.id),
        };
        self.short.is_empty() && turn.tables.nodes().all(well)
    }

    /// Whether anything is under way, of this or of anybody else.
    fn is_moving(&self) -> bool {
        let joins = self.view.joining.values().any(|shards| !shards.is_empty());
        joins || !self.failovers.is_empty() || !self.hand_overs.is_empty() || self.proposes()
    }

    /// A copy that one more node should have: its fullest node then gives it up.
    fn uneven_copy(&self, turn: &Turn) -> Option<(ShardId, CopyId)> {
        let count = |node: NodeId| self.view.copies_at(node);
        self.ends(turn, count)
            .into_iter()
            .find_map(|(full, empty)| {
                let mut shards = self.view.copies.get(&full.id)?.iter();
                let fits = |shard: &&ShardId| self.may_move(turn, **shard, full, empty);
                shards.find(fits).map(|shard| (*shard, empty.copy()))
            })
    }

    fn may_move(&self, turn: &Turn, shard: ShardId, full: &NodeEntry, empty: &NodeEntry) -> bool {
        let Some(entry) = turn.tables.shard(shard) else {
            return false;
        };
        let Some(namespace) = turn.tables.namespace(entry.namespace) else {
            return false;
        };
        let settings = &namespace.settings;
        let rest = entry.copies().filter(|copy| *copy != full.copy());
        let rest: Vec<&NodeEntry> = rest.filter_map(|c| turn.tables.node(c.node)).collect();
        let in_site = |site: &str| rest.iter().filter(|node| node.site == site).count();
        is_settled(entry)
            && entry.is_secondary(full.copy())
            && !entry.names(empty.copy())
            && settings.allows_site(&empty.site)
            && in_site(&empty.site) <= in_site(&full.site)
            && settings.site_rank(&empty.site) <= settings.site_rank(&full.site)
    }

    /// A primary that should be elsewhere, and where.
    fn uneven_primary(&self, turn: &Turn) -> Option<(ShardId, CopyId)> {
        let count = |node: NodeId| self.view.primaries_at(node);
        self.ends(turn, count)
            .into_iter()
            .find_map(|(full, empty)| {
                let mut shards = self.view.primaries.get(&full.process())?.shards.iter();
                let fits = |shard: &&ShardId| {
                    let Some(entry) = turn.tables.shard(**shard) else {
                        return false;
                    };
                    let rank = |site: &str| {
                        let namespace = turn.tables.namespace(entry.namespace)?;
                        Some(namespace.settings.site_rank(site))
                    };
                    let later = self.hand_over_not_before.get(shard);
                    is_settled(entry)
                        && entry.is_secondary(empty.copy())
                        && entry.candidates().any(|copy| copy == empty.copy())
                        && rank(&empty.site) <= rank(&full.site)
                        && later.is_none_or(|at| turn.now >= *at)
                };
                shards.find(fits).map(|shard| (*shard, empty.copy()))
            })
    }

    /// Pairs of a node with too much and one with too little, by their capacity, the worst first: those for which moving one
    /// leaves the first still with more.
    fn ends<'t>(
        &self,
        turn: &Turn<'t>,
        count: impl Fn(NodeId) -> usize,
    ) -> Vec<(&'t NodeEntry, &'t NodeEntry)> {
        let share = |node: &NodeEntry, more: usize| {
            (count(node.id) + more) * 1_024 / node.capacity.max(1) as usize
        };
        let mut nodes: Vec<&NodeEntry> = turn.tables.nodes().collect();
        nodes.retain(|node| self.is_usable(turn, node.id));
        nodes.sort_by_key(|node| (share(node, 0), node.id));
        let mut pairs = Vec::new();
        for full in nodes.iter().rev().take(ENDS) {
            for empty in nodes.iter().take(ENDS) {
                let without =
                    count(full.id).saturating_sub(1) * 1_024 / full.capacity.max(1) as usize;
                if without > share(empty, 1) {
                    pairs.push((*full, *empty));
                }
            }
        }
        pairs
    }
}

/// Nothing is under way with that shard.
fn is_settled(entry: &ShardEntry) -> bool {
    entry.begun.is_none() && entry.joining.is_empty() && entry.open_cuts.is_empty()
}
