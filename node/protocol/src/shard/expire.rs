//! The lifetime of dedup entries: which of them a primary lets go, a little at a time, each as part of a logged record.
//!
//! What the client marked as answered goes, then the lowest numbers beyond the namespace's count, then what is older than
//! its age, and everything of a client whose session ended. A floor rises over what went: at or below it a request without
//! an entry is refused as expired, never run. Nothing goes that was logged after the oldest open cut, or is not yet visible:
//! what a failover cut off is judged by these entries.

use super::replica::{Replica, Role};
use crate::effect::{ClientSession, Context, Effect, Keep};
use crate::expiry::{
    ClientExpiry, ClientState, ExpiryBody, ShardState, client_state_id, shard_state_id,
};
use crate::mutant::Mutant;
use crate::record::Body;
use crate::request::DedupEntry;
use crate::store::StoreError;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::{ClientId, Pair, RequestId, Revision, Sequence};

/// Bytes of entries that are read at once, once an interval; the record that comes of them is not much larger.
const LOOK_BYTES: usize = 256 * 1024;
/// A client is looked at when it marked, or wrote, this part of what is kept of it, but not for less than one entry and at
/// the latest for so many.
const DUE_PART: u32 = 16;
const DUE_MAX: u32 = 64;
/// Who marks nothing is looked at when it wrote this part: so much more than the namespace says may be kept of it.
const OVER_PART: u32 = 8;
/// All clients are looked at so many times while an entry grows old.
const WALKS_PER_AGE: u64 = 24;
/// Clients that are remembered as having written. With more all are looked at anew.
const TOUCHED_MAX: usize = 65_536;
/// Floors that are remembered, so that a new request costs no look into the store.
const FLOORS_MAX: usize = 65_536;

/// What a primary knows of its clients beyond the store.
#[derive(Debug)]
pub(super) struct Expiry {
    /// What each client wrote and marked since it was last looked at.
    touched: BTreeMap<ClientId, Touched>,
    due: VecDeque<ClientId>,
    look: Option<Look>,
    /// Where the walk over all clients is; `None`: it rests until then.
    walk: Option<Option<ClientId>>,
    next_walk: Instant,
    /// (a record, when it was the newest), the oldest first: what lies at or before it is older.
    ages: VecDeque<(Pair, Instant)>,
    /// The batch with the newest expiry record.
    batch: u64,
    floors: BTreeMap<ClientId, Sequence>,
    shard: Option<ShardState>,
    keep: Keep,
    next: Instant,
}

#[derive(Clone, Copy, Default, Debug)]
struct Touched {
    entries: u32,
    mark: Sequence,
    /// The mark as it was when the client was last looked at.
    looked_at: Sequence,
}

/// One client's entries, counted from the lowest number on.
#[derive(Debug)]
struct Look {
    client: ClientId,
    mark: Sequence,
    ended: bool,
    after: Sequence,
    /// The numbers that were counted last, as many as are kept.
    kept: VecDeque<Sequence>,
    /// Up to here everything goes.
    floor: Sequence,
    /// Every entry so far goes; one that is young ends that.
    all_old: bool,
    /// An entry was met that may not go, and with it nothing behind it.
    stopped: bool,
}

impl Expiry {
    pub fn new(position: Pair, now: Instant, keep: Keep) -> Expiry {
        Expiry {
            touched: BTreeMap::new(),
            due: VecDeque::new(),
            look: None,
            walk: Some(None),
            next_walk: now,
            ages: VecDeque::from([(position, now)]),
            batch: 0,
            floors: BTreeMap::new(),
            shard: None,
            keep,
            next: now,
        }
    }

    /// A client wrote, and said up to where it needs no answers.
    fn note(&mut self, client: ClientId, mark: Sequence) {
        let kept = self.keep.entries;
        let enough = (kept / DUE_PART).clamp(1, DUE_MAX);
        let touched = self.touched.entry(client).or_default();
        touched.entries += 1;
        touched.mark = touched.mark.max(mark);
        let marked = touched.mark.0 - touched.looked_at.0;
        let many = touched.entries >= enough.max(kept / OVER_PART);
        if touched.entries >= enough && (marked >= u64::from(enough) || many) {
            touched.entries = 0;
            touched.looked_at = touched.mark;
            self.due.push_back(client);
        }
        if self.touched.len() > TOUCHED_MAX {
            self.touched.clear();
            self.walk.get_or_insert(None);
        }
    }

    fn note_age(&mut self, newest: Pair, now: Instant, keep: &Keep) {
        let step = Duration(keep.age.0 / WALKS_PER_AGE);
        let (last, at) = *self.ages.back().expect("there is always one");
        if newest > last && now.since(at) >= step {
            self.ages.push_back((newest, now));
        }
        // The last one that is old enough stands for those before it.
        while self
            .ages
            .get(1)
            .is_some_and(|(_, at)| now.since(*at) >= keep.age)
        {
            self.ages.pop_front();
        }
    }

    /// What lies at or before it is old.
    fn old(&self, now: Instant, keep: &Keep) -> Pair {
        let first = self
            .ages
            .front()
            .filter(|(_, at)| now.since(*at) >= keep.age);
        first.map_or(Pair::ZERO, |(pair, _)| *pair)
    }

    fn remember_floor(&mut self, client: ClientId, floor: Sequence) {
        if self.floors.len() >= FLOORS_MAX {
            self.floors.clear();
        }
        self.floors.insert(client, floor);
    }
}

impl Look {
    /// Counts an entry, the next in the order of their numbers.
    fn count(
        &mut self,
        sequence: Sequence,
        entry: &DedupEntry,
        keep: &Keep,
        old: Pair,
        upto: Pair,
    ) {
        self.after = sequence;
        self.stopped |= entry.pair > upto;
        self.all_old &= entry.pair <= old;
        if !self.stopped && (self.ended || self.all_old || sequence <= self.mark) {
            self.floor = sequence;
        }
        self.kept.push_back(sequence);
        if self.kept.len() > keep.entries as usize {
            let lowest = self.kept.pop_front().expect("one was just pushed");
            if !self.stopped {
                self.floor = self.floor.max(lowest);
            }
        }
    }
}

impl Replica {
    /// A request that is in no entry: whether it may run, or may have run and been forgotten. Notes what its client marks.
    pub(super) fn check_not_expired(
        &mut self,
        context: &Context<'_>,
        id: RequestId,
        mark: Sequence,
    ) -> Result<Result<(), Failure>, StoreError> {
        let known = match &self.role {
            Role::Primary(primary) => primary.expiry.floors.get(&id.client).copied(),
            _ => None,
        };
        let floor = match known {
            Some(floor) => floor,
            None => {
                let state =
                    self.live
                        .dedup(self.shard, context.stored, client_state_id(id.client))?;
                let floor = state.map_or(Sequence(0), |(_, entry)| ClientState::of(&entry).floor);
                self.primary_mut().expiry.remember_floor(id.client, floor);
                floor
            }
        };
        if id.sequence <= floor && !Mutant::ForgetFloor.on() {
            let failure = Failure::unknown(
                Reason::RequestExpired,
                "what became of this number is no longer kept; it does not run again",
            );
            return Ok(Err(failure.with("floor", floor.to_string())));
        }
        let needed = self.shard_state(context)?.sessions;
        if needed == Revision::ZERO {
            self.primary_mut().expiry.note(id.client, mark);
            return Ok(Ok(()));
        }
        if context.clients.revision() < needed {
            let failure = Failure::no(
                Reason::Starting,
                "this node's table of sessions is older than what the shard forgot by; ask again",
            );
            return Ok(Err(failure));
        }
        if context.clients.session(id.client) == ClientSession::Ended {
            let failure = Failure::unknown(
                Reason::RequestExpired,
                "the session of this client id ended; use another id",
            );
            return Ok(Err(failure));
        }
        self.primary_mut().expiry.note(id.client, mark);
        Ok(Ok(()))
    }

    fn shard_state(&mut self, context: &Context<'_>) -> Result<ShardState, StoreError> {
        if let Role::Primary(primary) = &self.role
            && let Some(state) = primary.expiry.shard
        {
            return Ok(state);
        }
        let state = self
            .shard_entry(context)?
            .as_ref()
            .map(ShardState::of)
            .unwrap_or_default();
        self.primary_mut().expiry.shard = Some(state);
        Ok(state)
    }

    fn shard_entry(&self, context: &Context<'_>) -> Result<Option<DedupEntry>, StoreError> {
        let found = self
            .live
            .dedup(self.shard, context.stored, shard_state_id())?;
        Ok(found.map(|(_, entry)| entry))
    }

    /// Whether an orphan without an entry here may have run on this branch, after the two had parted, and been forgotten.
    pub(super) fn may_have_run(
        &self,
        context: &Context<'_>,
        client: ClientId,
        parted: Pair,
    ) -> Result<bool, StoreError> {
        if Mutant::AskIdNotPair.on() {
            return Ok(false);
        }
        let state = self
            .live
            .dedup(self.shard, context.stored, client_state_id(client))?;
        let removed = match state {
            Some((_, entry)) => ClientState::of(&entry).removed,
            None if context.clients.session(client) == ClientSession::Open => Pair::ZERO,
            None => {
                let shard = self.shard_entry(context)?;
                shard.map_or(Pair::ZERO, |entry| ShardState::of(&entry).removed)
            }
        };
        Ok(parted < removed)
    }

    /// At a serving primary, once an interval: looks at some entries, and logs which of them go.
    pub(super) fn expire_entries(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (persisted, visible, now) = (self.persisted, self.visible, context.now);
        let interval = self.settings.interval;
        let primary = self.primary_mut();
        let busy = primary.hands_over() || primary.expiry.batch > persisted;
        if busy || now < primary.expiry.next || self.check_primary(context).is_err() {
            return Ok(());
        }
        let keep = context.clients.keep(self.shard);
        let expiry = &mut self.primary_mut().expiry;
        expiry.next = now + interval;
        expiry.keep = keep;
        expiry.note_age(visible, now, &keep);
        let mut gone = Vec::new();
        let mut budget = LOOK_BYTES;
        while budget > 0 {
            let Some(look) = self.next_look(context, &keep, &mut budget)? else {
                break;
            };
            if let Some(client) = self.look_on(context, look, &keep, &mut budget)? {
                gone.push(client);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        gone.sort_by_key(|client: &ClientExpiry| client.client);
        gone.dedup_by_key(|client| client.client);
        self.log_expiry(context, gone, out)
    }

    /// The client that is being looked at, or the next one that is due.
    fn next_look(
        &mut self,
        context: &Context<'_>,
        keep: &Keep,
        budget: &mut usize,
    ) -> Result<Option<Look>, StoreError> {
        let (shard, generation) = (self.shard, self.live.generation);
        let expiry = &mut self.primary_mut().expiry;
        if let Some(look) = expiry.look.take() {
            return Ok(Some(look));
        }
        if expiry.due.is_empty() {
            if expiry.walk.is_none() && context.now >= expiry.next_walk {
                expiry.walk = Some(None);
            }
            if let Some(after) = expiry.walk {
                let after = after.map(|client| RequestId {
                    client,
                    sequence: Sequence(u64::MAX),
                });
                let page = context.stored.dedup_after(shard, generation, after, 1)?;
                *budget = budget.saturating_sub(1024);
                match page.items.first() {
                    Some((id, _)) => {
                        expiry.walk = Some(Some(id.client));
                        expiry.due.push_back(id.client);
                    }
                    None => {
                        expiry.walk = None;
                        expiry.next_walk = context.now + Duration(keep.age.0 / WALKS_PER_AGE);
                    }
                }
            }
        }
        let Some(client) = expiry.due.pop_front() else {
            return Ok(None);
        };
        Ok(Some(Look {
            client,
            mark: expiry
                .touched
                .get(&client)
                .map_or(Sequence(0), |touched| touched.mark),
            ended: context.clients.session(client) == ClientSession::Ended,
            after: Sequence(0),
            kept: VecDeque::new(),
            floor: Sequence(0),
            all_old: true,
            stopped: false,
        }))
    }

    /// Counts the client's entries as far as the budget goes; once all are counted, what goes of it.
    fn look_on(
        &mut self,
        context: &Context<'_>,
        mut look: Look,
        keep: &Keep,
        budget: &mut usize,
    ) -> Result<Option<ClientExpiry>, StoreError> {
        if look.client == shard_state_id().client {
            return Ok(None);
        }
        let (shard, generation) = (self.shard, self.live.generation);
        let expiry = &mut self.primary_mut().expiry;
        let old = expiry.old(context.now, keep);
        let row = self.row();
        let upto = row
            .oldest_open_cut
            .map_or(self.visible, |cut| cut.min(self.visible));
        loop {
            let after = RequestId {
                client: look.client,
                sequence: look.after,
            };
            let page = context
                .stored
                .dedup_after(shard, generation, Some(after), *budget)?;
            let mut more = !page.done;
            for (id, entry) in &page.items {
                if id.client != look.client {
                    more = false;
                    break;
                }
                *budget = budget.saturating_sub(entry_bytes(entry));
                look.count(id.sequence, entry, keep, old, upto);
            }
            if !more {
                break;
            }
            if *budget == 0 {
                self.primary_mut().expiry.look = Some(look);
                return Ok(None);
            }
        }
        self.take_upto(context, &look, upto, budget)
    }

    /// The client's entries up to its new floor, as many as one record takes; the rest is due again.
    fn take_upto(
        &mut self,
        context: &Context<'_>,
        look: &Look,
        upto: Pair,
        budget: &mut usize,
    ) -> Result<Option<ClientExpiry>, StoreError> {
        let (shard, generation, client) = (self.shard, self.live.generation, look.client);
        let from = client_state_id(client);
        let before = self
            .live
            .dedup(shard, context.stored, from)?
            .map(|(_, entry)| entry);
        let mut removed: Vec<(Sequence, DedupEntry)> = Vec::new();
        let mut all = look.ended && !look.stopped;
        if look.floor > Sequence(0) {
            let room = (*budget).max(1);
            let page = context
                .stored
                .dedup_after(shard, generation, Some(from), room)?;
            let own = page
                .items
                .into_iter()
                .take_while(|(id, _)| id.client == client);
            let goes = |(id, entry): &(RequestId, DedupEntry)| {
                id.sequence <= look.floor && entry.pair <= upto
            };
            for (id, entry) in own.take_while(goes) {
                *budget = budget.saturating_sub(entry_bytes(&entry));
                removed.push((id.sequence, entry));
            }
            let reached = removed.last().map(|(last, _)| *last);
            if reached != Some(look.floor) {
                all = false;
                self.primary_mut().expiry.due.push_back(client);
            }
        }
        if removed.is_empty() && !(all && before.is_some()) {
            return Ok(None);
        }
        let old_floor = before
            .as_ref()
            .map_or(Sequence(0), |entry| ClientState::of(entry).floor);
        let last = removed.last().map_or(Sequence(0), |(last, _)| *last);
        Ok(Some(ClientExpiry {
            client,
            floor: (!all).then_some(old_floor.max(last)),
            before,
            removed,
        }))
    }

    fn log_expiry(
        &mut self,
        context: &Context<'_>,
        clients: Vec<ClientExpiry>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        for gone in &clients {
            let expiry = &mut self.primary_mut().expiry;
            match gone.floor {
                Some(floor) => expiry.remember_floor(gone.client, floor),
                None => {
                    expiry.floors.remove(&gone.client);
                    expiry.touched.remove(&gone.client);
                    expiry.shard = None;
                }
            }
        }
        let body = ExpiryBody {
            sessions: context.clients.revision(),
            before: self.shard_entry(context)?,
            clients,
        };
        self.log_own(context, Body::Expiry(Box::new(body)), Vec::new(), out)?;
        let emitted = self.emitted;
        self.primary_mut().expiry.batch = emitted;
        if self.live.applied.is_some() {
            self.feed(context, out)?;
        }
        Ok(())
    }
}

fn entry_bytes(entry: &DedupEntry) -> usize {
    64 + entry.outcome.size()
}
