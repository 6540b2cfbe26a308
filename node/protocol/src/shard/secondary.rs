//! Following a primary: subscribe, take records in order, acknowledge what is durable.
//!
//! Messages may be lost, repeated and reordered. A record that is not the next one is not taken; whoever misses something
//! subscribes again with its position, and the primary's answer says how the two logs relate.

use super::forward::{Arrived, settled};
use super::message::{
    Ack, BeaconAnswer, Branch, BranchMode, Message, Pulse, Records, Reject, Scrub, Subscribe,
};
use super::replica::{Replica, Role};
use super::side::Side;
use super::submit::Submission;
use crate::effect::{Context, Difference, Effect};
use crate::forwarded::Forwarded;
use crate::mutant::Mutant;
use crate::store::{CopyProgress, Generation, StoreChange, StoreError, Stored};
use crate::time::Instant;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::limits::STREAM_CREDIT_BYTES;
use understudy_proto::{Epoch, NodeId, Pair, ShardId};

/// How often the time doubles after which a chunk is asked for again.
const CHUNK_DOUBLINGS_MAX: u32 = 5;

/// The state of a copy that follows.
#[derive(Debug)]
pub(super) struct Secondary {
    pub epoch: Epoch,
    pub primary: NodeId,
    pub phase: Phase,
    /// The number of the newest subscription.
    pub stream: u64,
    /// When something last came forward: a subscription sent, records or a chunk taken.
    pub progress: Instant,
    /// So often the next chunk was asked for again.
    pub again: u32,
    pub submission: Submission,
    /// Pages to be compared, until this copy is far enough.
    pub scrubs: Vec<Scrub>,
    /// A delta became too large: the records are taken.
    pub no_delta: bool,
    /// What was forwarded came to another here: records are wanted as they are logged.
    pub whole: bool,
}

/// What a copy that follows waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// For the answer to a subscription.
    Subscribing,
    /// For records.
    Streaming,
    /// For the disk, between two steps of undoing the records after a pair; then perhaps for a rebuild.
    Undoing { to: Pair, then_rebuild: bool },
    /// For the disk, before the next chunk of a full copy or a delta is asked for, or a delta is switched in.
    Staging { batch: u64 },
}

impl Replica {
    pub(super) fn follow(
        &mut self,
        context: &Context<'_>,
        primary: NodeId,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if matches!(&self.role, Role::Secondary(secondary) if secondary.epoch == epoch) {
            return Ok(());
        }
        self.become_idle(out);
        self.prepare_in_sync(context)?;
        let other_epoch = |at: Pair| at != Pair::ZERO && at.epoch != epoch;
        if self
            .meta
            .staging
            .as_ref()
            .is_some_and(|staging| other_epoch(staging.consistent_at))
        {
            // What was staged may hold what a failover cut off since.
            self.drop_staging(out);
        }
        if let Some(staged) = &mut self.staged
            && self.live.applied.is_some()
        {
            match staged.load_pending(self.shard, context.stored) {
                // It can be had again.
                Err(StoreError::Corrupt(_)) => self.drop_staging(out),
                loaded => loaded?,
            }
        }
        self.role = Role::Secondary(Secondary {
            epoch,
            primary,
            phase: Phase::Subscribing,
            stream: self.streams,
            progress: context.now,
            again: 0,
            submission: Submission::default(),
            scrubs: Vec::new(),
            no_delta: false,
            whole: false,
        });
        self.subscribe(context, out);
        Ok(())
    }

    /// Asks the primary for what comes after this copy's position, under a new stream number.
    pub(super) fn subscribe(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let (side, contents, copying) = match (&self.staged, &self.meta.staging) {
            (Some(side), Some(staging)) => {
                (side, &staging.contents, Some(staging.progress.clone()))
            }
            _ => (&self.live, &self.meta.live, None),
        };
        let (position, checksum) = (side.position, side.checksum);
        let (epoch_starts, base) = (contents.epoch_starts.clone(), contents.base);
        let (copy, delta_since) = (self.copy(), self.takes_delta_since());
        self.streams += 1;
        let stream = self.streams;
        let secondary = self.secondary_mut();
        secondary.stream = stream;
        secondary.progress = context.now;
        secondary.phase = Phase::Subscribing;
        let message = Message::Subscribe(Subscribe {
            epoch: secondary.epoch,
            stream: secondary.stream,
            copy,
            position,
            checksum,
            epoch_starts,
            credit: STREAM_CREDIT_BYTES,
            copying,
            base,
            delta_since,
            whole: secondary.whole,
        });
        out.push(Effect::Send {
            to: secondary.primary,
            message,
        });
    }

    pub(super) fn on_message(
        &mut self,
        context: &Context<'_>,
        from: NodeId,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if let Message::Pulse(pulse) = &message
            && pulse.epoch < self.meta.promise
            && Mutant::AnswerBeaconAfterPromise.on()
        {
            self.answer_apart(context, from, pulse, out);
        }
        if message.epoch() < self.meta.promise && !Mutant::SkipEpochCheck.on() {
            if !matches!(message, Message::Reject(_)) {
                let reject = Reject {
                    epoch: self.meta.promise,
                };
                out.push(Effect::Send {
                    to: from,
                    message: Message::Reject(reject),
                });
            }
            return Ok(());
        }
        match (message, &self.role) {
            (Message::Subscribe(subscribe), Role::Primary(_)) => {
                self.on_subscribe(context, from, subscribe, out)
            }
            (Message::Ack(ack), Role::Primary(_)) => self.on_ack(context, ack, out),
            (Message::Branch(branch), Role::Secondary(s))
                if s.takes(branch.epoch, branch.stream) =>
            {
                self.on_branch(context, branch, out)
            }
            (Message::Records(records), Role::Secondary(s))
                if s.takes(records.epoch, records.stream) =>
            {
                self.on_records(context, records, out)
            }
            (Message::CopyChunk(chunk), Role::Secondary(s))
                if s.takes_part(chunk.epoch, chunk.stream) =>
            {
                self.on_chunk(context, chunk, out)
            }
            (Message::Submit(submit), Role::Primary(_)) => {
                self.on_submit(context, from, submit, out)
            }
            (Message::Submitted(submitted), Role::Secondary(s))
                if s.takes(submitted.epoch, submitted.stream) =>
            {
                self.on_submitted(context, &submitted, out)
            }
            (Message::Delta(chunk), Role::Secondary(s))
                if s.takes_part(chunk.epoch, chunk.stream) =>
            {
                self.on_delta(context, chunk, out)
            }
            (Message::Scrub(scrub), Role::Secondary(s)) if s.takes(scrub.epoch, scrub.stream) => {
                self.on_scrub_asked(context, scrub, out)
            }
            (Message::Scrubbed(scrubbed), Role::Primary(_)) => {
                self.on_scrubbed(context, scrubbed, out)
            }
            (Message::Pulse(pulse), Role::Secondary(s)) if s.epoch == pulse.epoch => {
                self.on_pulse(context, pulse, out)
            }
            // Sealed for that epoch, and its row is not here yet.
            (Message::Pulse(pulse), Role::Idle | Role::Secondary(_))
                if pulse.epoch == self.meta.promise =>
            {
                self.answer_apart(context, from, &pulse, out);
                Ok(())
            }
            // Stale, or for a role that this copy no longer (or not yet) has: whoever waits asks again.
            _ => Ok(()),
        }
    }

    fn on_branch(
        &mut self,
        context: &Context<'_>,
        branch: Branch,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if self.secondary_mut().phase != Phase::Subscribing {
            return Ok(());
        }
        self.secondary_mut().again = 0;
        if branch.mode == BranchMode::Records {
            let secondary = self.secondary_mut();
            secondary.phase = Phase::Streaming;
            secondary.progress = context.now;
            self.followed = secondary.epoch;
            self.acknowledge(context, out);
            return Ok(());
        }
        if self.staged.is_some() {
            // What was staged is not on the primary's branch, or the log no longer reaches back to it: begin again.
            self.drop_staging(out);
            self.subscribe(context, out);
            return Ok(());
        }
        let to = branch.cut.max(self.meta.live.base);
        let then_rebuild = branch.mode == BranchMode::Rebuild || to > branch.cut;
        let secondary = self.secondary_mut();
        secondary.phase = Phase::Undoing { to, then_rebuild };
        // What is undone now comes into the orphan log behind what was read of it.
        secondary.submission = Submission::default();
        self.go_on_undoing(context, out)
    }

    fn on_records(
        &mut self,
        context: &Context<'_>,
        message: Records,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        // The records may overtake the answer to the subscription: they say the same.
        let phase = self.secondary_mut().phase;
        if !matches!(phase, Phase::Streaming | Phase::Subscribing) {
            return Ok(());
        }
        let (shard, commit) = (self.shard, message.commit);
        let batch = self.next_batch();
        let staged = self.staged.is_some();
        if staged
            && self
                .meta
                .staging
                .as_ref()
                .is_some_and(|staging| staging.progress != CopyProgress::Records)
        {
            return Ok(());
        }
        let side = self.staged.as_mut().unwrap_or(&mut self.live);
        let mut applied = Applied::new(shard, side.generation, batch);
        let (mut gap, mut differs) = (false, None);
        for forwarded in message.records {
            let pair = forwarded.pair();
            if pair.version <= side.position.version && !Mutant::ApplyOutOfOrder.on() {
                continue;
            }
            let arrived = match forwarded {
                Forwarded::Record(encoded) => Some(Arrived::read(encoded)?),
                // The subscription says that nothing but records can be taken.
                _ if staged && !Mutant::OperationWhileRebuilding.on() => {
                    gap = true;
                    break;
                }
                Forwarded::WithObjects(encoded, objects) => {
                    Arrived::read(encoded)?.with_objects(objects)
                }
                Forwarded::Operation(operation) => {
                    let next = pair.version == side.position.version.next()
                        && pair.epoch >= side.position.epoch;
                    if !next && !Mutant::ApplyOutOfOrder.on() {
                        gap = true;
                        break;
                    }
                    let before = match &self.meta.staging {
                        Some(staging) if staged => &staging.contents,
                        _ => &self.meta.live,
                    };
                    let starts = applied.epoch_starts.last();
                    let start = starts.or(before.epoch_starts.last());
                    let start = start.copied().unwrap_or(Pair::ZERO);
                    side.run(shard, context.stored, &operation, start)?
                }
            };
            let Some(arrived) = arrived else {
                differs = Some(pair);
                break;
            };
            let record = &arrived.record;
            let next =
                record.previous == side.position && record.previous_checksum == side.checksum;
            if !next && !Mutant::ApplyOutOfOrder.on() {
                gap = true;
                break;
            }
            applied.record(side, context.stored, arrived, staged)?;
        }
        let mended = std::mem::take(&mut applied.mended);
        let what = |(pair, key)| (pair, Difference::Mended(key));
        let not_taken = differs.map(|pair| (pair, Difference::NotTaken));
        for (pair, what) in mended.into_iter().map(what).chain(not_taken) {
            out.push(Effect::Differs { pair, what });
        }
        if differs.is_some() {
            self.secondary_mut().whole = true;
            // No operation comes any more in this epoch.
            self.live.pending.forget_ahead();
            gap = true;
        }
        self.finish_records(context, applied, commit, gap, out)
    }

    fn finish_records(
        &mut self,
        context: &Context<'_>,
        applied: Applied,
        commit: Pair,
        gap: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let committed = self.learn_commit(context, commit, applied.batch)?;
        if !applied.is_empty() || committed.is_some() {
            let staged = self.staged.is_some();
            let starts = match &mut self.meta.staging {
                Some(staging) if staged => &mut staging.contents.epoch_starts,
                _ => &mut self.meta.live.epoch_starts,
            };
            starts.extend(&applied.epoch_starts);
            let side = self.staged.as_ref().unwrap_or(&self.live);
            let mut changes = applied.into_changes(side, &self.meta);
            let with_meta = committed.is_some() || self.has_delta_staged();
            changes.extend(committed.into_iter().flatten());
            self.note_staged(&changes);
            if with_meta {
                changes.push(StoreChange::PutMeta(self.meta.clone()));
            }
            if staged {
                changes.extend(self.switch_when_consistent());
            }
            self.persist(changes, out);
            let secondary = self.secondary_mut();
            secondary.phase = Phase::Streaming;
            secondary.progress = context.now;
            self.followed = secondary.epoch;
        }
        if self.delta_goes_on(context, out)? {
            return Ok(());
        }
        if gap {
            self.subscribe(context, out);
        }
        Ok(())
    }

    /// in_sync: takes in the commit point, as far as the log reaches. `None`: nothing new. The meta is the caller's to write.
    fn learn_commit(
        &mut self,
        context: &Context<'_>,
        commit: Pair,
        batch: u64,
    ) -> Result<Option<Vec<StoreChange>>, StoreError> {
        let rebuilding = self.staged.is_some();
        let side = self.staged.as_mut().unwrap_or(&mut self.live);
        let upto = commit.min(side.position);
        if side.applied.is_none_or(|applied| upto <= applied) {
            return Ok(None);
        }
        let changes = side.commit(self.shard, context.stored, batch, upto, rebuilding)?;
        match &mut self.meta.staging {
            Some(staging) if rebuilding => staging.contents.applied = Some(upto),
            _ => self.meta.live.applied = Some(upto),
        }
        Ok(Some(changes))
    }

    /// in_sync: a pulse tells the commit point when there are no records to tell it.
    fn on_commit(
        &mut self,
        context: &Context<'_>,
        commit: Pair,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let rebuilding = self.staged.is_some();
        let batch = self.next_batch();
        let Some(mut changes) = self.learn_commit(context, commit, batch)? else {
            return Ok(());
        };
        self.note_staged(&changes);
        changes.push(StoreChange::PutMeta(self.meta.clone()));
        if rebuilding {
            changes.extend(self.switch_when_consistent());
        }
        self.persist(changes, out);
        self.delta_goes_on(context, out)?;
        Ok(())
    }

    fn on_pulse(
        &mut self,
        context: &Context<'_>,
        pulse: Pulse,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        self.on_echo(context, &pulse);
        let beacon = pulse.beacon.as_ref();
        let answer = beacon.and_then(|beacon| self.answer_beacon(context, pulse.epoch, beacon));
        let interval = self.settings.interval;
        let position = self.live.position;
        let idle = self.persisted == self.emitted;
        let staged = self.staged.is_some();
        let secondary = self.secondary_mut();
        let (primary, streams) = (secondary.primary, secondary.phase == Phase::Streaming);
        // A primary forgets the stream of a copy that a row left out, though the copy may never hear of that row.
        let missing = (pulse.position > position && idle) || pulse.stream != secondary.stream;
        let missing = missing && context.now.since(secondary.progress) > interval;
        if !streams || missing || staged {
            self.only_answer(context, primary, pulse.epoch, answer, out);
        }
        if !streams {
            return Ok(());
        }
        if missing {
            self.subscribe(context, out);
            return Ok(());
        }
        self.on_commit(context, pulse.commit, out)?;
        if self.secondary_mut().phase != Phase::Streaming {
            self.only_answer(context, primary, pulse.epoch, answer, out);
            return Ok(());
        }
        // An acknowledgement may have been lost, and the primary counts on it.
        self.acknowledge_with(context, answer, out);
        self.trim_to(context, pulse.base, out)
    }

    /// The answer to an acknowledgement that this very process sent tells how old the copy is.
    fn on_echo(&mut self, context: &Context<'_>, pulse: &Pulse) {
        // Nothing beyond it was acknowledged.
        let position = match self.live.applied {
            Some(_) => pulse.commit,
            None => pulse.position,
        };
        if Mutant::AgeFromAnswer.on() {
            self.age.answered(context.now, position);
        } else if let Some(echo) = pulse.echo
            && echo.stream >> 32 == self.me.incarnation.0
        {
            self.age.answered(echo.sent, position);
        }
    }

    pub(super) fn on_secondary_persisted(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let phase = self.secondary_mut().phase;
        match phase {
            Phase::Streaming => {
                self.acknowledge(context, out);
                self.answer_scrubs(context, out)
            }
            Phase::Undoing { .. } => self.go_on_undoing(context, out),
            Phase::Staging { batch } if batch <= self.persisted => {
                if !self.delta_goes_on(context, out)? {
                    self.subscribe(context, out);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn answer_apart(
        &mut self,
        context: &Context<'_>,
        from: NodeId,
        pulse: &Pulse,
        out: &mut Vec<Effect>,
    ) {
        let beacon = pulse.beacon.as_ref();
        let answer = beacon.and_then(|beacon| self.answer_beacon(context, pulse.epoch, beacon));
        self.only_answer(context, from, pulse.epoch, answer, out);
    }

    fn acknowledge(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        self.acknowledge_with(context, None, out);
    }

    fn acknowledge_with(
        &mut self,
        context: &Context<'_>,
        beacon: Option<BeaconAnswer>,
        out: &mut Vec<Effect>,
    ) {
        if self.staged.is_some() {
            return;
        }
        let (copy, position) = (self.copy(), self.durable);
        let secondary = self.secondary_mut();
        let ack = Ack {
            epoch: secondary.epoch,
            stream: secondary.stream,
            copy,
            position,
            sent: context.now,
            beacon,
        };
        out.push(Effect::Send {
            to: secondary.primary,
            message: Message::Ack(ack),
        });
    }

    pub(super) fn on_secondary_tick(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let interval = self.settings.interval;
        let copying = self.staged.is_some();
        let secondary = self.secondary_mut();
        // A chunk may be longer on its way than an interval: each question that is asked again would bring it once more.
        let patience = match copying {
            true => interval.scale(1 << secondary.again.min(CHUNK_DOUBLINGS_MAX), 1),
            false => interval,
        };
        let waited = context.now.since(secondary.progress) > patience;
        let phase = secondary.phase;
        match phase {
            Phase::Subscribing if waited => {
                secondary.again += 1;
                self.subscribe(context, out);
                Ok(())
            }
            Phase::Undoing { .. } => self.go_on_undoing(context, out),
            Phase::Streaming if self.delta_goes_on(context, out)? => Ok(()),
            Phase::Streaming => self.submit_when_due(context, out),
            _ => Ok(()),
        }
    }

    pub(super) fn secondary_mut(&mut self) -> &mut Secondary {
        match &mut self.role {
            Role::Secondary(secondary) => secondary,
            _ => panic!("{}: not a secondary", self.shard),
        }
    }
}

impl Secondary {
    fn takes(&self, epoch: Epoch, stream: u64) -> bool {
        self.epoch == epoch && self.stream == stream
    }

    /// A chunk says itself what it continues, so that one which was asked for under an earlier number is as good: over a slow
    /// link the question is asked again while the answer is on its way.
    fn takes_part(&self, epoch: Epoch, stream: u64) -> bool {
        self.epoch == epoch && stream <= self.stream
    }
}

/// Records of one message, gathered into the changes of one batch.
struct Applied {
    shard: ShardId,
    generation: Generation,
    batch: u64,
    records: Vec<StoreChange>,
    /// The last state of each object that the records wrote.
    objects: BTreeMap<Bytes, Option<crate::object::Object>>,
    dedup: Vec<StoreChange>,
    epoch_starts: Vec<Pair>,
    /// Objects that were other ones here than at the primary.
    mended: Vec<(Pair, Bytes)>,
}

impl Applied {
    fn new(shard: ShardId, generation: Generation, batch: u64) -> Applied {
        Applied {
            shard,
            generation,
            batch,
            records: Vec::new(),
            objects: BTreeMap::new(),
            dedup: Vec::new(),
            epoch_starts: Vec::new(),
            mended: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Applies one record to a side. A side that is being rebuilt was read piece by piece while the primary went on: there
    /// a change counts only for an object that is as the record found it; the others are newer already or will be gone.
    fn record(
        &mut self,
        side: &mut Side,
        stored: &dyn Stored,
        arrived: Arrived,
        rebuilding: bool,
    ) -> Result<(), StoreError> {
        let Arrived {
            encoded,
            record,
            mut objects,
            mut found,
        } = arrived;
        let id = record.request_id();
        // in_sync: the objects take it in when it is committed.
        let in_sync = side.applied.is_some();
        let writes = record.changes().iter().filter(|change| change.is_write());
        for change in writes.filter(|_| !in_sync) {
            let before = match found.remove(&change.key) {
                Some(before) => before,
                None => side.newest(self.shard, stored, &change.key)?,
            };
            let here = change.apply(
                before.clone(),
                record.pair,
                id.expect("only requests change objects"),
            );
            let after = match settled(here.ok(), objects.remove(&change.key)) {
                Some((after, mended)) => {
                    let mended = mended.then(|| (record.pair, change.key.clone()));
                    self.mended.extend(mended);
                    after
                }
                None if Mutant::ApplyOutOfOrder.on() => continue,
                None if rebuilding && side.is_rebuilt(self.shard, stored, &change.key)? => continue,
                None => {
                    let what = format!(
                        "shard {}: an object is not as record {} found it",
                        self.shard, record.pair
                    );
                    return Err(StoreError::Corrupt(what));
                }
            };
            side.overlay
                .put_object(self.batch, change.key.clone(), before, after.clone());
            self.objects.insert(change.key.clone(), after);
        }
        for (id, entry) in record.dedup_after() {
            if entry.is_none() && Mutant::EachCopyForgetsByItself.on() {
                continue;
            }
            side.overlay.put_dedup(self.batch, id, entry.clone());
            self.dedup.push(side.put_dedup(id, entry));
        }
        if record.is_epoch_start() {
            self.epoch_starts.push(record.pair);
        }
        side.position = encoded.pair;
        side.checksum = encoded.checksum;
        if in_sync {
            side.push_pending(self.shard, stored, record)?;
        }
        self.records.push(StoreChange::AppendRecord {
            generation: self.generation,
            record: encoded,
        });
        Ok(())
    }

    fn into_changes(self, side: &Side, meta: &crate::store::Meta) -> Vec<StoreChange> {
        let mut changes = self.records;
        changes.extend(
            self.objects
                .into_iter()
                .map(|(key, object)| side.put_object(key, object)),
        );
        changes.extend(self.dedup);
        if !self.epoch_starts.is_empty() {
            changes.push(StoreChange::PutMeta(meta.clone()));
        }
        changes
    }
}
