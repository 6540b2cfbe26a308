//! What a leader knows beyond the tables, and the order in which it looks at an input.
//!
//! All of it is soft: a new leader starts empty and waits out what it cannot know.

use super::agents::Failing;
use super::balance::Balance;
use super::clock::Clock;
use super::controller::{Action, ControlSettings, Input};
use super::failover::Failover;
use super::hand_over::HandingOver;
use super::message::{
    Condition, CopyReport, HandOver, HandOverRequest, SHARDS_PER_REQUEST_MAX, Seal, SealRequest,
};
use super::plan::Planned;
use super::view::View;
use crate::detector::{Detector, Verdict};
use crate::mutant::Mutant;
use crate::tables::command::ENTRY_CHANGES_MAX;
use crate::tables::{Command, EntryChange, EntryOp, NodeState, ShardEntry, Tables};
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::{CopyId, NodeId, ProcessId, Revision, ShardId};

/// One call of the controllers: when, over what, and what comes of it.
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) tables: &'a Tables,
    pub(super) settings: &'a ControlSettings,
    pub(super) out: &'a mut Vec<Action>,
    changes: Vec<EntryChange>,
    seals: BTreeMap<ProcessId, Vec<Seal>>,
    hand_overs: BTreeMap<ProcessId, Vec<HandOver>>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        now: Instant,
        tables: &'a Tables,
        settings: &'a ControlSettings,
        out: &'a mut Vec<Action>,
    ) -> Turn<'a> {
        Turn {
            now,
            tables,
            settings,
            out,
            changes: Vec::new(),
            seals: BTreeMap::new(),
            hand_overs: BTreeMap::new(),
        }
    }

    pub(super) fn propose(&mut self, command: Command) {
        self.out.push(Action::Propose(command));
    }

    pub(super) fn seal(&mut self, to: ProcessId, seal: Seal) {
        self.seals.entry(to).or_default().push(seal);
    }

    pub(super) fn hand_over(&mut self, to: ProcessId, hand_over: HandOver) {
        self.hand_overs.entry(to).or_default().push(hand_over);
    }

    /// Sends what was gathered, each kind in as few messages as its bound allows.
    pub(super) fn finish(self, term: u64) {
        for chunk in self.changes.chunks(ENTRY_CHANGES_MAX) {
            let command = Command::ChangeEntries(chunk.to_vec());
            self.out.push(Action::Propose(command));
        }
        for (to, seals) in self.seals {
            for chunk in seals.chunks(SHARDS_PER_REQUEST_MAX) {
                self.out.push(Action::Seal(SealRequest {
                    to,
                    term,
                    seals: chunk.to_vec(),
                    longest: self.tables.settings().lease_ever,
                }));
            }
        }
        for (to, hand_overs) in self.hand_overs {
            for chunk in hand_overs.chunks(SHARDS_PER_REQUEST_MAX) {
                self.out.push(Action::HandOver(HandOverRequest {
                    to,
                    term,
                    hand_overs: chunk.to_vec(),
                    limit: self.settings.hand_over_limit,
                }));
            }
        }
    }
}

/// A node's newest process as this leader heard it.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) process: ProcessId,
    pub(super) sequence: u64,
    pub(super) at: Instant,
    pub(super) wall_ms: u64,
    pub(super) condition: Condition,
    /// When it first told this leader that its store takes no writes any more.
    pub(super) store_failed: Option<Instant>,
    pub(super) reports: BTreeMap<ShardId, CopyReport>,
    /// Copies that it may delete, with the revision of the tables that says so.
    pub(super) deletable: BTreeMap<ShardId, Revision>,
}

#[derive(Debug)]
struct Pending {
    revision: Revision,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Leader {
    term: u64,
    pub(super) elected_at: Instant,
    own_term_applied: bool,
    quorum_sent: Option<Instant>,
    transferring: bool,
    pub(super) view: View,
    pub(super) heard: BTreeMap<NodeId, Heard>,
    pub(super) detector: Detector<NodeId>,
    /// Since when this leader knows a node to be down.
    pub(super) down_since: BTreeMap<NodeId, Instant>,
    /// When each process was last answered with a lease.
    pub(super) answered: BTreeMap<ProcessId, Instant>,
    /// The latch: who is in here gets no lease. Left only when the row's epoch has reached the failover's.
    pub(super) failovers: BTreeMap<ShardId, Failover>,
    pub(super) hand_overs: BTreeMap<ShardId, HandingOver>,
    pub(super) hand_over_not_before: BTreeMap<ShardId, Instant>,
    /// Shards to be looked at.
    pub(super) dirty: BTreeSet<ShardId>,
    /// Shards that lack a copy or a place.
    pub(super) short: BTreeMap<ShardId, Instant>,
    pub(super) planned: Planned,
    pub(super) clock: Clock,
    pending: BTreeMap<ShardId, Pending>,
    pending_nodes: BTreeMap<NodeId, Pending>,
    lease_seen: Option<(Revision, Instant)>,
    /// Nodes whose processes ended, fell silent or lost their store lately.
    pub(super) failing: BTreeMap<NodeId, Failing>,
    pub(super) balance: Balance,
}

impl Leader {
    pub(super) fn new(term: u64, now: Instant) -> Leader {
        Leader {
            term,
            elected_at: now,
            own_term_applied: false,
            quorum_sent: None,
            transferring: false,
            view: View::default(),
            heard: BTreeMap::new(),
            detector: Detector::new(),
            down_since: BTreeMap::new(),
            answered: BTreeMap::new(),
            failovers: BTreeMap::new(),
            hand_overs: BTreeMap::new(),
            hand_over_not_before: BTreeMap::new(),
            dirty: BTreeSet::new(),
            short: BTreeMap::new(),
            planned: Planned::default(),
            clock: Clock::default(),
            pending: BTreeMap::new(),
            pending_nodes: BTreeMap::new(),
            lease_seen: None,
            failing: BTreeMap::new(),
            balance: Balance::default(),
        }
    }

    /// Whether a change of a row is proposed and not made yet.
    pub(super) fn proposes(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn step(&mut self, turn: &mut Turn, input: Input) {
        match &input {
            Input::OwnTermApplied { term } if *term == self.term => self.own_term_applied = true,
            Input::QuorumAcked { sent } => {
                let sent = (*sent).min(turn.now);
                self.quorum_sent = self.quorum_sent.max(Some(sent));
            }
            Input::TransferringLeadership => self.transferring = true,
            _ => {}
        }
        self.catch_up(turn);
        if let Input::Heartbeat(request) = input {
            // Answered or not answered: grants have their own conditions.
            self.on_heartbeat(turn, request);
        } else if self.acts() {
            self.on_input(turn, input);
        }
        if self.acts() {
            self.plan_dirty(turn);
        }
    }

    fn on_input(&mut self, turn: &mut Turn, input: Input) {
        match input {
            Input::SealAnswer(answer) => self.on_seal_answer(turn, answer),
            Input::HandOverAnswer(answer) => self.on_hand_over_answer(turn, answer),
            Input::ExitReport(report) => self.on_exit_report(turn, report),
            Input::TransferWanted { shard, target } => self.start_hand_over(turn, shard, target),
            Input::Tick { wall_ms } => self.on_tick(turn, wall_ms),
            _ => {}
        }
    }

    /// Before it applied its own term's first entry the tables may be old; while it transfers it starts nothing.
    pub(super) fn acts(&self) -> bool {
        self.own_term_applied && !self.transferring
    }

    pub(super) fn may_grant(&self, now: Instant, tables: &Tables, own: &ControlSettings) -> bool {
        let window = tables
            .settings()
            .election_timeout_max
            .min(own.election_timeout_max);
        let fresh = self.quorum_sent.is_some_and(|s| now.since(s) < window);
        let quorum = fresh || Mutant::GrantWithoutQuorum.on();
        let own_term = self.own_term_applied || Mutant::GrantBeforeOwnTerm.on();
        own_term && quorum && !self.transferring
    }

    /// Of the nodes that were heard.
    pub(super) fn orphans(&self) -> BTreeMap<NodeId, u64> {
        let of = |heard: &Heard| heard.reports.values().map(|report| report.orphans).sum();
        self.heard
            .iter()
            .map(|(node, heard)| (*node, of(heard)))
            .collect()
    }

    pub(super) fn report(&self, shard: ShardId, copy: CopyId) -> Option<&CopyReport> {
        let heard = self.heard.get(&copy.node)?;
        (heard.process.copy() == copy)
            .then(|| heard.reports.get(&shard))
            .flatten()
    }

    /// Takes in what the tables say now, before anything is decided.
    fn catch_up(&mut self, turn: &mut Turn) {
        let news = self.view.catch_up(turn.tables);
        for shard in news.shards {
            self.dirty.insert(shard);
            self.on_entry(turn, shard);
        }
        for node in &news.nodes {
            self.on_node(turn, *node);
        }
        if !news.nodes.is_empty() {
            self.dirty.extend(self.short.keys().copied());
        }
    }

    fn on_entry(&mut self, turn: &mut Turn, shard: ShardId) {
        self.balance.row_changed();
        let entry = turn.tables.shard(shard);
        let revision = entry.map(|e| e.revision);
        let open = self.pending.get(&shard).map(|p| p.revision);
        if open.is_some() && open != revision {
            self.pending.remove(&shard);
            self.planned.forget(shard);
        }
        self.follow_entry(turn, shard, entry);
    }

    fn on_node(&mut self, turn: &mut Turn, node: NodeId) {
        let Some(entry) = turn.tables.node(node) else {
            return;
        };
        match entry.state {
            NodeState::Removed => self.detector.forget(node),
            _ => self.detector.watch(node, turn.now),
        }
        self.balance.node_changed();
        let down = entry.state == NodeState::Down;
        if down {
            self.down_since.entry(node).or_insert(turn.now);
        } else {
            self.down_since.remove(&node);
        }
        let process = entry.process();
        if self.heard.get(&node).is_some_and(|h| h.process != process) {
            self.heard.remove(&node);
            self.detector.heard(node, turn.now);
        }
        let shards = self.view.copies.get(&node).into_iter().flatten();
        self.dirty.extend(shards.copied());
        // And the copies there that no row names.
        let reports = self.heard.get(&node).map(|heard| heard.reports.keys());
        self.dirty.extend(reports.into_iter().flatten().copied());
    }

    fn on_tick(&mut self, turn: &mut Turn, wall_ms: u64) {
        self.judge_nodes(turn);
        self.begin_for_lost_primaries(turn);
        let shards: Vec<ShardId> = self.failovers.keys().copied().collect();
        for shard in shards {
            self.drive_failover(turn, shard);
        }
        self.drive_hand_overs(turn);
        self.ask_agents(turn);
        self.look_again(turn);
        self.balance(turn);
        self.lower_lease(turn);
        self.keep_clock(turn, wall_ms);
        let longest = turn.tables.settings().lease_longest;
        self.answered.retain(|_, at| turn.now.since(*at) <= longest);
    }

    /// What waits for time to pass and not for a change.
    fn look_again(&mut self, turn: &mut Turn) {
        let failed = self.heard.iter();
        let failed = failed.filter(|(_, heard)| heard.store_failed.is_some());
        let away = self.down_since.keys().chain(failed.map(|(node, _)| node));
        let gone: Vec<NodeId> = away
            .copied()
            .filter(|node| self.is_given_up(turn, *node))
            .collect();
        for node in &gone {
            let shards = self.view.copies.get(node).into_iter().flatten();
            self.dirty.extend(shards.copied());
        }
        for (process, primaries) in &self.view.primaries {
            if self.is_emptying(turn.tables, process.node) {
                self.dirty.extend(primaries.shards.iter().copied());
            }
        }
        self.dirty.extend(self.short.keys().take(1_024).copied());
        let again = turn.settings.propose_again;
        let stuck = |p: &Pending| turn.now.since(p.at) >= again;
        let stuck = self.pending.iter().filter(|(_, p)| stuck(p));
        self.dirty.extend(stuck.map(|(shard, _)| *shard));
    }

    fn judge_nodes(&mut self, turn: &mut Turn) {
        for node in turn.tables.nodes() {
            let wanted = match (self.verdict(turn, node.id), node.state) {
                (_, NodeState::Removed) => continue,
                (_, NodeState::Down) if node.ended >= node.incarnation => continue,
                (Verdict::Down, _) => NodeState::Down,
                (Verdict::Suspect, NodeState::Up | NodeState::Draining) => NodeState::Suspect,
                (Verdict::Alive, _) if self.heard.contains_key(&node.id) => node.alive_state(),
                _ => continue,
            };
            if wanted != node.state {
                self.propose_node_state(turn, node.id, node.revision, wanted);
            }
        }
    }

    pub(super) fn verdict(&self, turn: &Turn, node: NodeId) -> Verdict {
        let s = turn.tables.settings();
        self.detector
            .verdict(node, turn.now, s.suspect_after(), s.down_after())
    }

    pub(super) fn propose_node_state(
        &mut self,
        turn: &mut Turn,
        node: NodeId,
        revision: Revision,
        state: NodeState,
    ) {
        let again = turn.settings.propose_again;
        let open = self.pending_nodes.get(&node);
        if open.is_some_and(|p| p.revision == revision && turn.now.since(p.at) < again) {
            return;
        }
        let at = turn.now;
        self.pending_nodes.insert(node, Pending { revision, at });
        turn.propose(Command::SetNodeState {
            node,
            revision,
            state,
        });
    }

    /// A shorter lease is waited out only when every longer one, also of a predecessor, has certainly passed.
    fn lower_lease(&mut self, turn: &mut Turn) {
        let s = turn.tables.settings();
        if s.lease_longest == s.lease() {
            self.lease_seen = None;
            return;
        }
        let seen = match self.lease_seen {
            Some((revision, at)) if revision == s.revision => at,
            _ => turn.now,
        };
        let granted = seen.max(self.elected_at + self.election_timeout(turn));
        if turn.now < granted + s.lease_longest {
            self.lease_seen = Some((s.revision, seen));
            return;
        }
        // Asked again only after another such wait: rare enough to need no further bookkeeping.
        self.lease_seen = Some((s.revision, turn.now));
        turn.propose(Command::LowerLeaseLongest {
            revision: s.revision,
            to: s.lease(),
        });
    }

    pub(super) fn election_timeout(&self, turn: &Turn) -> Duration {
        let own = turn.settings.election_timeout_max;
        turn.tables.settings().election_timeout_max.max(own)
    }

    /// Whether a proposal about that row is still under way.
    pub(super) fn is_pending(&self, turn: &Turn, shard: ShardId, entry: &ShardEntry) -> bool {
        let again = turn.settings.propose_again;
        self.pending
            .get(&shard)
            .is_some_and(|p| p.revision == entry.revision && turn.now.since(p.at) < again)
    }

    /// A proposal without effect is given up: what is still wanted is proposed anew.
    pub(super) fn settle(&mut self, shard: ShardId) {
        self.pending.remove(&shard);
        self.planned.forget(shard);
    }

    /// Proposes one change of a row, unless one is under way.
    pub(super) fn change(
        &mut self,
        turn: &mut Turn,
        shard: ShardId,
        entry: &ShardEntry,
        op: EntryOp,
    ) {
        if self.is_pending(turn, shard, entry) {
            return;
        }
        let revision = entry.revision;
        let at = turn.now;
        self.pending.insert(shard, Pending { revision, at });
        self.planned.note(shard, &op);
        turn.changes.push(EntryChange {
            shard,
            revision,
            op,
        });
    }
}
