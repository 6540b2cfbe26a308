//! Evens out what failovers, returning nodes and new nodes left uneven: one copy or one primary at a time, and only while all is
//! calm for long.
//!
//! A copy moves as it always does: one more joins, and when it is complete the fullest node's is let go. So nothing has fewer
//! copies on the way than it should. That only one is under way bounds what it costs.

use super::leader::{Leader, Turn};
use crate::tables::{EntryOp, NodeEntry, NodeState, ShardEntry};
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use understudy_proto::ids::{CopyId, NodeId, ShardId};

/// A copy that joins for balance's sake and is not complete after so long is let go again.
const JOINS_FOR: Duration = Duration::from_millis(30 * 60_000);
/// Rows that one search looks at for a pair of nodes; what lies behind is looked at by a later one. And pairs of nodes.
const LOOKS_MAX: usize = 1_024;
const PAIRS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Since when every node is up and every shard has its copies.
    calm_since: Option<Instant>,
    /// When was last searched.
    searched: Option<Instant>,
    /// Nothing was found, and neither a row nor a node changed since.
    fruitless: bool,
    /// Where the search goes on.
    cursor: ShardId,
    /// The copy that joins though the shard has enough, and since when. Another leader does not know it, and lets it go again.
    joins: Option<(ShardId, CopyId, Instant)>,
}

impl Balance {
    pub(super) fn row_changed(&mut self) {
        self.fruitless = false;
    }

    /// The wait begins anew.
    pub(super) fn node_changed(&mut self) {
        self.fruitless = false;
        self.calm_since = None;
    }
}

/// What is to move.
enum Move {
    Copy(CopyId),
    Primary(CopyId),
}

impl Leader {
    pub(super) fn balance(&mut self, turn: &mut Turn) {
        let (after, pause) = (turn.settings.balance_after, turn.settings.balance_pause);
        if after == Duration::ZERO {
            return;
        }
        self.forget_what_joined(turn);
        if !self.is_calm(turn) {
            self.balance.calm_since = None;
            return;
        }
        let since = *self.balance.calm_since.get_or_insert(turn.now);
        let searched = self.balance.searched;
        let rests = searched.is_some_and(|at| turn.now.since(at) < pause);
        if turn.now.since(since) < after || rests || self.balance.fruitless || self.is_moving() {
            return;
        }
        self.balance.searched = Some(turn.now);
        match self.search(turn) {
            Some((shard, Move::Copy(copy))) => {
                if let Some(entry) = turn.tables.shard(shard) {
                    let leaving = false;
                    self.balance.joins = Some((shard, copy, turn.now));
                    self.change(turn, shard, entry, EntryOp::AddJoining { copy, leaving });
                }
            }
            Some((shard, Move::Primary(target))) => self.start_hand_over(turn, shard, target),
            None => {}
        }
    }

    /// Whether the copy is one too many on purpose, and still on its way.
    pub(super) fn is_awaited(&self, turn: &Turn, shard: ShardId, copy: CopyId) -> bool {
        let joins = self.balance.joins;
        let awaited = joins
            .is_some_and(|(s, c, at)| (s, c) == (shard, copy) && turn.now.since(at) < JOINS_FOR);
        awaited && self.is_usable(turn, copy.node)
    }

    fn forget_what_joined(&mut self, turn: &Turn) {
        let Some((shard, copy, since)) = self.balance.joins else {
            return;
        };
        let entry = turn.tables.shard(shard);
        let joins = entry.is_some_and(|entry| entry.joining.contains(&copy));
        if joins && !self.is_awaited(turn, shard, copy) {
            self.dirty.insert(shard);
            self.balance.calm_since = None;
        }
        // Before it is in the row it is only proposed.
        if !joins && turn.now.since(since) >= turn.settings.propose_again.scale(4, 1) {
            self.balance.joins = None;
        }
    }

    fn is_calm(&self, turn: &Turn) -> bool {
        let well = |node: &NodeEntry| match node.state {
            NodeState::Removed => true,
            _ => self.is_usable(turn, node.id),
        };
        // A hand-over that just failed would fail again, and holds writes while it is tried.
        let failed = !self.hand_over_not_before.is_empty();
        !failed && self.short.is_empty() && turn.tables.nodes().all(well)
    }

    /// Whether anything is under way, of this or of anybody else.
    fn is_moving(&self) -> bool {
        let joins = self.view.joining.values().any(|shards| !shards.is_empty());
        joins || !self.failovers.is_empty() || !self.hand_overs.is_empty() || self.proposes()
    }

    /// Copies first; then primaries.
    fn search(&mut self, turn: &Turn) -> Option<(ShardId, Move)> {
        let mut last = None;
        let mut found = None;
        for (full, empty) in self.ends(turn, |node| self.view.copies_at(node)) {
            let shards = self.view.copies.get(&full.id);
            let fits = |shard| self.may_move(turn, shard, full, empty);
            if let Some(shard) = self.find(shards, &mut last, fits) {
                found = Some((shard, Move::Copy(empty.copy())));
                break;
            }
        }
        let primaries = match found {
            Some(_) => Vec::new(),
            None => self.ends(turn, |node| self.view.primaries_at(node)),
        };
        for (full, empty) in primaries {
            let shards = self.view.primaries.get(&full.process());
            let fits = |shard| self.may_lead(turn, shard, full, empty);
            if let Some(shard) = self.find(shards.map(|of| &of.shards), &mut last, fits) {
                found = Some((shard, Move::Primary(empty.copy())));
                break;
            }
        }
        match (&found, last) {
            (Some((shard, _)), _) => self.balance.cursor = *shard,
            (None, Some(last)) => self.balance.cursor = last,
            (None, None) => self.balance.fruitless = true,
        }
        found
    }

    /// The first shard that fits, beginning after the cursor. `last`: up to where was looked, when there are more.
    fn find(
        &self,
        shards: Option<&BTreeSet<ShardId>>,
        last: &mut Option<ShardId>,
        fits: impl Fn(ShardId) -> bool,
    ) -> Option<ShardId> {
        let shards = shards?;
        let cursor = self.balance.cursor;
        let after = shards.range((Excluded(cursor), Unbounded));
        let mut looked = after.chain(shards.range(..=cursor)).take(LOOKS_MAX);
        let mut end = None;
        let found = looked.find(|shard| {
            end = Some(**shard);
            fits(**shard)
        });
        let found = found.copied();
        if found.is_none() && shards.len() > LOOKS_MAX {
            *last = last.or(end);
        }
        found
    }

    fn may_move(&self, turn: &Turn, shard: ShardId, full: &NodeEntry, empty: &NodeEntry) -> bool {
        let Some(entry) = turn.tables.shard(shard) else {
            return false;
        };
        let movable = is_settled(entry) && entry.is_secondary(full.copy());
        if !movable || entry.names(empty.copy()) {
            return false;
        }
        let Some(namespace) = turn.tables.namespace(entry.namespace) else {
            return false;
        };
        let settings = &namespace.settings;
        let rest = entry.copies().filter(|copy| *copy != full.copy());
        let rest: Vec<&NodeEntry> = rest.filter_map(|c| turn.tables.node(c.node)).collect();
        let in_site = |site: &str| rest.iter().filter(|node| node.site == site).count();
        settings.allows_site(&empty.site)
            && in_site(&empty.site) <= in_site(&full.site)
            && settings.site_rank(&empty.site) <= settings.site_rank(&full.site)
    }

    /// Whether `empty` may be the primary in place of `full`.
    fn may_lead(&self, turn: &Turn, shard: ShardId, full: &NodeEntry, empty: &NodeEntry) -> bool {
        let Some(entry) = turn.tables.shard(shard) else {
            return false;
        };
        let rank = |site: &str| {
            let namespace = turn.tables.namespace(entry.namespace)?;
            Some(namespace.settings.site_rank(site))
        };
        is_settled(entry)
            && entry.is_secondary(empty.copy())
            && entry.candidates().any(|copy| copy == empty.copy())
            && rank(&empty.site) <= rank(&full.site)
    }

    /// Pairs of a node with too much and one with too little, by their capacity, the worst first: those for which moving one
    /// leaves the first still with more.
    fn ends<'t>(
        &self,
        turn: &Turn<'t>,
        count: impl Fn(NodeId) -> usize,
    ) -> Vec<(&'t NodeEntry, &'t NodeEntry)> {
        let share = |node: &NodeEntry, count: usize| count * 1_024 / node.capacity.max(1) as usize;
        let nodes = turn.tables.nodes();
        let nodes = nodes.filter(|node| self.is_usable(turn, node.id));
        let mut nodes: Vec<(&NodeEntry, usize)> = nodes.map(|n| (n, count(n.id))).collect();
        nodes.sort_by_key(|(node, count)| (share(node, *count), node.id));
        let mut pairs = Vec::new();
        for (full, most) in nodes.iter().rev() {
            for (empty, fewest) in &nodes {
                if share(full, most.saturating_sub(1)) <= share(empty, fewest + 1) {
                    break;
                }
                pairs.push((*full, *empty));
            }
        }
        pairs.truncate(PAIRS_MAX);
        pairs
    }
}

/// Nothing is under way with that shard.
fn is_settled(entry: &ShardEntry) -> bool {
    entry.begun.is_none() && entry.joining.is_empty() && entry.open_cuts.is_empty()
}
