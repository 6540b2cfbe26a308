//! What all parts of the world share: the time, the queue of events, the network, the trace and the checks.
//!
//! Events at the same time happen in the order in which they were queued, so a run has one order only.

use super::event::{Event, Parcel};
use super::network::{Network, Place};
use super::sites::Sites;
use super::trace::Trace;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::{CopyId, NodeId, Pair, ShardId};
use understudy_protocol::conflict::{Conflict, Shown, is_reserved, parse_conflict_key};
use understudy_protocol::effect::Keep;
use understudy_protocol::forwarded::Forwarded;
use understudy_protocol::invariants::{Checked, Invariants, Violation};
use understudy_protocol::shard::message::Records;
use understudy_protocol::store::{Batch, StoreChange};
use understudy_protocol::tables::{ConflictPolicy, Forward};

/// Managers' ids are apart from nodes' ids.
const FIRST_MANAGER: u64 = 1_000;

#[derive(Debug)]
pub struct Env {
    pub seed: u64,
    pub now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub network: Network,
    pub trace: Trace,
    pub invariants: Invariants,
    /// The first thing that was found wrong.
    pub violation: Option<Violation>,
    /// Copies that gave up because their data contradict the log, or a read failed.
    pub broken: u64,
    /// Which host bears which node id.
    pub hosts: BTreeMap<NodeId, usize>,
    pub registered: BTreeMap<usize, CopyId>,
    /// Which outcomes the namespaces keep.
    pub keep: Keep,
    /// Where writes were refused for want of a lease since the last look.
    pub refused: Vec<(usize, ShardId)>,
    /// Promotions that a person forced.
    pub forced: u64,
    /// Copies that were found the same as their primary, each page counted.
    pub compared: u64,
    /// What the namespaces want done with what failovers cut off.
    pub policies: BTreeMap<ShardId, ConflictPolicy>,
    /// What they forward to the copies.
    pub forward: BTreeMap<ShardId, Forward>,
    /// Records that were sent as operations, and with the objects that they left.
    pub operations: u64,
    pub with_objects: u64,
    /// Conflicts that were seen on some disk, the newest last: what a person may have been shown.
    pub shown: VecDeque<ShownConflict>,
    /// Where primaries follow their writers.
    pub sites: Option<Sites>,
}

/// A conflict with the objects that it is about, as they were when it was found.
#[derive(Clone, Debug)]
pub struct ShownConflict {
    pub shard: ShardId,
    pub shown: Shown,
    pub objects: Vec<(Bytes, Option<Pair>)>,
}

const SHOWN_MAX: usize = 32;

impl Env {
    pub fn new(seed: u64, trace: Trace) -> Env {
        Env {
            seed,
            now_us: 0,
            queue: BTreeMap::new(),
            queued: 0,
            network: Network::new(seed),
            trace,
            invariants: Invariants::default(),
            violation: None,
            broken: 0,
            hosts: BTreeMap::new(),
            registered: BTreeMap::new(),
            keep: Keep::default(),
            refused: Vec::new(),
            forced: 0,
            compared: 0,
            policies: BTreeMap::new(),
            forward: BTreeMap::new(),
            operations: 0,
            with_objects: 0,
            shown: VecDeque::new(),
            sites: Sites::draw(seed),
        }
    }

    /// Notes the conflicts that a batch puts.
    pub fn show(&mut self, batch: &Batch) {
        for change in &batch.changes {
            let StoreChange::PutObject {
                key,
                object: Some(object),
                ..
            } = change
            else {
                continue;
            };
            let Some((request, cut_off)) = parse_conflict_key(key) else {
                continue;
            };
            let Ok(conflict) = Conflict::of_object(object) else {
                continue;
            };
            let pair = object.last.pair;
            let changes = conflict.cut_off.changes().iter().zip(&conflict.stands);
            let named = changes.filter(|(change, _)| !is_reserved(&change.key));
            let objects = named.map(|(change, last)| (change.key.clone(), last.map(|l| l.pair)));
            self.shown.push_back(ShownConflict {
                shard: batch.shard,
                shown: Shown {
                    request,
                    cut_off,
                    pair,
                },
                objects: objects.collect(),
            });
            if self.shown.len() > SHOWN_MAX {
                self.shown.pop_front();
            }
        }
    }

    /// Counts the forms in which records go.
    pub fn forwards(&mut self, records: &Records) {
        for record in &records.records {
            match record {
                Forwarded::Record(_) => {}
                Forwarded::Operation(_) => self.operations += 1,
                Forwarded::WithObjects(..) => self.with_objects += 1,
            }
        }
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.queued += 1;
        self.queue
            .insert((self.now_us + delay_us, self.queued), event);
    }

    /// The next event; the time moves to it.
    pub fn pop(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        assert!(at >= self.now_us, "time goes back");
        self.now_us = at;
        Some(event)
    }

    pub fn send(&mut self, from: Place, to: Place, parcel: Parcel) {
        let [first, second] = self.network.send(from, to);
        if first.is_none() {
            self.note(format_args!("{from} -> {to} LOST {}", parcel.brief()));
        }
        // A call of a client goes over a connection: it is lost with it, and never made twice.
        let call = matches!(from, Place::Client(_)) || matches!(to, Place::Client(_));
        if let Some(delay) = second.filter(|_| !call) {
            let parcel = Box::new(parcel.clone());
            self.after(delay, Event::Deliver { from, to, parcel });
        }
        if let Some(delay) = first {
            let parcel = Box::new(parcel);
            self.after(delay, Event::Deliver { from, to, parcel });
        }
    }

    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.line(self.now_us, line);
    }

    /// Keeps the first violation; the world stops after the event.
    pub fn check(&mut self, checked: Checked) {
        if let Err(violation) = checked {
            self.note(format_args!("VIOLATION {violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    /// The copy id of the process that registered last at the host.
    pub fn copy_at(&self, host: usize) -> Option<CopyId> {
        self.registered.get(&host).copied()
    }

    /// The place of a server by the id that the tables know it by.
    pub fn place(&self, id: NodeId) -> Option<Place> {
        match id.0.checked_sub(FIRST_MANAGER) {
            Some(manager) => Some(Place::Manager(manager as usize)),
            None => self.hosts.get(&id).map(|host| Place::Node(*host)),
        }
    }

    pub fn manager_id(manager: usize) -> NodeId {
        NodeId(FIRST_MANAGER + manager as u64)
    }
}

/// A machine's clock: it starts anywhere and drifts within the allowance. It runs while the process does not.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub offset_us: u64,
    /// Millionths that it is too fast (or, below zero, too slow).
    pub drift_ppm: i64,
}

impl Clock {
    pub fn read(self, now_us: u64) -> understudy_protocol::time::Instant {
        let drift = (now_us as i64 * self.drift_ppm) / 1_000_000;
        understudy_protocol::time::Instant(self.offset_us + (now_us as i64 + drift) as u64)
    }
}

/// The world's wall clock in milliseconds since 1970; the start is any day.
pub fn wall_ms(now_us: u64) -> u64 {
    1_795_000_000_000 + now_us / 1_000
}
