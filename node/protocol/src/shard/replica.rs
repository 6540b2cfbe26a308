//! One copy of one shard: its state, `step`, and the changes of role.
//!
//! The role follows the newest row of the naming table; the promise decides what is taken at all. Everything that must be
//! durable goes out as a batch, and what must follow it waits for `Persisted`.

use super::age::Age;
use super::primary::Primary;
use super::reads::{Read, Reads};
use super::scrub::Wanted;
use super::secondary::Secondary;
use super::side::Side;
use super::witness::Witness;
use crate::effect::{
    Ask, Assignment, Caller, ClientSession, Context, Effect, HandOver, Input, Report, SealedCopy,
};
use crate::expiry::{ClientState, ShardState, client_state_id, shard_state_id};
use crate::mutant::Mutant;
use crate::object::Object;
use crate::store::{Batch, Contents, Generation, Meta, Saved, StoreChange, StoreError};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::VecDeque;
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::{CopyId, Epoch, Pair, ProcessId, Revision, ShardId};

/// What a replica is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two pulses of a primary, and between two tries of anything that is asked again.
    pub interval: Duration,
    /// How much of the log is kept beyond what the copies need, in bytes and in time.
    pub log_bytes: u64,
    pub log_age: Duration,
    /// So many records a copy must be behind before a coalesced delta is thought of.
    pub delta_records_min: u64,
    /// So many deltas are made at a time, with those of the other shards that are driven together with this one.
    pub delta_walks_max: usize,
}

/// Which read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadLevel {
    /// At the primary, under its lease.
    Primary,
    /// This copy as it is.
    Any,
}

/// What a read gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadAnswer {
    pub objects: Vec<Option<Object>>,
    /// What the copy had reached.
    pub token: Pair,
    /// How old the copy was at most: everything acknowledged so long before is in it. `None`: it does not know.
    pub age: Option<Duration>,
}

/// Where the log of the live generation is, for those who read it from the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogView {
    pub generation: Generation,
    /// The log holds the records after this one.
    pub base: Pair,
    /// Up to here it is durable and visible.
    pub durable: Pair,
    pub epoch_starts: Vec<Pair>,
}

/// One copy of one shard.
#[derive(Debug)]
pub struct Replica {
    pub(super) shard: ShardId,
    pub(super) me: ProcessId,
    pub(super) settings: Settings,
    /// As of the last batch that was emitted.
    pub(super) meta: Meta,
    pub(super) live: Side,
    pub(super) staged: Option<Side>,
    /// The end of the live log as far as it is durable, and the running checksum there.
    pub(super) durable: Pair,
    pub(super) durable_checksum: u64,
    /// The part of it that the objects on the disk hold: in_sync the durably learned commit point, lazy all of it.
    pub(super) visible: Pair,
    /// Records in the orphan log, with all batches that were emitted.
    pub(super) orphans: u64,
    /// The last batch that changed the orphan log.
    pub(super) orphans_batch: u64,
    /// The number of the last batch that was emitted, and of the last that is durable.
    pub(super) emitted: u64,
    pub(super) persisted: u64,
    /// What becomes durable with a batch: the end of the live log after it.
    ends: VecDeque<(u64, End)>,
    assignment: Option<Assignment>,
    pub(super) role: Role,
    /// The number of the last subscription. A process never draws one twice, whatever becomes of its copy in between: streams
    /// of other epochs, of earlier starts and of a copy that was deleted since must not be taken for the newest one.
    pub(super) streams: u64,
    /// Seals whose promise is on its way to the disk.
    seals: Vec<(u64, Caller, SealedCopy)>,
    next_ask: Instant,
    /// As in [`Report`].
    pub(super) followed: Epoch,
    broken: Option<StoreError>,
    pub(super) walks_elsewhere: usize,
    pub(super) reads: Reads,
    pub(super) age: Age,
    pub(super) witness: Witness,
}

/// A seal that the managers ask for; as in [`Input::Seal`].
struct Seal {
    caller: Caller,
    epoch: Epoch,
    hand_over: Option<HandOver>,
    grace: Option<Duration>,
}

/// Where the live log stands with a batch.
#[derive(Clone, Copy, Debug)]
struct End {
    position: Pair,
    checksum: u64,
    visible: Pair,
}

/// What the copy does at the moment.
#[derive(Debug)]
pub(super) enum Role {
    /// Nothing: it was sealed, or no row names it.
    Idle,
    Primary(Box<Primary>),
    Secondary(Secondary),
}

impl Replica {
    /// A replica as its disk has it; it follows nobody until it gets an assignment.
    pub fn open(
        shard: ShardId,
        me: ProcessId,
        saved: Saved,
        settings: Settings,
        now: Instant,
    ) -> Replica {
        let live = Side::open(&saved.meta.live, saved.last.as_ref());
        let staged = saved.meta.staging.as_ref().map(|staging| {
            let last = saved.staged_last.as_ref();
            Side::open_staged(staging, saved.meta.live.generation, last)
        });
        Replica {
            shard,
            me,
            settings,
            reads: Reads::new(live.generation),
            age: Age::default(),
            witness: Witness::new(now),
            durable: live.position,
            durable_checksum: live.checksum,
            visible: live.applied.unwrap_or(live.position),
            meta: saved.meta,
            live,
            staged,
            orphans: saved.orphans,
            orphans_batch: 0,
            emitted: 0,
            persisted: 0,
            ends: VecDeque::new(),
            assignment: None,
            role: Role::Idle,
            streams: me.incarnation.0 << 32,
            seals: Vec::new(),
            next_ask: now,
            followed: Epoch::ZERO,
            broken: None,
            walks_elsewhere: 0,
        }
    }

    /// How many deltas the other shards make that are driven together with this one.
    pub fn set_walks_elsewhere(&mut self, walks: usize) {
        self.walks_elsewhere = walks;
    }

    /// The cluster's heartbeat interval, as the managers last told it.
    pub fn set_interval(&mut self, interval: Duration) {
        self.settings.interval = interval;
    }

    /// Takes one stimulus and tells what is to be done.
    pub fn step(&mut self, context: &Context<'_>, input: Input, out: &mut Vec<Effect>) {
        let delta = self.has_delta_staged();
        let follows = matches!(
            input,
            Input::Message { .. } | Input::Persisted { .. } | Input::Tick
        );
        let done = match input {
            Input::Assignment(assignment) => self.on_assignment(context, assignment, out),
            Input::Write {
                caller,
                request,
                copies,
                deadline,
            } => self.on_write(
                context,
                super::primary::Write {
                    caller,
                    request,
                    copies,
                    deadline,
                },
                out,
            ),
            Input::Message { from, message } => self.on_message(context, from, message, out),
            Input::Persisted { number } => self.on_persisted(context, number, out),
            Input::Seal {
                caller,
                epoch,
                hand_over,
                grace,
            } => {
                let wanted = Seal {
                    caller,
                    epoch,
                    hand_over,
                    grace,
                };
                self.on_seal(context, wanted, out)
            }
            Input::Delete { revision } => {
                self.on_delete(revision, out);
                Ok(())
            }
            Input::Tick => self.on_tick(context, out),
            Input::Read {
                caller,
                keys,
                freshness,
                deadline,
            } => {
                let read = Read {
                    caller,
                    keys,
                    freshness,
                    deadline,
                };
                self.on_read(context, read, out);
                Ok(())
            }
            Input::Scrub {
                caller,
                after,
                bytes_max,
                deadline,
            } => {
                let wanted = Wanted {
                    caller,
                    after,
                    bytes_max,
                    deadline,
                };
                self.on_scrub(context, wanted, out)
            }
        };
        match done {
            Ok(()) => {}
            Err(StoreError::Corrupt(_)) if delta && follows => self.copy_instead(context, out),
            Err(error) => self.on_broken(error, out),
        }
        self.answer_reads(context, out);
    }

    /// Reads what is visible here: lazy what is durable, in_sync what is committed. The caller checks the lease again before it
    /// answers a `Primary` read.
    pub fn read(
        &self,
        context: &Context<'_>,
        keys: &[Bytes],
        level: ReadLevel,
    ) -> Result<ReadAnswer, Failure> {
        match level {
            ReadLevel::Primary => self.check_primary(context)?,
            ReadLevel::Any => self.check_readable()?,
        }
        self.found(context, keys, level == ReadLevel::Primary)
    }

    /// Whether this process may answer as primary right now.
    pub fn check_primary(&self, context: &Context<'_>) -> Result<(), Failure> {
        self.check_whole()?;
        match &self.role {
            Role::Primary(primary) if primary.serving => {
                if self.leased(context, primary.epoch) {
                    Ok(())
                } else {
                    Err(Failure::no(
                        Reason::NoLease,
                        "the primary has no lease at the moment; ask again",
                    ))
                }
            }
            Role::Primary(_) => Err(Failure::no(
                Reason::Starting,
                "the primary is taking over; ask again",
            )),
            _ => Err(self.not_primary()),
        }
    }

    /// Whether this copy has contents to read at all.
    pub fn check_readable(&self) -> Result<(), Failure> {
        self.check_whole()?;
        if !self.is_present() {
            return Err(self.not_primary());
        }
        if self.is_complete()
            && !self.reads.is_switching(self.persisted)
            && self
                .assignment
                .as_ref()
                .is_some_and(|row| self.role_in(row) != Named::Joining)
        {
            Ok(())
        } else {
            Err(Failure::no(
                Reason::Starting,
                "this copy is not complete yet; ask another",
            ))
        }
    }

    fn check_whole(&self) -> Result<(), Failure> {
        match &self.broken {
            None => Ok(()),
            Some(error) => Err(storage_failure(error, Applied::No)),
        }
    }

    /// Where the live log is.
    pub fn log_view(&self) -> LogView {
        LogView {
            generation: self.live.generation,
            base: self.meta.live.base,
            durable: self.visible,
            epoch_starts: self.meta.live.epoch_starts.clone(),
        }
    }

    pub fn report(&self) -> Report {
        Report {
            promise: self.meta.promise,
            position: self.live.position,
            durable: self.durable,
            checksum: self.live.checksum,
            orphans: self.orphans,
            complete: self.is_complete(),
            followed: self.followed,
            serving: match &self.role {
                Role::Primary(primary) if primary.serving => Some(primary.epoch),
                _ => None,
            },
            applied: self.visible,
            committed: self.live.applied.unwrap_or(self.visible),
        }
    }

    /// The epoch in which this process is named as primary and acts as such: what it wants a lease for.
    pub fn claim(&self) -> Option<Epoch> {
        match &self.role {
            Role::Primary(primary) => Some(primary.epoch),
            _ => None,
        }
    }

    /// in_sync: up to where everything is committed, as this copy knows.
    pub fn committed(&self) -> Option<Pair> {
        self.live.applied
    }

    /// The durable dedup entry of a request in this copy; in_sync only of what is committed.
    pub fn durable_dedup(
        &self,
        context: &Context<'_>,
        id: understudy_proto::RequestId,
    ) -> Result<Option<crate::request::DedupEntry>, StoreError> {
        let found = self.live.dedup(self.shard, context.stored, id)?;
        Ok(found
            .filter(|(batch, entry)| self.is_settled(*batch, entry.pair))
            .map(|(_, entry)| entry))
    }

    /// Whether a request without an entry may have run and been forgotten: its number is at or below the floor, or its
    /// client's session ended.
    pub fn is_forgotten(
        &self,
        context: &Context<'_>,
        id: understudy_proto::RequestId,
    ) -> Result<bool, StoreError> {
        let state = self.durable_dedup(context, client_state_id(id.client))?;
        let below = state.is_some_and(|entry| id.sequence <= ClientState::of(&entry).floor);
        // With an older table of sessions than the shard forgot by it cannot be told.
        let shard = self.durable_dedup(context, shard_state_id())?;
        let needed = shard.map_or(Revision::ZERO, |entry| ShardState::of(&entry).sessions);
        let ended = context.clients.session(id.client) == ClientSession::Ended
            || context.clients.revision() < needed;
        Ok(below || ended)
    }

    /// Whether there is a copy at all: a row names it or waits for it, or it holds what the managers may let it delete. The
    /// promise alone is none.
    pub fn is_present(&self) -> bool {
        let row = self.assignment.as_ref();
        row.is_some_and(|row| row.names(self.copy()) || row.open_cut_lists_me)
            || self.meta.live != Contents::default()
            || self.meta.staging.is_some()
            || self.live.position > Pair::ZERO
            || self.orphans > 0
    }

    pub fn assignment(&self) -> Option<&Assignment> {
        self.assignment.as_ref()
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    fn is_complete(&self) -> bool {
        self.meta.staging.is_none() && self.broken.is_none()
    }

    // ---- stimuli

    fn on_assignment(
        &mut self,
        context: &Context<'_>,
        row: Assignment,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if self
            .assignment
            .as_ref()
            .is_some_and(|known| known.revision >= row.revision)
        {
            return Ok(());
        }
        let named = self.role_in(&row);
        let below_promise = row.epoch < self.meta.promise && !Mutant::SkipEpochCheck.on();
        let epoch = row.epoch;
        let primary = row.primary;
        self.assignment = Some(row);
        if self.broken.is_some() {
            return Ok(());
        }
        if below_promise {
            // Sealed for a later epoch: what this row says is over, or soon will be.
            if matches!(named, Named::Primary | Named::FormerProcess) {
                self.next_ask = context.now;
            }
            self.become_idle(out);
            return Ok(());
        }
        if epoch > self.meta.promise {
            self.meta.promise = epoch;
            self.persist(vec![StoreChange::PutMeta(self.meta.clone())], out);
        }
        match (named, primary) {
            (Named::Primary, _) => self.become_primary(context, epoch, out),
            (Named::FormerProcess, _) if Mutant::NumberOnAfterRestart.on() => {
                self.go_on_numbering(context, epoch, out);
                Ok(())
            }
            (Named::FormerProcess, _) => {
                self.become_idle(out);
                self.next_ask = context.now;
                Ok(())
            }
            (Named::Secondary | Named::Joining, Some(primary)) => {
                self.follow(context, primary.node, epoch, out)
            }
            _ => {
                self.become_idle(out);
                Ok(())
            }
        }
    }

    fn on_seal(
        &mut self,
        context: &Context<'_>,
        seal: Seal,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Seal {
            caller,
            epoch,
            hand_over,
            grace,
        } = seal;
        if epoch < self.meta.promise {
            out.push(Effect::Sealed {
                caller,
                answer: SealedCopy::Higher {
                    epoch: self.meta.promise,
                },
            });
            return Ok(());
        }
        if let Some(hand_over) = hand_over
            && epoch > self.meta.promise
            && self.begin_hand_over(caller, epoch, hand_over, out)
        {
            return self.advance_hand_over(context, out);
        }
        if !self.may_be_sealed(context.now, grace) {
            let answer = SealedCopy::GraceNotOver;
            out.push(Effect::Sealed { caller, answer });
            return Ok(());
        }
        self.promise(caller, epoch, out);
        Ok(())
    }

    /// Promises the epoch, stops acting in every older one, and answers once the promise is durable.
    pub(super) fn promise(&mut self, caller: Caller, epoch: Epoch, out: &mut Vec<Effect>) {
        assert!(
            epoch >= self.meta.promise,
            "{}: a promise never falls",
            self.shard
        );
        if epoch > self.meta.promise {
            self.become_idle(out);
            self.meta.promise = epoch;
            self.persist(vec![StoreChange::PutMeta(self.meta.clone())], out);
        }
        let answer = SealedCopy::Promised {
            epoch,
            position: self.live.position,
            complete: self.is_complete(),
        };
        if self.persisted == self.emitted {
            out.push(Effect::Sealed { caller, answer });
        } else {
            self.seals.push((self.emitted, caller, answer));
        }
    }

    fn on_persisted(
        &mut self,
        context: &Context<'_>,
        number: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        assert!(
            number <= self.emitted,
            "{}: batch {number} was never emitted",
            self.shard
        );
        if number <= self.persisted {
            return Ok(());
        }
        self.persisted = number;
        self.live.overlay.persisted(number);
        if let Some(staged) = &mut self.staged {
            staged.overlay.persisted(number);
        }
        while self.ends.front().is_some_and(|(batch, _)| *batch <= number) {
            let (_, end) = self.ends.pop_front().expect("it has a front");
            self.durable = end.position;
            self.durable_checksum = end.checksum;
            self.visible = end.visible;
        }
        self.answer_seals(out);
        match self.role {
            Role::Primary(_) => self.on_primary_persisted(context, out),
            Role::Secondary(_) => self.on_secondary_persisted(context, out),
            Role::Idle => Ok(()),
        }
    }

    fn answer_seals(&mut self, out: &mut Vec<Effect>) {
        let persisted = self.persisted;
        self.seals.retain(|(batch, caller, answer)| {
            let durable = *batch <= persisted;
            if durable {
                out.push(Effect::Sealed {
                    caller: *caller,
                    answer: *answer,
                });
            }
            !durable
        });
    }

    fn on_tick(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) -> Result<(), StoreError> {
        if self.broken.is_some() {
            // As primary only another copy can go on.
            self.ask_for_new_epoch(context, out);
            return Ok(());
        }
        match self.role {
            Role::Primary(_) => self.on_primary_tick(context, out),
            Role::Secondary(_) => self.on_secondary_tick(context, out),
            Role::Idle => {
                self.ask_for_new_epoch(context, out);
                Ok(())
            }
        }
    }

    /// The row names this node as primary, but another start of its process, or an epoch below its promise, or its copy
    /// is broken.
    fn ask_for_new_epoch(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let Some(row) = &self.assignment else { return };
        if matches!(self.role_in(row), Named::Primary | Named::FormerProcess)
            && context.now >= self.next_ask
        {
            out.push(Effect::Ask(Ask::NewEpoch { epoch: row.epoch }));
            self.next_ask = context.now + self.settings.interval;
        }
    }

    /// Forgets the copy; its promise and its orphan log stay.
    fn on_delete(&mut self, revision: Revision, out: &mut Vec<Effect>) {
        let me = self.copy();
        let row = self.assignment.as_ref();
        let named_since = row.is_some_and(|row| row.revision > revision && row.names(me));
        let primary = matches!(self.role, Role::Primary(_));
        if named_since || self.orphans > 0 || primary || !self.is_present() {
            return;
        }
        self.become_idle(out);
        self.meta = Meta {
            promise: self.meta.promise,
            ..Meta::empty()
        };
        self.live = Side::open(&self.meta.live, None);
        self.staged = None;
        self.persist(
            vec![
                StoreChange::DropCopy,
                StoreChange::PutMeta(self.meta.clone()),
            ],
            out,
        );
    }

    fn on_broken(&mut self, error: StoreError, out: &mut Vec<Effect>) {
        self.become_idle(out);
        self.broken = Some(error.clone());
        out.push(Effect::Broken(error));
    }

    // ---- helpers for the roles

    pub(super) fn become_idle(&mut self, out: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Primary(primary) => {
                self.live.pending.forget_ahead();
                self.dismiss(*primary, out);
            }
            // Whoever looks ahead again begins with what is pending then.
            Role::Secondary(_) => self.live.pending.forget_ahead(),
            Role::Idle => {}
        }
    }

    /// Emits a batch, and notes where the live log will end with it.
    pub(super) fn persist(&mut self, changes: Vec<StoreChange>, out: &mut Vec<Effect>) -> u64 {
        self.emitted += 1;
        let before = self
            .ends
            .back()
            .map_or(self.durable, |(_, end)| end.position);
        let back = self.live.position < before;
        if self
            .reads
            .on_batch(self.emitted, back, self.live.generation)
        {
            self.age.forget();
        }
        let end = End {
            position: self.live.position,
            checksum: self.live.checksum,
            visible: self.live.applied.unwrap_or(self.live.position),
        };
        self.ends.push_back((self.emitted, end));
        out.push(Effect::Persist(Batch {
            shard: self.shard,
            number: self.emitted,
            changes,
        }));
        self.emitted
    }

    /// Whether a record, carried by that batch, may be told of: it is durable, and in_sync committed.
    pub(super) fn is_settled(&self, batch: u64, pair: Pair) -> bool {
        batch <= self.persisted && self.live.applied.is_none_or(|applied| pair <= applied)
    }

    /// The number that the next batch will bear.
    pub(super) fn next_batch(&self) -> u64 {
        self.emitted + 1
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub(super) fn row(&self) -> &Assignment {
        self.assignment.as_ref().expect("a role comes from a row")
    }

    pub(super) fn copy(&self) -> CopyId {
        self.me.copy()
    }

    pub(super) fn not_primary(&self) -> Failure {
        let failure = Failure::no(Reason::NotPrimary, "this node is not the shard's primary")
            .with("shard", self.shard.to_string());
        match self.assignment.as_ref().map(|row| (row.epoch, row.primary)) {
            Some((epoch, Some(primary))) if primary != self.me => failure
                .with("epoch", epoch.to_string())
                .with("primary", primary.node.to_string()),
            _ => failure,
        }
    }

    pub(super) fn role_in(&self, row: &Assignment) -> Named {
        let me = self.copy();
        match row.primary {
            Some(primary) if primary == self.me => Named::Primary,
            Some(primary) if primary.copy() == me => Named::FormerProcess,
            _ if row.secondaries.contains(&me) => Named::Secondary,
            _ if row.joining.contains(&me) => Named::Joining,
            _ => Named::Not,
        }
    }
}

/// As what a row names this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    Primary,
    /// As primary, but another start of the process.
    FormerProcess,
    Secondary,
    Joining,
    Not,
}

/// A failed read of the store, as a caller is told.
pub(super) fn storage_failure(error: &StoreError, applied: Applied) -> Failure {
    let reason = match error {
        StoreError::Io(_) => Reason::StorageFailed,
        StoreError::Corrupt(_) => Reason::StorageCorrupt,
    };
    Failure::new(reason, applied, error.to_string())
}
