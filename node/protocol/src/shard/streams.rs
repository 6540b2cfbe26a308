//! How a primary feeds its copies: one stream per subscription, records as they become durable, bounded by credit.
//!
//! Messages of streams may be lost. The primary sends each record once per subscription; a copy that misses one subscribes
//! again, and the primary begins again at the copy's position. Nothing here holds the writers up.

use super::branch;
use super::commit::{RECENT_INTERVALS, SILENT_INTERVALS};
use super::forward::{Forms, Kept};
use super::message::{
    Ack, Beacon, Branch, BranchMode, Echo, Message, NO_STREAM, Pulse, Records, Reject, Subscribe,
};
use super::replica::{Replica, Role};
use super::walk::Offer;
use crate::effect::{Ask, Context, Effect};
use crate::forwarded::Forwarded;
use crate::mutant::Mutant;
use crate::record::EncodedRecord;
use crate::store::{CopyProgress, StoreError};
use crate::tables::Forward;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use understudy_proto::limits::{RECORDS_MESSAGE_BYTES_MAX, RECORDS_MESSAGE_MAX};
use understudy_proto::{CopyId, NodeId, Pair};

/// Bytes of durable records that are kept in memory for copies that are a little behind.
const TAIL_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The copies that follow, and the newest records.
#[derive(Debug)]
pub(super) struct Streams {
    subscribers: BTreeMap<CopyId, Subscriber>,
    /// The newest records, without a gap, up to the log's end.
    tail: VecDeque<Kept>,
    tail_bytes: u64,
    /// What the namespace forwards, as it was known at the last pulse or subscription.
    pub forward: Forward,
    next_pulse: Instant,
    /// Who got the last chunk of a full copy.
    served: Option<CopyId>,
    /// What was durable here when the last pulses were sent, oldest first.
    pulsed: VecDeque<Pair>,
    /// The joining copies that the managers were asked to let be secondaries, upon this row.
    complete: BTreeSet<CopyId>,
}

#[derive(Debug)]
struct Subscriber {
    stream: u64,
    credit: u64,
    /// The last record that was sent.
    sent: Pair,
    /// The last one that is durable there.
    acknowledged: Pair,
    /// Sent and not acknowledged: pairs with the bytes that were sent.
    under_way: VecDeque<(Pair, u64)>,
    under_way_bytes: u64,
    /// It gets chunks of a full copy, no records.
    copying: bool,
    /// It asked for the chunk after this, which waits for the node's pace.
    waits: Option<CopyProgress>,
    /// When it sent its newest acknowledgement, by its own clock.
    heard: Option<Instant>,
    /// Its log begins after this: what lies before it cannot undo.
    base: Pair,
    /// It gets records, and may get a delta once no cut is open any more.
    put_off: bool,
    /// It wants records as they are logged.
    whole: bool,
    /// What it takes is staged beside its contents, where nothing can be run. It acknowledges nothing until it switched.
    staging: bool,
}

impl Subscriber {
    /// What this copy gets of a record.
    fn forward(&self, forward: Forward) -> Forward {
        let staging = self.staging && !Mutant::OperationWhileRebuilding.on();
        match self.whole || staging {
            true => Forward::Components,
            false => forward,
        }
    }
}

impl Streams {
    pub fn new(now: Instant, forward: Forward) -> Streams {
        Streams {
            subscribers: BTreeMap::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            forward,
            next_pulse: now,
            served: None,
            pulsed: VecDeque::new(),
            complete: BTreeSet::new(),
        }
    }

    /// A record at the end of the log.
    pub fn push(&mut self, kept: Kept) {
        self.tail_bytes += kept.size();
        self.tail.push_back(kept);
    }

    /// Whether the copy subscribed under this number before, or under a later one.
    fn is_overtaken(&self, copy: CopyId, stream: u64) -> bool {
        self.subscribers
            .get(&copy)
            .is_some_and(|known| known.stream >= stream)
    }

    fn wait_for_chunk(&mut self, copy: CopyId, after: CopyProgress) {
        if let Some(subscriber) = self.subscribers.get_mut(&copy) {
            subscriber.waits = Some(after);
        }
    }

    /// Who waits for a chunk of a full copy, on which stream, and after what: each in its turn.
    pub fn take_waiting(&mut self) -> Option<(CopyId, u64, CopyProgress)> {
        let waiting = self.subscribers.iter().filter(|(_, s)| s.waits.is_some());
        let next = waiting.min_by_key(|(copy, _)| (Some(**copy) <= self.served, **copy));
        let copy = *next?.0;
        let subscriber = self.subscribers.get_mut(&copy)?;
        self.served = Some(copy);
        Some((copy, subscriber.stream, subscriber.waits.take()?))
    }

    pub fn has_waiting(&self) -> bool {
        self.subscribers.values().any(|s| s.waits.is_some())
    }

    /// How many copies have the record durable.
    pub fn copies_at(&self, pair: Pair) -> u32 {
        self.subscribers
            .values()
            .filter(|s| !s.copying && s.acknowledged >= pair)
            .count() as u32
    }

    /// Up to where a copy that follows in this epoch has everything durable.
    pub fn acknowledged(&self, copy: CopyId) -> Option<Pair> {
        self.subscribers
            .get(&copy)
            .filter(|s| !s.copying)
            .map(|s| s.acknowledged)
    }

    /// The copy is fed no more until it subscribes again.
    pub fn forget(&mut self, copy: CopyId) {
        self.subscribers.remove(&copy);
    }

    fn put_off(&mut self, copy: CopyId, put_off: bool) {
        if let Some(subscriber) = self.subscribers.get_mut(&copy) {
            subscriber.put_off = put_off;
        }
    }

    pub fn stream_of(&self, copy: CopyId) -> u64 {
        self.subscribers.get(&copy).map_or(0, |s| s.stream)
    }

    /// What to give back to a copy, so that it can tell its age.
    fn echo(&self, copy: CopyId) -> Option<Echo> {
        let subscriber = self.subscribers.get(&copy)?;
        let (stream, sent) = (subscriber.stream, subscriber.heard?);
        Some(Echo { stream, sent })
    }

    /// From where on the log is needed for a copy that is being rebuilt or caught up.
    pub fn needed_by(&self, copy: CopyId) -> Option<Pair> {
        self.subscribers
            .get(&copy)
            .map(|s| if s.copying { s.sent } else { s.acknowledged })
    }

    /// A record among the newest ones.
    pub fn in_tail(&self, pair: Pair) -> Option<&EncodedRecord> {
        let first = self.tail.front()?.record.pair.version.0;
        let at = pair.version.0.checked_sub(first)? as usize;
        let record = &self.tail.get(at)?.record;
        (record.pair == pair).then_some(record)
    }

    /// What was durable here when the oldest of the last pulses was sent.
    fn pulse_at(&mut self, position: Pair) -> Pair {
        self.pulsed.push_back(position);
        if self.pulsed.len() as u64 > RECENT_INTERVALS {
            self.pulsed.pop_front();
        }
        *self.pulsed.front().unwrap_or(&position)
    }

    /// Keeps what is not durable, and a little of what is.
    fn shorten(&mut self, durable: Pair) {
        while self.tail_bytes > TAIL_BYTES_MAX
            && self
                .tail
                .front()
                .is_some_and(|front| front.record.pair <= durable)
        {
            let front = self.tail.pop_front().expect("it has a front");
            self.tail_bytes -= front.size();
        }
    }

    /// Records after a pair and up to another, as far as the memory reaches back; `None`: it does not.
    fn tail_after(&self, after: Pair, upto: Pair) -> Option<Vec<Kept>> {
        let first = self.tail.front()?.record.pair.version.0;
        let skip = (after.version.0 + 1).checked_sub(first)? as usize;
        let mut bytes = 0;
        let fits = |kept: &&Kept| {
            bytes += kept.size();
            bytes <= RECORDS_MESSAGE_BYTES_MAX as u64 || bytes == kept.size()
        };
        let records = self
            .tail
            .iter()
            .skip(skip)
            .take_while(|kept| kept.record.pair <= upto);
        Some(
            records
                .take(RECORDS_MESSAGE_MAX)
                .take_while(fits)
                .cloned()
                .collect(),
        )
    }
}

impl Replica {
    pub(super) fn on_subscribe(
        &mut self,
        context: &Context<'_>,
        from: NodeId,
        subscribe: Subscribe,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if let Role::Primary(primary) = &mut self.role {
            primary.streams.forward = context.clients.forward(self.shard);
        }
        let Role::Primary(primary) = &self.role else {
            return Ok(());
        };
        let epoch = primary.epoch;
        if subscribe.epoch < epoch {
            out.push(Effect::Send {
                to: from,
                message: Message::Reject(Reject { epoch }),
            });
            return Ok(());
        }
        let row = self.row();
        let member =
            row.secondaries.contains(&subscribe.copy) || row.joining.contains(&subscribe.copy);
        let overtaken = primary
            .streams
            .is_overtaken(subscribe.copy, subscribe.stream);
        let open = primary.serving || self.live.applied.is_some();
        if subscribe.epoch > epoch || !member || !open || overtaken {
            // A subscription that was overtaken must not take the place of the one that the copy listens to.
            return Ok(());
        }
        if let Some(progress @ (CopyProgress::Objects { .. } | CopyProgress::Dedup { .. })) =
            &subscribe.copying
        {
            let progress = progress.clone();
            self.is_to_begin_anew(subscribe.copy, subscribe.delta_since.is_none());
            self.register(&subscribe, true);
            if let Some(since) = subscribe.delta_since {
                return self.resume_delta(context, subscribe, since, out);
            }
            let primary = self.primary_mut();
            primary.streams.wait_for_chunk(subscribe.copy, progress);
            return self.send_chunks(context, out);
        }
        self.answer_subscription(context, subscribe, true, out)
    }

    /// `delta`: a coalesced delta is possible.
    pub(super) fn answer_subscription(
        &mut self,
        context: &Context<'_>,
        subscribe: Subscribe,
        delta: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (epoch, from) = (self.primary_mut().epoch, subscribe.copy.node);
        let (cut, mut mode) = self.judge(context, &subscribe)?;
        // What differs is no base for a delta either.
        let begins = subscribe.copying.is_some() && subscribe.delta_since.is_none();
        if mode == BranchMode::Records && self.is_to_begin_anew(subscribe.copy, begins) {
            mode = BranchMode::Rebuild;
        }
        let offer = match delta && mode == BranchMode::Records {
            true => self.offer_delta(context, &subscribe)?,
            false => Offer::Records,
        };
        if matches!(offer, Offer::Delta | Offer::Later) {
            self.register(&subscribe, true);
            return self.go_on_with_delta(context, subscribe.copy, out);
        }
        self.primary_mut().deltas.forget(subscribe.copy);
        if mode == BranchMode::Records || Mutant::AckOfAnotherStream.on() {
            self.register(&subscribe, false);
            self.primary_mut()
                .streams
                .put_off(subscribe.copy, offer == Offer::RecordsForNow);
        }
        if mode == BranchMode::Rebuild && self.row().secondaries.contains(&subscribe.copy) {
            out.push(Effect::Ask(Ask::TooFarBehind {
                epoch,
                copy: subscribe.copy,
            }));
        }
        let branch = Branch {
            epoch,
            stream: subscribe.stream,
            cut,
            mode,
        };
        out.push(Effect::Send {
            to: from,
            message: Message::Branch(branch),
        });
        self.feed(context, out)?;
        self.on_copies_moved(context, out)
    }

    /// Where the copy's log parts from this one, and what the copy must do.
    fn judge(
        &self,
        context: &Context<'_>,
        subscribe: &Subscribe,
    ) -> Result<(Pair, BranchMode), StoreError> {
        let starts = &self.meta.live.epoch_starts;
        let cut = branch::cut(
            starts,
            self.live.position,
            &subscribe.epoch_starts,
            subscribe.position,
        );
        if cut < self.meta.live.base {
            return Ok((cut, BranchMode::Rebuild));
        }
        if cut != subscribe.position {
            return Ok((cut, BranchMode::Undo));
        }
        let same = self.checksum_at(context, cut)? == Some(subscribe.checksum);
        Ok((
            cut,
            if same {
                BranchMode::Records
            } else {
                BranchMode::Rebuild
            },
        ))
    }

    /// The running checksum after a record of this log.
    pub(super) fn checksum_at(
        &self,
        context: &Context<'_>,
        pair: Pair,
    ) -> Result<Option<u64>, StoreError> {
        if pair == self.live.position {
            return Ok(Some(self.live.checksum));
        }
        if pair == self.meta.live.base {
            return Ok(Some(self.meta.live.base_checksum));
        }
        let Role::Primary(primary) = &self.role else {
            return Ok(None);
        };
        let mut tail = primary.streams.tail.iter().rev();
        if let Some(kept) = tail.find(|kept| kept.record.pair == pair) {
            return Ok(Some(kept.record.checksum));
        }
        let record = context
            .stored
            .record(self.shard, self.live.generation, pair.version)?;
        Ok(record
            .filter(|record| record.pair == pair)
            .map(|record| record.checksum))
    }

    fn register(&mut self, subscribe: &Subscribe, copying: bool) {
        let subscriber = Subscriber {
            stream: subscribe.stream,
            credit: subscribe.credit,
            // Of a delta the log is needed from its beginning.
            sent: match subscribe.delta_since.filter(|_| copying) {
                Some(since) => since,
                None => subscribe.position,
            },
            // Its position may still be on its way to its disk; it acknowledges as soon as it knows its branch.
            acknowledged: match Mutant::AckOfAnotherStream.on() {
                true => Pair {
                    epoch: subscribe.epoch,
                    version: subscribe.position.version,
                },
                false => Pair::ZERO,
            },
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            copying,
            waits: None,
            heard: None,
            base: subscribe.base,
            put_off: false,
            whole: subscribe.whole,
            staging: subscribe.copying.is_some(),
        };
        self.primary_mut()
            .streams
            .subscribers
            .insert(subscribe.copy, subscriber);
    }

    pub(super) fn on_ack(
        &mut self,
        context: &Context<'_>,
        ack: Ack,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        // in_sync: a copy may have durable what is still on its way to the disk here.
        let here = match self.live.applied {
            Some(_) => self.live.position,
            None => self.durable,
        };
        let Role::Primary(primary) = &mut self.role else {
            return Ok(());
        };
        if ack.epoch != primary.epoch {
            return Ok(());
        }
        if let Some(answer) = ack.beacon {
            primary.witnesses.answered(ack.copy, answer, context.now);
        }
        let Some(subscriber) = primary.streams.subscribers.get_mut(&ack.copy) else {
            return Ok(());
        };
        if subscriber.stream != ack.stream
            || ack.stream == NO_STREAM
            || ack.position < subscriber.acknowledged
            || subscriber.copying
        {
            return Ok(());
        }
        assert!(
            ack.position <= here,
            "{}: {} has {}, the primary only {here}",
            self.shard,
            ack.copy,
            ack.position
        );
        subscriber.acknowledged = ack.position;
        subscriber.staging = false;
        subscriber.heard = subscriber.heard.max(Some(ack.sent));
        primary.members.heard(ack.copy, context.now);
        while subscriber
            .under_way
            .front()
            .is_some_and(|(pair, _)| *pair <= ack.position)
        {
            let (_, size) = subscriber.under_way.pop_front().expect("it has a front");
            subscriber.under_way_bytes -= size;
        }
        self.feed(context, out)?;
        self.on_copies_moved(context, out)
    }

    /// Sends every copy what fits its credit: lazy what is durable here, in_sync every record as soon as it is formed.
    pub(super) fn feed(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (shard, generation, durable) = (self.shard, self.live.generation, self.durable);
        let (upto, commit) = match self.live.applied {
            Some(applied) => (self.live.position, applied),
            None => (durable, Pair::ZERO),
        };
        let Role::Primary(primary) = &mut self.role else {
            return Ok(());
        };
        let epoch = primary.epoch;
        let mut subscribers = std::mem::take(&mut primary.streams.subscribers);
        let mut forms = Forms::default();
        for (copy, subscriber) in &mut subscribers {
            let forward = subscriber.forward(primary.streams.forward);
            while !subscriber.copying
                && subscriber.sent < upto
                && subscriber.under_way_bytes < subscriber.credit
            {
                let records = match primary.streams.tail_after(subscriber.sent, upto) {
                    Some(records) => records,
                    None => {
                        let from = subscriber.sent.version.next();
                        let mut records = context.stored.records(
                            shard,
                            generation,
                            from,
                            RECORDS_MESSAGE_BYTES_MAX,
                        )?;
                        records.retain(|record| record.pair <= durable);
                        records.into_iter().map(Kept::new).collect()
                    }
                };
                let Some(last) = records.last() else { break };
                subscriber.sent = last.record.pair;
                for kept in &records {
                    // Whatever is sent of it: the credit bounds what the copy has to hold, and that is the record.
                    let (pair, size) = (kept.record.pair, kept.size());
                    subscriber.under_way.push_back((pair, size));
                    subscriber.under_way_bytes += size;
                }
                let records = records.into_iter().map(|kept| forms.of(kept, forward));
                let records: Vec<Forwarded> = records.collect();
                let message = Message::Records(Records {
                    epoch,
                    stream: subscriber.stream,
                    records,
                    commit,
                });
                out.push(Effect::Send {
                    to: copy.node,
                    message,
                });
            }
        }
        primary.streams.subscribers = subscribers;
        primary.streams.shorten(durable);
        Ok(())
    }

    /// Once an interval: tells every copy of the row where this primary stands, and the managers which copy is complete.
    pub(super) fn pulse(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let interval = self.settings.interval;
        let (position, base) = (self.durable, self.meta.live.base);
        let me = self.copy();
        let row = self.row().clone();
        let in_sync = self.live.applied.is_some();
        let commit = self.live.applied.unwrap_or(Pair::ZERO);
        let forward = context.clients.forward(self.shard);
        let primary = self.primary_mut();
        if context.now < primary.streams.next_pulse || !(primary.serving || in_sync) {
            return;
        }
        primary.streams.next_pulse = context.now + interval;
        primary.streams.forward = forward;
        let pulsed = primary.streams.pulse_at(position);
        self.mend(context, out);
        let primary = self.primary_mut();
        let (epoch, serving) = (primary.epoch, primary.serving);
        let holds = self.leased(context, epoch);
        let leased = serving && (holds || Mutant::BoundedWithoutLease.on());
        let beacon = context.lease.beacon(context.now).map(|lease| Beacon {
            sent: context.now,
            lease,
            leased: holds,
        });
        if leased {
            self.age.serves(context.now);
        }
        let primary = self.primary_mut();
        for copy in row
            .secondaries
            .iter()
            .chain(&row.joining)
            .filter(|copy| **copy != me)
        {
            out.push(Effect::Send {
                to: copy.node,
                message: Message::Pulse(Pulse {
                    epoch,
                    position,
                    base,
                    echo: primary.streams.echo(*copy).filter(|_| leased),
                    commit,
                    stream: primary.streams.stream_of(*copy),
                    beacon,
                }),
            });
        }
        for copy in &row.joining {
            // Complete: it has everything that was durable here some pulses ago; what came since is on its way. To have what is
            // durable at this instant would be luck while others write.
            let streams = &self.primary_mut().streams;
            let complete = streams
                .acknowledged(*copy)
                .is_some_and(|acknowledged| acknowledged >= pulsed);
            let complete = complete && self.may_complete(context, *copy, out);
            let asked = &mut self.primary_mut().streams.complete;
            // What it lacks by now may lie before its log: a question of then is not to be answered.
            if complete {
                asked.insert(*copy);
                out.push(Effect::Ask(Ask::Complete { epoch, copy: *copy }));
            } else if asked.remove(copy) && !Mutant::KeepAsking.on() {
                out.push(Effect::Unask(Ask::Complete { epoch, copy: *copy }));
            }
        }
        self.keep_in_sync(context, out);
        self.keep_witnesses(context, beacon.is_some(), out);
    }

    /// A copy that came by a full copy cannot undo what lies before its log. So no candidate may lack that when it becomes one
    /// itself: who is about to get it is waited for, who is silent becomes a joining copy first.
    fn may_complete(&mut self, context: &Context<'_>, copy: CopyId, out: &mut Vec<Effect>) -> bool {
        let (me, secondaries) = (self.copy(), self.row().secondaries.clone());
        let (now, interval) = (context.now, self.settings.interval);
        let primary = self.primary_mut();
        let epoch = primary.epoch;
        let base = primary
            .streams
            .subscribers
            .get(&copy)
            .map_or(Pair::ZERO, |s| s.base);
        let lacks = |other: &&CopyId| {
            let acknowledged = primary.streams.acknowledged(**other);
            **other != me && acknowledged.unwrap_or(Pair::ZERO) < base
        };
        let lacking: Vec<CopyId> = secondaries.iter().filter(lacks).copied().collect();
        if lacking.is_empty() {
            return true;
        }
        let (recent, silent_after) = (
            interval.scale(RECENT_INTERVALS, 1),
            interval.scale(SILENT_INTERVALS, 1),
        );
        for copy in lacking {
            // Who undoes a tail acknowledges nothing, and answers beacons.
            let answers = primary.witnesses.heard_within(copy, recent, now);
            if !answers && primary.members.is_silent(copy, now, silent_after) {
                out.push(Effect::Ask(Ask::TooFarBehind { epoch, copy }));
            }
        }
        false
    }

    /// No cut is open any more. Who is still far behind loses its stream, notices it with the next pulse, and subscribes again.
    fn end_put_off(&mut self) {
        let Role::Primary(primary) = &self.role else {
            return;
        };
        let subscribers = primary.streams.subscribers.iter();
        let ends = subscribers.filter(|(copy, s)| s.put_off && self.is_far_behind(s.sent, **copy));
        let ending: Vec<CopyId> = ends.map(|(copy, _)| *copy).collect();
        let streams = &mut self.primary_mut().streams;
        for copy in ending {
            // Under no number it takes nothing, and nothing of it is taken; where it stands the log is still needed.
            if let Some(subscriber) = streams.subscribers.get_mut(&copy) {
                (subscriber.stream, subscriber.credit) = (NO_STREAM, 0);
            }
        }
    }

    /// The row changed and this process stays primary.
    pub(super) fn on_members(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let row = self.row().clone();
        let primary = self.primary_mut();
        primary
            .streams
            .subscribers
            .retain(|copy, _| row.secondaries.contains(copy) || row.joining.contains(copy));
        primary
            .deltas
            .on_row(|copy| row.secondaries.contains(&copy) || row.joining.contains(&copy));
        if row.oldest_open_cut.is_none() {
            self.end_put_off();
        }
        let primary = self.primary_mut();
        // A newer row answers all questions.
        primary.streams.complete.clear();
        for copy in &row.joining {
            // It may have been deleted and placed again since the last row that came here. What is there still, it
            // acknowledges upon the pulse.
            if let Some(subscriber) = primary.streams.subscribers.get_mut(copy) {
                subscriber.acknowledged = Pair::ZERO;
            }
        }
        // New members learn of their primary from its pulse; the next one is due at once.
        primary.streams.next_pulse = context.now;
        self.on_witnesses_row();
        self.on_in_sync_row(context, out)?;
        self.go_on_with_deltas(context, out)?;
        if let Role::Primary(_) = self.role {
            self.pulse(context, out);
        }
        Ok(())
    }
}
