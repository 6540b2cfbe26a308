//! A coalesced delta at the primary that makes it: the log after a copy's position is walked once, in small steps, and what
//! it wrote is remembered by name. When the last states of these are fewer bytes than the records, they are sent in chunks,
//! each read as it is at that moment; the records after the end of the walk bring all of it to one point.
//!
//! Nothing is kept open, and memory is bounded: whoever would pass the bound gets the records. A copy whose delta broke off
//! goes on at its last key; when the primary forgot the walk meanwhile, it walks again, perhaps further: what was written
//! since the first walk comes with the records in any case.

use super::commit::{RECENT_INTERVALS, SILENT_INTERVALS};
use super::message::{Branch, BranchMode, DeltaChunk, Message, Subscribe};
use super::replica::{Replica, Role};
use crate::effect::{Ask, Context, Effect};
use crate::mutant::Mutant;
use crate::record::{Body, Record};
use crate::request::DedupEntry;
use crate::store::{CopyProgress, StoreError};
use crate::time::Instant;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use understudy_proto::limits::{
    COPY_CHUNK_BYTES_MAX, DELTA_BYTES_MAX, DELTA_ITEMS_PER_STEP, DELTA_READ_BYTES,
};
use understudy_proto::{CopyId, Pair, RequestId};

/// A walk that no copy asked for in so many intervals is forgotten.
const PATIENCE_INTERVALS: u64 = 50;
/// A delta must be so many times smaller than the records.
const WORTH: u64 = 2;
/// What a name costs in memory beside its bytes.
const NAME_BYTES: usize = 64;

/// The deltas that a primary makes, by the copy that asked.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    walks: BTreeMap<CopyId, Walk>,
    /// The copies that the managers were asked to mark as joining for a delta, upon this row.
    asked: BTreeSet<CopyId>,
}

/// What a copy that subscribes from a place on the log gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offer {
    Records,
    /// It is far behind, and there may be a delta later.
    RecordsForNow,
    /// A delta, or it is told otherwise later.
    Delta,
    /// It is to ask again: too many deltas are being made.
    Later,
}

#[derive(Debug)]
struct Walk {
    since: Pair,
    /// The log is read up to here; what comes after it comes with the records.
    end: Pair,
    /// The newest subscription that was not answered yet, and when one last came.
    asked: Option<Subscribe>,
    heard: Instant,
    found: Found,
    state: State,
}

/// How far it came.
#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// The log is read.
    Log,
    /// The objects are looked up, to know their bytes: these and those before are.
    Weighing { after: Option<Bytes> },
    /// It can be sent, since then.
    Ready { since: Instant },
    /// The records are cheaper.
    Records,
}

/// What the log wrote after the copy's position.
#[derive(Debug)]
struct Found {
    /// All up to here.
    upto: Pair,
    checksum: u64,
    keys: BTreeSet<Bytes>,
    /// With the bytes of the entry, and whether it came after the copy's position.
    ids: BTreeMap<RequestId, (usize, bool)>,
    /// Of keys and ids in memory.
    memory: usize,
    /// Of the delta, as far as it is known.
    bytes: usize,
    record_bytes: u64,
}

impl Deltas {
    /// A copy that follows by other means needs no walk any more. What was found too dear is remembered.
    pub fn forget(&mut self, copy: CopyId) {
        if self
            .walks
            .get(&copy)
            .is_some_and(|w| w.state != State::Records)
        {
            self.walks.remove(&copy);
        }
    }

    fn under_way(&self) -> usize {
        let walks = self.walks.values();
        walks.filter(|walk| walk.state != State::Records).count()
    }

    /// A newer row, which answers all questions.
    pub fn on_row(&mut self, named: impl Fn(CopyId) -> bool) {
        self.walks.retain(|copy, _| named(*copy));
        self.asked.clear();
    }

    /// The copies that get no delta after all.
    fn take_needless(&mut self) -> Vec<CopyId> {
        let walks = &self.walks;
        let waits =
            |copy: &CopyId| matches!(walks.get(copy).map(|w| &w.state), Some(State::Ready { .. }));
        let needless = self.asked.iter().filter(|copy| !waits(copy));
        let needless: Vec<CopyId> = needless.copied().collect();
        self.asked.retain(waits);
        needless
    }

    /// Takes the subscription of a copy that wants a delta of the log from there to `end`, where there are not as many already.
    fn ask(
        &mut self,
        most: usize,
        subscribe: &Subscribe,
        (since, end): (Pair, Pair),
        now: Instant,
    ) -> Offer {
        let resumes = subscribe.copying.is_some();
        if let Some(walk) = self.walks.get_mut(&subscribe.copy) {
            let refused = walk.state == State::Records && !resumes;
            if refused && subscribe.position < walk.found.upto {
                return Offer::Records;
            }
            if walk.since == since && walk.state != State::Records {
                walk.asked = Some(subscribe.clone());
                walk.heard = now;
                return Offer::Delta;
            }
            self.walks.remove(&subscribe.copy);
        }
        if self.under_way() >= most {
            return Offer::Later;
        }
        let walk = Walk {
            since,
            end,
            asked: Some(subscribe.clone()),
            heard: now,
            found: Found {
                upto: since,
                checksum: 0,
                keys: BTreeSet::new(),
                ids: BTreeMap::new(),
                memory: 0,
                bytes: 0,
                record_bytes: 0,
            },
            state: State::Log,
        };
        self.walks.insert(subscribe.copy, walk);
        Offer::Delta
    }
}

impl Found {
    fn note(&mut self, record: &Record, bytes: usize) {
        self.record_bytes += bytes as u64;
        for change in record.changes().iter().filter(|change| change.is_write()) {
            if !self.keys.contains(&change.key) {
                // A copy: the key that was read is a piece of its whole record.
                self.keys.insert(Bytes::copy_from_slice(&change.key));
                self.memory += change.key.len() + NAME_BYTES;
            }
        }
        let fresh = matches!(record.body, Body::Request(_));
        for (id, entry) in record.dedup_after() {
            self.note_entry(id, entry.as_ref(), fresh);
        }
    }

    /// `fresh`: nothing was there before this record.
    fn note_entry(&mut self, id: RequestId, entry: Option<&DedupEntry>, fresh: bool) {
        let known = self.ids.get(&id).copied();
        let (was, came_since) = known.unwrap_or((0, fresh));
        self.bytes -= was;
        if entry.is_none() && came_since {
            // It came and went after the copy's position.
            if self.ids.remove(&id).is_some() {
                self.memory -= NAME_BYTES;
            }
            return;
        }
        let bytes = 24 + entry.map_or(0, |entry| entry.encode().len());
        self.bytes += bytes;
        self.memory += if known.is_none() { NAME_BYTES } else { 0 };
        self.ids.insert(id, (bytes, came_since));
    }

    fn is_too_large(&self) -> bool {
        self.memory > DELTA_BYTES_MAX || self.bytes > DELTA_BYTES_MAX
    }

    fn is_worth_it(&self) -> bool {
        self.bytes as u64 * WORTH <= self.record_bytes && !self.is_too_large()
    }
}

impl Replica {
    /// Whether the copy, whose log lies on this one's branch, is far enough behind for a delta to be thought of.
    pub(super) fn is_far_behind(&self, position: Pair, copy: CopyId) -> bool {
        let behind = self.visible.version.0.saturating_sub(position.version.0);
        let set = self.in_sync_set();
        let member = set.is_some_and(|set| set.members.contains(&copy));
        behind >= self.settings.delta_records_min && !member
    }

    /// A copy subscribed from a place on this log.
    pub(super) fn offer_delta(
        &mut self,
        context: &Context<'_>,
        subscribe: &Subscribe,
    ) -> Result<Offer, StoreError> {
        let far = self.is_far_behind(subscribe.position, subscribe.copy);
        if subscribe.copying.is_some() || !far || !self.primary_mut().serving {
            return Ok(Offer::Records);
        }
        // No log is cut off past an open cut, neither here nor there; and who has orphans gives them first.
        if self.row().oldest_open_cut.is_some() {
            return Ok(Offer::RecordsForNow);
        }
        let Some(since) = subscribe.delta_since else {
            return Ok(Offer::Records);
        };
        if !self.may_leave(context, subscribe.copy) || !self.is_on_log(context, since)? {
            return Ok(Offer::Records);
        }
        let (most, end) = (self.walks_left(), self.visible);
        let deltas = &mut self.primary_mut().deltas;
        Ok(deltas.ask(most, subscribe, (since, end), context.now))
    }

    /// A copy takes a delta as one that joins. Another candidate that answers and has nearly everything must be left.
    fn may_leave(&mut self, context: &Context<'_>, copy: CopyId) -> bool {
        let row = self.row();
        if row.joining.contains(&copy) {
            return true;
        }
        let (me, secondaries) = (self.copy(), row.secondaries.clone());
        let recent = self.settings.interval.scale(RECENT_INTERVALS, 1);
        let primary = self.primary_mut();
        let (streams, members) = (&primary.streams, &primary.members);
        let others = secondaries.iter().filter(|c| **c != copy && **c != me);
        let others = others.filter(|other| members.heard_within(**other, context.now, recent));
        let reached: Vec<(Pair, CopyId)> = others
            .filter_map(|other| Some((streams.acknowledged(*other)?, *other)))
            .collect();
        reached
            .iter()
            .any(|(pair, other)| !self.is_far_behind(*pair, *other))
    }

    /// How many deltas are being made here.
    pub fn walks(&self) -> usize {
        match &self.role {
            Role::Primary(primary) => primary.deltas.under_way(),
            _ => 0,
        }
    }

    /// So many may be made of this shard: what they remember is memory, and their steps are time on the thread that all writes of
    /// all its shards go through.
    fn walks_left(&self) -> usize {
        self.settings
            .delta_walks_max
            .saturating_sub(self.walks_elsewhere)
    }

    /// What a copy says of its position is looked up.
    fn is_on_log(&self, context: &Context<'_>, pair: Pair) -> Result<bool, StoreError> {
        let inside = self.meta.live.base <= pair && pair <= self.visible;
        Ok(inside && self.checksum_at(context, pair)?.is_some())
    }

    /// A copy with a delta under way wants to go on.
    pub(super) fn resume_delta(
        &mut self,
        context: &Context<'_>,
        subscribe: Subscribe,
        since: Pair,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if !self.is_on_log(context, since)? {
            self.refuse_delta(&subscribe, out);
            return Ok(());
        }
        let (most, end) = (self.walks_left(), self.visible);
        let deltas = &mut self.primary_mut().deltas;
        // Where there are too many it asks again.
        deltas.ask(most, &subscribe, (since, end), context.now);
        self.go_on_with_delta(context, subscribe.copy, out)
    }

    /// The copy gives up what it staged, and subscribes with what it has.
    fn refuse_delta(&mut self, subscribe: &Subscribe, out: &mut Vec<Effect>) {
        let branch = Branch {
            epoch: subscribe.epoch,
            stream: subscribe.stream,
            cut: subscribe.position,
            mode: BranchMode::Rebuild,
        };
        out.push(Effect::Send {
            to: subscribe.copy.node,
            message: Message::Branch(branch),
        });
    }

    /// A step of each delta that is being made.
    pub(super) fn go_on_with_deltas(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Role::Primary(primary) = &self.role else {
            return Ok(());
        };
        let under_way = primary
            .deltas
            .walks
            .iter()
            .filter(|(_, w)| w.state != State::Records);
        let copies: Vec<CopyId> = under_way.map(|(copy, _)| *copy).collect();
        for copy in copies {
            self.go_on_with_delta(context, copy, out)?;
        }
        let Role::Primary(primary) = &mut self.role else {
            return Ok(());
        };
        for copy in primary.deltas.take_needless() {
            if !Mutant::KeepAsking.on() {
                let epoch = primary.epoch;
                out.push(Effect::Unask(Ask::TooFarBehind { epoch, copy }));
            }
        }
        Ok(())
    }

    pub(super) fn go_on_with_delta(
        &mut self,
        context: &Context<'_>,
        copy: CopyId,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Role::Primary(primary) = &mut self.role else {
            return Ok(());
        };
        let Some(mut walk) = primary.deltas.walks.remove(&copy) else {
            return Ok(());
        };
        let patience = self.settings.interval.scale(PATIENCE_INTERVALS, 1);
        if context.now.since(walk.heard) > patience {
            return Ok(());
        }
        match walk.state.clone() {
            State::Log => self.read_log(context, &mut walk)?,
            State::Weighing { after } => self.weigh(context, &mut walk, after)?,
            State::Ready { .. } | State::Records => {}
        }
        if let State::Ready { since } = walk.state {
            self.hand_out(context, copy, &mut walk, since, out)?;
        }
        let mut told = None;
        if walk.state == State::Records {
            told = walk.asked.take();
            (walk.found.keys, walk.found.ids) = (BTreeSet::new(), BTreeMap::new());
        }
        self.primary_mut().deltas.walks.insert(copy, walk);
        match told {
            None => Ok(()),
            Some(subscribe) if subscribe.copying.is_some() => {
                self.refuse_delta(&subscribe, out);
                Ok(())
            }
            Some(subscribe) => self.answer_subscription(context, subscribe, false, out),
        }
    }

    /// Reads the next piece of the log.
    fn read_log(&self, context: &Context<'_>, walk: &mut Walk) -> Result<(), StoreError> {
        let (shard, generation, end) = (self.shard, self.live.generation, walk.end);
        let found = &mut walk.found;
        let next = found.upto.version.next();
        let records = context
            .stored
            .records(shard, generation, next, DELTA_READ_BYTES)?;
        if records.is_empty() {
            walk.state = State::Records;
        }
        for encoded in records {
            if encoded.pair > end {
                break;
            }
            if encoded.pair.version != found.upto.version.next() {
                // It was trimmed meanwhile: the next subscription is told so.
                walk.state = State::Records;
                return Ok(());
            }
            let decoded = Record::decode(&encoded.bytes);
            let (record, _) = decoded
                .map_err(|malformed| StoreError::Corrupt(format!("shard {shard}: {malformed}")))?;
            found.note(&record, encoded.bytes.len());
            (found.upto, found.checksum) = (encoded.pair, encoded.checksum);
        }
        if found.is_too_large() {
            walk.state = State::Records;
        } else if found.upto >= end && walk.state == State::Log {
            walk.state = State::Weighing { after: None };
        }
        Ok(())
    }

    /// Looks up the next objects, to learn how many bytes they are.
    fn weigh(
        &self,
        context: &Context<'_>,
        walk: &mut Walk,
        mut after: Option<Bytes>,
    ) -> Result<(), StoreError> {
        let found = &mut walk.found;
        let mut looked_at = 0;
        let mut read = 0;
        for key in after_key(&found.keys, after.as_ref()) {
            if looked_at == DELTA_ITEMS_PER_STEP || read >= DELTA_READ_BYTES {
                walk.state = State::Weighing { after };
                return Ok(());
            }
            let object = context
                .stored
                .object(self.shard, self.live.generation, key)?;
            let bytes = key.len() + object.map_or(0, |object| object.encode().len());
            (looked_at, read) = (looked_at + 1, read + bytes);
            found.bytes += bytes;
            after = Some(key.clone());
        }
        walk.state = match found.is_worth_it() {
            true => State::Ready { since: context.now },
            false => State::Records,
        };
        Ok(())
    }

    /// Sends the chunk that was asked for. What passed by a delta cannot be undone, so the copy must be no candidate: first it
    /// is marked as joining. Managers that do not answer are waited for a while; then the records are as good.
    fn hand_out(
        &mut self,
        context: &Context<'_>,
        copy: CopyId,
        walk: &mut Walk,
        since: Instant,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if !self.row().joining.contains(&copy) && !Mutant::DeltaToSecondary.on() {
            let epoch = self.primary_mut().epoch;
            let waits = self.settings.interval.scale(SILENT_INTERVALS, 1);
            // The other candidate may have fallen back, or left, since this one asked.
            if self.may_leave(context, copy) && context.now.since(since) <= waits {
                self.primary_mut().deltas.asked.insert(copy);
                out.push(Effect::Ask(Ask::TooFarBehind { epoch, copy }));
            } else {
                walk.state = State::Records;
            }
            return Ok(());
        }
        let Some(subscribe) = walk.asked.take() else {
            return Ok(());
        };
        let continues = subscribe
            .copying
            .unwrap_or(CopyProgress::Objects { after: None });
        let chunk = self.delta_chunk(context, walk, subscribe.stream, continues)?;
        out.push(Effect::Send {
            to: copy.node,
            message: Message::Delta(chunk),
        });
        Ok(())
    }

    fn delta_chunk(
        &self,
        context: &Context<'_>,
        walk: &Walk,
        stream: u64,
        continues: CopyProgress,
    ) -> Result<DeltaChunk, StoreError> {
        let Role::Primary(primary) = &self.role else {
            panic!("{}: only a primary makes a delta", self.shard);
        };
        let (shard, generation, found) = (self.shard, self.live.generation, &walk.found);
        let mut chunk = DeltaChunk {
            epoch: primary.epoch,
            stream,
            then: continues.clone(),
            continues,
            since: walk.since,
            upto: found.upto,
            checksum: found.checksum,
            epoch_starts: self.starts_upto(found.upto),
            // in_sync: the objects on the disk are not after the commit point, whether or not that is durable yet.
            at: self.live.applied.unwrap_or(self.live.position),
            objects: Vec::new(),
            dedup: Vec::new(),
        };
        let mut bytes = 0;
        match &chunk.continues {
            CopyProgress::Objects { after } => {
                chunk.then = CopyProgress::Dedup { after: None };
                let mut last = None;
                for key in after_key(&found.keys, after.as_ref()) {
                    if bytes >= COPY_CHUNK_BYTES_MAX || chunk.objects.len() >= DELTA_ITEMS_PER_STEP
                    {
                        chunk.then = CopyProgress::Objects { after: last };
                        break;
                    }
                    let object = context.stored.object(shard, generation, key)?;
                    bytes += key.len() + object.as_ref().map_or(0, |o| o.encode().len());
                    last = Some(key.clone());
                    if object.is_some() || !Mutant::DeltaKeepsDeleted.on() {
                        chunk.objects.push((key.clone(), object));
                    }
                }
            }
            CopyProgress::Dedup { after } => {
                chunk.then = CopyProgress::Records;
                let mut entries = BTreeMap::new();
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let mut last = None;
                for (id, (size, _)) in found.ids.range((from, Bound::Unbounded)) {
                    if bytes >= COPY_CHUNK_BYTES_MAX || entries.len() >= DELTA_ITEMS_PER_STEP {
                        chunk.then = CopyProgress::Dedup { after: last };
                        break;
                    }
                    bytes += size;
                    last = Some(*id);
                    entries.insert(*id, context.stored.dedup(shard, generation, *id)?);
                }
                self.take_back_pending(&mut entries);
                let gone = |entry: &Option<DedupEntry>| entry.is_none();
                entries.retain(|_, entry| !(gone(entry) && Mutant::DeltaKeepsForgotten.on()));
                chunk.dedup = entries.into_iter().collect();
            }
            CopyProgress::Records => {}
        }
        Ok(chunk)
    }

    /// in_sync: these entries as they are at the commit point; what comes after it comes with its records.
    fn take_back_pending(&self, entries: &mut BTreeMap<RequestId, Option<DedupEntry>>) {
        for record in self.live.pending.records().rev() {
            for (id, before) in record.dedup_before() {
                if let Some(entry) = entries.get_mut(&id) {
                    *entry = before;
                }
            }
        }
    }
}

fn after_key<'a>(
    keys: &'a BTreeSet<Bytes>,
    after: Option<&Bytes>,
) -> impl Iterator<Item = &'a Bytes> + use<'a> {
    let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
    keys.range((from, Bound::Unbounded))
}
