//! I7 and I8 while orphans go back: they are submitted in the order of their pairs, and each leaves the orphan log only when
//! the record with its outcome is durable in the copy's own log, at the primary and at every secondary that is not joining.

use super::i7_acknowledged::{Copies, Told};
use super::{Branches, Checked, CopyShadow, Row, Violation};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{CopyId, Epoch, Pair, ProcessId, ShardId};

#[derive(Debug, Default)]
pub(super) struct Reconciled {
    /// For each epoch the primary and the secondaries of each of its rows: what a copy was told may go by an earlier one.
    rows: BTreeMap<(ShardId, Epoch), BTreeSet<BTreeSet<CopyId>>>,
    submitted: BTreeMap<(ShardId, CopyId), (Epoch, BTreeSet<Pair>)>,
}

impl Reconciled {
    pub(super) fn row_changed(&mut self, shard: ShardId, row: &Row) {
        let Some(primary) = row.primary.map(ProcessId::copy) else {
            return;
        };
        let mut copies = row.secondaries.clone();
        copies.insert(primary);
        self.rows
            .entry((shard, row.epoch))
            .or_default()
            .insert(copies);
    }

    /// Every orphan before the last one of the message was submitted before, or is in it, in order.
    pub(super) fn in_order(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        epoch: Epoch,
        pairs: &[Pair],
        orphans: Option<&BTreeSet<Pair>>,
    ) -> Checked {
        let (known, submitted) = self.submitted.entry((shard, copy)).or_default();
        if *known != epoch {
            *known = epoch;
            submitted.clear();
        }
        let Some(last) = pairs.last() else {
            return Ok(());
        };
        submitted.extend(pairs);
        let left = orphans
            .into_iter()
            .flatten()
            .find(|orphan| *orphan < last && !submitted.contains(orphan));
        if let Some(left) = left {
            let what = format!("shard {shard} at {copy}: {last} is submitted before {left}");
            return Err(Violation::new("I8", what));
        }
        if !pairs.is_sorted() {
            let what = format!("shard {shard} at {copy}: {pairs:?} are submitted out of order");
            return Err(Violation::new("I8", what));
        }
        Ok(())
    }

    /// `epoch`: in which the copy follows, or is the primary.
    pub(super) fn went_in_time(
        &self,
        copy: CopyId,
        shard: ShardId,
        epoch: Epoch,
        orphan: Pair,
        branches: &Branches,
        copies: &Copies,
    ) -> Checked {
        let record = branches.get(shard, orphan).map(|known| &known.record);
        let Some((told, record)) = record.and_then(|record| Some((Told::by(record)?, record)))
        else {
            return Ok(());
        };
        // As what took effect or as a conflict in its log, or cut off since.
        let in_log = |shadow: &CopyShadow| {
            let entry = shadow.ever(told.id);
            entry.is_some_and(|entry| told.is_in(entry, shard, branches))
        };
        let has = |copy: &CopyId| {
            copies
                .get(&(shard, *copy))
                .is_some_and(|shadow| in_log(shadow) || told.is_orphan_of(shadow, shard, branches))
        };
        let own = copies.get(&(shard, copy)).is_some_and(in_log);
        let mut rows = self.rows.get(&(shard, epoch)).into_iter().flatten();
        if own && rows.any(|row| row.iter().all(has)) {
            return Ok(());
        }
        let pair = record.pair;
        let what = format!(
            "shard {shard} at {copy}: {pair} left the orphan log in epoch {epoch} before its outcome was durable everywhere"
        );
        Err(Violation::new("I7", what))
    }
}
