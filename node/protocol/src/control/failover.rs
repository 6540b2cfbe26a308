//! From a primary that is gone to the next one: the latch, the seals, the waits, the choice.
//!
//! Begun is what is in the row: from there on this or a later leader finishes it. The latch holds from the moment that
//! this leader decides, before anything is recorded, until the row's epoch has reached the failover's.

use super::leader::{Leader, Turn};
use super::message::{Awaited, Claim, FailoverProgress, Seal, SealAnswer, SealOutcome};
use crate::detector::Verdict;
use crate::mutant::Mutant;
use crate::tables::{EntryOp, NodeState, ShardEntry};
use crate::time::{Duration, Instant};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::{CopyId, Epoch, Pair, ProcessId, ShardId};

/// One shard's failover as this leader conducts it.
#[derive(Debug)]
pub(super) struct Failover {
    /// The epoch that ends with it.
    pub(super) old_epoch: Epoch,
    /// The epoch that copies are sealed for.
    pub(super) epoch: Epoch,
    preferred: Option<CopyId>,
    primary: ProcessId,
    /// When this leader last answered the primary before the latch; none of its later answers covers the shard.
    answered: Option<Instant>,
    seals: BTreeMap<CopyId, Pair>,
    /// All that promised, complete or not: for each as what its promise ends a lease is looked up in the row.
    promised: BTreeSet<CopyId>,
    /// Answered, and not sealed: asked again, but not waited for.
    unwilling: BTreeSet<CopyId>,
    /// When, and whether it was told then that the old primary's leases are over.
    asked: BTreeMap<CopyId, (Instant, bool)>,
    first_sealed: Option<Instant>,
}

impl Failover {
    /// A higher promise was met: what was sealed for less counts no more.
    fn raise(&mut self, epoch: Epoch) {
        assert!(epoch > self.epoch, "{epoch} is no raise of {}", self.epoch);
        self.epoch = epoch;
        self.seals.clear();
        self.promised.clear();
        self.unwilling.clear();
        self.asked.clear();
        self.first_sealed = None;
    }
}

impl Failover {
    /// A process of the old primary's copy from before it was primary.
    fn is_earlier(&self, from: ProcessId) -> bool {
        from.copy() == self.primary.copy() && from.incarnation < self.primary.incarnation
    }
}

/// Who may be promoted, who bears witness, and the old primary; after a person's choice all that may have more than it.
fn to_be_sealed(entry: &ShardEntry) -> BTreeSet<CopyId> {
    let primary = entry.primary.map(ProcessId::copy);
    let forced = entry.forcing().is_some();
    let others = entry.witnesses.iter().copied().chain(primary);
    let full = entry.full_copies().filter(|_| forced);
    entry.candidates().chain(others).chain(full).collect()
}

impl Leader {
    /// Its process ended or gave up for good, or it promised itself, or a person says that it is stopped.
    fn primary_is_over(&self, turn: &Turn, failover: &Failover, entry: &ShardEntry) -> bool {
        let promised = failover.promised.contains(&failover.primary.copy());
        promised
            || turn.tables.has_ended(failover.primary)
            || entry.primary_is_stopped()
            || self.store_failed_since(failover.primary).is_some()
    }

    /// Since when this leader knows that the process's store takes no writes: then the process acts as primary no more.
    pub(super) fn store_failed_since(&self, process: ProcessId) -> Option<Instant> {
        let heard = self.heard.get(&process.node)?;
        heard.store_failed.filter(|_| heard.process == process)
    }

    /// Every shard whose primary's process is gone, or is not the node's newest any more.
    pub(super) fn begin_for_lost_primaries(&mut self, turn: &mut Turn) {
        let lost = |p: &&ProcessId| {
            turn.tables.has_ended(**p)
                || turn.tables.process_of(p.copy()) != Some(**p)
                || self.store_failed_since(**p).is_some()
                || self.verdict(turn, p.node) == Verdict::Down
        };
        let lost: Vec<ProcessId> = self.view.primaries.keys().filter(lost).copied().collect();
        for process in lost {
            self.begin_for(turn, process);
        }
    }

    pub(super) fn begin_for(&mut self, turn: &mut Turn, process: ProcessId) {
        let Some(primaries) = self.view.primaries.get(&process) else {
            return;
        };
        let shards: Vec<ShardId> = primaries.shards.iter().copied().collect();
        for shard in shards {
            self.begin(turn, shard, Epoch::ZERO, None);
        }
    }

    /// Sets the latch and starts, or raises the epoch of what is under way.
    pub(super) fn begin(
        &mut self,
        turn: &mut Turn,
        shard: ShardId,
        at_least: Epoch,
        preferred: Option<CopyId>,
    ) {
        if self.latch(turn, shard, at_least, preferred) {
            self.drive_failover(turn, shard);
        }
    }

    fn latch(
        &mut self,
        turn: &Turn,
        shard: ShardId,
        at_least: Epoch,
        preferred: Option<CopyId>,
    ) -> bool {
        let Some(entry) = turn.tables.shard(shard) else {
            return false;
        };
        let Some(primary) = entry.primary else {
            return false;
        };
        let recorded = entry.begun.map_or(Epoch::ZERO, |b| b.epoch);
        let epoch = at_least.max(entry.epoch.next()).max(recorded);
        if let Some(failover) = self.failovers.get_mut(&shard) {
            let higher = epoch > failover.epoch;
            if higher {
                failover.raise(epoch);
            }
            return higher;
        }
        let handing = self.hand_overs.get(&shard).map(|h| h.target);
        let failover = Failover {
            old_epoch: entry.epoch,
            epoch,
            preferred: preferred
                .or(handing)
                .or(entry.begun.and_then(|b| b.preferred)),
            primary,
            answered: self.answered.get(&primary).copied(),
            seals: BTreeMap::new(),
            promised: BTreeSet::new(),
            unwilling: BTreeSet::new(),
            asked: BTreeMap::new(),
            first_sealed: None,
        };
        self.failovers.insert(shard, failover);
        true
    }

    /// Keeps the latch in step with the row: takes over what a predecessor began, lets go of what has ended.
    pub(super) fn follow_entry(
        &mut self,
        turn: &mut Turn,
        shard: ShardId,
        entry: Option<&ShardEntry>,
    ) {
        let Some(entry) = entry else {
            self.failovers.remove(&shard);
            self.hand_overs.remove(&shard);
            self.hand_over_not_before.remove(&shard);
            self.short.remove(&shard);
            return;
        };
        if self
            .hand_overs
            .get(&shard)
            .is_some_and(|h| h.epoch < entry.epoch)
        {
            self.hand_overs.remove(&shard);
        }
        let under_way = self.failovers.get(&shard).map(|f| (f.old_epoch, f.epoch));
        if let Some((old, epoch)) = under_way
            && entry.epoch > old
        {
            self.failovers.remove(&shard);
            if epoch > entry.epoch {
                // A predecessor's promotion to a lower epoch came first; the higher promise still has to be met.
                self.latch(turn, shard, epoch, None);
            }
        }
        if let Some(begun) = entry.begun {
            self.latch(turn, shard, begun.epoch, begun.preferred);
        }
    }

    /// Does what can be done now: record the beginning, ask for seals, promote.
    pub(super) fn drive_failover(&mut self, turn: &mut Turn, shard: ShardId) {
        let Some(entry) = turn.tables.shard(shard) else {
            return;
        };
        let Some(failover) = self.failovers.get(&shard) else {
            return;
        };
        let (epoch, preferred) = (failover.epoch, failover.preferred);
        if entry.begun.is_none_or(|b| b.epoch < epoch) {
            let op = EntryOp::BeginFailover { epoch, preferred };
            self.change(turn, shard, entry, op);
            return;
        }
        self.ask_for_seals(turn, shard, entry);
        if self.may_promote(turn, shard, entry) {
            self.promote(turn, shard, entry);
        }
    }

    fn ask_for_seals(&mut self, turn: &mut Turn, shard: ShardId, entry: &ShardEntry) {
        let Some(failover) = self.failovers.get(&shard) else {
            return;
        };
        let over = self.primary_is_over(turn, failover, entry);
        let Some(failover) = self.failovers.get_mut(&shard) else {
            return;
        };
        for copy in to_be_sealed(entry) {
            let Some(process) = turn.tables.process_of(copy) else {
                continue;
            };
            let asked = failover.asked.get(&copy);
            // Whoever waits out its grace has to wait no more once the old primary is known to be over.
            let again = asked.is_none_or(|(at, told)| {
                turn.now.since(*at) >= turn.settings.ask_again || (over && !told)
            });
            let done = match entry.promotable().any(|candidate| candidate == copy) {
                true => failover.seals.contains_key(&copy),
                false => failover.promised.contains(&copy),
            };
            if done || !again || turn.tables.has_ended(process) {
                continue;
            }
            failover.asked.insert(copy, (turn.now, over));
            let epoch = failover.epoch;
            turn.seal(process, Seal { shard, epoch, over });
        }
    }

    pub(super) fn on_seal_answer(&mut self, turn: &mut Turn, answer: SealAnswer) {
        for (seal, outcome) in answer.seals {
            self.on_seal(turn, answer.from, seal, outcome);
        }
    }

    fn on_seal(&mut self, turn: &mut Turn, from: ProcessId, seal: Claim, outcome: SealOutcome) {
        let Some(failover) = self.failovers.get(&seal.shard) else {
            return;
        };
        let Some(entry) = turn.tables.shard(seal.shard) else {
            return;
        };
        let copy = from.copy();
        if failover.epoch != seal.epoch || !to_be_sealed(entry).contains(&copy) {
            return;
        }
        let candidate = entry.promotable().any(|c| c == copy);
        match outcome {
            SealOutcome::Sealed { last } if candidate => self.note_seal(turn, seal, from, last),
            SealOutcome::Sealed { .. } => self.note_promise(seal, from),
            SealOutcome::SealedIncomplete => {
                self.note_promise(seal, from);
                self.note_unwilling(seal, copy);
            }
            SealOutcome::PromisedHigher { epoch } => self.begin(turn, seal.shard, epoch, None),
            // Waited for like one that is slow: those that stood by the same primary are free at about the same time.
            SealOutcome::GraceNotOver => {}
            SealOutcome::NoCopy => self.note_unwilling(seal, copy),
        }
        self.drive_failover(turn, seal.shard);
    }

    fn note_unwilling(&mut self, seal: Claim, copy: CopyId) {
        if let Some(failover) = self.failovers.get_mut(&seal.shard) {
            failover.unwilling.insert(copy);
        }
    }

    /// `from` promised the failover's epoch: as primary it acts no more, as witness it answers no beacon.
    fn note_promise(&mut self, seal: Claim, from: ProcessId) {
        if let Some(failover) = self.failovers.get_mut(&seal.shard)
            && failover.epoch == seal.epoch
            && !failover.is_earlier(from)
        {
            failover.promised.insert(from.copy());
        }
    }

    /// `from` promised the failover's epoch and will not go on from that last record by itself.
    pub(super) fn note_seal(&mut self, turn: &Turn, seal: Claim, from: ProcessId, last: Pair) {
        let Some(failover) = self.failovers.get_mut(&seal.shard) else {
            return;
        };
        let earlier = failover.is_earlier(from);
        if failover.epoch != seal.epoch || earlier || last.epoch > failover.old_epoch {
            return;
        }
        failover.promised.insert(from.copy());
        failover.first_sealed.get_or_insert(turn.now);
        failover.unwilling.remove(&from.copy());
        failover.seals.insert(from.copy(), last);
    }

    fn may_promote(&self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> bool {
        let failover = &self.failovers[&shard];
        let Some(first) = failover.first_sealed else {
            return false;
        };
        if self.is_pending(turn, shard, entry) || !self.leases_are_over(turn, failover, entry) {
            return false;
        }
        let slow = |c: &CopyId| {
            !failover.seals.contains_key(c)
                && !failover.unwilling.contains(c)
                && self.is_reachable(turn, *c)
        };
        let awaited = |c: &CopyId| failover.preferred == Some(*c) && slow(c);
        let wait = turn.tables.settings().slower_candidates_wait;
        // The target of a hand-over has everything. Without it the shard would go back to where it is to leave.
        let wait = match entry.promotable().any(|c| awaited(&c)) {
            true => wait.max(turn.settings.hand_over_limit),
            false => wait,
        };
        turn.now.since(first) >= wait || !entry.promotable().any(|c| slow(&c))
    }

    /// What the shard's failover waits for, as far as this leader knows; `None`: none is under way.
    pub(super) fn progress(&self, turn: &Turn, shard: ShardId) -> Option<FailoverProgress> {
        let failover = self.failovers.get(&shard)?;
        let entry = turn.tables.shard(shard)?;
        let mut waits_for = Vec::new();
        if entry.begun.is_none_or(|begun| begun.epoch < failover.epoch) {
            waits_for.push(Awaited::TheTables);
        }
        let sealed = |copy: &CopyId| failover.seals.contains_key(copy);
        if !entry.promotable().any(|copy| sealed(&copy)) {
            match entry.forcing() {
                Some(forced) => waits_for.push(Awaited::Seal(forced.copy)),
                None => {
                    let any = entry.promotable().collect();
                    waits_for.push(Awaited::OneOfTheCandidates(any));
                }
            }
        }
        if let Some(forced) = entry.forcing()
            && let Some(have) = failover.seals.get(&forced.copy)
            && *have < forced.least
        {
            let (have, shown) = (*have, forced.least);
            waits_for.push(Awaited::AsMuchAsShown { have, shown });
        }
        if !self.leases_are_over(turn, failover, entry) {
            waits_for.extend(self.awaited_leases(turn, failover, entry));
        }
        Some(FailoverProgress {
            epoch: failover.epoch,
            waits_for,
        })
    }

    fn awaited_leases(&self, turn: &Turn, failover: &Failover, entry: &ShardEntry) -> Vec<Awaited> {
        let mut waits_for = Vec::new();
        let witnesses = &entry.witnesses;
        if !witnesses.is_empty() && witnesses.is_disjoint(&failover.promised) {
            let any = witnesses.iter().copied().collect();
            waits_for.push(Awaited::OneOfTheWitnesses(any));
        }
        let left = self.managers_lease_ends(turn, failover).since(turn.now);
        if left > Duration::ZERO {
            waits_for.push(Awaited::LeaseOfTheManagers { left });
        }
        waits_for
    }

    /// When the longest lease that this leader or one before it may have granted is over.
    fn managers_lease_ends(&self, turn: &Turn, failover: &Failover) -> Instant {
        let longest = turn.tables.settings().lease_longest;
        let predecessors = self.elected_at + self.election_timeout(turn) + longest;
        let own = failover.answered.map(|at| at + longest);
        match Mutant::NewLeaderDoesNotWait.on() {
            true => own.unwrap_or(turn.now),
            false => own.map_or(predecessors, |own| own.max(predecessors)),
        }
    }

    /// Whether the old primary can hold no lease any more, neither from the managers nor from its witnesses.
    fn leases_are_over(&self, turn: &Turn, failover: &Failover, entry: &ShardEntry) -> bool {
        let skips = entry.forcing().is_some() && Mutant::ForcedSkipsLeases.on();
        if self.primary_is_over(turn, failover, entry) || skips {
            return true;
        }
        // It needs the answers of all; with none in the set it has no such lease.
        let witnesses = &entry.witnesses;
        if !witnesses.is_empty() && witnesses.is_disjoint(&failover.promised) {
            return false;
        }
        turn.now >= self.managers_lease_ends(turn, failover)
    }

    /// Whether it makes sense to wait for that copy's answer, or to promote it.
    fn is_reachable(&self, turn: &Turn, copy: CopyId) -> bool {
        let Some(process) = turn.tables.process_of(copy) else {
            return false;
        };
        let state = turn.tables.node(copy.node).map(|n| n.state);
        !matches!(state, None | Some(NodeState::Down | NodeState::Removed))
            && !turn.tables.has_ended(process)
            && self.store_failed_since(process).is_none()
            && !turn.tables.is_lost(copy)
            && self.verdict(turn, copy.node) != Verdict::Down
    }

    fn promote(&mut self, turn: &mut Turn, shard: ShardId, entry: &ShardEntry) {
        let failover = &self.failovers[&shard];
        // A copy that died after it was sealed counts as not sealed: an open cut lists its store.
        // One that was made joining meanwhile is no candidate any more, and counts as not sealed either.
        let living = entry.promotable();
        let living = living.filter_map(|c| failover.seals.get(&c).map(|last| (c, *last)));
        let living = living.filter(|(copy, _)| self.is_reachable(turn, *copy));
        let living: BTreeMap<CopyId, Pair> = living.collect();
        let Some((copy, last)) = self.best(turn, failover, entry, &living) else {
            return;
        };
        let Some(promoted) = turn.tables.process_of(copy) else {
            return;
        };
        let mut sealed: BTreeSet<CopyId> = living.into_keys().collect();
        if let Some(forced) = entry.forcing() {
            if last < forced.least {
                return;
            }
            // They are no candidates, and follow all the same.
            let promised = entry
                .full_copies()
                .filter(|c| failover.promised.contains(c) && !failover.unwilling.contains(c));
            sealed.extend(promised.filter(|copy| self.is_reachable(turn, *copy)));
        }
        let op = EntryOp::Promote {
            epoch: failover.epoch,
            promoted,
            last,
            sealed,
        };
        self.change(turn, shard, entry, op);
    }

    /// The most advanced; ties: who was prepared for it, who stays, the site, the load, the order of succession.
    fn best(
        &self,
        turn: &Turn,
        failover: &Failover,
        entry: &ShardEntry,
        sealed: &BTreeMap<CopyId, Pair>,
    ) -> Option<(CopyId, Pair)> {
        let namespace = turn.tables.namespace(entry.namespace)?;
        let rank = |copy: CopyId| {
            let node = turn.tables.node(copy.node);
            let site = node.map_or("", |n| n.site.as_str());
            let was_here = usize::from(copy == failover.primary.copy());
            (
                failover.preferred == Some(copy),
                !self.is_emptying(turn.tables, copy.node),
                Reverse(namespace.settings.site_rank(site)),
                Reverse(self.load(turn.tables, copy.node, was_here)),
                Reverse(entry.promotable().position(|c| c == copy)),
            )
        };
        let living = sealed.iter().map(|(c, last)| (*c, *last));
        if Mutant::PromoteLeastAdvanced.on() {
            return living.min_by_key(|(_, last)| *last);
        }
        let best = living.max_by_key(|(c, last)| (*last, rank(*c)));
        if let Some((_, last)) = best {
            let highest = sealed.values().all(|other| *other <= last);
            assert!(
                highest,
                "shard of {namespace:?}: {last} is not the most advanced"
            );
        }
        best
    }
}
