//! What the disk of one copy of one shard should hold, told from the batches that became durable and the records alone.
//!
//! Objects are folded by arithmetic of this folder, not by the protocol's own, so that a mistake there is seen here.
//! In a lazy shard a record and its new values are one batch; in an in_sync one the objects follow with the commit point.

use super::i5_fold::fold;
use super::{Branches, Violation, i3_versions, i4_same_log, i7_acknowledged, i8_once};
use crate::expiry::Entries;
use crate::object::Object;
use crate::record::{Body, EncodedRecord, Record};
use crate::request::DedupEntry;
use crate::store::{Batch, Generation, Meta, StoreChange, Stored};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{CopyId, Pair, RequestId, ShardId};

#[derive(Debug, Default)]
pub struct CopyShadow {
    pub(super) meta: Option<Meta>,
    /// Every pair of the log from version 1 on, also of records that were trimmed or came in a full copy.
    pub(super) path: Vec<Pair>,
    /// For each record of the path that the objects hold, what they were before: lazy all, in_sync up to the commit point.
    pub(super) befores: Vec<Vec<(Bytes, Option<Object>)>>,
    pub(super) objects: BTreeMap<Bytes, Object>,
    pub(super) dedup: BTreeMap<RequestId, DedupEntry>,
    /// What expiry records of the log removed.
    pub(super) expired: BTreeMap<RequestId, DedupEntry>,
    pub(super) orphans: BTreeSet<Pair>,
}

/// What one batch concerned.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub keys: BTreeSet<Bytes>,
    pub ids: BTreeSet<RequestId>,
    /// Records that were undone, from the last to the first.
    pub undone: Vec<Pair>,
    /// A staged copy was switched in.
    pub switched: bool,
    /// A staged delta was.
    pub by_delta: bool,
    /// The copy was deleted.
    pub dropped: bool,
    /// A record may have gone from the places where it was.
    pub removed: bool,
    /// Orphans that left the orphan log.
    pub orphans_gone: Vec<Pair>,
}

impl CopyShadow {
    /// The last record of the log.
    pub fn position(&self) -> Pair {
        self.path.last().copied().unwrap_or(Pair::ZERO)
    }

    pub fn generation(&self) -> Generation {
        self.meta.as_ref().map_or(0, |meta| meta.live.generation)
    }

    /// Whether the record lies in the log.
    pub fn holds(&self, pair: Pair) -> bool {
        let at = pair.version.0.wrapping_sub(1) as usize;
        self.path.get(at) == Some(&pair)
    }

    /// The records of the orphan log.
    pub fn orphans(&self) -> impl Iterator<Item = Pair> + '_ {
        self.orphans.iter().copied()
    }

    /// Does to the shadow what the batch should have done to the disk.
    pub(super) fn follow(
        &mut self,
        copy: CopyId,
        batch: &Batch,
        branches: &mut Branches,
        stored: &dyn Stored,
    ) -> Result<Touched, Violation> {
        let mut touched = Touched::default();
        let shard = batch.shard;
        for change in &batch.changes {
            match change {
                StoreChange::AppendRecord { generation, record } => {
                    i4_same_log::same_record(branches, copy, shard, record)?;
                    let came_with_it = touched.switched && self.holds(record.pair);
                    if *generation == self.generation() && !came_with_it {
                        self.append(copy, shard, record, branches, &mut touched)?;
                    }
                }
                StoreChange::PutObject {
                    generation, key, ..
                } if *generation == self.generation() => {
                    touched.keys.insert(key.clone());
                }
                StoreChange::PutDedup { generation, id, .. }
                    if *generation == self.generation() =>
                {
                    touched.ids.insert(*id);
                }
                StoreChange::PutObject { .. } | StoreChange::PutDedup { .. } => {}
                StoreChange::PutMeta(meta) => {
                    self.put_meta(copy, shard, meta, branches, stored, &mut touched)?;
                }
                StoreChange::MoveToOrphans {
                    generation, record, ..
                } => {
                    if *generation == self.generation() {
                        self.undo(copy, shard, record.pair, branches, &mut touched)?;
                    }
                    self.orphans.insert(record.pair);
                    touched.removed = true;
                }
                StoreChange::RemoveRecord { generation, .. } => {
                    if *generation == self.generation() {
                        let pair = self.position();
                        if !self.is_in_sync() {
                            i7_acknowledged::only_own_records_go(copy, shard, pair, branches)?;
                        }
                        self.undo(copy, shard, pair, branches, &mut touched)?;
                    }
                    touched.removed = true;
                }
                StoreChange::DropOrphan { pair } => {
                    self.orphans.remove(pair);
                    touched.orphans_gone.push(*pair);
                    touched.removed = true;
                }
                StoreChange::DropCopy => {
                    self.empty();
                    touched.dropped = true;
                    touched.removed = true;
                }
                StoreChange::TrimLog { .. }
                | StoreChange::DropGeneration { .. }
                | StoreChange::PutStaged { .. } => {}
            }
        }
        i3_versions::meta_fits(copy, shard, self, branches)?;
        Ok(touched)
    }

    fn append(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        encoded: &EncodedRecord,
        branches: &Branches,
        touched: &mut Touched,
    ) -> Result<(), Violation> {
        let known = branches.get(shard, encoded.pair).expect("just learned");
        i3_versions::follows(copy, shard, self.position(), &known.record)?;
        i8_once::takes_effect_once(copy, shard, self, &known.record)?;
        i8_once::recorded_again_as_it_was(copy, shard, &known.record, branches)?;
        self.push(&known.record);
        touched
            .keys
            .extend(known.record.changes().iter().map(|c| c.key.clone()));
        let entries = known.record.dedup_after();
        touched.ids.extend(entries.into_iter().map(|(id, _)| id));
        Ok(())
    }

    pub(super) fn is_in_sync(&self) -> bool {
        let live = self.meta.as_ref().map(|meta| &meta.live);
        live.is_some_and(|live| live.applied.is_some())
    }

    pub(super) fn push(&mut self, record: &Record) {
        self.put_dedup(record.dedup_after());
        for (id, entry) in expired_by(record) {
            self.expired.insert(id, entry.clone());
        }
        self.path.push(record.pair);
        if !self.is_in_sync() {
            self.hold(record);
        }
    }

    fn put_dedup(&mut self, entries: Entries) {
        for (id, entry) in entries {
            match entry {
                Some(entry) => self.dedup.insert(id, entry),
                None => self.dedup.remove(&id),
            };
        }
    }

    /// What the log has under the id, whether or not it was forgotten since.
    pub(super) fn ever(&self, id: RequestId) -> Option<&DedupEntry> {
        self.dedup.get(&id).or_else(|| self.expired.get(&id))
    }

    /// How many records the objects hold.
    pub(super) fn held(&self) -> usize {
        self.befores.len()
    }

    /// The commit point of the copy is there now.
    pub(super) fn hold_upto(
        &mut self,
        shard: ShardId,
        applied: Pair,
        branches: &Branches,
    ) -> Result<(), Violation> {
        let broken = |what: String| Violation::new("I5", format!("shard {shard}: {what}"));
        if applied != Pair::ZERO && !self.holds(applied) {
            return Err(broken(format!("the commit point {applied} is not there")));
        }
        let wanted = applied.version.0 as usize;
        while self.held() < wanted {
            let pair = self.path[self.held()];
            let known = branches.get(shard, pair);
            let known = known.ok_or_else(|| broken(format!("{pair} was never formed")))?;
            self.hold(&known.record);
        }
        while self.held() > wanted {
            self.let_go();
        }
        Ok(())
    }

    fn let_go(&mut self) -> Vec<Bytes> {
        let befores = self.befores.pop().unwrap_or_default();
        let keys = befores.iter().map(|(key, _)| key.clone()).collect();
        for (key, old) in befores {
            match old {
                Some(old) => self.objects.insert(key, old),
                None => self.objects.remove(&key),
            };
        }
        keys
    }

    fn hold(&mut self, record: &Record) {
        let mut before = Vec::new();
        if let Some(request) = record.request_id() {
            for change in record.changes().iter().filter(|c| c.is_write()) {
                let old = self.objects.remove(&change.key);
                if let Some(new) = fold(old.as_ref(), change, record.pair, request) {
                    self.objects.insert(change.key.clone(), new);
                }
                before.push((change.key.clone(), old));
            }
        }
        self.befores.push(before);
    }

    fn undo(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        pair: Pair,
        branches: &Branches,
        touched: &mut Touched,
    ) -> Result<(), Violation> {
        if self.position() != pair {
            let what = format!(
                "shard {shard} at {copy}: {} is undone while the log ends with {}",
                pair,
                self.position()
            );
            return Err(Violation::new("I12", what));
        }
        if self.held() == self.path.len() {
            let keys = self.let_go();
            touched.keys.extend(keys);
        }
        self.path.pop();
        if let Some(known) = branches.get(shard, pair) {
            let entries = known.record.dedup_before();
            touched.ids.extend(entries.iter().map(|(id, _)| *id));
            self.put_dedup(entries);
            for (id, _) in expired_by(&known.record) {
                self.expired.remove(&id);
            }
        }
        touched.undone.push(pair);
        Ok(())
    }

    fn put_meta(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        meta: &Meta,
        branches: &Branches,
        stored: &dyn Stored,
        touched: &mut Touched,
    ) -> Result<(), Violation> {
        let old = self.meta.replace(meta.clone());
        let promise = old.as_ref().map(|old| old.promise).unwrap_or_default();
        if meta.promise < promise {
            let what = format!(
                "shard {shard} at {copy}: the promise falls to {}",
                meta.promise
            );
            return Err(Violation::new("I1", what));
        }
        let live = old.map_or(0, |old| old.live.generation);
        if meta.live.generation != live && !touched.dropped {
            touched.switched = true;
            touched.removed = true;
            return self.switch(copy, shard, meta, branches, stored);
        }
        if meta.live.base > self.position() && !touched.dropped {
            // No trim goes so far.
            touched.switched = true;
            touched.by_delta = true;
            touched.removed = true;
            return self.switch(copy, shard, meta, branches, stored);
        }
        match meta.live.applied {
            Some(applied) if !touched.dropped => self.hold_upto(shard, applied, branches),
            _ => Ok(()),
        }
    }

    /// The staged copy is the live one now: where it stands is read from the disk, what it holds is told by the records.
    fn switch(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        meta: &Meta,
        branches: &Branches,
        stored: &dyn Stored,
    ) -> Result<(), Violation> {
        let broken = |what: String| {
            Violation::new(
                "I5",
                format!("shard {shard} at {copy}, switched in: {what}"),
            )
        };
        let from = meta.live.base.version.next();
        let records = stored
            .records(shard, meta.live.generation, from, usize::MAX)
            .map_err(|error| broken(error.to_string()))?;
        let end = records.last().map_or(meta.live.base, |record| record.pair);
        let path = branches
            .path(shard, end)
            .map_err(|at| broken(format!("{at} was never formed")))?;
        self.empty();
        for pair in path {
            self.push(&branches.get(shard, pair).expect("on the path").record);
        }
        if let Some(applied) = meta.live.applied {
            self.hold_upto(shard, applied, branches)?;
        }
        i8_once::all_entries(copy, shard, self, stored)?;
        super::i5_fold::stored_objects(copy, shard, self, stored)
    }

    fn empty(&mut self) {
        self.path.clear();
        self.befores.clear();
        self.objects.clear();
        self.dedup.clear();
        self.expired.clear();
    }
}

fn expired_by(record: &Record) -> impl Iterator<Item = (RequestId, &DedupEntry)> {
    let body = match &record.body {
        Body::Expiry(body) => Some(&**body),
        _ => None,
    };
    let clients = body.into_iter().flat_map(|body| &body.clients);
    clients.flat_map(|client| {
        client
            .ids()
            .zip(client.removed.iter().map(|(_, entry)| entry))
    })
}
