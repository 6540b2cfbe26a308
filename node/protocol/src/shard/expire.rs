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

/// Bytes of entries that are read in an interval; the record that comes of them is not much larger.
const LOOK_BYTES: usize = 512 * 1024;
/// Of the first page of a client, most of whom have few, and of the others; what is read of the next client is for nothing.
const FIRST_PAGE_BYTES: usize = 4 * 1024;
const PAGE_BYTES: usize = 64 * 1024;
/// What a look costs at least.
const LOOK_COSTS: usize = 1024;
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
    touched: BTreeMap<ClientId, Touched>,
    /// Each at most once.
    due: VecDeque<ClientId>,
    look: Option<Look>,
    /// Where the walk over all clients is; `None`: it rests until then.
    walk: Option<Option<ClientId>>,
    next_walk: Instant,
    /// The walk and those that are due take turns.
    walked_last: bool,
    /// (a record, when it was the newest), the oldest first: what lies at or before it is older.
    ages: VecDeque<(Pair, Instant)>,
    /// The newest expiry record. The next one waits until it is visible: what is forgotten and not committed has to be
    /// put back for a copy that is made meanwhile.
    newest: Pair,
    floors: BTreeMap<ClientId, Sequence>,
    shard: Option<ShardState>,
    keep: Keep,
    next: Instant,
}

/// What a client wrote and marked since it was last looked at.
#[derive(Clone, Copy, Default, Debug)]
struct Touched {
    entries: u32,
    mark: Sequence,
    /// The mark as it was then.
    looked_at: Sequence,
    /// The entries that it left; `None`: they were not counted yet.
    left: Option<u64>,
    due: bool,
}

/// One client's entries, from the lowest number on. What goes is always a first part of them.
#[derive(Debug)]
struct Look {
    client: ClientId,
    mark: Sequence,
    ended: bool,
    after: Sequence,
    /// Entries so far; all, when they are being taken.
    count: u64,
    /// `None`: they are being counted. Else how many went already.
    taken: Option<u64>,
}

impl Expiry {
    pub fn new(position: Pair, now: Instant, keep: Keep) -> Expiry {
        Expiry {
            touched: BTreeMap::new(),
            due: VecDeque::new(),
            look: None,
            walk: Some(None),
            next_walk: now,
            walked_last: false,
            ages: VecDeque::from([(position, now)]),
            newest: Pair::ZERO,
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
        if !touched.due && touched.entries >= enough && (marked >= u64::from(enough) || many) {
            touched.due = true;
            self.due.push_back(client);
        }
        if self.touched.len() > TOUCHED_MAX {
            self.touched.clear();
            self.due.clear();
            self.walk.get_or_insert(None);
        }
    }

    /// The first that is still due: the walk may have come by meanwhile.
    fn next_due(&mut self) -> Option<ClientId> {
        while let Some(client) = self.due.pop_front() {
            if self.touched.get(&client).is_some_and(|touched| touched.due) {
                return Some(client);
            }
        }
        None
    }

    fn note_age(&mut self, newest: Pair, now: Instant) {
        let age = self.keep.age;
        let step = Duration(age.0 / WALKS_PER_AGE);
        let (last, at) = *self.ages.back().expect("there is always one");
        if newest > last && now.since(at) >= step {
            self.ages.push_back((newest, now));
        }
        // The last one that is old enough stands for those before it.
        while self
            .ages
            .get(1)
            .is_some_and(|(_, at)| now.since(*at) >= age)
        {
            self.ages.pop_front();
        }
    }

    /// What lies at or before it is old.
    fn old(&self, now: Instant) -> Pair {
        let old = |(_, at): &&(Pair, Instant)| now.since(*at) >= self.keep.age;
        self.ages
            .front()
            .filter(old)
            .map_or(Pair::ZERO, |(pair, _)| *pair)
    }

    fn remember_floor(&mut self, client: ClientId, floor: Sequence) {
        if self.floors.len() >= FLOORS_MAX {
            self.floors.clear();
        }
        self.floors.insert(client, floor);
    }

    /// Begins with a client. One that was counted before needs no counting again.
    fn look_at(&mut self, client: ClientId, ended: bool) -> Look {
        let touched = self.touched.get(&client).copied().unwrap_or_default();
        let known = touched.left.filter(|_| touched.due && !ended);
        let count = known.map_or(0, |left| left + u64::from(touched.entries));
        if let Some(known) = self.touched.get_mut(&client) {
            (known.due, known.entries, known.looked_at) = (false, 0, known.mark);
        }
        Look {
            client,
            mark: touched.mark,
            ended,
            after: Sequence(0),
            count,
            taken: known.map(|_| 0),
        }
    }
}

impl Look {
    /// Whether the next entry goes, now that all before it did.
    fn takes(
        &self,
        taken: u64,
        sequence: Sequence,
        entry: &DedupEntry,
        keep: &Keep,
        old: Pair,
    ) -> bool {
        let over = self.count.saturating_sub(u64::from(keep.entries));
        self.ended || sequence <= self.mark || taken < over || entry.pair <= old
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
        let own = state.map_or(Pair::ZERO, |(_, entry)| ClientState::of(&entry).removed);
        let shard = self
            .shard_entry(context)?
            .as_ref()
            .map(ShardState::of)
            .unwrap_or_default();
        // Of a client that is known to be there still, not everything went.
        let is_there = context.clients.session(client) == ClientSession::Open
            && context.clients.revision() >= shard.sessions;
        let removed = if is_there {
            own
        } else {
            own.max(shard.removed)
        };
        Ok(parted < removed)
    }

    /// At a serving primary, once an interval: looks at some entries, and logs which of them go.
    pub(super) fn expire_entries(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (visible, now, interval) = (self.visible, context.now, self.settings.interval);
        let primary = self.primary_mut();
        let busy = primary.hands_over() || primary.expiry.newest > visible;
        if busy || now < primary.expiry.next || self.check_primary(context).is_err() {
            return Ok(());
        }
        let keep = context.clients.keep(self.shard);
        let expiry = &mut self.primary_mut().expiry;
        expiry.next = now + interval;
        expiry.keep = keep;
        expiry.note_age(visible, now);
        let mut gone: Vec<ClientExpiry> = Vec::new();
        let mut budget = LOOK_BYTES;
        while budget > 0 {
            let Some(look) = self.next_look(context, &mut budget)? else {
                break;
            };
            if gone.iter().any(|client| client.client == look.client) {
                // Its state is on its way to the log: not twice in one record.
                self.primary_mut().expiry.look = Some(look);
                break;
            }
            gone.extend(self.look_on(context, look, &mut budget)?);
        }
        if gone.is_empty() {
            return Ok(());
        }
        gone.sort_by_key(|client| client.client);
        self.log_expiry(context, gone, out)
    }

    /// The client that is being looked at, or the next one.
    fn next_look(
        &mut self,
        context: &Context<'_>,
        budget: &mut usize,
    ) -> Result<Option<Look>, StoreError> {
        *budget = budget.saturating_sub(LOOK_COSTS);
        let expiry = &mut self.primary_mut().expiry;
        if let Some(look) = expiry.look.take() {
            return Ok(Some(look));
        }
        if expiry.walk.is_none() && context.now >= expiry.next_walk {
            expiry.walk = Some(None);
        }
        let walks = !expiry.walked_last || expiry.due.is_empty();
        expiry.walked_last = walks;
        let walked = match walks {
            true => self.walk_on(context)?,
            false => None,
        };
        let expiry = &mut self.primary_mut().expiry;
        let Some(client) = walked.or_else(|| expiry.next_due()) else {
            return Ok(None);
        };
        let ended = context.clients.session(client) == ClientSession::Ended;
        let mut look = expiry.look_at(client, ended);
        if walked.is_some() {
            // The walk counts anew: orphans that came back were not counted, and it sees how old the first ones are.
            (look.count, look.taken) = (0, None);
        }
        Ok(Some(look))
    }

    /// The next client of the walk over all.
    fn walk_on(&mut self, context: &Context<'_>) -> Result<Option<ClientId>, StoreError> {
        let (shard, generation) = (self.shard, self.live.generation);
        let expiry = &mut self.primary_mut().expiry;
        let Some(after) = expiry.walk else {
            return Ok(None);
        };
        // The shard's own state stands first.
        let after = after.unwrap_or(shard_state_id().client);
        let last = RequestId {
            client: after,
            sequence: Sequence(u64::MAX),
        };
        let page = context
            .stored
            .dedup_after(shard, generation, Some(last), 1)?;
        let next = page.items.first().map(|(id, _)| id.client);
        expiry.walk = next.map(Some);
        if next.is_none() {
            expiry.next_walk = context.now + Duration(expiry.keep.age.0 / WALKS_PER_AGE);
        }
        Ok(next)
    }

    /// Counts the client's entries, then takes those that go, as far as the budget reaches; the rest waits for the next time.
    fn look_on(
        &mut self,
        context: &Context<'_>,
        mut look: Look,
        budget: &mut usize,
    ) -> Result<Option<ClientExpiry>, StoreError> {
        let mut removed: Vec<(Sequence, DedupEntry)> = Vec::new();
        let cut = self.row().oldest_open_cut;
        let upto = cut.map_or(self.visible, |cut| cut.min(self.visible));
        let expiry = &self.primary_mut().expiry;
        let (keep, old) = (expiry.keep, expiry.old(context.now));
        let (mut bytes, mut whole) = (FIRST_PAGE_BYTES, true);
        let finished = loop {
            let after = RequestId {
                client: look.client,
                sequence: look.after,
            };
            let (shard, generation) = (self.shard, self.live.generation);
            let page = context
                .stored
                .dedup_after(shard, generation, Some(after), bytes)?;
            bytes = PAGE_BYTES;
            let mut more = !page.done;
            for (id, entry) in page.items {
                *budget = budget.saturating_sub(entry_bytes(&entry));
                if id.client != look.client {
                    more = false;
                    break;
                }
                if let Some(taken) = look.taken {
                    // Something that is on its way takes its place, or it may not go: nor may what stands behind it.
                    let held = entry.pair > upto || self.live.overlay.dedup(id).is_some();
                    whole &= !held;
                    if held || !look.takes(taken, id.sequence, &entry, &keep, old) {
                        more = false;
                        break;
                    }
                    look.taken = Some(taken + 1);
                    removed.push((id.sequence, entry));
                } else {
                    look.count += 1;
                }
                look.after = id.sequence;
            }
            match (more, look.taken) {
                (true, _) if *budget == 0 => break false,
                (true, _) => {}
                (false, None) => {
                    (look.after, look.taken) = (Sequence(0), Some(0));
                    bytes = FIRST_PAGE_BYTES;
                    if *budget == 0 {
                        break false;
                    }
                }
                (false, Some(_)) => break true,
            }
        };
        let taken = look.taken.unwrap_or(0);
        let all = finished && look.ended && whole;
        let client = look.client;
        let expiry = &mut self.primary_mut().expiry;
        if finished {
            if let Some(touched) = expiry.touched.get_mut(&client) {
                touched.left = Some(look.count - taken.min(look.count));
            }
        } else {
            expiry.look = Some(look);
        }
        let state = client_state_id(client);
        let before = self
            .live
            .dedup(self.shard, context.stored, state)?
            .map(|(_, entry)| entry);
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
        let pair = self.log_own(context, Body::Expiry(Box::new(body)), Vec::new(), out)?;
        self.primary_mut().expiry.newest = pair;
        if self.live.applied.is_some() {
            self.feed(context, out)?;
        }
        Ok(())
    }
}

fn entry_bytes(entry: &DedupEntry) -> usize {
    64 + entry.outcome.size()
}
