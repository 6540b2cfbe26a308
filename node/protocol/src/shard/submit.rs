//! Giving back what a failover cut off: a copy that follows submits its orphans to its primary, in the order of their
//! pairs, and keeps each until the record with its outcome is durable wherever it has to be.
//!
//! One message is under way at a time, and is sent again when nothing comes back: the primary's answer to the same orphan
//! is the same. Nothing here is remembered across epochs: after a failover the rest is submitted to the next primary.

use super::message::{Fate, Message, Submit, Submitted};
use super::replica::{Replica, Role};
use super::secondary::Phase;
use crate::effect::{Context, Effect};
use crate::mutant::Mutant;
use crate::store::{Orphan, StoreChange, StoreError};
use crate::time::{Duration, Instant};
use std::collections::VecDeque;
use understudy_proto::Pair;
use understudy_proto::limits::{ORPHANS_JUDGED_MAX, SUBMIT_BYTES_MAX};

/// How far the orphans of a copy came in the epoch in which it acts.
#[derive(Debug, Default)]
pub(super) struct Submission {
    /// Judged up to and with this one.
    pub after: Option<Pair>,
    /// Judged and still in the orphan log: the orphan, and where its outcome stands. In the order of the orphans.
    standing: VecDeque<(Pair, Pair)>,
    /// All that the orphan log holds was judged.
    all_judged: bool,
    /// When the last message went out.
    pub asked: Option<Instant>,
    /// Nothing came back to it yet.
    waits: bool,
}

/// So many intervals are given to a page that nothing came back to, before all of it is sent once more.
const PATIENCE_INTERVALS: u64 = 10;

impl Submission {
    /// The next orphans to judge; none while many wait to leave the orphan log.
    pub fn next(
        &mut self,
        replica: &Replica,
        context: &Context<'_>,
    ) -> Result<Vec<Orphan>, StoreError> {
        if self.all_judged || self.standing.len() >= ORPHANS_JUDGED_MAX {
            return Ok(Vec::new());
        }
        let page = context
            .stored
            .orphans(replica.shard, self.after, SUBMIT_BYTES_MAX)?;
        self.all_judged = page.items.is_empty();
        let mut orphans = page.items;
        if Mutant::SubmitInUndoOrder.on() {
            orphans.reverse();
        }
        Ok(orphans)
    }

    /// Notes what was judged. False: nothing that was not known.
    pub fn note(&mut self, fates: &[Fate]) -> bool {
        let known = self.after;
        let new = |fate: &&Fate| known.is_none_or(|known| fate.pair > known);
        for fate in fates.iter().filter(new) {
            self.standing.push_back((fate.pair, fate.stands));
            self.after = self.after.max(Some(fate.pair));
        }
        self.after != known
    }

    /// The orphans whose outcome stands at or before this pair, from the first on: they may go.
    pub fn take_settled(&mut self, upto: Pair) -> Vec<Pair> {
        let mut settled = Vec::new();
        while let Some((orphan, stands)) = self.standing.front()
            && (*stands <= upto || Mutant::DropOrphanEarly.on())
        {
            settled.push(*orphan);
            self.standing.pop_front();
        }
        settled
    }
}

impl Replica {
    /// Submits the next orphans, or asks how far those that were judged are durable.
    pub(super) fn submit(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let follows =
            matches!(&self.role, Role::Secondary(secondary) if secondary.phase == Phase::Streaming);
        if self.orphans == 0 || self.staged.is_some() || !follows {
            return Ok(());
        }
        if self.secondary_mut().submission.after.is_none() && !self.orphan_log_is_settled() {
            return Ok(());
        }
        let mut submission = std::mem::take(&mut self.secondary_mut().submission);
        let orphans = submission.next(self, context);
        (submission.asked, submission.waits) = (Some(context.now), true);
        let copy = self.copy();
        let secondary = self.secondary_mut();
        secondary.submission = submission;
        let submit = Submit {
            epoch: secondary.epoch,
            stream: secondary.stream,
            copy,
            orphans: orphans?,
        };
        out.push(Effect::Send {
            to: secondary.primary,
            message: Message::Submit(submit),
        });
        Ok(())
    }

    /// Once an interval, for as long as there are orphans.
    pub(super) fn submit_when_due(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let interval = self.settings.interval;
        let submission = &self.secondary_mut().submission;
        let pause = match submission.waits {
            true => Duration(interval.0 * PATIENCE_INTERVALS),
            false => interval,
        };
        if submission
            .asked
            .is_some_and(|asked| context.now.since(asked) < pause)
        {
            return Ok(());
        }
        self.submit(context, out)
    }

    pub(super) fn on_submitted(
        &mut self,
        context: &Context<'_>,
        submitted: &Submitted,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let follows = self.secondary_mut().phase == Phase::Streaming && self.staged.is_none();
        if !follows {
            return Ok(());
        }
        let upto = self.durable.min(submitted.everywhere);
        let submission = &mut self.secondary_mut().submission;
        submission.waits = false;
        let went_on = submission.note(&submitted.fates);
        let settled = submission.take_settled(upto);
        self.drop_orphans(settled, out);
        if went_on {
            self.submit(context, out)?;
        }
        Ok(())
    }

    /// Takes orphans out of the orphan log, whose outcomes are durable wherever they have to be.
    pub(super) fn drop_orphans(&mut self, settled: Vec<Pair>, out: &mut Vec<Effect>) {
        if settled.is_empty() {
            return;
        }
        assert!(
            self.orphans >= settled.len() as u64,
            "{}: {} orphans leave, {} are there",
            self.shard,
            settled.len(),
            self.orphans
        );
        self.orphans -= settled.len() as u64;
        let drop = |pair| StoreChange::DropOrphan { pair };
        self.orphans_batch = self.persist(settled.into_iter().map(drop).collect(), out);
    }

    /// Whether the orphan log on the disk is the one that this copy counts. Until then a page of it may hold what an
    /// earlier role dropped, and whoever begins with it would drop that twice.
    pub(super) fn orphan_log_is_settled(&self) -> bool {
        self.persisted >= self.orphans_batch
    }
}
