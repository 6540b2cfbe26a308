//! Heartbeats: who is alive, what its copies are, and which of its claims get a lease.
//!
//! The answer counts as a lease from when the heartbeat was SENT; this side counts from `now`, when it answers. So the
//! lease can only end earlier than this side believes.

use super::leader::{Heard, Leader, Turn};
use super::message::{
    Ask, Claim, ClaimDigest, Condition, CopyReport, DELETABLE_PER_ANSWER_MAX, Grants,
    HeartbeatAnswer, HeartbeatOutcome, HeartbeatRefusal, HeartbeatRequest, Taken,
};
use super::view::Primaries;
use crate::mutant::Mutant;
use crate::tables::{EntryOp, NodeState};
use std::collections::BTreeMap;
use understudy_proto::ids::{Epoch, ProcessId, ShardId};

use super::controller::{Action, Warning};

impl Leader {
    /// A leader that may not grant is silent, so that the node asks the others: one of them may lead.
    pub(super) fn on_heartbeat(&mut self, turn: &mut Turn, request: HeartbeatRequest) {
        if !self.may_grant(turn.now, turn.tables, turn.settings) {
            return;
        }
        let (process, sequence) = (request.process, request.sequence);
        let outcome = match self.refusal(turn, &request) {
            Some(why) => HeartbeatOutcome::Refused(why),
            None => HeartbeatOutcome::Taken(self.take(turn, request)),
        };
        turn.out.push(Action::AnswerHeartbeat(HeartbeatAnswer {
            process,
            sequence,
            outcome,
        }));
    }

    fn refusal(&self, turn: &Turn, request: &HeartbeatRequest) -> Option<HeartbeatRefusal> {
        let process = request.process;
        let node = match turn.tables.node(process.node) {
            Some(node) if node.state != NodeState::Removed => node,
            _ => return Some(HeartbeatRefusal::Unknown),
        };
        if node.process() != process || node.has_ended(process) {
            return Some(HeartbeatRefusal::Superseded);
        }
        let heard = self.heard.get(&process.node);
        let stale = heard.is_some_and(|h| h.process == process && h.sequence >= request.sequence);
        stale.then_some(HeartbeatRefusal::Stale)
    }

    fn take(&mut self, turn: &mut Turn, request: HeartbeatRequest) -> Taken {
        let process = request.process;
        let full = self.note_heard(turn, &request);
        let knows = request.term == self.term();
        self.clock.told(request.process, &request.active, knows);
        for report in &request.reports {
            self.on_report(turn, process, *report);
        }
        for ask in &request.asks {
            self.on_ask(turn, process, *ask);
        }
        for shares in request.writers.iter().cloned() {
            self.on_writers(turn, process, shares);
        }
        // After the asks and reports: a failover that they began has its latch before anything is granted.
        let (grants, wanted) = self.grants(process, &request);
        self.answered.insert(process, turn.now);
        let settings = turn.tables.settings();
        Taken {
            term: self.term(),
            grants,
            lease: settings.lease(),
            heartbeat_interval: settings.heartbeat_interval,
            claim_list_wanted: wanted,
            full_report_wanted: full,
            tables_revision: turn.tables.revision(),
            deletable: self.deletable(process),
        }
    }

    /// Whether the node believes that it told this leader everything, and did not.
    fn note_heard(&mut self, turn: &mut Turn, request: &HeartbeatRequest) -> bool {
        let process = request.process;
        let fresh = !self.heard.contains_key(&process.node);
        let known = self.heard.entry(process.node).or_insert_with(|| Heard {
            process,
            sequence: 0,
            at: turn.now,
            wall_ms: 0,
            condition: request.condition,
            store_failed: None,
            reports: BTreeMap::new(),
            deletable: BTreeMap::new(),
        });
        assert_eq!(known.process, process, "a heartbeat of another process");
        let turned = known.condition != request.condition;
        known.sequence = request.sequence;
        known.at = turn.now;
        known.wall_ms = request.wall_ms;
        known.condition = request.condition;
        let failed = request.condition == Condition::StoreFailed;
        if failed && known.store_failed.is_none() {
            known.store_failed = Some(turn.now);
            turn.out
                .push(Action::Warn(Warning::StoreFailed { process }));
        }
        self.detector.heard(process.node, turn.now);
        if turned && let Some(of) = self.view.primaries.get(&process) {
            self.dirty.extend(of.shards.iter().copied());
        }
        if fresh {
            self.welcome(turn, process);
        }
        if failed {
            self.begin_for(turn, process);
        }
        fresh && request.term == self.term()
    }

    /// The first sign of a process: it is up at once, and shards that lack copies look at it.
    fn welcome(&mut self, turn: &mut Turn, process: ProcessId) {
        self.dirty.extend(self.short.keys().copied());
        let Some(node) = turn.tables.node(process.node) else {
            return;
        };
        if node.state != node.alive_state() {
            let (revision, state) = (node.revision, node.alive_state());
            self.propose_node_state(turn, process.node, revision, state);
        }
    }

    fn on_report(&mut self, turn: &mut Turn, process: ProcessId, report: CopyReport) {
        let heard = self.heard.get_mut(&process.node);
        let heard = heard.expect("the heartbeat that bears the report was noted");
        let shard = report.shard;
        let old = heard.reports.insert(shard, report);
        if !report.present {
            heard.reports.remove(&shard);
            heard.deletable.remove(&shard);
        }
        let same = |o: CopyReport| {
            CopyReport {
                last: report.last,
                ..o
            } == report
        };
        if !old.is_some_and(same) {
            self.dirty.insert(shard);
        }
        // A promise above the row's epoch means a failover that was begun and is to be finished.
        let Some(entry) = turn.tables.shard(shard) else {
            return;
        };
        let full = entry.full_copies().any(|c| c == process.copy());
        if full && report.promised > entry.epoch {
            self.begin(turn, shard, report.promised, None);
        }
    }

    fn on_ask(&mut self, turn: &mut Turn, process: ProcessId, ask: Ask) {
        let shard = ask.shard();
        let Some(entry) = turn.tables.shard(shard) else {
            return;
        };
        if entry.primary != Some(process) {
            return;
        }
        match ask {
            Ask::NewEpoch {
                epoch, at_least, ..
            } if epoch == entry.epoch => self.begin(turn, shard, at_least, None),
            Ask::Complete { epoch, copy, .. }
                if epoch == entry.epoch
                    && entry.joining.contains(&copy)
                    && !entry.leaving.contains(&copy) =>
            {
                self.change(turn, shard, entry, EntryOp::Complete { epoch, copy });
            }
            // Not in a failover: who promised its epoch is silent for that, and may be the one that is promoted.
            Ask::MarkJoining { epoch, copy, .. }
                if epoch == entry.epoch
                    && entry.is_secondary(copy)
                    && !self.failovers.contains_key(&shard) =>
            {
                self.change(turn, shard, entry, EntryOp::MarkJoining { copy });
            }
            // At exactly that revision: what the primary knows now, it may count on as answered when it sees a newer one.
            Ask::AddInSync {
                epoch,
                revision,
                copy,
                ..
            } if epoch == entry.epoch
                && revision == entry.revision
                && entry.is_secondary(copy)
                && !entry.in_sync.contains(&copy) =>
            {
                self.change(turn, shard, entry, EntryOp::AddInSync { epoch, copy });
            }
            Ask::DropInSync {
                epoch,
                revision,
                copy,
                ..
            } if epoch == entry.epoch
                && revision == entry.revision
                && entry.in_sync.contains(&copy) =>
            {
                self.change(turn, shard, entry, EntryOp::DropInSync { epoch, copy });
            }
            Ask::AddWitness {
                epoch,
                revision,
                copy,
                ..
            } if epoch == entry.epoch
                && revision == entry.revision
                && entry.is_secondary(copy)
                && !entry.witnesses.contains(&copy)
                && !self.failovers.contains_key(&shard) =>
            {
                self.change(turn, shard, entry, EntryOp::AddWitness { epoch, copy });
            }
            // At that revision the primary knows whether it is the last one, and gave the lease up.
            Ask::DropWitness {
                epoch,
                revision,
                copy,
                ..
            } if epoch == entry.epoch
                && revision == entry.revision
                && entry.witnesses.contains(&copy)
                && !self.failovers.contains_key(&shard) =>
            {
                let op = match entry.is_bound(copy) {
                    true => EntryOp::DropLastWitness { epoch, copy },
                    false => EntryOp::DropWitness { copy },
                };
                self.change(turn, shard, entry, op);
            }
            Ask::HandOver { epoch, to, .. }
                if epoch == entry.epoch && !self.hand_over_not_before.contains_key(&shard) =>
            {
                self.start_hand_over(turn, shard, to);
            }
            _ => {}
        }
    }

    /// The leases for what the heartbeat claims, and whether its list of claims is wanted.
    fn grants(&self, process: ProcessId, request: &HeartbeatRequest) -> (Grants, bool) {
        let nothing = Primaries::default();
        let named = self.view.primaries.get(&process).unwrap_or(&nothing);
        if request.claims == named.digest {
            let except = self.latched_of(named).collect();
            return (Grants::AllClaimed { except }, false);
        }
        let list = request.claim_list.as_ref().filter(|list| {
            let digest: ClaimDigest = list.iter().copied().collect();
            digest == request.claims
        });
        let Some(list) = list else {
            return (Grants::Nothing, true);
        };
        let (granted, except): (Vec<Claim>, Vec<Claim>) =
            list.iter().partition(|c| self.is_granted(process, **c));
        if granted.len() <= except.len() {
            (Grants::Pairs(granted), true)
        } else {
            (Grants::AllClaimed { except }, true)
        }
    }

    fn latched_of(&self, named: &Primaries) -> impl Iterator<Item = Claim> {
        let latched = self
            .failovers
            .iter()
            .filter(|(shard, _)| named.shards.contains(shard) && !Mutant::DropLatch.on());
        latched.map(|(shard, failover)| Claim {
            shard: *shard,
            epoch: failover.old_epoch,
        })
    }

    fn is_granted(&self, process: ProcessId, claim: Claim) -> bool {
        let latched = self.failovers.contains_key(&claim.shard) && !Mutant::DropLatch.on();
        self.named_epoch(process, claim.shard) == Some(claim.epoch) && !latched
    }

    fn named_epoch(&self, process: ProcessId, shard: ShardId) -> Option<Epoch> {
        self.view.claim(shard, process).map(|c| c.epoch)
    }

    fn deletable(&self, process: ProcessId) -> Vec<(ShardId, understudy_proto::ids::Revision)> {
        let heard = self.heard.get(&process.node);
        let all = heard.into_iter().flat_map(|h| &h.deletable);
        all.take(DELETABLE_PER_ANSWER_MAX)
            .map(|(shard, revision)| (*shard, *revision))
            .collect()
    }
}
