//! Whether calls can be put into one order that their model allows: the search of Wing and Gong, with Lowe's two
//! improvements: states that failed are remembered, and a call is put in place only when one that must have its place now
//! (because it returns) needs it.
//!
//! Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017).
//! Beyond them, each with the reason why nothing is lost:
//!
//! - A read is put in place as soon as it is legal: it changes nothing, so what can follow later can follow now.
//! - A call of unknown outcome is put in place only when the next one depends on it: otherwise the order without it is
//!   legal too, and it is still at hand. Equal ones are interchangeable, so only their number counts.
//! - What failed with some unknown calls used up fails with more of them used up; and only those count that were asked for
//!   in vain on the way to that failure, for with any number of the others the same would have been tried.
//! - A call of unknown outcome that leaves a value which nobody sees afterwards is left out, as above.
//! - A state that a read to come rules out is not gone into ([`Model::leads_to`]; and for models of plain values: a value
//!   that somebody still has to see is not left when nobody is left to write it).
//! - A blind write whose value nobody has to see any more goes along, unseen, before the next blind write.

use super::budget::Budget;
use super::model::{Call, Class, Model, State};
use crate::history::NEVER;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// No state.
const NONE: State = State::MAX;
/// Writers of one value that are looked through before it is taken for granted that one is left.
const WRITERS_LOOKED_AT: usize = 8;
/// Sets of used unknown calls that are remembered for one place; more are compared with only these.
const SETS_KEPT: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// There is such an order.
    Order,
    /// There is none.
    NoOrder,
    /// The budget did not suffice to tell.
    Exhausted,
}

type Bits = SmallVec<[u64; 2]>;
/// Unknown calls that were used: how many of which kind, by kind.
type Used = SmallVec<[(u32, u32); 2]>;

#[derive(Clone, Copy)]
enum Event {
    Invoke(u32),
    Return(u32),
}

/// Calls of unknown outcome that are alike.
struct Kind {
    class: Class,
    /// The events of their invocations.
    invoked: Vec<u32>,
    /// After this event nobody can see what they leave.
    until: u32,
}

/// How far an order has come.
#[derive(Clone)]
struct Place {
    /// The event that comes next: the return of a call that has no place yet.
    at: u32,
    state: State,
    /// By slot: the open calls that have their place.
    done: Bits,
    used: Used,
    /// Resetting calls that have their place.
    resets: u32,
    /// The state before the unknown call that was placed last; what follows must depend on that call.
    lured_from: State,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    at: u32,
    state: State,
    lured_from: State,
    done: Bits,
}

struct Frame {
    place: Place,
    choices: SmallVec<[Choice; 8]>,
    next: u32,
    /// Kinds that were asked for in vain from here on, because all of them were used up.
    blocked: Blocked,
    /// What it took from the budget.
    bytes: usize,
}

type Blocked = SmallVec<[u32; 4]>;

#[derive(Clone, Copy)]
enum Choice {
    Open(u32),
    Unknown(u32),
}

pub struct Search<'a, M> {
    model: &'a mut M,
    calls: &'a [Call],
    start: State,
    events: Vec<Event>,
    /// By call: the events of its invocation and of its return ([`NEVER`] for unknown ones).
    invoked: Vec<u32>,
    returned: Vec<u32>,
    /// By call: which bit of `done`.
    slot: Vec<u32>,
    slots: usize,
    kinds: Vec<Kind>,
    /// By call of unknown outcome: its kind; [`NEVER`] for what has no use.
    kind_of: Vec<u32>,
    values: Option<Values>,
    ahead: Option<Ahead>,
    cursor: Cursor,
    failed: FxHashMap<Key, SmallVec<[Used; 1]>>,
    /// By class: the round of choosing in which it was offered last, and as which choice.
    offered: Vec<(u64, u32)>,
    round: u64,
    /// Places that were looked at.
    pub looked_at: u64,
    /// What `failed` takes.
    bytes: usize,
}

/// What is open before an event.
struct Cursor {
    at: u32,
    /// By slot.
    open: Vec<u32>,
    /// By kind: how many were invoked.
    ready: Vec<u32>,
}

/// For models of plain values ([`Model::plain_values`]), by state.
struct Values {
    /// The call that must see it and returns last.
    last_seen_by: FxHashMap<State, u32>,
    /// Calls and kinds that leave it.
    writers: FxHashMap<State, Vec<Choice>>,
    /// After this event nobody can see it, neither a call that must be placed nor an unknown one that may be of use.
    seen_until: FxHashMap<State, u32>,
}

/// For models that look ahead.
struct Ahead {
    /// Calls that only read and must be placed, by return.
    reads: Vec<u32>,
    /// By event: the first of `reads` that returns there or later.
    first: Vec<u32>,
    /// By event: the resetting calls that were invoked before it.
    resets: Vec<u32>,
}

impl<'a, M: Model> Search<'a, M> {
    /// For `calls`, which are in the order of their invocations.
    pub fn new(model: &'a mut M, calls: &'a [Call], start: State) -> Search<'a, M> {
        let events = events_of(calls);
        let mut invoked = vec![0; calls.len()];
        let mut returned = vec![NEVER; calls.len()];
        for (at, event) in events.iter().enumerate() {
            match *event {
                Event::Invoke(call) => invoked[call as usize] = at as u32,
                Event::Return(call) => returned[call as usize] = at as u32,
            }
        }
        let (slot, slots) = slots_of(calls.len(), &events, &returned);
        let seen_until = seen_until(model, calls);
        let classes = calls
            .iter()
            .map(|call| call.class as usize + 1)
            .max()
            .unwrap_or(0);
        let mut search = Search {
            model,
            calls,
            start,
            events,
            invoked,
            returned,
            slot,
            slots,
            kinds: Vec::new(),
            kind_of: vec![NEVER; calls.len()],
            values: None,
            ahead: None,
            cursor: Cursor {
                at: 0,
                open: vec![NEVER; slots],
                ready: Vec::new(),
            },
            failed: FxHashMap::default(),
            offered: vec![(0, NEVER); classes],
            round: 0,
            looked_at: 0,
            bytes: 0,
        };
        search.find_kinds(&seen_until);
        if search.model.plain_values() {
            search.values = Some(search.find_values(seen_until));
        }
        if search.model.looks_ahead() {
            search.ahead = Some(search.find_ahead());
        }
        search.cursor.ready = vec![0; search.kinds.len()];
        search
    }

    fn class(&self, call: u32) -> Class {
        self.calls[call as usize].class
    }

    fn must(&self, call: u32) -> bool {
        self.returned[call as usize] != NEVER
    }

    fn find_kinds(&mut self, seen_until: &FxHashMap<State, u32>) {
        let mut by_class: FxHashMap<Class, u32> = FxHashMap::default();
        for call in 0..self.calls.len() as u32 {
            let class = self.class(call);
            if self.must(call) || self.model.reads(class) {
                continue;
            }
            let until = match self.model.plain_values() {
                false => NEVER,
                true => {
                    let left = may_leave(self.model, class);
                    left.filter_map(|left| seen_until.get(&left))
                        .max()
                        .copied()
                        .unwrap_or(0)
                }
            };
            if until <= self.calls[call as usize].invoked {
                continue;
            }
            let until = self.event_after(until);
            let kind = *by_class.entry(class).or_insert_with(|| {
                self.kinds.push(Kind {
                    class,
                    invoked: Vec::new(),
                    until,
                });
                self.kinds.len() as u32 - 1
            });
            self.kinds[kind as usize]
                .invoked
                .push(self.invoked[call as usize]);
            self.kind_of[call as usize] = kind;
        }
    }

    /// The number of the event at a place of the history.
    fn event_after(&self, place: u32) -> u32 {
        let position = |event: &Event| match *event {
            Event::Invoke(call) => self.calls[call as usize].invoked,
            Event::Return(call) => self.calls[call as usize].ended,
        };
        match place {
            NEVER => NEVER,
            place => self.events.partition_point(|event| position(event) < place) as u32,
        }
    }

    fn find_values(&self, seen_until: FxHashMap<State, u32>) -> Values {
        let events = seen_until
            .into_iter()
            .map(|(value, until)| (value, self.event_after(until)));
        let mut values = Values {
            last_seen_by: FxHashMap::default(),
            writers: FxHashMap::default(),
            seen_until: events.collect(),
        };
        for call in (0..self.calls.len() as u32).filter(|call| self.must(*call)) {
            let class = self.class(call);
            if let Some(value) = self.model.needs(class) {
                let last = values.last_seen_by.entry(value).or_insert(call);
                if self.returned[*last as usize] < self.returned[call as usize] {
                    *last = call;
                }
            }
            for value in may_leave(self.model, class) {
                let writers = values.writers.entry(value).or_default();
                writers.push(Choice::Open(call));
            }
        }
        for (index, kind) in self.kinds.iter().enumerate() {
            for value in may_leave(self.model, kind.class) {
                let writer = Choice::Unknown(index as u32);
                values.writers.entry(value).or_default().push(writer);
            }
        }
        values
    }

    fn find_ahead(&self) -> Ahead {
        let mut ahead = Ahead {
            reads: Vec::new(),
            first: Vec::with_capacity(self.events.len() + 1),
            resets: Vec::with_capacity(self.events.len() + 1),
        };
        let mut resets = 0;
        for event in &self.events {
            ahead.first.push(ahead.reads.len() as u32);
            ahead.resets.push(resets);
            match *event {
                Event::Return(call) if self.model.reads(self.class(call)) => ahead.reads.push(call),
                Event::Invoke(call) => resets += u32::from(self.model.resets(self.class(call))),
                Event::Return(_) => {}
            }
        }
        ahead.first.push(ahead.reads.len() as u32);
        ahead.resets.push(resets);
        ahead
    }

    /// What it took from its budget and has no use for any more.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn run(&mut self, budget: &mut Budget) -> Found {
        let mut place = Place {
            at: 0,
            state: self.start,
            done: SmallVec::from_elem(0, self.slots.div_ceil(64)),
            used: Used::new(),
            resets: 0,
            lured_from: NONE,
        };
        self.settle(&mut place);
        let mut stack: Vec<Frame> = Vec::new();
        let mut coming = Some(place);
        loop {
            if let Some(place) = coming.take() {
                if place.at as usize == self.events.len() {
                    return Found::Order;
                }
                if let Some(set) = self.failed_with(&place) {
                    let kinds = set.iter().map(|(kind, _)| *kind).collect();
                    block(stack.last_mut(), kinds);
                } else {
                    self.looked_at += 1;
                    let (choices, blocked) = self.choices(&place);
                    let bytes =
                        size_of::<Frame>() + heap_of(&place) + heap(&choices) + heap(&blocked);
                    if !budget.take(1, bytes + self.model.grown()) {
                        return Found::Exhausted;
                    }
                    stack.push(Frame {
                        place,
                        choices,
                        next: 0,
                        blocked,
                        bytes,
                    });
                }
            }
            let Some(frame) = stack.last_mut() else {
                return Found::NoOrder;
            };
            match frame.choices.get(frame.next as usize).copied() {
                Some(choice) => {
                    frame.next += 1;
                    // The last choice of a place needs no copy of it, but its key is needed when it fails.
                    let mut place = frame.place.clone();
                    self.seek(place.at);
                    match self.choose(&mut place, choice) {
                        Ok(()) => coming = Some(place),
                        Err(blocked) => block(stack.last_mut(), blocked),
                    }
                }
                None => {
                    let failed = stack.pop().expect("it was there");
                    budget.give_back(failed.bytes);
                    let grown = self.remember(failed.place, &failed.blocked);
                    block(stack.last_mut(), failed.blocked);
                    self.bytes += grown;
                    if !budget.take(0, grown) {
                        return Found::Exhausted;
                    }
                }
            }
        }
    }

    /// What may get its place next, the call that returns first of all.
    fn choices(&mut self, place: &Place) -> (SmallVec<[Choice; 8]>, Blocked) {
        let mut choices = SmallVec::new();
        let mut blocked = Blocked::new();
        let Event::Return(target) = self.events[place.at as usize] else {
            unreachable!("a place is before a return")
        };
        if self.may_follow(place, self.class(target)) {
            choices.push(Choice::Open(target));
        }
        self.round += 1;
        let alike = self.class(target) as usize;
        self.offered[alike] = (self.round, NEVER);
        for slot in 0..self.slots {
            let call = self.cursor.open[slot];
            if call == NEVER || call == target || is_set(&place.done, slot) {
                continue;
            }
            let class = self.class(call);
            // Of calls that are alike only the one that returns first: in any order they can change places.
            let (round, index) = self.offered[class as usize];
            if round == self.round {
                if let Some(Choice::Open(other)) = choices.get_mut(index as usize)
                    && self.returned[call as usize] < self.returned[*other as usize]
                {
                    *other = call;
                }
                continue;
            }
            // A read that is not done is not legal here.
            if !self.model.reads(class) && self.may_follow(place, class) {
                self.offered[class as usize] = (self.round, choices.len() as u32);
                choices.push(Choice::Open(call));
            }
        }
        match self.values.is_some() {
            true => self.wanted_unknown(place, &mut choices, &mut blocked),
            false => {
                for kind in 0..self.kinds.len() as u32 {
                    if self.is_left(place, kind, &mut blocked) {
                        self.offer_unknown(place, kind, &mut choices);
                    }
                }
            }
        }
        (choices, blocked)
    }

    fn is_left(&self, place: &Place, kind: u32, blocked: &mut Blocked) -> bool {
        let ready = self.cursor.ready[kind as usize];
        if ready == 0 || self.kinds[kind as usize].until < place.at {
            return false;
        }
        let left = ready > used(&place.used, kind);
        if !left && !blocked.contains(&kind) {
            blocked.push(kind);
        }
        left
    }

    /// Unless it changes nothing.
    fn offer_unknown(&mut self, place: &Place, kind: u32, choices: &mut SmallVec<[Choice; 8]>) {
        let class = self.kinds[kind as usize].class;
        let after = self.model.step(place.state, class);
        if after.is_some_and(|after| after != place.state) && self.may_follow(place, class) {
            choices.push(Choice::Unknown(kind));
        }
    }

    /// Unknown calls that leave what an open call needs, or what another such unknown call needs for that.
    fn wanted_unknown(
        &mut self,
        place: &Place,
        choices: &mut SmallVec<[Choice; 8]>,
        blocked: &mut Blocked,
    ) {
        if self.kinds.is_empty() {
            return;
        }
        let mut wanted: SmallVec<[State; 16]> = SmallVec::new();
        for slot in 0..self.slots {
            let call = self.cursor.open[slot];
            if call == NEVER || is_set(&place.done, slot) {
                continue;
            }
            for value in may_need(self.model, self.class(call)) {
                if !wanted.contains(&value) {
                    wanted.push(value);
                }
            }
        }
        let mut at = 0;
        while let Some(value) = wanted.get(at).copied() {
            at += 1;
            let mut offered: SmallVec<[u32; 8]> = SmallVec::new();
            let values = self.values.as_ref().expect("this model has plain values");
            // Kinds stand after calls.
            for writer in values.writers.get(&value).into_iter().flatten().rev() {
                let Choice::Unknown(kind) = *writer else {
                    break;
                };
                if !self.is_left(place, kind, blocked) {
                    continue;
                }
                for needed in may_need(self.model, self.kinds[kind as usize].class) {
                    if !wanted.contains(&needed) {
                        wanted.push(needed);
                    }
                }
                if !offered.contains(&kind) {
                    offered.push(kind);
                }
            }
            for kind in offered {
                self.offer_unknown(place, kind, choices);
            }
        }
    }

    /// Whether it is legal here, and depends on the unknown call before it if there is one.
    fn may_follow(&mut self, place: &Place, class: Class) -> bool {
        let Some(after) = self.model.step(place.state, class) else {
            return false;
        };
        place.lured_from == NONE || self.model.step(place.lured_from, class) != Some(after)
    }

    /// An error: this leads nowhere, because of the kinds that are used up.
    fn choose(&mut self, place: &mut Place, choice: Choice) -> Result<(), Blocked> {
        let before = place.state;
        let class = match choice {
            Choice::Open(call) => {
                set(&mut place.done, self.slot[call as usize] as usize);
                place.lured_from = NONE;
                self.class(call)
            }
            Choice::Unknown(kind) => {
                use_up(&mut place.used, kind);
                place.lured_from = before;
                self.kinds[kind as usize].class
            }
        };
        place.state = self
            .model
            .step(before, class)
            .expect("only legal calls are chosen");
        place.resets += u32::from(self.model.resets(class));
        if self.values.is_some() && place.state != before {
            if self.model.needs(class).is_none() && self.model.leaves(class).is_some() {
                self.take_unseen_along(place);
            }
            if let Some(blocked) = self.leaves_behind(place, before) {
                return Err(blocked);
            }
        }
        if self.ahead.is_some() && !self.may_lead_on(place) {
            // With fewer of these in their places, one of them might reset what rules this out.
            let kinds = place.used.iter().map(|(kind, _)| *kind);
            return Err(kinds.filter(|kind| self.resets(*kind)).collect());
        }
        self.settle(place);
        Ok(())
    }

    fn resets(&self, kind: u32) -> bool {
        self.model.resets(self.kinds[kind as usize].class)
    }

    /// Blind writes that nobody has to see get their place before the blind write that was just placed.
    fn take_unseen_along(&mut self, place: &mut Place) {
        let values = self.values.as_ref().expect("this model has plain values");
        for slot in 0..self.slots {
            let call = self.cursor.open[slot];
            if call == NEVER || is_set(&place.done, slot) {
                continue;
            }
            let class = self.calls[call as usize].class;
            let (None, Some(value)) = (self.model.needs(class), self.model.leaves(class)) else {
                continue;
            };
            let seen = values.seen_until.get(&value);
            if seen.is_none_or(|until| *until < place.at) {
                set(&mut place.done, slot);
            }
        }
    }

    /// Not none if somebody still has to see `value` and nobody is left to write it: the kinds of writers that are used up.
    fn leaves_behind(&self, place: &Place, value: State) -> Option<Blocked> {
        let values = self.values.as_ref().expect("this model has plain values");
        let last = values.last_seen_by.get(&value)?;
        if self.is_done(place, *last) {
            return None;
        }
        let until = self.returned[*last as usize];
        let writers = values.writers.get(&value).map_or(&[][..], Vec::as_slice);
        if writers.len() > WRITERS_LOOKED_AT {
            return None;
        }
        let mut blocked = Blocked::new();
        let left = writers.iter().any(|writer| match *writer {
            Choice::Open(call) => {
                call != *last && self.invoked[call as usize] < until && !self.is_done(place, call)
            }
            Choice::Unknown(kind) => {
                blocked.push(kind);
                let invoked = &self.kinds[kind as usize].invoked;
                let ready = invoked.partition_point(|event| *event < until) as u32;
                ready > used(&place.used, kind)
            }
        });
        (!left).then_some(blocked)
    }

    fn is_done(&self, place: &Place, call: u32) -> bool {
        let at = place.at;
        self.returned[call as usize] < at
            || (self.invoked[call as usize] < at
                && is_set(&place.done, self.slot[call as usize] as usize))
    }

    /// Whether the read that returns next can still come true.
    fn may_lead_on(&mut self, place: &Place) -> bool {
        let ahead = self.ahead.as_ref().expect("this model looks ahead");
        let from = ahead.first[place.at as usize] as usize;
        let next = ahead.reads[from..]
            .iter()
            .find(|read| !self.is_done(place, **read));
        let Some(read) = next.copied() else {
            return true;
        };
        let resets = ahead.resets[self.returned[read as usize] as usize];
        resets > place.resets || self.model.leads_to(place.state, self.class(read))
    }

    /// Places the reads that are legal, and goes on to the next return of a call without a place.
    fn settle(&mut self, place: &mut Place) {
        self.place_reads(place);
        loop {
            self.seek(place.at);
            let Some(event) = self.events.get(place.at as usize) else {
                return;
            };
            match *event {
                Event::Invoke(call) => {
                    place.at += 1;
                    let class = self.class(call);
                    if self.must(call)
                        && self.model.reads(class)
                        && self.model.step(place.state, class).is_some()
                    {
                        set(&mut place.done, self.slot[call as usize] as usize);
                    }
                }
                Event::Return(call) => {
                    let slot = self.slot[call as usize] as usize;
                    if !is_set(&place.done, slot) {
                        break;
                    }
                    clear(&mut place.done, slot);
                    place.at += 1;
                }
            }
        }
        if !place.used.is_empty() {
            let at = place.at;
            place
                .used
                .retain(|(kind, _)| self.kinds[*kind as usize].until >= at);
        }
    }

    fn place_reads(&mut self, place: &mut Place) {
        for slot in 0..self.slots {
            let call = self.cursor.open[slot];
            if call == NEVER || is_set(&place.done, slot) {
                continue;
            }
            let class = self.class(call);
            if self.model.reads(class) && self.model.step(place.state, class).is_some() {
                set(&mut place.done, slot);
                // It depends on the unknown call before it: without it, it would have had its place.
                place.lured_from = NONE;
            }
        }
    }

    /// Moves the cursor to just before an event.
    fn seek(&mut self, at: u32) {
        let cursor = &mut self.cursor;
        while cursor.at < at {
            match self.events[cursor.at as usize] {
                Event::Invoke(call) if self.returned[call as usize] != NEVER => {
                    cursor.open[self.slot[call as usize] as usize] = call;
                }
                Event::Invoke(call) => {
                    let kind = self.kind_of[call as usize];
                    if kind != NEVER {
                        cursor.ready[kind as usize] += 1;
                    }
                }
                Event::Return(call) => cursor.open[self.slot[call as usize] as usize] = NEVER,
            }
            cursor.at += 1;
        }
        while cursor.at > at {
            cursor.at -= 1;
            match self.events[cursor.at as usize] {
                Event::Invoke(call) if self.returned[call as usize] != NEVER => {
                    cursor.open[self.slot[call as usize] as usize] = NEVER;
                }
                Event::Invoke(call) => {
                    let kind = self.kind_of[call as usize];
                    if kind != NEVER {
                        cursor.ready[kind as usize] -= 1;
                    }
                }
                Event::Return(call) => cursor.open[self.slot[call as usize] as usize] = call,
            }
        }
    }

    /// What was used up when the same failed, if it did and that is used up here too.
    fn failed_with(&self, place: &Place) -> Option<&Used> {
        if self.failed.is_empty() {
            return None;
        }
        let key = Key {
            at: place.at,
            state: place.state,
            lured_from: place.lured_from,
            done: place.done.clone(),
        };
        let sets = self.failed.get(&key).map_or(&[][..], SmallVec::as_slice);
        sets.iter().find(|set| is_within(set, &place.used))
    }

    /// That no order begins like this, with so many of the blocked kinds used up. Gives the bytes that it takes.
    fn remember(&mut self, mut place: Place, blocked: &Blocked) -> usize {
        place.used.retain(|(kind, _)| blocked.contains(kind));
        let heap = heap_of(&place);
        let key = Key {
            at: place.at,
            state: place.state,
            lured_from: place.lured_from,
            done: place.done,
        };
        let sets = self.failed.entry(key).or_default();
        let before = sets.len();
        sets.retain(|set| !is_within(&place.used, set));
        if sets.len() == SETS_KEPT {
            sets.remove(0);
        }
        sets.push(place.used);
        match before {
            // Twice: a hash table that has just grown is half empty.
            0 => 2 * size_of::<(Key, SmallVec<[Used; 1]>)>() + heap,
            before if sets.len() > before => size_of::<Used>() + heap,
            _ => 0,
        }
    }
}

/// By value, for models of plain values: after which place in the history nobody can see it, so that it makes no
/// difference whether it was written; [`NEVER`]: somebody may always.
pub fn seen_until<M: Model>(model: &M, calls: &[Call]) -> FxHashMap<State, u32> {
    let mut until: FxHashMap<State, u32> = FxHashMap::default();
    if !model.plain_values() {
        return until;
    }
    for call in calls.iter().filter(|call| call.ended != NEVER) {
        for value in may_need(model, call.class) {
            let end = until.entry(value).or_default();
            *end = (*end).max(call.ended);
        }
    }
    // An unknown call that somebody may depend on sees what it needs at any time, and so on from one to the next.
    let mut leave: FxHashMap<State, Vec<&Call>> = FxHashMap::default();
    for call in calls.iter().filter(|call| call.ended == NEVER) {
        for value in may_leave(model, call.class) {
            leave.entry(value).or_default().push(call);
        }
    }
    let mut wanted: Vec<State> = until.keys().copied().collect();
    while let Some(value) = wanted.pop() {
        let end = until[&value];
        let useful = leave
            .get(&value)
            .into_iter()
            .flatten()
            .filter(|call| call.invoked < end);
        for call in useful {
            for needed in may_need(model, call.class) {
                if until.insert(needed, NEVER) != Some(NEVER) {
                    wanted.push(needed);
                }
            }
        }
    }
    until
}

/// The states in which it makes a difference what the call finds.
fn may_need<M: Model>(model: &M, class: Class) -> impl Iterator<Item = State> {
    let places = model.places(class).iter().map(|(found, _)| *found);
    model.needs(class).into_iter().chain(places)
}

/// The states that it may leave and that somebody may need.
pub fn may_leave<M: Model>(model: &M, class: Class) -> impl Iterator<Item = State> {
    let places = model.places(class).iter().map(|(_, left)| *left);
    model.leaves(class).into_iter().chain(places)
}

/// What a vector has beside itself.
fn heap<A: smallvec::Array>(vector: &SmallVec<A>) -> usize {
    if vector.spilled() {
        vector.capacity() * size_of::<A::Item>()
    } else {
        0
    }
}

fn heap_of(place: &Place) -> usize {
    heap(&place.done) + heap(&place.used)
}

/// Adds kinds to those that were asked for in vain.
fn block(frame: Option<&mut Frame>, kinds: Blocked) {
    if let Some(frame) = frame {
        let new = kinds
            .into_iter()
            .filter(|kind| !frame.blocked.contains(kind))
            .collect::<Blocked>();
        frame.blocked.extend(new);
    }
}

fn events_of(calls: &[Call]) -> Vec<Event> {
    let mut events: Vec<(u32, Event)> = Vec::with_capacity(2 * calls.len());
    for (index, call) in calls.iter().enumerate() {
        events.push((call.invoked, Event::Invoke(index as u32)));
        if call.ended != NEVER {
            events.push((call.ended, Event::Return(index as u32)));
        }
    }
    events.sort_unstable_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}

/// A bit for each call that must be placed; calls that are open at the same time have different ones.
fn slots_of(calls: usize, events: &[Event], returned: &[u32]) -> (Vec<u32>, usize) {
    let mut slot = vec![NEVER; calls];
    let mut free: Vec<u32> = Vec::new();
    let mut slots = 0;
    for event in events {
        match *event {
            Event::Invoke(call) if returned[call as usize] != NEVER => {
                slot[call as usize] = free.pop().unwrap_or_else(|| {
                    slots += 1;
                    slots - 1
                });
            }
            Event::Invoke(_) => {}
            Event::Return(call) => free.push(slot[call as usize]),
        }
    }
    (slot, slots as usize)
}

fn is_set(bits: &Bits, at: usize) -> bool {
    bits[at / 64] >> (at % 64) & 1 == 1
}

fn set(bits: &mut Bits, at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

fn clear(bits: &mut Bits, at: usize) {
    bits[at / 64] &= !(1 << (at % 64));
}

fn used(used: &Used, kind: u32) -> u32 {
    used.iter().find(|(k, _)| *k == kind).map_or(0, |(_, n)| *n)
}

fn use_up(used: &mut Used, kind: u32) {
    match used.binary_search_by_key(&kind, |(k, _)| *k) {
        Ok(at) => used[at].1 += 1,
        Err(at) => used.insert(at, (kind, 1)),
    }
}

/// Whether `more` has everything of `less`.
fn is_within(less: &Used, more: &Used) -> bool {
    less.iter().all(|(kind, n)| used(more, *kind) >= *n)
}
