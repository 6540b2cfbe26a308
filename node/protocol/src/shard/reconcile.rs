//! At the primary: what becomes of a record that a failover cut off. It is never executed again: it is applied as it was
//! recorded where everything still is as it found it, else both sides are kept as a conflict.
//!
//! The questions and their order are section 6, step 2, of the protocol. Each answer is a record of this log or names one,
//! so that the same orphan submitted twice, by two copies or to two primaries comes to the same.

use super::branch;
use super::message::{Fate, FateKind, Message, Submit, Submitted};
use super::replica::{Replica, Role};
use crate::change::{Change, ComponentChange, ObjectChange};
use crate::conflict::{Conflict, ConflictBody, ConflictReason, is_conflict_key};
use crate::effect::{Context, Effect};
use crate::mutant::Mutant;
use crate::object::{LastWrite, Object, Value};
use crate::record::{Body, Record, RequestBody};
use crate::request::{DedupEntry, Outcome};
use crate::store::{Orphan, StoreError};
use crate::tables::ConflictPolicy;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::limits::{GIVEN_BACK_BYTES_MAX, PENDING_RECORDS_MAX};
use understudy_proto::{NodeId, Pair};

/// What is to be done with an orphan.
enum Verdict {
    /// It is there already, under this pair.
    Stands(Pair),
    /// It is recorded again with these changes.
    Apply(Vec<ObjectChange>),
    /// Its failed outcome is recorded again.
    OutcomeOnly,
    Conflict(Box<Conflict>, Option<DedupEntry>),
    /// Only its record tells of it.
    Discard(Box<Conflict>, Option<DedupEntry>),
}

/// Orphans that are the effect of a record of this log, recorded again on a branch of which this one knows nothing: their pairs,
/// and that of the record. Orphans come in the order of their pairs, so what found one of them comes later.
///
/// It is forgotten with the epoch, and the oldest go first: then what found one is a conflict, which is safe.
#[derive(Debug, Default)]
pub(super) struct Kin(BTreeMap<Pair, Pair>);

impl Kin {
    fn note(&mut self, orphan: Pair, stands: Pair) {
        self.0.insert(orphan, stands);
        if self.0.len() > KIN_MAX {
            self.0.pop_first();
        }
    }

    fn stands(&self, orphan: Pair) -> Option<Pair> {
        self.0.get(&orphan).copied()
    }
}

const KIN_MAX: usize = 16_384;

impl Replica {
    pub(super) fn on_submit(
        &mut self,
        context: &Context<'_>,
        from: NodeId,
        submit: Submit,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Role::Primary(primary) = &self.role else {
            return Ok(());
        };
        let epoch = primary.epoch;
        let row = self.row();
        let member = row.secondaries.contains(&submit.copy) || row.joining.contains(&submit.copy);
        if submit.epoch != epoch || !member || !self.may_reconcile(context) {
            // The copy asks again.
            return Ok(());
        }
        let mut fates = Vec::with_capacity(submit.orphans.len());
        // While much of what was given back waits for the disk the copy is told nothing, and asks again.
        if !submit.orphans.is_empty() && self.takes_more() {
            for orphan in &submit.orphans {
                fates.push(self.reconcile(context, orphan, out)?);
                self.primary_mut().given_back += orphan.record.bytes.len();
            }
            self.primary_mut().given_back_batch = self.emitted;
        }
        let answer = Submitted {
            epoch,
            stream: submit.stream,
            fates,
            everywhere: self.everywhere(),
        };
        out.push(Effect::Send {
            to: from,
            message: Message::Submitted(answer),
        });
        Ok(())
    }

    /// A primary with orphans of its own submits them to itself, a page at a time so that clients' writes come between.
    pub(super) fn reconcile_own(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if self.orphans == 0 || !self.may_reconcile(context) {
            return Ok(());
        }
        if self.primary_mut().own.after.is_none() && !self.orphan_log_is_settled() {
            return Ok(());
        }
        let everywhere = self.everywhere();
        let (persisted, primary) = (self.persisted, self.primary_mut());
        let settled = primary.own.take_settled(everywhere);
        let due = primary.own_batch <= persisted;
        self.drop_orphans(settled, out);
        if !due {
            return Ok(());
        }
        let mut own = std::mem::take(&mut self.primary_mut().own);
        let orphans = own.next(self, context);
        self.primary_mut().own = own;
        let mut fates = Vec::new();
        for orphan in &orphans? {
            fates.push(self.reconcile(context, orphan, out)?);
        }
        let emitted = self.emitted;
        let primary = self.primary_mut();
        if primary.own.note(&fates) {
            primary.own_batch = emitted;
        }
        Ok(())
    }

    /// Whether little enough of what copies gave back is on its way to the disk.
    fn takes_more(&mut self) -> bool {
        let persisted = self.persisted;
        let primary = self.primary_mut();
        if primary.given_back_batch <= persisted {
            primary.given_back = 0;
        }
        primary.given_back < GIVEN_BACK_BYTES_MAX
    }

    /// Under the lease, and not while a hand-over waits for the target to have everything. in_sync: while something commits
    /// and not much waits for it.
    fn may_reconcile(&self, context: &Context<'_>) -> bool {
        matches!(&self.role, Role::Primary(primary) if !primary.hands_over())
            && self.check_primary(context).is_ok()
            && !self.too_few_in_sync()
            && self.live.pending.len() < PENDING_RECORDS_MAX
    }

    /// Up to where everything is durable here and at every secondary that is not joining; in_sync also committed.
    fn everywhere(&self) -> Pair {
        let Role::Primary(primary) = &self.role else {
            return Pair::ZERO;
        };
        let me = self.copy();
        let secondaries = self.row().secondaries.iter().filter(|copy| **copy != me);
        secondaries
            .map(|copy| primary.streams.acknowledged(*copy).unwrap_or(Pair::ZERO))
            .fold(self.visible.min(self.durable), Pair::min)
    }

    /// Judges one orphan and logs what comes of it.
    fn reconcile(
        &mut self,
        context: &Context<'_>,
        orphan: &Orphan,
        out: &mut Vec<Effect>,
    ) -> Result<Fate, StoreError> {
        let (record, _) = Record::decode(&orphan.record.bytes)
            .expect("an orphan is decoded where it is read or comes in");
        let pair = record.pair;
        let verdict = self.judge_orphan(context, &record, &orphan.epoch_starts)?;
        if let Verdict::Stands(stands) = verdict
            && self.is_kin(context, &record, stands)?
        {
            self.primary_mut().kin.note(pair, stands);
        }
        let (kind, stands) = match verdict {
            Verdict::Stands(stands) => (FateKind::Stands, stands),
            Verdict::Apply(changes) => (
                FateKind::Applied,
                self.record_again(context, record, Some(changes), out)?,
            ),
            Verdict::OutcomeOnly => (
                FateKind::OutcomeOnly,
                self.record_again(context, record, None, out)?,
            ),
            Verdict::Conflict(conflict, replaced) => (
                FateKind::Conflict(conflict.reason),
                self.log_conflict(context, *conflict, replaced, out)?,
            ),
            Verdict::Discard(..) if Mutant::DiscardInSilence.on() => {
                (FateKind::Discarded, Pair::ZERO)
            }
            Verdict::Discard(conflict, replaced) => {
                let body = ConflictBody::discarded(*conflict, replaced);
                let body = Body::Conflict(Box::new(body));
                let stands = self.log_own(context, body, Vec::new(), out)?;
                (FateKind::Discarded, stands)
            }
        };
        let fate = Fate { pair, kind, stands };
        if kind != FateKind::Stands {
            out.push(Effect::Judged(fate));
        }
        Ok(fate)
    }

    fn judge_orphan(
        &self,
        context: &Context<'_>,
        record: &Record,
        epoch_starts: &[Pair],
    ) -> Result<Verdict, StoreError> {
        let (starts, end) = (&self.meta.live.epoch_starts, self.live.position);
        let parted = branch::cut(epoch_starts, record.pair, starts, end);
        if parted == record.pair {
            return Ok(Verdict::Stands(record.pair));
        }
        // What was cut off first, and whether it was a conflict before.
        let (first, body, before) = match &record.body {
            Body::Request(body) => (record.pair, &**body, None),
            Body::Conflict(body) => {
                let conflict = &body.conflict;
                (conflict.cut_off.pair, conflict.request(), Some(&**body))
            }
            // It changed nothing and nobody asked for it.
            Body::EpochStart | Body::Expiry(_) => return Ok(Verdict::Stands(Pair::ZERO)),
        };
        let policy = context.clients.conflicts(self.shard);
        // What was a conflict before stays what it was, whatever the policy says now.
        let discards = before.map_or(policy == ConflictPolicy::Discard, |before| {
            before.change.is_none()
        });
        let verdict = |conflict: Conflict, replaced| match discards {
            true => Verdict::Discard(Box::new(conflict), replaced),
            false => Verdict::Conflict(Box::new(conflict), replaced),
        };
        let before = before.map(|body| &body.conflict);
        let known = self.live.dedup(self.shard, context.stored, body.id)?;
        if let Some((_, entry)) = known {
            let same =
                entry.fingerprint == body.fingerprint && entry.outcome.is_same_as(&body.outcome);
            if same || entry.conflicts.contains(&first) {
                return Ok(Verdict::Stands(entry.pair));
            }
            let conflict =
                self.conflict_of(context, record, before, ConflictReason::OutcomeConflict)?;
            return Ok(verdict(conflict, Some(entry)));
        }
        if let Some(conflict) = before {
            return Ok(verdict(conflict.clone(), None));
        }
        if self.may_have_run(context, body.id.client, parted)? {
            let conflict = self.conflict_of(context, record, None, ConflictReason::MayHaveRun)?;
            return Ok(verdict(conflict, None));
        }
        if !matches!(body.outcome, Outcome::Applied(_)) {
            return Ok(Verdict::OutcomeOnly);
        }
        let applies = policy == ConflictPolicy::ReapplyIfUnchanged || Mutant::ApplyWhatIsHeld.on();
        let reason = match self.as_it_found_them(context, body)? {
            Ok(changes) if applies => return Ok(Verdict::Apply(changes)),
            Ok(_) => ConflictReason::ByPolicy,
            Err(reason) => reason,
        };
        let conflict = self.conflict_of(context, record, None, reason)?;
        Ok(verdict(conflict, None))
    }

    /// The changes of the request on the objects as they are here, when each of them is as the request found it.
    fn as_it_found_them(
        &self,
        context: &Context<'_>,
        body: &RequestBody,
    ) -> Result<Result<Vec<ObjectChange>, ConflictReason>, StoreError> {
        let mut changes = Vec::with_capacity(body.changes.len());
        for change in &body.changes {
            let now = self.live.newest(self.shard, context.stored, &change.key)?;
            let here = now.as_ref().map(|object| object.last);
            let told = if Mutant::ApplyWithoutLastWriter.on() {
                values_are_as_found(change, now.as_ref())
            } else if is_conflict_key(&change.key) {
                is_same_conflict(change.before, here)
            } else {
                self.is_same_write(context, change.before, here)?
            };
            if let Err(reason) = told {
                return Ok(Err(reason));
            }
            let again = onto(change, now.as_ref());
            // A record that another copy sent may be sound by its form and ask for what cannot be.
            if again.is_write() && again.apply(now, self.next_pair(), body.id).is_err() {
                return Ok(Err(ConflictReason::CannotBeTold));
            }
            changes.push(again);
        }
        Ok(Ok(changes))
    }

    /// Whether the last writer that a request found is the one that the object has here: the same record, or that record's
    /// effect recorded again under another pair. The request id alone does not tell: the request may have run here anew,
    /// on other values.
    fn is_same_write(
        &self,
        context: &Context<'_>,
        found: Option<LastWrite>,
        here: Option<LastWrite>,
    ) -> Result<Result<(), ConflictReason>, StoreError> {
        let (found, here) = match (found, here) {
            (found, here) if found == here => return Ok(Ok(())),
            (Some(found), Some(here)) if found.request == here.request => (found, here),
            _ => return Ok(Err(ConflictReason::ObjectChanged)),
        };
        if Mutant::LastWriterByIdOnly.on() {
            return Ok(Ok(()));
        }
        if let Role::Primary(primary) = &self.role
            && primary.kin.stands(found.pair) == Some(here.pair)
        {
            return Ok(Ok(()));
        }
        let Some(record) = self.record_at(context, here.pair)? else {
            return Ok(Err(ConflictReason::CannotBeTold));
        };
        Ok(match record.body {
            Body::Request(body) if body.earlier.contains(&found.pair) => Ok(()),
            _ => Err(ConflictReason::ObjectChanged),
        })
    }

    /// Whether both are the effect of one first record, recorded again on two branches. What was recorded once only is named by
    /// every record that stands for it.
    fn is_kin(
        &self,
        context: &Context<'_>,
        orphan: &Record,
        stands: Pair,
    ) -> Result<bool, StoreError> {
        let Body::Request(body) = &orphan.body else {
            return Ok(false);
        };
        if body.earlier.is_empty() || stands == orphan.pair {
            return Ok(false);
        }
        if Mutant::KinByOutcome.on() {
            return Ok(true);
        }
        let record = self.record_at(context, stands)?;
        Ok(match record.map(|record| record.body) {
            // What stands may be the first record itself.
            Some(Body::Request(here)) => {
                Some(here.earlier.first().unwrap_or(&stands)) == body.earlier.first()
            }
            _ => false,
        })
    }

    /// A record of this log, durable or not; `None`: it was trimmed.
    fn record_at(&self, context: &Context<'_>, pair: Pair) -> Result<Option<Record>, StoreError> {
        let Role::Primary(primary) = &self.role else {
            return Ok(None);
        };
        let encoded = match primary.streams.in_tail(pair) {
            Some(encoded) => Some(encoded.clone()),
            None => context
                .stored
                .record(self.shard, self.live.generation, pair.version)?
                .filter(|record| record.pair == pair),
        };
        let Some(encoded) = encoded else {
            return Ok(None);
        };
        match Record::decode(&encoded.bytes) {
            Ok((record, _)) => Ok(Some(record)),
            Err(malformed) => Err(StoreError::Corrupt(format!(
                "shard {}: record {pair}: {malformed}",
                self.shard
            ))),
        }
    }

    /// Both sides. A conflict that was cut off keeps what it holds, but for the reason.
    fn conflict_of(
        &self,
        context: &Context<'_>,
        record: &Record,
        before: Option<&Conflict>,
        reason: ConflictReason,
    ) -> Result<Conflict, StoreError> {
        let cut_off = before.map_or(record, |conflict| &conflict.cut_off);
        let mut stands = Vec::with_capacity(cut_off.changes().len());
        for change in cut_off.changes() {
            let now = self.live.newest(self.shard, context.stored, &change.key)?;
            stands.push(now.map(|object| object.last));
        }
        let conflict = Conflict::new(reason, cut_off.clone(), stands);
        Ok(conflict.expect("only requests come here"))
    }

    // ---- what is logged

    /// The request under a new pair; without changes its failed outcome alone.
    fn record_again(
        &mut self,
        context: &Context<'_>,
        record: Record,
        changes: Option<Vec<ObjectChange>>,
        out: &mut Vec<Effect>,
    ) -> Result<Pair, StoreError> {
        let Body::Request(mut body) = record.body else {
            unreachable!("only requests are recorded again")
        };
        body.earlier.push(record.pair);
        let id = body.id;
        let pair = self.next_pair();
        let mut written = Vec::new();
        if let Some(changes) = changes {
            for change in changes.iter().filter(|change| change.is_write()) {
                let now = self.live.newest(self.shard, context.stored, &change.key)?;
                let after = change
                    .apply(now, pair, id)
                    .expect("it was judged on the object as it is");
                written.push((change.key.clone(), after));
            }
            body.changes = changes;
        }
        self.log_own(context, Body::Request(body), written, out)
    }

    fn log_conflict(
        &mut self,
        context: &Context<'_>,
        conflict: Conflict,
        replaced: Option<DedupEntry>,
        out: &mut Vec<Effect>,
    ) -> Result<Pair, StoreError> {
        let key = conflict.key();
        let before = self.live.newest(self.shard, context.stored, &key)?;
        let body = ConflictBody::new(conflict, replaced, before.as_ref());
        let change = body.change.as_ref().expect("a conflict is put");
        let after = change
            .apply(before, self.next_pair(), body.id)
            .expect("the change was made for the object as it is");
        let written = vec![(key, after)];
        self.log_own(context, Body::Conflict(Box::new(body)), written, out)
    }

    pub(super) fn log_own(
        &mut self,
        context: &Context<'_>,
        body: Body,
        written: Vec<(Bytes, Option<Object>)>,
        out: &mut Vec<Effect>,
    ) -> Result<Pair, StoreError> {
        let pair = self.next_pair();
        let record = self.form(context, pair.epoch, pair.version.0, body);
        self.append(context, record, written, out)?;
        Ok(pair)
    }

    fn next_pair(&self) -> Pair {
        let Role::Primary(primary) = &self.role else {
            unreachable!("only a primary numbers records")
        };
        Pair {
            epoch: primary.epoch,
            version: self.live.position.version.next(),
        }
    }
}

/// Whether the conflict that a resolution found is there: whatever stands under its key is about the same record that was cut
/// off, logged again under another pair or found again on this branch. Its objects are looked at by themselves.
fn is_same_conflict(
    found: Option<LastWrite>,
    here: Option<LastWrite>,
) -> Result<(), ConflictReason> {
    if found.is_some() == here.is_some() || Mutant::ResolveWhatIsGone.on() {
        return Ok(());
    }
    Err(ConflictReason::ObjectChanged)
}

/// The same change on the object as it is here: what is written stays, what was there before is this branch's, so that it
/// can be undone.
fn onto(change: &ObjectChange, now: Option<&Object>) -> ObjectChange {
    let component = |component: &ComponentChange| {
        let old = now.and_then(|object| object.component(&component.name));
        let old_pair = old.map(|c| c.pair);
        ComponentChange {
            name: component.name.clone(),
            change: match &component.change {
                Change::Set { new, .. } => Change::Set {
                    old: old.map(|c| (c.value.clone(), c.pair)),
                    new: new.clone(),
                },
                Change::Add { delta, .. } => Change::Add {
                    old_pair,
                    delta: *delta,
                },
                Change::Append { data, .. } => Change::Append {
                    old_pair,
                    old_length: old.map_or(0, |c| c.value.size() as u64),
                    data: data.clone(),
                },
            },
        }
    };
    ObjectChange {
        key: change.key.clone(),
        before: now.map(|object| object.last),
        components: change.components.iter().map(component).collect(),
    }
}

/// The mistake `apply-without-last-writer`: old values are compared as far as the record tells them.
fn values_are_as_found(change: &ObjectChange, now: Option<&Object>) -> Result<(), ConflictReason> {
    let same = change.components.iter().all(|component| {
        let value = now
            .and_then(|object| object.component(&component.name))
            .map(|c| &c.value);
        match &component.change {
            Change::Set { old, .. } => old.as_ref().map(|(old, _)| old) == value,
            Change::Add { old_pair, .. } => match value {
                Some(Value::Counter(_)) => old_pair.is_some(),
                Some(Value::Data(_)) => false,
                None => old_pair.is_none(),
            },
            Change::Append { old_length, .. } => match value {
                Some(Value::Data(data)) => data.len() as u64 == *old_length,
                Some(Value::Counter(_)) => false,
                None => *old_length == 0,
            },
        }
    });
    same.then_some(()).ok_or(ConflictReason::ObjectChanged)
}
