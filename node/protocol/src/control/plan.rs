//! What each shard needs next: its first place, its number of copies, its closed cuts. One change of a row at a time.

use super::leader::{Leader, Turn};
use super::message::CopyReport;
use crate::mutant::Mutant;
use crate::tables::{EntryOp, NodeState, ShardEntry};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use understudy_proto::ids::{CopyId, Epoch, NodeId, ProcessId, ShardId};

/// What is proposed and not yet in the tables, counted in so that one batch spreads evenly.
#[derive(Debug, Default)]
pub(super) struct Planned {
    of: BTreeMap<ShardId, (Option<NodeId>, Vec<NodeId>)>,
    primaries: BTreeMap<NodeId, usize>,
    copies: BTreeMap<NodeId, usize>,
    /// The last shard that was looked at, so that all get their turn.
    cursor: ShardId,
}

impl Planned {
    pub(super) fn note(&mut self, shard: ShardId, op: &EntryOp) {
        self.forget(shard);
        let (primary, copies) = match op {
            EntryOp::Place {
                primary,
                secondaries,
            } => {
                let nodes = secondaries.iter().map(|c| c.node);
                (Some(primary.node), nodes.chain([primary.node]).collect())
            }
            EntryOp::Promote { promoted, .. } => (Some(promoted.node), Vec::new()),
            EntryOp::AddJoining { copy, .. } => (None, vec![copy.node]),
            _ => return,
        };
        primary
            .iter()
            .for_each(|n| *self.primaries.entry(*n).or_default() += 1);
        copies
            .iter()
            .for_each(|n| *self.copies.entry(*n).or_default() += 1);
        self.of.insert(shard, (primary, copies));
    }

    pub(super) fn forget(&mut self, shard: ShardId) {
        let Some((primary, copies)) = self.of.remove(&shard) else {
            return;
        };
        let less = |counts: &mut BTreeMap<NodeId, usize>, node: NodeId| {
            let count = counts.get_mut(&node).expect("what is planned was counted");
            *count -= 1;
        };
        primary.iter().for_each(|n| less(&mut self.primaries, *n));
        copies.iter().for_each(|n| less(&mut self.copies, *n));
    }

    pub(super) fn primaries_at(&self, node: NodeId) -> usize {
        self.primaries.get(&node).copied().unwrap_or(0)
    }

    pub(super) fn copies_at(&self, node: NodeId) -> usize {
        self.copies.get(&node).copied().unwrap_or(0)
    }
}

/// How much a copy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Here,
    /// Its node is down, not yet for long.
    Away,
    /// Its node is down for long, or has another store now.
    Gone,
    /// Its node drains, or its site may not hold the namespace any more.
    Unwanted,
}

impl Leader {
    pub(super) fn plan_dirty(&mut self, turn: &mut Turn) {
        for _ in 0..turn.settings.plans_per_step {
            let cursor = self.planned.cursor;
            let mut rest = self.dirty.range((Excluded(cursor), Unbounded));
            let next = rest.next().or(self.dirty.first()).copied();
            let Some(shard) = next else {
                return;
            };
            self.planned.cursor = shard;
            self.dirty.remove(&shard);
            self.plan(turn, shard);
        }
    }

    fn plan(&mut self, turn: &mut Turn, shard: ShardId) {
        let Some(entry) = turn.tables.shard(shard) else {
            self.let_deleted_shards_go(turn, shard);
            return;
        };
        if self.failovers.contains_key(&shard) {
            self.drive_failover(turn, shard);
            return;
        }
        if self.is_pending(turn, shard, entry) {
            return;
        }
        self.settle(shard);
        self.let_strays_go(turn, shard, entry);
        if let Some(op) = self.next_change(turn, shard, entry) {
            self.change(turn, shard, entry, op);
        } else {
            self.plan_hand_over(turn, shard);
        }
    }

    fn next_change(&mut self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> Option<EntryOp> {
        if entry.epoch == Epoch::ZERO {
            return self.first_place(turn, shard, entry);
        }
        self.take_in_stray(turn, shard, entry)
            .or_else(|| self.close_cut(shard, entry))
            .or_else(|| self.finish_leaving(turn, shard, entry))
            .or_else(|| self.drop_lost_witness(turn, entry))
            .or_else(|| self.fill(turn, shard, entry))
            .or_else(|| self.shed(turn, shard, entry))
            .map(|op| release_witness(entry, op))
    }

    /// A witness whose node is down keeps the primary from that lease. While none is here all stay: whichever comes back
    /// first can then say that the lease is over.
    fn drop_lost_witness(&self, turn: &Turn, entry: &ShardEntry) -> Option<EntryOp> {
        let lost = |copy: &&CopyId| {
            let standing = self.standing(turn, entry, **copy);
            matches!(standing, Standing::Away | Standing::Gone)
        };
        let others = !entry.witnesses.iter().all(|copy| lost(&copy));
        let may = others || Mutant::RemoveLastWitness.on();
        let copy = *entry.witnesses.iter().find(lost).filter(|_| may)?;
        Some(EntryOp::DropWitness { copy })
    }

    /// The reports about that shard by copies that its row does not name.
    fn strays(&self, shard: ShardId, entry: &ShardEntry) -> Vec<(CopyId, CopyReport)> {
        let reports = self.heard.values().filter_map(|h| {
            let report = h.reports.get(&shard)?;
            Some((h.process.copy(), *report))
        });
        reports.filter(|(copy, _)| !entry.names(*copy)).collect()
    }

    fn let_strays_go(&mut self, turn: &Turn, shard: ShardId, entry: &ShardEntry) {
        for (copy, report) in self.strays(shard, entry) {
            if let Some(heard) = self.heard.get_mut(&copy.node) {
                if has_given_all(&report, entry, copy) {
                    heard.deletable.insert(shard, turn.tables.revision());
                } else {
                    heard.deletable.remove(&shard);
                }
            }
        }
        for copy in entry.copies() {
            if let Some(heard) = self.heard.get_mut(&copy.node)
                && heard.process.copy() == copy
            {
                heard.deletable.remove(&shard);
            }
        }
    }

    fn let_deleted_shards_go(&mut self, turn: &Turn, shard: ShardId) {
        if !turn.tables.shard_is_deleted(shard) {
            return;
        }
        for heard in self.heard.values_mut() {
            if heard.reports.contains_key(&shard) {
                heard.deletable.insert(shard, turn.tables.revision());
            }
        }
    }

    /// A copy that the row no longer names first follows and gives its orphans.
    fn take_in_stray(&self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> Option<EntryOp> {
        let mut strays = self.strays(shard, entry).into_iter();
        let (copy, _) = strays.find(|(copy, report)| {
            !has_given_all(report, entry, *copy)
                && turn.tables.process_of(*copy).is_some()
                && self.standing(turn, entry, *copy) != Standing::Gone
        })?;
        let leaving = true;
        Some(EntryOp::AddJoining { copy, leaving })
    }

    fn close_cut(&self, shard: ShardId, entry: &ShardEntry) -> Option<EntryOp> {
        for cut in &entry.open_cuts {
            for copy in &cut.stores {
                let report = self.report(shard, *copy);
                let back = report.is_some_and(|r| r.followed >= cut.new_epoch && r.orphans == 0);
                if back || Mutant::CloseCutsEarly.on() {
                    let followed = report.map_or(cut.new_epoch, |r| r.followed);
                    let followed = followed.max(cut.new_epoch).min(entry.epoch);
                    let copy = *copy;
                    return Some(EntryOp::CloseCuts { copy, followed });
                }
            }
        }
        None
    }

    fn finish_leaving(&self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> Option<EntryOp> {
        let done = |copy: &&CopyId| {
            let report = self.report(shard, **copy);
            let given = report.is_some_and(|r| has_given_all(r, entry, **copy));
            // The last witness goes at the primary's request; it makes one for whoever is no secondary.
            (given || self.standing(turn, entry, **copy) == Standing::Gone)
                && !entry.is_bound(**copy)
        };
        let copy = *entry.leaving.iter().find(done)?;
        Some(EntryOp::Remove { copy })
    }

    /// Restores the number of copies.
    fn fill(&mut self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> Option<EntryOp> {
        let wanted = turn.tables.namespace(entry.namespace)?.settings.copies as usize;
        let counts = |c: &CopyId| {
            let standing = self.standing(turn, entry, *c);
            !entry.leaving.contains(c) && matches!(standing, Standing::Here | Standing::Away)
        };
        if entry.copies().filter(counts).count() >= wanted {
            self.short.remove(&shard);
            return None;
        }
        self.short.entry(shard).or_insert(turn.now);
        let copy = self.place_for_one_more(turn, entry);
        let copy = copy.or_else(|| self.one_that_may_stay(turn, entry))?;
        let leaving = false;
        Some(EntryOp::AddJoining { copy, leaving })
    }

    /// Who only gives its orphans still is a copy. Without it an in_sync shard might have too few members to commit them, and
    /// then it would never have given them.
    fn one_that_may_stay(&self, turn: &Turn, entry: &ShardEntry) -> Option<CopyId> {
        let here = |copy: &&CopyId| self.standing(turn, entry, **copy) == Standing::Here;
        entry.leaving.iter().find(here).copied()
    }

    /// Takes away what is too much, once enough full copies are here.
    fn shed(&self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> Option<EntryOp> {
        let wanted = turn.tables.namespace(entry.namespace)?.settings.copies as usize;
        let standing = |c: CopyId| self.standing(turn, entry, c);
        let joins = || entry.joining.difference(&entry.leaving).copied();
        let free = |c: &CopyId| standing(*c) == Standing::Gone && !entry.is_bound(*c);
        if let Some(copy) = joins().find(free) {
            return Some(EntryOp::Remove { copy });
        }
        // In an in_sync shard one that is not a member yet takes nobody's place.
        let counts = |c: &CopyId| !entry.is_in_sync() || entry.in_sync.contains(c);
        let here = entry.full_copies().filter(counts);
        let here = here.filter(|c| standing(*c) == Standing::Here).count();
        if here < wanted {
            return None;
        }
        let mut secondaries = entry.secondaries.iter().copied();
        if let Some(copy) = secondaries.clone().find(|c| standing(*c) == Standing::Gone) {
            return Some(EntryOp::Remove { copy });
        }
        if let Some(copy) = joins().find(|copy| !self.is_awaited(turn, shard, *copy)) {
            return Some(EntryOp::MarkLeaving { copy });
        }
        if let Some(copy) = secondaries.find(|c| standing(*c) == Standing::Unwanted) {
            return Some(EntryOp::MarkLeaving { copy });
        }
        if here == wanted {
            return None;
        }
        let present = entry.secondaries.iter().copied();
        let present = present.filter(|c| standing(*c) == Standing::Here);
        // The site with the most of its copies first, of those the least preferred, then the fullest node.
        let site = |c: &CopyId| turn.tables.node(c.node).map(|node| node.site.as_str());
        let in_site = |c: &CopyId| entry.full_copies().filter(|o| site(o) == site(c)).count();
        let settings = &turn.tables.namespace(entry.namespace)?.settings;
        let rank = |c: &CopyId| site(c).map(|site| settings.site_rank(site));
        let full = |c: &CopyId| turn.tables.node(c.node).map(|node| self.fullness(node));
        let copy = present.max_by_key(|c| (in_site(c), rank(c), full(c)))?;
        Some(EntryOp::MarkLeaving { copy })
    }

    fn standing(&self, turn: &Turn, entry: &ShardEntry, copy: CopyId) -> Standing {
        let Some(node) = turn.tables.node(copy.node) else {
            return Standing::Gone;
        };
        let replaced = node.store != copy.store || turn.tables.is_lost(copy);
        if replaced || node.state == NodeState::Removed {
            return Standing::Gone;
        }
        let away = self.away_since(copy.node);
        if away.is_some() && self.is_given_up(turn, copy.node) {
            return Standing::Gone;
        }
        let namespace = turn.tables.namespace(entry.namespace);
        if node.drain || namespace.is_some_and(|n| !n.settings.allows_site(&node.site)) {
            return Standing::Unwanted;
        }
        // What cannot write follows nobody.
        match away {
            Some(_) => Standing::Away,
            None => Standing::Here,
        }
    }

    /// Primaries of the node, also planned ones, weighted by its capacity; `but` are not counted.
    pub(super) fn load(&self, tables: &crate::tables::Tables, node: NodeId, but: usize) -> usize {
        let count = self.view.primaries_at(node) + self.planned.primaries_at(node);
        let capacity = tables.node(node).map_or(1, |n| n.capacity.max(1)) as usize;
        count.saturating_sub(but) * 1_024 / capacity
    }
}

/// A witness leaves the set before it leaves the row; the last one first stops being a secondary, whereupon the primary asks
/// to let it go.
fn release_witness(entry: &ShardEntry, op: EntryOp) -> EntryOp {
    match op {
        EntryOp::Remove { copy } if entry.is_bound(copy) => EntryOp::MarkLeaving { copy },
        EntryOp::Remove { copy } if entry.witnesses.contains(&copy) => {
            EntryOp::DropWitness { copy }
        }
        op => op,
    }
}

/// Whether a copy followed the present primary and has nothing that nobody else has.
fn has_given_all(report: &CopyReport, entry: &ShardEntry, copy: CopyId) -> bool {
    report.orphans == 0 && report.followed == entry.epoch && !entry.cut_lists(copy)
}

/// The process that a first placement makes primary, and the other copies.
pub(super) struct FirstPlace {
    pub(super) primary: ProcessId,
    pub(super) secondaries: Vec<CopyId>,
}
