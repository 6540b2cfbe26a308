//! The full copy, for when the log no longer reaches back: objects and dedup entries in chunks, then the records since.
//!
//! Each chunk is read from the primary's store as it is at that moment, so the primary holds nothing open and a broken
//! copy resumes at its last key. Every object bears its pair; the records from the oldest chunk on bring all to one
//! point. What arrives is staged beside and switched in by one write; until then the copy is at its old version.

use super::message::{CopyChunk, Message};
use super::replica::{Replica, Role};
use super::secondary::Phase;
use super::side::Side;
use crate::effect::{Context, Effect};
use crate::mutant::Mutant;
use crate::request::DedupEntry;
use crate::store::{Contents, CopyProgress, Staging, StoreChange, StoreError};
use std::collections::BTreeMap;
use understudy_proto::limits::COPY_CHUNK_BYTES_MAX;
use understudy_proto::{NodeId, Pair, RequestId};

impl Replica {
    /// At the primary: the chunks that copies wait for, as far as the node may send more of full copies now.
    pub(super) fn send_chunks(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        while self.primary_mut().streams.has_waiting()
            && (context.pace.may_copy(context.now) || Mutant::CopyAtAnyPace.on())
        {
            let waiting = self.primary_mut().streams.take_waiting();
            let Some((copy, stream, after)) = waiting else {
                break;
            };
            self.send_chunk(context, copy.node, stream, after, out)?;
        }
        Ok(())
    }

    /// The next chunk after a copy's progress.
    fn send_chunk(
        &mut self,
        context: &Context<'_>,
        to: NodeId,
        stream: u64,
        continues: CopyProgress,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Role::Primary(primary) = &self.role else {
            return Ok(());
        };
        let (shard, generation) = (self.shard, self.live.generation);
        // in_sync: the objects on the disk are at least at the commit point that is durable, and not after the newest.
        let (from, at) = match self.live.applied {
            Some(applied) => (self.visible, applied),
            None => (self.durable, self.live.position),
        };
        let checksum = match from == self.durable {
            true => Some(self.durable_checksum),
            false => self.checksum_at(context, from)?,
        };
        let missing = || StoreError::Corrupt(format!("shard {shard}: record {from} is missing"));
        let mut chunk = CopyChunk {
            epoch: primary.epoch,
            stream,
            then: continues.clone(),
            continues,
            from,
            checksum: checksum.ok_or_else(missing)?,
            epoch_starts: self.starts_upto(from),
            at,
            objects: Vec::new(),
            dedup: Vec::new(),
        };
        match &chunk.continues {
            CopyProgress::Objects { after } => {
                let page = context.stored.objects_after(
                    shard,
                    generation,
                    after.as_deref(),
                    COPY_CHUNK_BYTES_MAX,
                )?;
                chunk.then = match page.items.last() {
                    Some((key, _)) if !page.done => CopyProgress::Objects {
                        after: Some(key.clone()),
                    },
                    _ => CopyProgress::Dedup { after: None },
                };
                chunk.objects = page.items;
            }
            CopyProgress::Dedup { after } => {
                let page =
                    context
                        .stored
                        .dedup_after(shard, generation, *after, COPY_CHUNK_BYTES_MAX)?;
                chunk.then = match page.items.last() {
                    Some((id, _)) if !page.done => CopyProgress::Dedup { after: Some(*id) },
                    _ => CopyProgress::Records,
                };
                if !Mutant::LoseDedupInFullCopy.on() {
                    let last = page.items.last().map(|(id, _)| *id).filter(|_| !page.done);
                    chunk.dedup = self.committed_entries(page.items, *after, last);
                }
            }
            CopyProgress::Records => return Ok(()),
        }
        context.pace.copied(size_of(&chunk), context.now);
        out.push(Effect::Send {
            to,
            message: Message::CopyChunk(chunk),
        });
        Ok(())
    }

    /// in_sync: the entries of that range as they are at the commit point; what comes after it comes with its records.
    fn committed_entries(
        &self,
        entries: Vec<(RequestId, DedupEntry)>,
        after: Option<RequestId>,
        last: Option<RequestId>,
    ) -> Vec<(RequestId, DedupEntry)> {
        if self.live.pending.len() == 0 {
            return entries;
        }
        let mut entries: BTreeMap<_, _> = entries.into_iter().collect();
        let inside = |id: &RequestId| {
            after.is_none_or(|after| *id > after) && last.is_none_or(|last| *id <= last)
        };
        for record in self.live.pending.records().rev() {
            for (id, before) in record
                .dedup_before()
                .into_iter()
                .filter(|(id, _)| inside(id))
            {
                match before {
                    Some(entry) => entries.insert(id, entry),
                    None => entries.remove(&id),
                };
            }
        }
        entries.into_iter().collect()
    }

    pub(super) fn starts_upto(&self, end: Pair) -> Vec<Pair> {
        self.meta
            .live
            .epoch_starts
            .iter()
            .copied()
            .filter(|start| *start <= end)
            .collect()
    }

    /// Begins a rebuild beside the live contents.
    pub(super) fn begin_staging(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        assert!(
            self.staged.is_none(),
            "{}: one rebuild at a time",
            self.shard
        );
        let contents = Contents {
            generation: self.meta.live.generation + 1,
            applied: self.live.applied.map(|_| Pair::ZERO),
            ..Contents::default()
        };
        self.staged = Some(Side::open(&contents, None));
        let generation = contents.generation;
        let progress = CopyProgress::Objects { after: None };
        self.meta.staging = Some(Staging {
            contents,
            consistent_at: Pair::ZERO,
            progress,
            delta_since: None,
            bytes: 0,
        });
        let changes = vec![
            StoreChange::DropGeneration { generation },
            StoreChange::PutMeta(self.meta.clone()),
        ];
        let batch = self.persist(changes, out);
        let secondary = self.secondary_mut();
        secondary.progress = context.now;
        secondary.again = 0;
        secondary.phase = Phase::Staging { batch };
    }

    /// At the copy: a chunk is staged; the next is asked for once it is durable.
    pub(super) fn on_chunk(
        &mut self,
        context: &Context<'_>,
        chunk: CopyChunk,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if self.secondary_mut().phase != Phase::Subscribing {
            return Ok(());
        }
        let batch = self.next_batch();
        let (Some(staging), Some(side)) = (&mut self.meta.staging, &mut self.staged) else {
            return Ok(());
        };
        if staging.progress != chunk.continues || staging.delta_since.is_some() {
            return Ok(());
        }
        if chunk.continues == (CopyProgress::Objects { after: None }) {
            staging.contents.base = chunk.from;
            staging.contents.base_checksum = chunk.checksum;
            staging.contents.epoch_starts = chunk.epoch_starts;
            side.position = chunk.from;
            side.checksum = chunk.checksum;
            if side.applied.is_some() {
                side.applied = Some(chunk.from);
                staging.contents.applied = side.applied;
            }
        }
        staging.consistent_at = staging.consistent_at.max(chunk.at);
        staging.progress = chunk.then;
        let generation = side.generation;
        let mut changes = Vec::with_capacity(chunk.objects.len() + chunk.dedup.len() + 1);
        for (key, object) in chunk.objects {
            changes.push(StoreChange::PutObject {
                generation,
                key,
                object: Some(object),
            });
        }
        for (id, entry) in chunk.dedup {
            changes.push(StoreChange::PutDedup {
                generation,
                id,
                entry: Some(entry),
            });
        }
        changes.push(StoreChange::PutMeta(self.meta.clone()));
        changes.extend(self.switch_when_consistent());
        let emitted = self.persist(changes, out);
        assert_eq!(emitted, batch, "{}: one batch per chunk", self.shard);
        let secondary = self.secondary_mut();
        secondary.progress = context.now;
        secondary.again = 0;
        secondary.phase = Phase::Staging { batch };
        Ok(())
    }

    /// Once the staged contents are at one point, one write makes them the live ones and drops the old.
    pub(super) fn switch_when_consistent(&mut self) -> Vec<StoreChange> {
        let (Some(staging), Some(side)) = (&self.meta.staging, &self.staged) else {
            return Vec::new();
        };
        let reached = side.applied.unwrap_or(side.position);
        if staging.delta_since.is_some() {
            // It goes in once all of it is on the disk.
            return Vec::new();
        }
        if staging.progress != CopyProgress::Records || reached < staging.consistent_at {
            return Vec::new();
        }
        let old = self.meta.live.generation;
        self.meta.live = staging.contents.clone();
        self.meta.staging = None;
        self.live = self.staged.take().expect("it was just looked at");
        vec![
            StoreChange::PutMeta(self.meta.clone()),
            StoreChange::DropGeneration { generation: old },
        ]
    }

    /// Gives a rebuild up.
    pub(super) fn drop_staging(&mut self, out: &mut Vec<Effect>) {
        let Some(staging) = self.meta.staging.take() else {
            return;
        };
        self.staged = None;
        let changes = vec![
            StoreChange::PutMeta(self.meta.clone()),
            StoreChange::DropGeneration {
                generation: staging.contents.generation,
            },
        ];
        self.persist(changes, out);
    }
}

/// About as many bytes as the chunk takes; no chunk takes none.
fn size_of(chunk: &CopyChunk) -> u64 {
    const ENTRY: usize = 64;
    let objects = chunk.objects.iter();
    let objects = objects.map(|(key, object)| {
        let parts = object.components.iter();
        let parts = parts.map(|part| part.name.len() + part.value.size() + 24);
        ENTRY + key.len() + parts.sum::<usize>()
    });
    let entries = chunk.dedup.iter();
    let entries = entries.map(|(_, entry)| ENTRY + entry.outcome.size());
    objects.chain(entries).sum::<usize>() as u64 + ENTRY as u64
}
