//! A coalesced delta at the copy that takes it: chunks are staged beside, the records since then bring them to one point, and
//! one write puts all of it over the live generation.
//!
//! A staged delta holds only what it speaks of; everything else is as in the live generation, which stays as it is until the
//! switch. The log then begins at the new position: what lies before it cannot be undone here, as after a full copy.

use super::message::DeltaChunk;
use super::replica::{Replica, Role};
use super::secondary::Phase;
use super::side::Side;
use crate::effect::{Context, Effect};
use crate::mutant::Mutant;
use crate::store::{Contents, CopyProgress, Staged, Staging, StoreChange, StoreError};
use bytes::Bytes;
use understudy_proto::Pair;
use understudy_proto::limits::{COPY_CHUNK_BYTES_MAX, DELTA_STAGED_BYTES_MAX};

impl Replica {
    /// From where on this copy takes a delta, as its subscription tells.
    pub(super) fn takes_delta_since(&self) -> Option<Pair> {
        if let Some(staging) = &self.meta.staging {
            return staging.delta_since;
        }
        let refuses = matches!(&self.role, Role::Secondary(secondary) if secondary.no_delta);
        // Who has orphans gives them first, and follows by the records meanwhile.
        let willing = self.orphans == 0 && !refuses;
        willing.then(|| self.live.applied.unwrap_or(self.live.position))
    }

    pub(super) fn has_delta_staged(&self) -> bool {
        self.staged.as_ref().is_some_and(|side| side.over.is_some())
    }

    /// What is staged, or what it goes over, is damaged. Such a copy joins, and nothing of it is cut off: it takes a full copy.
    pub(super) fn copy_instead(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        self.drop_staging(out);
        self.staged = None;
        if let Role::Secondary(_) = self.role {
            self.begin_staging(context, out);
        }
    }

    /// Counts what a batch adds to a staged delta. The meta is the caller's to write.
    pub(super) fn note_staged(&mut self, changes: &[StoreChange]) {
        if let Some(staging) = &mut self.meta.staging
            && staging.delta_since.is_some()
        {
            staging.bytes += staged_bytes(changes);
        }
    }

    /// A chunk is staged; the next is asked for once it is durable.
    pub(super) fn on_delta(
        &mut self,
        context: &Context<'_>,
        chunk: DeltaChunk,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if self.secondary_mut().phase != Phase::Subscribing {
            return Ok(());
        }
        let mut changes = Vec::with_capacity(chunk.objects.len() + chunk.dedup.len() + 2);
        match &self.meta.staging {
            None => {
                let first = chunk.continues == CopyProgress::Objects { after: None };
                let mine = self.takes_delta_since() == Some(chunk.since);
                if !first || !mine || chunk.upto <= self.live.position {
                    return Ok(());
                }
                changes.push(self.begin_delta(&chunk));
            }
            Some(staging) => {
                let mine = staging.delta_since == Some(chunk.since);
                if !mine || staging.progress != chunk.continues {
                    return Ok(());
                }
            }
        }
        let (Some(staging), Some(side)) = (&mut self.meta.staging, &self.staged) else {
            return Ok(());
        };
        staging.consistent_at = staging.consistent_at.max(chunk.at);
        staging.progress = chunk.then;
        let objects = chunk.objects.into_iter();
        let dedup = chunk.dedup.into_iter();
        changes.extend(objects.map(|(key, object)| side.put_object(key, object)));
        changes.extend(dedup.map(|(id, entry)| side.put_dedup(id, entry)));
        self.note_staged(&changes);
        changes.push(StoreChange::PutMeta(self.meta.clone()));
        let batch = self.persist(changes, out);
        let secondary = self.secondary_mut();
        secondary.progress = context.now;
        secondary.again = 0;
        secondary.phase = Phase::Staging { batch };
        Ok(())
    }

    /// The first chunk: a place beside the live generation. What was left there goes.
    fn begin_delta(&mut self, chunk: &DeltaChunk) -> StoreChange {
        let contents = Contents {
            generation: self.meta.live.generation + 1,
            base: chunk.upto,
            base_checksum: chunk.checksum,
            epoch_starts: chunk.epoch_starts.clone(),
            applied: self.live.applied.map(|_| chunk.upto),
        };
        let generation = contents.generation;
        let staging = Staging {
            contents,
            consistent_at: Pair::ZERO,
            progress: chunk.continues.clone(),
            delta_since: Some(chunk.since),
            bytes: 0,
        };
        self.staged = Some(Side::open_staged(&staging, self.meta.live.generation, None));
        self.meta.staging = Some(staging);
        StoreChange::DropGeneration { generation }
    }

    /// Gives a delta up that became too large, or switches one in that is complete, once all of it is on the disk. False: the
    /// copy goes on as before.
    pub(super) fn delta_goes_on(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<bool, StoreError> {
        let (Some(staging), Some(side)) = (&self.meta.staging, &self.staged) else {
            return Ok(false);
        };
        if staging.delta_since.is_none() {
            return Ok(false);
        }
        if staging.bytes > DELTA_STAGED_BYTES_MAX as u64 {
            self.drop_staging(out);
            self.secondary_mut().no_delta = true;
            self.subscribe(context, out);
            return Ok(true);
        }
        let reached = side.applied.unwrap_or(side.position);
        let consistent = reached >= staging.consistent_at || Mutant::SwitchDeltaEarly.on();
        if staging.progress != CopyProgress::Records || !consistent {
            return Ok(false);
        }
        if self.persisted == self.emitted {
            self.switch_delta(context, out)?;
        }
        let batch = self.emitted;
        let secondary = self.secondary_mut();
        secondary.progress = context.now;
        secondary.again = 0;
        secondary.phase = Phase::Staging { batch };
        Ok(true)
    }

    /// One write puts what is staged over the live generation, whose log begins anew where the staged one ends; in_sync at the
    /// commit point.
    fn switch_delta(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let staging = self.meta.staging.take().expect("a delta is staged");
        let mut side = self.staged.take().expect("a delta is staged");
        let (shard, staged) = (self.shard, side.generation);
        let (generation, old_end) = (self.live.generation, self.live.position.version);
        let base = side.applied.unwrap_or(side.position);
        let base_checksum = if base == side.position {
            side.checksum
        } else if base == staging.contents.base {
            staging.contents.base_checksum
        } else {
            let record = context.stored.record(shard, staged, base.version)?;
            let missing = || StoreError::Corrupt(format!("shard {shard}: {base} is not staged"));
            record.ok_or_else(missing)?.checksum
        };
        side.generation = generation;
        side.over = None;
        let batch = self.next_batch();
        let mut changes = Vec::new();
        // in_sync: the entries here go further than the objects, from where on the delta speaks of both.
        for record in self.live.pending.records().rev() {
            for (id, entry) in record.dedup_before() {
                side.overlay.put_dedup(batch, id, entry.clone());
                changes.push(side.put_dedup(id, entry));
            }
        }
        let mut after: Option<Bytes> = None;
        loop {
            let page = context.stored.staged_after(
                shard,
                staged,
                after.as_deref(),
                COPY_CHUNK_BYTES_MAX,
            )?;
            after = page.items.last().map(Staged::key);
            for item in page.items {
                // Until the write is durable nobody reads here, and what is evaluated meets it already.
                changes.push(match item {
                    Staged::Object { key, object } => {
                        let (was, is) = (object.clone(), object.clone());
                        side.overlay.put_object(batch, key.clone(), was, is);
                        side.put_object(key, object)
                    }
                    Staged::Dedup { id, entry } => {
                        side.overlay.put_dedup(batch, id, entry.clone());
                        side.put_dedup(id, entry)
                    }
                });
            }
            if page.done {
                break;
            }
        }
        changes.push(StoreChange::TrimLog {
            generation,
            upto: old_end,
        });
        self.meta.live = Contents {
            generation,
            base,
            base_checksum,
            epoch_starts: staging.contents.epoch_starts,
            applied: side.applied,
        };
        changes.push(StoreChange::PutMeta(self.meta.clone()));
        let mut from = base.version.next();
        while from <= side.position.version {
            let records = context
                .stored
                .records(shard, staged, from, COPY_CHUNK_BYTES_MAX)?;
            let Some(last) = records.last() else {
                let what = format!("shard {shard}: version {from} is not staged");
                return Err(StoreError::Corrupt(what));
            };
            from = last.pair.version.next();
            let append = |record| StoreChange::AppendRecord { generation, record };
            changes.extend(records.into_iter().map(append));
        }
        changes.push(StoreChange::DropGeneration { generation: staged });
        self.live = side;
        self.reads.on_delta(batch);
        self.age.forget();
        let emitted = self.persist(changes, out);
        assert_eq!(emitted, batch, "{}: one batch puts a delta in", self.shard);
        Ok(())
    }
}

/// Of the changes of a batch, what a delta that is staged grows by.
fn staged_bytes(changes: &[StoreChange]) -> u64 {
    let bytes = |change: &StoreChange| match change {
        StoreChange::PutStaged { item, .. } => item.key().len() + item.value().len(),
        StoreChange::AppendRecord { record, .. } => record.bytes.len(),
        _ => 0,
    };
    changes.iter().map(bytes).sum::<usize>() as u64
}
