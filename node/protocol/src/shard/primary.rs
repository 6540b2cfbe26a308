//! What a primary does: takes over with an epoch-start record, knows duplicates, forms records, answers when it may.
//!
//! An answer needs three things: its record is durable, the lease holds now, and as many copies as were asked for have it
//! (or the deadline passed). What is durable but has no lease waits; at its deadline it is answered *unknown*.

use super::commit::Members;
use super::expire::Expiry;
use super::forward::Kept;
use super::reconcile::Kin;
use super::replica::{Replica, Role, storage_failure};
use super::scrub::Scrubs;
use super::streams::Streams;
use super::submit::Submission;
use super::trim::Retention;
use super::walk::Deltas;
use super::witness::Witnesses;
use crate::conflict::conflict_key;
use crate::effect::{Answer, Caller, Context, Effect, HandOver, Level, SealedCopy};
use crate::evaluate::{Written, perform};
use crate::mutant::Mutant;
use crate::record::{Body, Record};
use crate::request::{DedupEntry, Request};
use crate::store::{StoreChange, StoreError};
use crate::time::{Duration, Instant};
use std::collections::VecDeque;
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::limits::{PENDING_RECORDS_MAX, SHARD_MAILBOX_MAX};
use understudy_proto::{Epoch, Pair, RequestId, ShardId};

/// How late an answer at the deadline may come.
const SWEEP_EVERY: Duration = Duration::from_millis(50);

/// A client's update on its way in.
#[derive(Debug)]
pub(super) struct Write {
    pub caller: Caller,
    pub request: Request,
    pub copies: u32,
    pub deadline: Instant,
}

/// The state of a primary.
#[derive(Debug)]
pub(super) struct Primary {
    pub epoch: Epoch,
    /// The epoch-start record is durable, in_sync committed: it may answer.
    pub serving: bool,
    /// The batch with the epoch-start record.
    start_batch: u64,
    /// The epoch-start record.
    pub start: Pair,
    /// Answers in the order of their batches, until they are durable and the lease holds.
    waiting: VecDeque<Waiting>,
    /// Durable ones that still wait for copies.
    for_copies: Vec<Waiting>,
    pub streams: Streams,
    pub retention: Retention,
    pub members: Members,
    pub expiry: Expiry,
    hand_over: Option<HandingOver>,
    next_sweep: Instant,
    /// What a failover cut off while this copy followed another one, on its way back.
    pub own: Submission,
    /// The last batch that this came to.
    pub own_batch: u64,
    /// Bytes of orphans of other copies that were judged since the disk last had all of them, and the batch with the last.
    pub given_back: usize,
    pub kin: Kin,
    pub given_back_batch: u64,
    pub witnesses: Witnesses,
    pub scrubs: Scrubs,
    pub deltas: Deltas,
}

/// One answer that is ready but for its conditions.
#[derive(Debug)]
struct Waiting {
    batch: u64,
    caller: Caller,
    answer: Answer,
    copies: u32,
    /// It was answered when every member of the in-sync set had it.
    in_sync: bool,
    deadline: Instant,
}

/// A clean change of primary under way: new requests are held.
#[derive(Debug)]
struct HandingOver {
    /// One for each time that the managers asked; all get the same answer.
    callers: Vec<Caller>,
    epoch: Epoch,
    plan: HandOver,
    held: Vec<Write>,
}

impl Replica {
    /// A new configuration names this process: its first record is the epoch start.
    pub(super) fn become_primary(
        &mut self,
        context: &Context<'_>,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if matches!(&self.role, Role::Primary(primary) if primary.epoch == epoch) {
            return self.on_members(context, out);
        }
        assert!(
            self.live.position.epoch < epoch,
            "{}: epoch {epoch} begins at {}, which it already holds",
            self.shard,
            self.live.position
        );
        self.become_idle(out);
        self.drop_staging(out);
        self.prepare_in_sync(context)?;
        let record = self.form(
            context,
            epoch,
            self.live.position.version.next().0,
            Body::EpochStart,
        );
        let encoded = record.encode();
        self.live.position = encoded.pair;
        self.live.checksum = encoded.checksum;
        self.meta.live.epoch_starts.push(encoded.pair);
        let changes = vec![
            StoreChange::AppendRecord {
                generation: self.live.generation,
                record: encoded.clone(),
            },
            StoreChange::PutMeta(self.meta.clone()),
        ];
        let start_batch = self.persist(changes, out);
        if self.live.applied.is_some() {
            self.live.pending.push(record);
            self.live.look_ahead(self.shard, context.stored)?;
        }
        let mut primary = Primary::new(self.shard, epoch, start_batch, self.live.position, context);
        primary.streams.push(Kept::new(encoded));
        primary.serving = Mutant::ServeBeforeEpochStart.on();
        self.role = Role::Primary(Box::new(primary));
        Ok(())
    }

    /// The mistake `number-on-after-restart`: no new epoch, no epoch start.
    pub(super) fn go_on_numbering(
        &mut self,
        context: &Context<'_>,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) {
        self.become_idle(out);
        let mut primary =
            Primary::new(self.shard, epoch, self.emitted, self.live.position, context);
        primary.serving = true;
        self.role = Role::Primary(Box::new(primary));
    }

    pub(super) fn form(
        &self,
        context: &Context<'_>,
        epoch: Epoch,
        version: u64,
        body: Body,
    ) -> Record {
        Record {
            shard: self.shard,
            pair: Pair {
                epoch,
                version: version.into(),
            },
            previous: self.live.position,
            previous_epoch_start: self
                .meta
                .live
                .epoch_starts
                .last()
                .copied()
                .unwrap_or(Pair::ZERO),
            previous_checksum: self.live.checksum,
            time_ms: context.wall_ms,
            body,
        }
    }

    pub(super) fn on_write(
        &mut self,
        context: &Context<'_>,
        write: Write,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let refused = self
            .check_primary(context)
            .err()
            .or_else(|| self.check_room());
        if let Some(failure) = refused {
            out.push(Effect::Reply {
                caller: write.caller,
                answer: Err(failure),
            });
            return Ok(());
        }
        if let Some(hand_over) = self.primary_mut().hand_over.as_mut() {
            hand_over.held.push(write);
            return Ok(());
        }
        let known = self
            .live
            .dedup(self.shard, context.stored, write.request.id);
        match known {
            Err(error) => {
                out.push(Effect::Reply {
                    caller: write.caller,
                    answer: Err(storage_failure(&error, Applied::No)),
                });
                Err(error)
            }
            Ok(Some((batch, entry))) => self.answer_duplicate(context, write, batch, entry, out),
            Ok(None) if self.too_few_in_sync() => {
                let failure = Failure::no(
                    Reason::InSyncTooFew,
                    "too few copies are in sync for this namespace's min_in_sync; ask again",
                );
                out.push(Effect::Reply {
                    caller: write.caller,
                    answer: Err(failure),
                });
                Ok(())
            }
            Ok(None) => {
                let (id, mark) = (write.request.id, write.request.answered_upto);
                match self.check_not_expired(context, id, mark)? {
                    Ok(()) => self.run(context, write, out),
                    Err(failure) => {
                        out.push(Effect::Reply {
                            caller: write.caller,
                            answer: Err(failure),
                        });
                        Ok(())
                    }
                }
            }
        }
    }

    fn check_room(&self) -> Option<Failure> {
        let Role::Primary(primary) = &self.role else {
            return None;
        };
        let held = primary
            .hand_over
            .as_ref()
            .map_or(0, |hand_over| hand_over.held.len());
        let full = primary.waiting.len() + primary.for_copies.len() >= PENDING_RECORDS_MAX
            || self.live.pending.len() >= PENDING_RECORDS_MAX
            || held >= SHARD_MAILBOX_MAX;
        full.then(|| {
            Failure::no(
                Reason::Overloaded,
                "too many writes of this shard wait for the disk; ask again",
            )
        })
    }

    /// The request ran before: the original outcome, as soon as it is durable.
    fn answer_duplicate(
        &mut self,
        context: &Context<'_>,
        write: Write,
        batch: u64,
        entry: DedupEntry,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if entry.fingerprint != write.request.fingerprint {
            let failure = Failure::no(
                Reason::RequestIdReused,
                "this request id was used before with other content",
            )
            .with("first_pair", entry.pair.to_string());
            out.push(Effect::Reply {
                caller: write.caller,
                answer: Err(failure),
            });
            return Ok(());
        }
        let conflict = self.has_open_conflict(context, write.request.id, &entry)?;
        let answer = Answer {
            outcome: entry.outcome,
            pair: entry.pair,
            duplicate: true,
            copies_durable: 0,
            conflict,
            level: Level::Primary,
        };
        self.await_answer(context, write, batch, answer, out);
        Ok(())
    }

    /// Whether a conflict about the request is still there: its resolution takes it away.
    fn has_open_conflict(
        &self,
        context: &Context<'_>,
        id: RequestId,
        entry: &DedupEntry,
    ) -> Result<bool, StoreError> {
        for cut_off in &entry.conflicts {
            let key = conflict_key(id, *cut_off);
            if self
                .live
                .newest(self.shard, context.stored, &key)?
                .is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs a new request: evaluate, form the record, make everything durable in one batch.
    fn run(
        &mut self,
        context: &Context<'_>,
        write: Write,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let epoch = self.primary_mut().epoch;
        let version = self.live.position.version.next().0;
        let pair = Pair {
            epoch,
            version: version.into(),
        };
        let (shard, live) = (self.shard, &self.live);
        let (body, written) = perform(&write.request, pair, |key| {
            live.newest(shard, context.stored, key)
        })?;
        let record = self.form(context, epoch, version, Body::Request(Box::new(body)));
        let (_, DedupEntry { outcome, .. }) = record.dedup().expect("a request has a dedup entry");
        let batch = self.append(context, record, written, out)?;
        let answer = Answer {
            outcome,
            pair,
            duplicate: false,
            copies_durable: 0,
            conflict: false,
            level: Level::Primary,
        };
        self.await_answer(context, write, batch, answer, out);
        if self.live.applied.is_some() {
            self.feed(context, out)?;
        }
        Ok(())
    }

    /// Makes a record, its dedup entry and what it wrote durable in one batch, and has it streamed. The batch's number.
    pub(super) fn append(
        &mut self,
        context: &Context<'_>,
        record: Record,
        written: Written,
        out: &mut Vec<Effect>,
    ) -> Result<u64, StoreError> {
        let shard = self.shard;
        let pair = record.pair;
        let encoded = record.encode();
        let batch = self.next_batch();
        let mut changes = Vec::with_capacity(2 + written.len());
        let generation = self.live.generation;
        changes.push(StoreChange::AppendRecord {
            generation,
            record: encoded.clone(),
        });
        let in_sync = self.live.applied.is_some();
        let kept = self.keep(&record, &encoded, &written);
        for (key, object) in written {
            if in_sync {
                // It enters the objects when it is committed.
                self.live.pending.put_ahead(key, pair, object);
                continue;
            }
            let before = self.live.newest(shard, context.stored, &key)?;
            self.live
                .overlay
                .put_object(batch, key.clone(), before, object.clone());
            changes.push(StoreChange::PutObject {
                generation,
                key,
                object,
            });
        }
        let entries = match Mutant::ForgetDedupEntry.on() {
            true => Vec::new(),
            false => record.dedup_after(),
        };
        for (id, entry) in entries {
            self.live.overlay.put_dedup(batch, id, entry.clone());
            changes.push(StoreChange::PutDedup {
                generation,
                id,
                entry,
            });
        }
        self.live.position = encoded.pair;
        self.live.checksum = encoded.checksum;
        let emitted = self.persist(changes, out);
        assert_eq!(emitted, batch, "{}: one batch per write", self.shard);
        let primary = self.primary_mut();
        primary
            .retention
            .note(encoded.pair, encoded.bytes.len(), context.wall_ms);
        primary.streams.push(kept);
        if in_sync {
            self.live.pending.push(record);
        }
        Ok(batch)
    }

    fn await_answer(
        &mut self,
        context: &Context<'_>,
        write: Write,
        batch: u64,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        let Write {
            caller,
            copies,
            deadline,
            ..
        } = write;
        if Mutant::AnswerBeforePersisting.on() {
            out.push(Effect::Reply {
                caller,
                answer: Ok(answer),
            });
            return;
        }
        let in_sync = self.live.applied.is_some();
        let waiting = Waiting {
            batch,
            caller,
            answer,
            copies,
            in_sync,
            deadline,
        };
        let settled = self.is_settled(batch, waiting.answer.pair);
        let primary = self.primary_mut();
        if settled {
            primary.for_copies.push(waiting);
            self.answer_durable(context, out);
        } else {
            // A duplicate of something under way may stand behind later ones: kept in the order in which they are settled.
            let at = primary.waiting.partition_point(|other| match in_sync {
                true => other.answer.pair <= waiting.answer.pair,
                false => other.batch <= batch,
            });
            primary.waiting.insert(at, waiting);
        }
    }

    /// Answers what is durable, while the lease holds.
    fn answer_durable(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let (persisted, applied) = (self.persisted, self.live.applied);
        let Role::Primary(primary) = &self.role else {
            return;
        };
        if !primary.serving || !self.leased(context, primary.epoch) {
            return;
        }
        let primary = self.primary_mut();
        while primary.waiting.front().is_some_and(|front| {
            front.batch <= persisted && applied.is_none_or(|at| front.answer.pair <= at)
        }) {
            let waiting = primary.waiting.pop_front().expect("it has a front");
            if waiting.copies == 0 {
                let copies = primary.streams.copies_at(waiting.answer.pair);
                out.push(waiting.done(copies));
            } else {
                primary.for_copies.push(waiting);
            }
        }
        let mut rest = Vec::new();
        for waiting in std::mem::take(&mut primary.for_copies) {
            let copies = primary.streams.copies_at(waiting.answer.pair);
            if copies >= waiting.copies || context.now >= waiting.deadline {
                out.push(waiting.done(copies));
            } else {
                rest.push(waiting);
            }
        }
        primary.for_copies = rest;
    }

    pub(super) fn on_primary_persisted(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        self.advance_commit(context, out)?;
        let (persisted, in_sync) = (self.persisted, self.live.applied.is_some());
        let primary = self.primary_mut();
        let epoch = primary.epoch;
        if !primary.serving && primary.start_batch <= persisted && !in_sync {
            primary.serving = true;
            self.followed = epoch;
        }
        self.answer_durable(context, out);
        self.feed(context, out)?;
        self.reconcile_own(context, out)?;
        self.advance_hand_over(context, out)
    }

    /// A copy acknowledged: answers that wait for copies, and a hand-over, may go on.
    pub(super) fn on_copies_moved(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        self.advance_commit(context, out)?;
        if self.live.applied.is_some() || !self.primary_mut().for_copies.is_empty() {
            self.answer_durable(context, out);
        }
        self.advance_hand_over(context, out)
    }

    pub(super) fn on_primary_tick(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        self.answer_durable(context, out);
        self.expire(context, out);
        self.advance_hand_over(context, out)?;
        if let Role::Primary(_) = self.role {
            self.reconcile_own(context, out)?;
            self.expire_entries(context, out)?;
            self.finish_scrubs(context, out);
            self.go_on_with_deltas(context, out)?;
        }
        if let Role::Primary(_) = self.role {
            self.pulse(context, out);
            self.send_chunks(context, out)?;
            self.trim(context, out)?;
        }
        Ok(())
    }

    /// Answers *unknown* what waited past its deadline for the disk or the lease.
    fn expire(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let reason = match self.too_few_in_sync() {
            true => Reason::InSyncTooFew,
            false => Reason::DeadlinePassed,
        };
        let primary = self.primary_mut();
        if context.now < primary.next_sweep {
            return;
        }
        primary.next_sweep = context.now + SWEEP_EVERY;
        primary
            .waiting
            .retain(|waiting| waiting.keep_until(context.now, reason, out));
        // Durable and with a lease they were answered above; these have none.
        primary
            .for_copies
            .retain(|waiting| waiting.keep_until(context.now, reason, out));
    }

    // ---- hand-over

    /// Whether this copy is a primary that can hand over; it then holds new requests.
    pub(super) fn begin_hand_over(
        &mut self,
        caller: Caller,
        epoch: Epoch,
        plan: HandOver,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Role::Primary(primary) = &mut self.role else {
            return false;
        };
        match primary.hand_over.as_mut() {
            Some(earlier) if (earlier.epoch, earlier.plan.to) == (epoch, plan.to) => {
                // Asked again because the answer takes its time; the limit is that of the first.
                earlier.callers.push(caller);
            }
            Some(earlier) => {
                let replaced = std::mem::replace(&mut earlier.callers, vec![caller]);
                earlier.epoch = epoch;
                earlier.plan = plan;
                answer_not_handed_over(replaced, out);
            }
            None => {
                primary.hand_over = Some(HandingOver {
                    callers: vec![caller],
                    epoch,
                    plan,
                    held: Vec::new(),
                });
            }
        }
        true
    }

    /// Promises once the target has everything; goes on as before when it does not get there in time.
    pub(super) fn advance_hand_over(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let position = self.live.position;
        // What is admitted is answered here, as far as it can be.
        let settled = self.too_few_in_sync() || self.live.applied.is_none_or(|at| at >= position);
        let Role::Primary(primary) = &mut self.role else {
            return Ok(());
        };
        let Some(hand_over) = primary.hand_over.as_mut() else {
            return Ok(());
        };
        if primary
            .streams
            .acknowledged(hand_over.plan.to)
            .is_some_and(|acknowledged| acknowledged >= position)
            && settled
        {
            let (callers, epoch) = (std::mem::take(&mut hand_over.callers), hand_over.epoch);
            self.answer_durable(context, out);
            for caller in callers {
                self.promise(caller, epoch, out);
            }
        } else if context.now >= hand_over.plan.give_up_at {
            let hand_over = primary.hand_over.take().expect("it is there");
            answer_not_handed_over(hand_over.callers, out);
            for write in hand_over.held {
                self.on_write(context, write, out)?;
            }
        }
        Ok(())
    }

    /// The role ends: whoever waits is told what is known of his request.
    pub(super) fn dismiss(&mut self, primary: Primary, out: &mut Vec<Effect>) {
        for waiting in primary.waiting.into_iter().chain(primary.for_copies) {
            let failure = Failure::unknown(
                Reason::NoLease,
                "the primary was replaced; ask again under the same id",
            );
            out.push(Effect::Reply {
                caller: waiting.caller,
                answer: Err(failure),
            });
        }
        primary.scrubs.dismiss(&self.not_primary(), out);
        if let Some(hand_over) = primary.hand_over {
            answer_not_handed_over(hand_over.callers, out);
            for write in hand_over.held {
                out.push(Effect::Reply {
                    caller: write.caller,
                    answer: Err(self.not_primary()),
                });
            }
        }
    }

    pub(super) fn primary_mut(&mut self) -> &mut Primary {
        match &mut self.role {
            Role::Primary(primary) => primary,
            _ => panic!("{}: not a primary", self.shard),
        }
    }
}

fn answer_not_handed_over(callers: Vec<Caller>, out: &mut Vec<Effect>) {
    out.extend(callers.into_iter().map(|caller| Effect::Sealed {
        caller,
        answer: SealedCopy::NotHandedOver,
    }));
}

impl Primary {
    fn new(
        shard: ShardId,
        epoch: Epoch,
        start_batch: u64,
        position: Pair,
        context: &Context<'_>,
    ) -> Primary {
        Primary {
            epoch,
            serving: false,
            start_batch,
            start: position,
            waiting: VecDeque::new(),
            for_copies: Vec::new(),
            streams: Streams::new(context.now, context.clients.forward(shard)),
            retention: Retention::new(position, context.wall_ms),
            members: Members::default(),
            expiry: Expiry::new(position, context.now, context.clients.keep(shard)),
            hand_over: None,
            next_sweep: context.now,
            own: Submission::default(),
            own_batch: 0,
            given_back: 0,
            kin: Kin::default(),
            given_back_batch: 0,
            witnesses: Witnesses::new(context.now),
            scrubs: Scrubs::default(),
            deltas: Deltas::default(),
        }
    }

    /// New requests are held until another copy has everything.
    pub fn hands_over(&self) -> bool {
        self.hand_over.is_some()
    }
}

impl Waiting {
    fn done(mut self, copies: u32) -> Effect {
        self.answer.copies_durable = copies;
        self.answer.level = match self.in_sync {
            true => Level::InSync,
            false if self.copies > 0 && copies >= self.copies => Level::Copies,
            false => Level::Primary,
        };
        Effect::Reply {
            caller: self.caller,
            answer: Ok(self.answer),
        }
    }

    fn keep_until(&self, now: Instant, reason: Reason, out: &mut Vec<Effect>) -> bool {
        let keep = now < self.deadline;
        if !keep {
            let failure = Failure::unknown(
                reason,
                "the deadline passed before the write could be answered",
            );
            out.push(Effect::Reply {
                caller: self.caller,
                answer: Err(failure),
            });
        }
        keep
    }
}
