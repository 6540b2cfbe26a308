//! A shard's row in the naming table: which copies it has and in which role, its open cuts, its begun failover.
//!
//! Every change is one of the [`EntryOp`]s, a compare-and-set on the row's revision; each checks before and after it.

use super::command::{EntryOp, Refusal, not_allowed};
use super::forced::Forced;
use super::in_sync::Present;
use crate::effect::{Assignment, InSyncSet};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::{CopyId, Epoch, NamespaceId, Pair, ProcessId, Revision};

/// Open cuts of one shard; beyond it the two newest become one that closes with the later of them.
pub const OPEN_CUTS_MAX: usize = 64;

/// What a change of epoch may have cut off, until each listed store came back and gave its orphans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCut {
    pub old_epoch: Epoch,
    /// A listed store has to follow a primary of at least this epoch before it counts as having come back.
    pub new_epoch: Epoch,
    /// The last record of the promoted copy.
    pub cut: Pair,
    /// The stores that were not sealed for the new epoch and did not come back yet. Never empty.
    pub stores: BTreeSet<CopyId>,
}

/// A failover that has begun: nobody is granted a lease for the shard until its epoch is at least this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub epoch: Epoch,
    /// Wins against equally advanced copies: the target of a clean hand-over.
    pub preferred: Option<CopyId>,
    /// A person chose who is promoted.
    #[serde(default)]
    pub forced: Option<Forced>,
}

/// A shard's row. A copy is in at most one of `primary`, `secondaries` and `joining`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    pub namespace: NamespaceId,
    /// Of the last change of this row.
    pub revision: Revision,
    /// Zero until the first placement.
    pub epoch: Epoch,
    /// The one process that may act as primary. `None` exactly in epoch zero.
    pub primary: Option<ProcessId>,
    /// In the order of succession.
    pub secondaries: Vec<CopyId>,
    pub joining: BTreeSet<CopyId>,
    /// Those of `joining` that only follow to give their orphans and are deleted then.
    pub leaving: BTreeSet<CopyId>,
    pub in_sync: BTreeSet<CopyId>,
    pub eligible: BTreeSet<CopyId>,
    /// Whose answers the primary's lease from its witnesses needs.
    pub witnesses: BTreeSet<CopyId>,
    /// The copy of a site that pulls over the slow link for the others.
    pub relays: BTreeMap<String, CopyId>,
    /// Oldest first.
    pub open_cuts: Vec<OpenCut>,
    pub begun: Option<Begun>,
    /// Of an `in_sync` namespace: the members that the set needs for anything to commit. `None`: lazy. It stands in the row, so
    /// that it changes with the set and not beside it.
    #[serde(default)]
    pub min_in_sync: Option<u32>,
    /// The newest epoch that a forced promotion began. What an in_sync copy undoes of earlier epochs may have been acknowledged.
    /// Never taken back.
    #[serde(default)]
    pub forced: Option<Epoch>,
}

impl ShardEntry {
    pub(crate) fn new(namespace: NamespaceId, min_in_sync: Option<u32>) -> ShardEntry {
        ShardEntry {
            namespace,
            revision: Revision::ZERO,
            epoch: Epoch::ZERO,
            primary: None,
            secondaries: Vec::new(),
            joining: BTreeSet::new(),
            leaving: BTreeSet::new(),
            in_sync: BTreeSet::new(),
            eligible: BTreeSet::new(),
            witnesses: BTreeSet::new(),
            relays: BTreeMap::new(),
            open_cuts: Vec::new(),
            begun: None,
            min_in_sync,
            forced: None,
        }
    }

    /// Every copy that the row names: the primary, the secondaries in order, those that join.
    pub fn copies(&self) -> impl Iterator<Item = CopyId> + '_ {
        let primary = self.primary.map(ProcessId::copy);
        primary
            .into_iter()
            .chain(self.secondaries.iter().copied())
            .chain(self.joining.iter().copied())
    }

    pub fn names(&self, copy: CopyId) -> bool {
        self.copies().any(|c| c == copy)
    }

    /// The row as a replica of that store needs it.
    pub fn assignment(&self, copy: CopyId) -> Assignment {
        Assignment {
            revision: self.revision,
            epoch: self.epoch,
            primary: self.primary,
            secondaries: self.secondaries.clone(),
            joining: self.joining.iter().copied().collect(),
            oldest_open_cut: self.open_cuts.iter().map(|cut| cut.cut).min(),
            open_cut_lists_me: self.cut_lists(copy),
            in_sync: self.min_in_sync.map(|min| InSyncSet {
                members: self.in_sync.clone(),
                min,
            }),
            witnesses: self.witnesses.clone(),
            forced: self.forced,
        }
    }

    pub fn is_secondary(&self, copy: CopyId) -> bool {
        self.secondaries.contains(&copy)
    }

    /// Whether an open cut waits for that store.
    pub fn cut_lists(&self, copy: CopyId) -> bool {
        self.open_cuts.iter().any(|c| c.stores.contains(&copy))
    }

    /// Makes the change, or says why it does not fit the row as it is.
    pub(super) fn change(
        &mut self,
        op: &EntryOp,
        lost: &BTreeSet<CopyId>,
        present: Present,
    ) -> Result<(), Refusal> {
        match op {
            EntryOp::Place {
                primary,
                secondaries,
            } => self.place(*primary, secondaries),
            EntryOp::BeginFailover { epoch, preferred } => self.begin(*epoch, *preferred),
            EntryOp::Promote {
                epoch,
                promoted,
                last,
                sealed,
            } => {
                self.promote(*epoch, *promoted, *last, sealed, lost)?;
                self.promote_in_sync(promoted.copy(), sealed, present);
                Ok(())
            }
            EntryOp::AddJoining { copy, leaving } => self.add_joining(*copy, *leaving),
            EntryOp::Complete { epoch, copy } => self.complete(*epoch, *copy),
            EntryOp::MarkJoining { copy } => self.mark_joining(*copy, false),
            EntryOp::MarkLeaving { copy } => self.mark_joining(*copy, true),
            EntryOp::Remove { copy } => self.remove(*copy),
            EntryOp::CloseCuts { copy, followed } => self.close_cuts(*copy, *followed),
            EntryOp::AddInSync { epoch, copy } => self.add_in_sync(*epoch, *copy),
            EntryOp::DropInSync { epoch, copy } => self.drop_in_sync(*epoch, *copy, present),
            EntryOp::AddWitness { epoch, copy } => self.add_witness(*epoch, *copy),
            EntryOp::DropWitness { copy } => self.drop_witness(*copy),
            EntryOp::DropLastWitness { epoch, copy } => self.drop_last_witness(*epoch, *copy),
        }
    }

    fn place(&mut self, primary: ProcessId, secondaries: &[CopyId]) -> Result<(), Refusal> {
        if self.epoch != Epoch::ZERO {
            return Err(not_allowed("the shard is placed already"));
        }
        self.epoch = Epoch(1);
        self.primary = Some(primary);
        self.secondaries = secondaries.to_vec();
        self.begin_witnesses(&secondaries.iter().copied().collect());
        self.begin_in_sync();
        Ok(())
    }

    fn begin(&mut self, epoch: Epoch, preferred: Option<CopyId>) -> Result<(), Refusal> {
        let floor = self.begun.map_or(self.epoch, |b| b.epoch);
        if self.epoch == Epoch::ZERO || epoch <= floor {
            return Err(not_allowed("a failover begins above every earlier epoch"));
        }
        let forced = self.begun.and_then(|begun| begun.forced);
        self.begun = Some(Begun {
            epoch,
            preferred,
            forced,
        });
        Ok(())
    }

    fn promote(
        &mut self,
        epoch: Epoch,
        promoted: ProcessId,
        last: Pair,
        sealed: &BTreeSet<CopyId>,
        lost: &BTreeSet<CopyId>,
    ) -> Result<(), Refusal> {
        if self.begun.map(|b| b.epoch) != Some(epoch) {
            return Err(not_allowed("no failover to that epoch has begun"));
        }
        let copy = promoted.copy();
        if !self.promotable().any(|c| c == copy) || !sealed.contains(&copy) {
            return Err(not_allowed("only a sealed candidate is promoted"));
        }
        if self.forcing().is_some_and(|forced| last < forced.least) {
            return Err(not_allowed("the chosen copy has less than was shown"));
        }
        assert!(epoch > self.epoch, "epoch {epoch} after {}", self.epoch);
        self.open_cut(epoch, last, self.cut_stores(copy, sealed, lost));
        self.note_forced(epoch);
        let old = self.primary.map(ProcessId::copy).filter(|c| *c != copy);
        self.secondaries.retain(|c| *c != copy);
        self.secondaries.extend(old);
        self.epoch = epoch;
        self.primary = Some(promoted);
        self.begun = None;
        self.begin_witnesses(sealed);
        Ok(())
    }

    fn open_cut(&mut self, new_epoch: Epoch, cut: Pair, stores: BTreeSet<CopyId>) {
        if stores.is_empty() {
            return;
        }
        let old_epoch = self.epoch;
        let opened = OpenCut {
            old_epoch,
            new_epoch,
            cut,
            stores,
        };
        if self.open_cuts.len() < OPEN_CUTS_MAX {
            self.open_cuts.push(opened);
        } else if let Some(newest) = self.open_cuts.last_mut() {
            newest.new_epoch = new_epoch;
            newest.cut = newest.cut.min(cut);
            newest.stores.extend(opened.stores);
        }
    }

    fn add_joining(&mut self, copy: CopyId, leaving: bool) -> Result<(), Refusal> {
        let stays = !leaving && self.leaving.contains(&copy);
        if self.names(copy) && !stays || self.epoch == Epoch::ZERO {
            return Err(not_allowed("the copy is named already, or none is placed"));
        }
        self.joining.insert(copy);
        if leaving {
            self.leaving.insert(copy);
        } else {
            self.leaving.remove(&copy);
        }
        Ok(())
    }

    fn complete(&mut self, epoch: Epoch, copy: CopyId) -> Result<(), Refusal> {
        if epoch != self.epoch || !self.joining.contains(&copy) || self.leaving.contains(&copy) {
            return Err(not_allowed("that copy does not join in that epoch"));
        }
        self.joining.remove(&copy);
        self.secondaries.push(copy);
        Ok(())
    }

    fn mark_joining(&mut self, copy: CopyId, leaving: bool) -> Result<(), Refusal> {
        let may_leave = leaving && self.joining.contains(&copy);
        if !(self.is_secondary(copy) || may_leave) {
            return Err(not_allowed("that copy is no secondary"));
        }
        self.leave_in_sync(copy);
        self.secondaries.retain(|c| *c != copy);
        self.relays.retain(|_, c| *c != copy);
        self.joining.insert(copy);
        if leaving {
            self.leaving.insert(copy);
        }
        Ok(())
    }

    fn remove(&mut self, copy: CopyId) -> Result<(), Refusal> {
        if !self.names(copy) || self.primary.map(ProcessId::copy) == Some(copy) {
            return Err(not_allowed("that copy is the primary or not named"));
        }
        if self.witnesses.contains(&copy) {
            return Err(not_allowed("that copy is in the witness set"));
        }
        self.forget(copy);
        Ok(())
    }

    fn forget(&mut self, copy: CopyId) {
        self.secondaries.retain(|c| *c != copy);
        self.joining.remove(&copy);
        self.leaving.remove(&copy);
        self.leave_in_sync(copy);
        self.relays.retain(|_, c| *c != copy);
    }

    fn close_cuts(&mut self, copy: CopyId, followed: Epoch) -> Result<(), Refusal> {
        if followed > self.epoch {
            return Err(not_allowed("that epoch is not reached"));
        }
        self.strike_from_cuts(copy, followed)
            .then_some(())
            .ok_or_else(|| not_allowed("no open cut lists that copy"))
    }

    fn strike_from_cuts(&mut self, copy: CopyId, followed: Epoch) -> bool {
        let mut struck = false;
        for cut in &mut self.open_cuts {
            if cut.new_epoch <= followed {
                struck |= cut.stores.remove(&copy);
            }
        }
        self.open_cuts.retain(|c| !c.stores.is_empty());
        struck
    }

    /// A person says that the store will not come back. The primary's place is left to the failover.
    pub(super) fn declare_lost(&mut self, copy: CopyId) -> bool {
        let before = (self.secondaries.len(), self.joining.len());
        let mut changed = self.strike_from_cuts(copy, Epoch(u64::MAX));
        let primary = self.primary.map(ProcessId::copy) == Some(copy);
        let bound = primary || self.witnesses.contains(&copy);
        if !bound {
            self.forget(copy);
            changed |= before != (self.secondaries.len(), self.joining.len());
        }
        changed
    }

    /// What is wrong inside this row; empty when nothing is.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |good: bool, what: &str| {
            if !good {
                faults.push(what.to_string());
            }
        };
        let all: Vec<CopyId> = self.copies().collect();
        let distinct: BTreeSet<CopyId> = all.iter().copied().collect();
        check(distinct.len() == all.len(), "a copy has two roles");
        check(
            (self.epoch == Epoch::ZERO) == self.primary.is_none(),
            "a primary exactly when the epoch is above zero",
        );
        check(self.leaving.is_subset(&self.joining), "leaving copies join");
        check(
            self.primary
                .is_none_or(|p| !self.witnesses.contains(&p.copy())),
            "a primary is never its own witness",
        );
        check(
            self.witnesses.iter().all(|copy| distinct.contains(copy)),
            "a witness is a copy of the row",
        );
        check(
            self.begun.is_none_or(|b| b.epoch > self.epoch),
            "a begun failover leads to a higher epoch",
        );
        check(
            self.forced.is_none_or(|forced| forced <= self.epoch),
            "a forced promotion began an epoch that was reached",
        );
        check(self.open_cuts.len() <= OPEN_CUTS_MAX, "too many open cuts");
        let sound = |c: &OpenCut| {
            !c.stores.is_empty() && c.old_epoch < c.new_epoch && c.new_epoch <= self.epoch
        };
        check(self.open_cuts.iter().all(sound), "an open cut is unsound");
        faults.extend(self.in_sync_faults().into_iter().map(str::to_string));
        faults
    }
}
