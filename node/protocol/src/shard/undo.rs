//! Giving back a tail that a failover cut off: the records after the cut go, from the last to the first, each in one
//! atomic batch, into the orphan log, and the objects, dedup entries and epoch starts become what they were before.
//!
//! Nothing acknowledged is dropped here: what was acknowledged and cut off is in the orphan log afterwards (I7). What an
//! in_sync shard never committed was never acknowledged: it is logged and dropped, and no object changes. After a forced
//! promotion it may have been, and is kept like in a lazy shard.

use super::replica::Replica;
use super::secondary::Phase;
use crate::effect::{Context, Effect};
use crate::mutant::Mutant;
use crate::record::Record;
use crate::store::{StoreChange, StoreError};
use understudy_proto::{Pair, Version};

/// Records that are undone before the disk is waited for.
const ROUND: usize = 256;

impl Replica {
    /// Undoes the next records once everything that was emitted is durable; then subscribes again or begins a rebuild.
    pub(super) fn go_on_undoing(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Phase::Undoing { to, then_rebuild } = self.secondary_mut().phase else {
            return Ok(());
        };
        if self.persisted < self.emitted {
            return Ok(());
        }
        if self.live.position.version > to.version {
            return self.undo_round(context, to, out);
        }
        assert_eq!(
            self.live.position, to,
            "{}: the undo ends at the cut",
            self.shard
        );
        if then_rebuild {
            self.begin_staging(context, out);
        } else {
            self.subscribe(context, out);
        }
        Ok(())
    }

    fn undo_round(
        &mut self,
        context: &Context<'_>,
        to: Pair,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let last = self.live.position.version.0;
        let first = last.saturating_sub(ROUND as u64 - 1).max(to.version.0 + 1);
        let mut versions: Vec<u64> = (first..=last).rev().collect();
        if Mutant::UndoInWrongOrder.on() {
            versions.reverse();
        }
        for version in versions {
            self.undo_record(context, Version(version), out)?;
        }
        Ok(())
    }

    fn undo_record(
        &mut self,
        context: &Context<'_>,
        version: Version,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let generation = self.live.generation;
        let missing =
            || StoreError::Corrupt(format!("shard {}: record {version} is missing", self.shard));
        let encoded = context
            .stored
            .record(self.shard, generation, version)?
            .ok_or_else(missing)?;
        let (record, _) = Record::decode(&encoded.bytes).map_err(|malformed| {
            StoreError::Corrupt(format!(
                "shard {}: record {version}: {malformed}",
                self.shard
            ))
        })?;
        let batch = self.next_batch();
        let mut changes = Vec::new();
        // in_sync: the objects never held what is not committed.
        let applied = self.live.applied;
        let committed = applied.is_none_or(|applied| version <= applied.version);
        if !committed {
            self.live.pending.take_back(record.pair);
        }
        let writes = record.changes().iter().filter(|change| change.is_write());
        for change in writes.filter(|_| committed) {
            let after = self.live.newest(self.shard, context.stored, &change.key)?;
            let before = change.undo(after.clone(), record.pair).map_err(|_| {
                StoreError::Corrupt(format!(
                    "shard {}: an object is not as record {} left it",
                    self.shard, record.pair
                ))
            })?;
            self.live
                .overlay
                .put_object(batch, change.key.clone(), after, before.clone());
            changes.push(StoreChange::PutObject {
                generation,
                key: change.key.clone(),
                object: before,
            });
        }
        let entries = match Mutant::UndoKeepsDedup.on() {
            true => Vec::new(),
            false => record.dedup_before(),
        };
        for (id, entry) in entries {
            self.live.overlay.put_dedup(batch, id, entry.clone());
            changes.push(StoreChange::PutDedup {
                generation,
                id,
                entry,
            });
        }
        self.live.position = record.previous;
        self.live.checksum = record.previous_checksum;
        if applied.is_some() && committed {
            self.live.applied = Some(record.previous);
            self.meta.live.applied = self.live.applied;
            changes.push(StoreChange::PutMeta(self.meta.clone()));
        }
        if record.is_epoch_start() {
            let popped = self.meta.live.epoch_starts.pop();
            assert_eq!(
                popped,
                Some(record.pair),
                "{}: the last epoch start is the one undone",
                self.shard
            );
            changes.push(StoreChange::RemoveRecord {
                generation,
                version,
            });
            changes.push(StoreChange::PutMeta(self.meta.clone()));
        } else if !(committed || self.may_be_acknowledged(record.pair))
            || record.is_own()
            || Mutant::DropOrphans.on()
        {
            changes.push(StoreChange::RemoveRecord {
                generation,
                version,
            });
            if let Some(request) = record.request_id().filter(|_| !committed) {
                let pair = record.pair;
                out.push(Effect::Dropped { pair, request });
            }
        } else {
            let known = self.is_orphan(context, record.pair)?;
            let epoch_starts = self.meta.live.epoch_starts.clone();
            changes.push(StoreChange::MoveToOrphans {
                generation,
                record: encoded,
                epoch_starts,
            });
            self.orphans += u64::from(!known);
        }
        self.orphans_batch = self.persist(changes, out);
        Ok(())
    }

    /// in_sync: whether the record may have been committed without this copy's learning it: a forced promotion passed over
    /// copies that had it. Whatever any later failover cuts off was never acknowledged.
    fn may_be_acknowledged(&self, pair: Pair) -> bool {
        let forced = self.row().forced;
        forced.is_some_and(|forced| pair.epoch < forced) && !Mutant::DropForcedOrphans.on()
    }

    /// Whether the orphan log holds the record: it was cut off before, came back with another branch, and was not dropped yet.
    fn is_orphan(&self, context: &Context<'_>, pair: Pair) -> Result<bool, StoreError> {
        if self.orphans == 0 {
            return Ok(false);
        }
        let before = Pair {
            epoch: pair.epoch,
            version: (pair.version.0 - 1).into(),
        };
        let page = context.stored.orphans(self.shard, Some(before), 1)?;
        let first = page.items.first();
        Ok(first.is_some_and(|orphan| orphan.record.pair == pair))
    }
}
