//! The witness set of a shard's row: whose answers the lease from the witnesses needs, so that sealing one of them ends it.
//!
//! The primary's view of the set may be older than the row, and must never lack a copy that the row has. So a copy enters only
//! at the request of the primary, which demands its answers already, by a compare-and-set on the very revision that the
//! primary knew. A copy may leave at any time but for the last one: with an empty set only the manager's wait counts, so the
//! primary has to give the lease up first. The first placement begins with the secondaries, every later configuration with
//! the copies that were sealed for it; the primary is never its own witness.

use super::command::{Refusal, not_allowed};
use super::entry::ShardEntry;
use crate::mutant::Mutant;
use std::collections::BTreeSet;
use understudy_proto::ids::{CopyId, Epoch};

impl ShardEntry {
    /// Whether that copy is the last witness, which only the primary's request takes out.
    pub fn is_bound(&self, copy: CopyId) -> bool {
        self.witnesses.len() == 1 && self.witnesses.contains(&copy)
    }

    /// Of a new configuration.
    pub(super) fn begin_witnesses(&mut self, sealed: &BTreeSet<CopyId>) {
        let primary = self.primary.map(|process| process.copy());
        let others = self.copies().filter(|copy| Some(*copy) != primary);
        self.witnesses = others.filter(|copy| sealed.contains(copy)).collect();
    }

    pub(super) fn add_witness(&mut self, epoch: Epoch, copy: CopyId) -> Result<(), Refusal> {
        if epoch != self.epoch || self.begun.is_some() || !self.is_secondary(copy) {
            return Err(not_allowed("that copy cannot be a witness in that epoch"));
        }
        if !self.witnesses.insert(copy) {
            return Err(not_allowed("that copy is a witness already"));
        }
        Ok(())
    }

    /// By the manager, or for the primary; the rest goes on as witnesses.
    pub(super) fn drop_witness(&mut self, copy: CopyId) -> Result<(), Refusal> {
        let may = !self.is_bound(copy) || Mutant::RemoveLastWitness.on();
        if !may || !self.witnesses.contains(&copy) {
            return Err(not_allowed("that copy is no witness beside others"));
        }
        self.witnesses.remove(&copy);
        Ok(())
    }

    /// At the request of the primary, which gave the lease up.
    pub(super) fn drop_last_witness(&mut self, epoch: Epoch, copy: CopyId) -> Result<(), Refusal> {
        if epoch != self.epoch || !self.is_bound(copy) {
            return Err(not_allowed(
                "that copy is not the last witness in that epoch",
            ));
        }
        self.witnesses.clear();
        Ok(())
    }
}
