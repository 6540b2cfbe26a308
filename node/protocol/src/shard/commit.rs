//! in_sync: the commit point of a primary, who has to acknowledge before it moves, and who asks to enter or leave the set.
//!
//! A record is committed when every copy that is demanded has it durable: the members of the set in the newest row, and a copy
//! that this primary asked to add, from before it asked. Acknowledgements count on this epoch's streams only. Nothing commits
//! while the row's set is below its minimum, and nothing of an earlier epoch before this epoch's start. Only then the values
//! enter the objects, in the log's order, in the batch that moves the commit point.

use super::replica::{Replica, Role};
use crate::effect::{Ask, Context, Effect, InSyncSet};
use crate::mutant::Mutant;
use crate::store::{StoreChange, StoreError};
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{CopyId, Pair, Revision};

/// A member that acknowledged nothing for so many intervals is asked to be dropped: ten pulses went unanswered.
pub(super) const SILENT_INTERVALS: u64 = 10;
/// Who acknowledged nothing for so many would only be dropped again.
pub(super) const RECENT_INTERVALS: u64 = 3;

/// What a primary knows of its in-sync set beyond the row.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Asked to be added, at the revision of the row that was the newest then.
    adding: BTreeMap<CopyId, Revision>,
    /// When each copy last acknowledged, or was first counted on as a member.
    heard: BTreeMap<CopyId, Instant>,
}

impl Members {
    pub fn heard(&mut self, copy: CopyId, now: Instant) {
        self.heard.insert(copy, now);
    }

    /// Whether the copy acknowledged nothing for so long, since it was first counted on.
    pub fn is_silent(&mut self, copy: CopyId, now: Instant, after: Duration) -> bool {
        now.since(*self.heard.entry(copy).or_insert(now)) >= after
    }

    /// Whether the copy acknowledged something lately.
    pub fn heard_within(&self, copy: CopyId, now: Instant, time: Duration) -> bool {
        self.heard
            .get(&copy)
            .is_some_and(|at| now.since(*at) <= time)
    }

    /// A newer row answers what was asked at an older revision: the copy is a member now, or never becomes one upon that.
    pub fn on_row(&mut self, set: &InSyncSet, revision: Revision) {
        self.adding
            .retain(|copy, asked| *asked >= revision && !set.members.contains(copy));
    }
}

impl Replica {
    pub(super) fn in_sync_set(&self) -> Option<&InSyncSet> {
        self.assignment()?.in_sync.as_ref()
    }

    /// Whether the shard is in_sync and its set too small for anything to commit.
    pub(super) fn too_few_in_sync(&self) -> bool {
        self.in_sync_set().is_some_and(|set| !set.commits())
    }

    /// Before a copy of an in_sync shard takes a role: what is not committed is in memory.
    pub(super) fn prepare_in_sync(&mut self, context: &Context<'_>) -> Result<(), StoreError> {
        if self.in_sync_set().is_none() {
            return Ok(());
        }
        if self.live.applied.is_none() {
            self.live.applied = Some(self.live.position);
            self.meta.live.applied = self.live.applied;
        }
        self.live.load_pending(self.shard, context.stored)
    }

    /// Whose acknowledgements are needed, this copy's own aside.
    fn demanded(&self, set: &InSyncSet) -> BTreeSet<CopyId> {
        let mut demanded = set.members.clone();
        if let Role::Primary(primary) = &self.role
            && !Mutant::AskBeforeDemand.on()
        {
            demanded.extend(primary.members.adding.keys());
        }
        demanded.remove(&self.copy());
        demanded
    }

    /// Up to where everything is committed by now, as far as it may be counted.
    fn committed_by_now(&self) -> Option<Pair> {
        let set = self.in_sync_set()?;
        let Role::Primary(primary) = &self.role else {
            return None;
        };
        if !set.commits() && !Mutant::CommitBelowMinInSync.on() {
            return None;
        }
        let acknowledged = |copy: &CopyId| primary.streams.acknowledged(*copy);
        let demanded = self.demanded(set);
        let least = demanded
            .iter()
            .map(|copy| acknowledged(copy).unwrap_or(Pair::ZERO))
            .min();
        let upto = least.map_or(self.durable, |least| least.min(self.durable));
        let own_epoch = upto >= primary.start || Mutant::EarlierEpochCommitsAlone.on();
        own_epoch.then_some(upto)
    }

    /// Moves the commit point as far as the acknowledgements allow.
    pub(super) fn advance_commit(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Some(upto) = self.committed_by_now() else {
            return Ok(());
        };
        if self.live.applied.is_none_or(|applied| upto <= applied) {
            return Ok(());
        }
        let batch = self.next_batch();
        let mut changes = self
            .live
            .commit(self.shard, context.stored, batch, upto, false)?;
        self.meta.live.applied = Some(upto);
        changes.push(StoreChange::PutMeta(self.meta.clone()));
        let emitted = self.persist(changes, out);
        assert_eq!(emitted, batch, "{}: one batch per commit", self.shard);
        let primary = self.primary_mut();
        if !primary.serving && upto >= primary.start {
            primary.serving = true;
            self.followed = self.primary_mut().epoch;
        }
        Ok(())
    }

    /// A new row of this epoch.
    pub(super) fn on_in_sync_row(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let row = self.row();
        let (set, revision) = (row.in_sync.clone(), row.revision);
        let Some(set) = set else { return Ok(()) };
        self.primary_mut().members.on_row(&set, revision);
        self.on_copies_moved(context, out)
    }

    /// Once an interval: asks to drop who is silent, and to add who has everything.
    pub(super) fn keep_in_sync(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let Some(set) = self.in_sync_set().cloned() else {
            return;
        };
        let (me, now, interval) = (self.copy(), context.now, self.settings.interval);
        let (revision, secondaries) = (self.row().revision, self.row().secondaries.clone());
        let applied = self.live.applied.unwrap_or(Pair::ZERO);
        let primary = self.primary_mut();
        let epoch = primary.epoch;
        let silent_after = Duration(interval.0 * SILENT_INTERVALS);
        for copy in set.members.iter().copied().filter(|copy| *copy != me) {
            if primary.members.is_silent(copy, now, silent_after) {
                out.push(Effect::Ask(Ask::DropInSync {
                    epoch,
                    revision,
                    copy,
                }));
            }
        }
        // One at a time: each is a compare-and-set on the row.
        if primary.members.adding.is_empty() {
            let recent = Duration(interval.0 * RECENT_INTERVALS);
            let ready = |copy: &&CopyId| {
                let acknowledged = primary.streams.acknowledged(**copy);
                !set.members.contains(*copy)
                    && primary.members.heard_within(**copy, now, recent)
                    && (acknowledged.is_some_and(|at| at > Pair::ZERO && at >= applied)
                        || Mutant::AskBeforeDemand.on())
            };
            if let Some(copy) = secondaries.iter().find(ready).copied() {
                primary.members.adding.insert(copy, revision);
            }
        }
        // Demanded from here on; asked until a newer row answers.
        for copy in primary.members.adding.keys().copied() {
            out.push(Effect::Ask(Ask::AddInSync {
                epoch,
                revision,
                copy,
            }));
        }
    }
}
