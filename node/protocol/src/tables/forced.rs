//! A forced promotion: a person makes one copy primary though copies that may have more of the log are not there to be asked.
//!
//! It is recorded in the row with the begun failover, so that it outlives the leader that began it, and is carried out like
//! any failover, with the chosen copy as the only candidate. Leases are waited out as always; only for the very process
//! that the person says is stopped nothing is waited for. What the other copies have beyond the chosen one may have been
//! acknowledged, in an in_sync shard too: so an open cut lists every other store of the row, and the row says for ever up to
//! which epoch its copies have to keep what they undo.

use super::command::{Refusal, not_allowed};
use super::entry::{Begun, ShardEntry};
use super::membership::NodeState;
use super::state::Tables;
use crate::mutant::Mutant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use understudy_proto::ids::{CopyId, Epoch, Pair, ProcessId};

/// What a person asked for, until the promotion or another such wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Nobody else is promoted.
    pub copy: CopyId,
    /// Where its log ended when the person was shown what would be lost. With less it is not promoted.
    pub least: Pair,
    /// The old primary's process, which the person says is stopped: its leases for this shard are over.
    pub stopped: Option<ProcessId>,
}

impl ShardEntry {
    /// The copies that the failover of this row may promote: the candidates, or the one that a person chose.
    pub fn promotable(&self) -> impl Iterator<Item = CopyId> + '_ {
        let forced = self.forcing().map(|forced| forced.copy);
        let chosen = self.full_copies().filter(move |c| forced == Some(*c));
        let candidates = self.candidates().filter(move |_| forced.is_none());
        chosen.chain(candidates)
    }

    /// The forced promotion that is under way.
    pub fn forcing(&self) -> Option<Forced> {
        self.begun.and_then(|begun| begun.forced)
    }

    /// Whether a person says that the primary's process is stopped.
    pub fn primary_is_stopped(&self) -> bool {
        let stopped = self.forcing().and_then(|forced| forced.stopped);
        stopped.is_some() && stopped == self.primary
    }

    /// Begins it, or takes the place of one that is under way; a failover that has begun keeps its epoch and its promises.
    pub(super) fn force(&mut self, forced: Forced) -> Result<(), Refusal> {
        if !self.full_copies().any(|copy| copy == forced.copy) {
            let why =
                "that copy is none of the shard's, or joins: others may have trimmed what it lacks";
            return Err(not_allowed(why));
        }
        let epoch = self.begun.map_or(self.epoch.next(), |begun| begun.epoch);
        self.begun = Some(Begun {
            epoch,
            preferred: Some(forced.copy),
            forced: Some(forced),
        });
        Ok(())
    }

    /// The stores that the cut of the begun failover lists. After a forced one a sealed copy may have more than the promoted
    /// one, too.
    pub(super) fn cut_stores(
        &self,
        promoted: CopyId,
        sealed: &BTreeSet<CopyId>,
        lost: &BTreeSet<CopyId>,
    ) -> BTreeSet<CopyId> {
        let forced = self.forcing().is_some() && !Mutant::ForcedCutsLikeOthers.on();
        let listed = |copy: &CopyId| match forced {
            true => *copy != promoted,
            // What an in_sync shard cuts off was never acknowledged.
            false => !self.is_in_sync() && !sealed.contains(copy),
        };
        let stores = self.copies().filter(|c| listed(c) && !lost.contains(c));
        stores.collect()
    }

    /// The begun failover ends in that epoch.
    pub(super) fn note_forced(&mut self, epoch: Epoch) {
        if self.forcing().is_some() {
            self.forced = Some(epoch);
        } else if Mutant::ForgetForced.on() {
            self.forced = None;
        }
    }
}

impl Tables {
    /// Whether the wish of a person is one that can be carried out.
    pub(super) fn check_forced(&self, entry: &ShardEntry, forced: &Forced) -> Result<(), Refusal> {
        let Some(primary) = entry.primary else {
            return Err(not_allowed("the shard is not placed yet"));
        };
        let here = |copy: CopyId| {
            let node = self.node(copy.node).filter(|node| node.copy() == copy);
            node.is_some_and(|n| !matches!(n.state, NodeState::Down | NodeState::Removed))
                && !self.is_lost(copy)
        };
        if !here(forced.copy) {
            return Err(not_allowed(
                "the node of that copy is down, or has another store now",
            ));
        }
        let runs = here(primary.copy())
            && self.process_of(primary.copy()) == Some(primary)
            && !self.has_ended(primary);
        if runs && entry.begun.is_none() {
            return Err(not_allowed("the shard's primary is up: transfer it"));
        }
        match forced.stopped {
            Some(stopped) if stopped != primary => {
                let why = "the process that was said to be stopped is not the shard's primary";
                Err(not_allowed(why))
            }
            Some(_) if runs => Err(not_allowed(
                "the old primary's process is not stopped: the managers hear it",
            )),
            _ => Ok(()),
        }
    }
}
