//! The in-sync set of a shard's row: who has to have a record before it counts as committed, and who may be promoted.
//!
//! A copy enters only by a compare-and-set on the very revision that the asking primary knew, so that an unanswered request
//! can never come true behind a newer row. A copy may leave at any time: whoever still demands its acknowledgements only
//! demands more than it has to. The primary is always a member.

use super::command::{Refusal, not_allowed};
use super::entry::ShardEntry;
use crate::mutant::Mutant;
use std::collections::BTreeSet;
use understudy_proto::ids::{CopyId, Epoch, ProcessId};

/// Whether a node has that copy's store now.
pub(super) type Present<'a> = &'a dyn Fn(CopyId) -> bool;

impl ShardEntry {
    /// Whether the shard is of an `in_sync` namespace.
    pub fn is_in_sync(&self) -> bool {
        self.min_in_sync.is_some()
    }

    /// The copies that hold every record, or follow and did: the secondaries in order, then the primary.
    pub fn full_copies(&self) -> impl Iterator<Item = CopyId> + '_ {
        let primary = self.primary.map(ProcessId::copy);
        self.secondaries.iter().copied().chain(primary)
    }

    /// The copies that may be promoted. Lazy: every full copy. in_sync: the members of the set, and the eligible, of which there
    /// are none unless the set is below its minimum.
    pub fn candidates(&self) -> impl Iterator<Item = CopyId> + '_ {
        let any = !self.is_in_sync() || Mutant::PromoteNotInSync.on();
        self.full_copies()
            .filter(move |c| any || self.in_sync.contains(c) || self.eligible.contains(c))
    }

    /// Whether the set is large enough for anything to commit.
    pub fn commits(&self) -> bool {
        self.min_in_sync
            .is_none_or(|min| self.in_sync.len() >= min as usize)
    }

    pub(super) fn add_in_sync(&mut self, epoch: Epoch, copy: CopyId) -> Result<(), Refusal> {
        if !self.is_in_sync() || epoch != self.epoch || !self.is_secondary(copy) {
            return Err(not_allowed("that copy is no secondary in that epoch"));
        }
        if !self.in_sync.insert(copy) {
            return Err(not_allowed("that copy is in the in-sync set already"));
        }
        self.eligible.remove(&copy);
        self.forget_eligible();
        Ok(())
    }

    pub(super) fn drop_in_sync(
        &mut self,
        epoch: Epoch,
        copy: CopyId,
        present: Present,
    ) -> Result<(), Refusal> {
        let primary = self.primary.map(ProcessId::copy) == Some(copy);
        if epoch != self.epoch || primary || !self.in_sync.contains(&copy) {
            return Err(not_allowed("that copy is no other member in that epoch"));
        }
        let rest = self.in_sync.iter().copied().filter(|c| *c != copy);
        self.set_in_sync(rest.collect(), present);
        Ok(())
    }

    /// What the first placement begins with: all copies are empty, so each holds everything.
    pub(super) fn begin_in_sync(&mut self) {
        if self.is_in_sync() {
            self.in_sync = self.full_copies().collect();
        }
    }

    /// A new configuration: the sealed members of the old set, and the promoted one.
    pub(super) fn promote_in_sync(
        &mut self,
        promoted: CopyId,
        sealed: &BTreeSet<CopyId>,
        present: Present,
    ) {
        if self.is_in_sync() {
            let mut members: BTreeSet<CopyId> =
                self.in_sync.intersection(sealed).copied().collect();
            members.insert(promoted);
            self.set_in_sync(members, present);
        }
    }

    /// Those that leave a set that is, or becomes, too small to commit have everything that ever will have been committed
    /// until it is large enough again.
    fn set_in_sync(&mut self, members: BTreeSet<CopyId>, present: Present) {
        let left = self.in_sync.iter().filter(|c| !members.contains(c));
        let left: Vec<CopyId> = left.copied().filter(|c| present(*c)).collect();
        self.in_sync = members;
        self.eligible.extend(left);
        self.eligible.retain(|c| !self.in_sync.contains(c));
        self.forget_eligible();
    }

    fn forget_eligible(&mut self) {
        if self.commits() {
            self.eligible.clear();
        }
    }

    /// A member that joins anew or goes away leaves for good.
    pub(super) fn leave_in_sync(&mut self, copy: CopyId) {
        self.in_sync.remove(&copy);
        self.eligible.remove(&copy);
    }

    /// The namespace's minimum changed. True: so did the row.
    pub(super) fn set_min_in_sync(&mut self, min: u32) -> bool {
        if self.min_in_sync.is_none_or(|old| old == min) {
            return false;
        }
        self.min_in_sync = Some(min);
        self.forget_eligible();
        true
    }

    /// What is wrong with the set; empty when nothing is.
    pub(super) fn in_sync_faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        let mut check = |good: bool, what: &'static str| {
            if !good {
                faults.push(what);
            }
        };
        let full = |set: &BTreeSet<CopyId>| set.iter().all(|c| self.full_copies().any(|d| d == *c));
        check(full(&self.in_sync), "the in-sync set holds full copies");
        check(full(&self.eligible), "the eligible hold full copies");
        check(
            self.in_sync.is_disjoint(&self.eligible),
            "an eligible copy is no member",
        );
        let none = self.in_sync.is_empty() && self.eligible.is_empty();
        check(self.is_in_sync() || none, "a lazy shard has no in-sync set");
        let member = |p: ProcessId| self.in_sync.contains(&p.copy());
        check(
            !self.is_in_sync() || self.primary.is_none_or(member),
            "the primary is in the in-sync set",
        );
        check(
            !self.commits() || self.eligible.is_empty(),
            "nobody is eligible beside a set that commits",
        );
        faults
    }
}
