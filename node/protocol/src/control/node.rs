//! A node's side of the heartbeats: what to send, to which manager, when; and what an answer means.
//!
//! Answers that were overtaken or repeated have no effect. What a leader did not acknowledge is sent again; a new
//! leader is told everything anew.

use super::lease::LeaseHolder;
use super::message::{
    ASKS_PER_HEARTBEAT_MAX, Ask, CLIENTS_PER_HEARTBEAT_MAX, Claim, Condition, CopyReport,
    HeartbeatAnswer, HeartbeatOutcome, HeartbeatRefusal, HeartbeatRequest,
    REPORTS_PER_HEARTBEAT_MAX, Taken,
};
use crate::mutant::Mutant;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::{ClientId, Epoch, NodeId, ProcessId, Revision, ShardId};

/// Heartbeats of which an answer is still expected; beyond it the oldest is given up.
const OUTSTANDING_MAX: usize = 64;
/// A position that moved and nothing else is reported at every so many heartbeats only.
const POSITION_EVERY: u64 = 10;
/// Clients whose activity waits to be reported; beyond it the activity of further ones is not told.
const ACTIVE_MAX: usize = 100_000;

#[derive(Debug)]
struct Reported {
    report: CopyReport,
    /// Which content this is, counted over all reports of this process.
    edition: u64,
    /// Whether the leader of the present term acknowledged this content.
    acknowledged: bool,
    /// Only the position differs from what was acknowledged.
    position_only: bool,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    /// The reports that it bore, by shard and edition.
    reports: Vec<(ShardId, u64)>,
    active: Vec<ClientId>,
}

/// What the driver does after an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Copies that may be deleted, each only while no newer row than that revision is known for the shard.
    pub deletable: Vec<(ShardId, Revision)>,
    /// The leader's tables; a node that knows less fetches.
    pub tables_revision: Option<Revision>,
    /// The node is unknown: register anew.
    pub register: bool,
    /// A later process is registered: this one has to end.
    pub superseded: bool,
}

/// The heartbeats and leases of one process of a node.
#[derive(Debug)]
pub struct NodeControl {
    process: ProcessId,
    managers: Vec<NodeId>,
    /// Index of the manager that is asked next.
    target: usize,
    /// Index of the manager that was last asked in its turn, not because another named it.
    turn: usize,
    leases: LeaseHolder,
    condition: Condition,
    interval: Duration,
    /// The first heartbeat to the present target since its last answer.
    silent_since: Option<Instant>,
    next_sequence: u64,
    /// Of the last heartbeat sent; `None` before the first.
    last_sent: Option<(u64, Instant)>,
    /// The newest heartbeat that was answered by a leader.
    last_answered: u64,
    /// Whether the last answer was a refusal: the next hint is not followed at once.
    refused: bool,
    outstanding: BTreeMap<u64, Sent>,
    /// Something should not wait for the interval.
    urgent: bool,
    list_wanted: bool,
    term: u64,
    reports: BTreeMap<ShardId, Reported>,
    last_edition: u64,
    unacknowledged: BTreeSet<ShardId>,
    asks: BTreeSet<Ask>,
    active: BTreeSet<ClientId>,
    /// What a leader took lately and may not have written: the next one is told again. By age, the newer first.
    told: [BTreeSet<ClientId>; 2],
    told_since: Instant,
    retired: bool,
    /// Its disk refused a write for good: it only answers reads of its copies, and says so.
    store_failed: bool,
    /// What a leader last said that it grants; beacons ask for as much.
    lease: Option<Duration>,
    /// Up to here the node counts as one that makes progress.
    progress_until: Instant,
}

/// Longer than a leader waits before it writes who was active.
const TOLD_FOR: Duration = Duration::from_millis(10_000);

impl NodeControl {
    /// `managers` must not be empty; `interval` holds until a leader says another.
    pub fn new(process: ProcessId, managers: Vec<NodeId>, interval: Duration) -> NodeControl {
        assert!(!managers.is_empty(), "{process} knows no manager");
        NodeControl {
            process,
            managers,
            target: 0,
            turn: 0,
            leases: LeaseHolder::new(),
            condition: Condition::Serving,
            interval,
            silent_since: None,
            next_sequence: 1,
            last_sent: None,
            last_answered: 0,
            refused: false,
            outstanding: BTreeMap::new(),
            urgent: true,
            list_wanted: false,
            term: 0,
            reports: BTreeMap::new(),
            last_edition: 0,
            unacknowledged: BTreeSet::new(),
            asks: BTreeSet::new(),
            active: BTreeSet::new(),
            told: Default::default(),
            told_since: Instant::ZERO,
            retired: false,
            store_failed: false,
            lease: None,
            progress_until: Instant::ZERO,
        }
    }

    /// Between two heartbeats, of nodes to managers and of primaries to copies.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// This process acts as primary of the shard in that epoch, as the tables name it.
    pub fn claim(&mut self, shard: ShardId, epoch: Epoch) {
        self.leases
            .claim(Claim { shard, epoch }, self.next_sequence);
        self.urgent = true;
    }

    /// It does not any more: a promise was given, or the tables name another.
    pub fn give_up(&mut self, shard: ShardId) {
        self.leases.give_up(shard);
        self.asks.retain(|a| a.shard() != shard);
    }

    /// The manager's lease, to be checked before and after every act as primary.
    pub fn holds(&self, shard: ShardId, epoch: Epoch, now: Instant) -> bool {
        !self.is_retired() && self.leases.holds(shard, epoch, now)
    }

    /// The process ends: it acts as primary no more, whatever the tables say, and sends no heartbeat.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// The store takes no writes any more: this process acts as primary no more, and the managers are told, so that they wait
    /// for none of its leases. False: that was said before.
    pub fn fail_store(&mut self) -> bool {
        self.urgent |= !self.store_failed;
        !std::mem::replace(&mut self.store_failed, true)
    }

    /// Whether it acts as primary no more.
    pub fn is_retired(&self) -> bool {
        self.retired || (self.store_failed && !Mutant::ActWithFailedStore.on())
    }

    /// Disk and shard threads moved; up to that time beacons are sent and answered because of it.
    pub fn progresses_until(&mut self, until: Instant) {
        self.progress_until = until;
    }

    /// The lease that a beacon asks its witness for; `None`: none is sent or answered now.
    pub fn beacon(&self, now: Instant) -> Option<Duration> {
        self.lease
            .filter(|_| now <= self.progress_until && !self.is_retired())
    }

    pub fn leases(&self) -> &LeaseHolder {
        &self.leases
    }

    pub fn set_condition(&mut self, condition: Condition) {
        self.urgent |= self.condition != condition;
        self.condition = condition;
    }

    /// A changed list of managers (a reloaded configuration).
    pub fn set_managers(&mut self, managers: Vec<NodeId>) {
        assert!(!managers.is_empty(), "{} knows no manager", self.process);
        let asked = self.managers[self.target];
        let place = managers.iter().position(|m| *m == asked);
        self.turn = place.unwrap_or(0);
        self.turn_target(self.turn);
        self.managers = managers;
    }

    /// What the copy of a shard is now. A change of the position alone is not told at once.
    pub fn report(&mut self, report: CopyReport) {
        let old = self.reports.get(&report.shard);
        let position_only = old.is_some_and(|o| {
            let moved = CopyReport {
                last: report.last,
                ..o.report
            };
            moved == report && (o.acknowledged || o.position_only)
        });
        if old.is_some_and(|o| o.report == report) {
            return;
        }
        self.urgent |= !position_only;
        self.unacknowledged.insert(report.shard);
        self.last_edition += 1;
        let reported = Reported {
            report,
            edition: self.last_edition,
            acknowledged: false,
            position_only,
        };
        self.reports.insert(report.shard, reported);
    }

    /// Asks until [`NodeControl::withdraw`], because the tables show it, or the claim is given up.
    pub fn ask(&mut self, ask: Ask) {
        self.urgent |= self.asks.insert(ask);
    }

    pub fn withdraw(&mut self, ask: &Ask) {
        self.asks.remove(ask);
    }

    pub fn active(&mut self, client: ClientId) {
        if self.active.len() < ACTIVE_MAX {
            self.active.insert(client);
        }
    }

    /// When the next heartbeat is due.
    pub fn due(&self) -> Instant {
        match self.last_sent {
            None => Instant::ZERO,
            // Urgent news wait for the answer under way, or half an interval.
            Some((sequence, at)) if self.urgent && sequence <= self.last_answered => at,
            Some((_, at)) if self.urgent => at + self.interval.scale(1, 2),
            Some((_, at)) => at + self.interval,
        }
    }

    /// The next heartbeat, if one is due. Without progress (the disk took a synced write and the shards' threads turned
    /// lately) none is sent, and so the leases end; but that the store failed is told.
    pub fn next_heartbeat(
        &mut self,
        now: Instant,
        wall_ms: u64,
        progress: bool,
    ) -> Option<(NodeId, HeartbeatRequest)> {
        if now < self.due() || self.retired || !(progress || self.store_failed) {
            return None;
        }
        self.turn_from_silent_manager(now);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.last_sent = Some((sequence, now));
        self.urgent = false;
        let due = self.due_reports(sequence);
        let borne = due.iter().map(|r| (r.report.shard, r.edition)).collect();
        let reports = due.iter().map(|r| r.report).collect();
        let active = self.active.iter().take(CLIENTS_PER_HEARTBEAT_MAX);
        let active: Vec<ClientId> = active.copied().collect();
        active.iter().for_each(|c| {
            self.active.remove(c);
        });
        let request = HeartbeatRequest {
            process: self.process,
            sequence,
            wall_ms,
            condition: match self.store_failed {
                true => Condition::StoreFailed,
                false => self.condition,
            },
            claims: self.leases.digest(),
            claim_list: self.list_wanted.then(|| self.leases.claims().collect()),
            term: self.term,
            reports,
            asks: self
                .asks
                .iter()
                .take(ASKS_PER_HEARTBEAT_MAX)
                .copied()
                .collect(),
            active: active.clone(),
        };
        let sent = Sent {
            at: now,
            reports: borne,
            active,
        };
        self.outstanding.insert(sequence, sent);
        while self.outstanding.len() > OUTSTANDING_MAX {
            if let Some((_, lost)) = self.outstanding.pop_first() {
                self.active.extend(lost.active);
            }
        }
        Some((self.managers[self.target], request))
    }

    /// A manager that answered nothing for an interval is not asked next.
    fn turn_from_silent_manager(&mut self, now: Instant) {
        let since = *self.silent_since.get_or_insert(now);
        if now.since(since) >= self.interval {
            self.ask_next_in_turn();
            self.silent_since = Some(now);
        }
    }

    fn ask_next_in_turn(&mut self) {
        self.turn = (self.turn + 1) % self.managers.len();
        self.turn_target(self.turn);
    }

    fn turn_target(&mut self, target: usize) {
        if self.target != target {
            self.silent_since = None;
        }
        self.target = target;
    }

    fn due_reports(&self, sequence: u64) -> Vec<&Reported> {
        let positions_too = sequence.is_multiple_of(POSITION_EVERY);
        let reports = self.unacknowledged.iter();
        let reports = reports.filter_map(|shard| self.reports.get(shard));
        let due = reports.filter(|r| positions_too || !r.position_only);
        due.take(REPORTS_PER_HEARTBEAT_MAX).collect()
    }

    /// Takes an answer from the manager `from`.
    pub fn on_answer(&mut self, now: Instant, from: NodeId, answer: HeartbeatAnswer) -> Answered {
        let expected = self.outstanding.contains_key(&answer.sequence);
        if answer.process != self.process || !expected {
            return Answered::default();
        }
        match answer.outcome {
            HeartbeatOutcome::Refused(why) => self.on_refused(from, answer.sequence, why),
            HeartbeatOutcome::Taken(taken) => self.on_taken(now, from, answer.sequence, taken),
        }
    }

    fn on_refused(&mut self, from: NodeId, sequence: u64, why: HeartbeatRefusal) -> Answered {
        let mut answered = Answered::default();
        if why != HeartbeatRefusal::Stale
            && let Some(sent) = self.outstanding.remove(&sequence)
        {
            self.active.extend(sent.active);
        }
        match why {
            HeartbeatRefusal::NotLeading { leader } => self.turn_to(from, sequence, leader),
            HeartbeatRefusal::Unknown => answered.register = true,
            HeartbeatRefusal::Superseded => answered.superseded = true,
            HeartbeatRefusal::Stale => {}
        }
        answered
    }

    /// Only the manager that is asked now turns the next question away from itself.
    fn turn_to(&mut self, from: NodeId, sequence: u64, leader: Option<NodeId>) {
        let newest = self.last_sent.is_some_and(|(last, _)| last == sequence);
        if !newest || self.managers[self.target] != from || sequence <= self.last_answered {
            return;
        }
        // Whoever was named and does not lead either is not followed further: two managers that name each other would be
        // asked for ever, and never the third.
        let in_turn = self.target == self.turn;
        let named = leader.filter(|l| *l != from && in_turn);
        match named.and_then(|l| self.managers.iter().position(|m| *m == l)) {
            Some(named) => {
                self.urgent |= !self.refused;
                self.turn_target(named);
            }
            None => self.ask_next_in_turn(),
        }
        self.refused = true;
        self.silent_since = None;
        // The question is answered: the next one is not turned once more because of it.
        self.last_answered = self.last_answered.max(sequence);
    }

    fn on_taken(&mut self, now: Instant, from: NodeId, sequence: u64, taken: Taken) -> Answered {
        let newer = sequence > self.last_answered;
        let Some(sent) = self.outstanding.remove(&sequence) else {
            return Answered::default();
        };
        if !newer || taken.term < self.term {
            self.active.extend(sent.active);
            return Answered::default();
        }
        self.last_answered = sequence;
        self.refused = false;
        // What was asked earlier and is answered later is not waited for.
        while let Some(first) = self.outstanding.first_entry()
            && *first.key() < sequence
        {
            self.active.extend(first.remove().active);
        }
        if let Some(place) = self.managers.iter().position(|m| *m == from) {
            self.turn = place;
            self.target = place;
        }
        self.silent_since = None;
        self.interval = taken.heartbeat_interval;
        self.lease = Some(taken.lease);
        self.leases
            .grant(sequence, sent.at, taken.lease, &taken.grants, now);
        self.note_told(now, sent.active, taken.term != self.term);
        self.urgent |= taken.claim_list_wanted && !self.list_wanted;
        self.list_wanted = taken.claim_list_wanted;
        self.acknowledge(&sent.reports, taken.term, taken.full_report_wanted);
        Answered {
            deletable: taken.deletable,
            tables_revision: Some(taken.tables_revision),
            ..Answered::default()
        }
    }

    fn note_told(&mut self, now: Instant, active: Vec<ClientId>, another: bool) {
        if another {
            self.active
                .extend(std::mem::take(&mut self.told).into_iter().flatten());
        }
        if now.since(self.told_since) >= TOLD_FOR {
            self.told_since = now;
            self.told.swap(0, 1);
            self.told[0].clear();
        }
        let room = ACTIVE_MAX.saturating_sub(self.told[0].len());
        self.told[0].extend(active.into_iter().take(room));
    }

    /// A leader that knows not all copies is told of all of them, but for those that it was just told of.
    fn acknowledge(&mut self, borne: &[(ShardId, u64)], term: u64, all_wanted: bool) {
        if term != self.term || all_wanted {
            self.term = term;
            self.unacknowledged = self.reports.keys().copied().collect();
            for reported in self.reports.values_mut() {
                reported.acknowledged = false;
                reported.position_only = false;
            }
        }
        for (shard, edition) in borne {
            let Some(reported) = self.reports.get_mut(shard) else {
                continue;
            };
            if reported.edition != *edition {
                continue;
            }
            reported.acknowledged = true;
            self.unacknowledged.remove(shard);
            if !reported.report.present {
                self.reports.remove(shard);
            }
        }
        let told = |shard: &ShardId| self.reports.get(shard).is_some_and(|r| r.position_only);
        self.urgent |= !self.unacknowledged.iter().all(told);
    }
}
