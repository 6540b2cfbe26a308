//! The managers: real tables and real controllers over a modelled replicated log.
//!
//! The log is one list of committed commands. What Raft owes is modelled: a command commits only while its leader reaches
//! a quorum, what an old leader proposed may or may not survive it, an isolated leader believes in itself until it hears of
//! a newer term, followers apply later, a command may be in the log twice.

use super::env::{Clock, Env, wall_ms};
use super::event::{Event, Parcel};
use super::network::Place;
use super::tables_watch::TablesWatch;
use crate::dice::{Dice, Purpose};
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::{ClientId, NodeId, RequestId, Sequence, ShardId};
use understudy_protocol::control::{Action, ControlSettings, Controller, Input};
use understudy_protocol::tables::{Command, Envelope, SessionState, Tables};
use understudy_protocol::time::{Duration, Instant};

const RAFT_STEP_US: u64 = 10_000;
const TICK_US: u64 = 25_000;
const COMMIT_MIN_US: u64 = 1_000;
const COMMIT_MAX_US: u64 = 15_000;

#[derive(Debug)]
pub struct Managers {
    members: Vec<Manager>,
    log: Vec<Envelope>,
    term: u64,
    /// The true leader: it won the newest term and did not fall since.
    leader: Option<usize>,
    election_after_us: u64,
    next_acked_us: u64,
    dice: Dice,
    watch: TablesWatch,
    client: ClientId,
    sequence: u64,
    /// Commands that wait for a leader.
    setup: Vec<Command>,
    control: ControlSettings,
    /// How soon followers apply, in thousandths for each step.
    apply_permille: u32,
    blank_max_us: u64,
    /// When a leader last reached a quorum.
    led_us: u64,
}

#[derive(Debug)]
struct Manager {
    number: usize,
    clock: Clock,
    up: bool,
    run: u64,
    held_down: u32,
    paused: u32,
    waiting: VecDeque<Event>,
    tables: Tables,
    controller: Controller,
    /// The term in which it believes to lead.
    leading: Option<u64>,
    blank_applied: bool,
    proposals: VecDeque<Envelope>,
    /// A commit of its term is under way.
    committing: bool,
    /// Whom it was last told to lead.
    told_leader: Option<usize>,
    /// Who waits for the answer to a command.
    askers: BTreeMap<RequestId, Place>,
}

impl Manager {
    fn place(&self) -> Place {
        Place::Manager(self.number)
    }

    fn runs(&self) -> bool {
        self.up && self.paused == 0
    }
}

impl Managers {
    pub fn new(
        seed: u64,
        count: usize,
        setup: Vec<Command>,
        election_timeout_max: Duration,
    ) -> Managers {
        let mut dice = Dice::new(seed, Purpose::Managers, 0);
        let control = control_settings(seed, election_timeout_max);
        let apply_permille = *dice.pick(&[30, 150, 600]);
        let blank_max_us = *dice.pick(&[COMMIT_MAX_US, 150_000, 1_000_000]);
        let members = (0..count)
            .map(|number| Manager {
                number,
                clock: Clock {
                    offset_us: dice.below(1_000_000_000),
                    drift_ppm: dice.below(9_000) as i64 - 4_500,
                },
                up: true,
                run: 1,
                held_down: 0,
                paused: 0,
                waiting: VecDeque::new(),
                tables: Tables::default(),
                controller: Controller::new(control.clone()),
                leading: None,
                blank_applied: false,
                proposals: VecDeque::new(),
                committing: false,
                told_leader: None,
                askers: BTreeMap::new(),
            })
            .collect();
        Managers {
            members,
            log: Vec::new(),
            term: 0,
            leader: None,
            election_after_us: 0,
            next_acked_us: 0,
            client: ClientId::from_parts(wall_ms(0), dice.wide() >> 54),
            dice,
            watch: TablesWatch::default(),
            sequence: 0,
            setup,
            control,
            apply_permille,
            blank_max_us,
            led_us: 0,
        }
    }

    pub fn start(&mut self, env: &mut Env) {
        env.after(0, Event::Raft);
        for member in &self.members {
            let (manager, run) = (member.number, member.run);
            env.after(0, Event::ManagerTick { manager, run });
        }
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The tables as committed.
    pub fn tables(&self) -> &Tables {
        let newest = self.members.iter().max_by_key(|m| m.tables.applied());
        &newest.expect("there are managers").tables
    }

    pub fn led_us(&self) -> u64 {
        self.led_us
    }

    pub fn leader(&self) -> Option<usize> {
        self.leader
    }

    // ---- the modelled group

    /// Contact, elections, application: every few milliseconds.
    pub fn on_raft(&mut self, env: &mut Env) {
        env.after(RAFT_STEP_US, Event::Raft);
        self.hear_of_newer_terms(env);
        match self.leader.filter(|leader| self.has_quorum(*leader, env)) {
            Some(leader) => self.keep_contact(leader, env),
            None => self.elect_if_due(env),
        }
        self.apply_everywhere(env);
    }

    fn both_ways(&self, one: usize, other: usize, env: &Env) -> bool {
        let (one, other) = (Place::Manager(one), Place::Manager(other));
        env.network.reaches(one, other) && env.network.reaches(other, one)
    }

    fn has_quorum(&self, of: usize, env: &Env) -> bool {
        let with = |other: &&Manager| {
            other.number == of || (other.runs() && self.both_ways(of, other.number, env))
        };
        let reached = self.members.iter().filter(with).count();
        self.members[of].runs() && reached * 2 > self.members.len()
    }

    fn keep_contact(&mut self, leader: usize, env: &mut Env) {
        self.election_after_us = 0;
        self.led_us = env.now_us;
        if env.now_us < self.next_acked_us {
            return;
        }
        self.next_acked_us = env.now_us + 50_000;
        let round_trip = self.dice.between(500, 20_000);
        let clock = self.members[leader].clock;
        let sent = clock.read(env.now_us.saturating_sub(round_trip));
        self.control(leader, Input::QuorumAcked { sent }, env);
        self.tell_followers(leader, env);
    }

    /// Followers hear of a new leader sooner or later.
    fn tell_followers(&mut self, leader: usize, env: &mut Env) {
        for number in (0..self.members.len()).filter(|number| *number != leader) {
            let member = &self.members[number];
            let news = member.told_leader != Some(leader) && member.leading.is_none();
            if news
                && member.runs()
                && self.both_ways(leader, number, env)
                && self.dice.permille(300)
            {
                self.members[number].told_leader = Some(leader);
                let leader = Some(Env::manager_id(leader));
                self.control(number, Input::SteppedDown { leader }, env);
            }
        }
    }

    /// A leader that is lost sight of is replaced after a while, soon when its voters restarted, or comes back before.
    fn elect_if_due(&mut self, env: &mut Env) {
        if self.election_after_us == 0 {
            self.election_after_us = env.now_us + self.dice.between(1, 900_000);
        }
        if env.now_us < self.election_after_us {
            return;
        }
        let able: Vec<usize> = (0..self.members.len())
            .filter(|m| self.has_quorum(*m, env))
            .collect();
        if able.is_empty() {
            return;
        }
        let winner = *self.dice.pick(&able);
        self.elect(winner, env);
    }

    fn elect(&mut self, winner: usize, env: &mut Env) {
        let blank_us = self.dice.between(COMMIT_MIN_US, self.blank_max_us);
        self.elect_with(winner, blank_us, env);
    }

    /// The blank entry of its term commits after that time; until then the winner applies nothing.
    fn elect_with(&mut self, winner: usize, blank_us: u64, env: &mut Env) {
        self.election_after_us = 0;
        self.salvage_proposals(winner, env);
        self.term += 1;
        self.leader = Some(winner);
        self.next_acked_us = 0;
        let term = self.term;
        env.note(format_args!("m{} LEADS term {term}", winner + 1));
        let member = &mut self.members[winner];
        member.leading = Some(term);
        member.blank_applied = false;
        member.committing = true;
        self.control(winner, Input::Elected { term }, env);
        env.after(
            blank_us,
            Event::Commit {
                manager: winner,
                term,
            },
        );
    }

    /// What the leader before had proposed: the winner may have some of it in its log.
    fn salvage_proposals(&mut self, winner: usize, env: &mut Env) {
        let Some(old) = self.leader.filter(|old| *old != winner) else {
            return;
        };
        let count = self.dice.index(self.members[old].proposals.len() + 1);
        let kept: Vec<Envelope> = self.members[old]
            .proposals
            .iter()
            .take(count)
            .cloned()
            .collect();
        if !kept.is_empty() {
            env.note(format_args!(
                "m{} keeps {count} proposals of m{}",
                winner + 1,
                old + 1
            ));
        }
        self.log.extend(kept);
    }

    fn hear_of_newer_terms(&mut self, env: &mut Env) {
        for number in 0..self.members.len() {
            let Some(own) = self.members[number].leading else {
                continue;
            };
            let hears = |other: &Manager| {
                other.number != number && other.runs() && self.both_ways(number, other.number, env)
            };
            let newer = own < self.term && self.members[number].runs();
            if newer && self.members.iter().any(hears) {
                self.step_down(number, env);
            }
        }
    }

    fn step_down(&mut self, number: usize, env: &mut Env) {
        let leader = self.leader.filter(|l| *l != number).map(Env::manager_id);
        env.note(format_args!("m{} steps down", number + 1));
        let member = &mut self.members[number];
        member.leading = None;
        member.told_leader = None;
        member.proposals.clear();
        for (id, place) in std::mem::take(&mut member.askers) {
            env.send(Place::Manager(number), place, Parcel::NotLeading { id });
        }
        self.control(number, Input::SteppedDown { leader }, env);
    }

    /// The blank entry of the term first, then one proposal after the other.
    pub fn on_commit(&mut self, manager: usize, term: u64, env: &mut Env) {
        if self.members[manager].leading != Some(term) || !self.members[manager].up {
            return;
        }
        let true_leader = self.leader == Some(manager) && self.term == term;
        if !true_leader || !self.has_quorum(manager, env) {
            env.after(20_000, Event::Commit { manager, term });
            return;
        }
        if !self.members[manager].blank_applied {
            self.members[manager].blank_applied = true;
            self.apply(manager, usize::MAX, env);
            self.control(manager, Input::OwnTermApplied { term }, env);
            self.found(manager, env);
        } else if let Some(envelope) = self.members[manager].proposals.pop_front() {
            self.log.push(envelope.clone());
            if self.dice.permille(30) {
                self.log.push(envelope);
            }
            self.apply(manager, usize::MAX, env);
        }
        let more = !self.members[manager].proposals.is_empty();
        self.members[manager].committing = more;
        if more {
            let delay = self.dice.between(COMMIT_MIN_US / 2, COMMIT_MAX_US / 4);
            env.after(delay, Event::Commit { manager, term });
        }
    }

    /// The cluster's settings and namespace, by the first leader.
    fn found(&mut self, leader: usize, env: &mut Env) {
        for command in std::mem::take(&mut self.setup) {
            self.propose(leader, None, command, env);
        }
    }

    fn propose(&mut self, leader: usize, id: Option<RequestId>, command: Command, env: &mut Env) {
        self.sequence += 1;
        let own = RequestId {
            client: self.client,
            sequence: Sequence(self.sequence),
        };
        let id = id.unwrap_or(own);
        let member = &mut self.members[leader];
        let Some(term) = member.leading else { return };
        member.proposals.push_back(Envelope { id, command });
        if !member.committing {
            member.committing = true;
            let delay = self.dice.between(COMMIT_MIN_US, COMMIT_MAX_US);
            env.after(
                delay,
                Event::Commit {
                    manager: leader,
                    term,
                },
            );
        }
    }

    fn apply_everywhere(&mut self, env: &mut Env) {
        for number in 0..self.members.len() {
            let member = &self.members[number];
            let reached = self
                .leader
                .is_some_and(|l| l == number || self.both_ways(l, number, env));
            let waits = member.leading.is_some() && !member.blank_applied;
            let behind = (member.tables.applied() as usize) < self.log.len() && !waits;
            if member.runs() && reached && behind && self.dice.permille(self.apply_permille) {
                let count = 1 + self.dice.index(8);
                self.apply(number, count, env);
            }
        }
    }

    fn apply(&mut self, number: usize, most: usize, env: &mut Env) {
        let member = &mut self.members[number];
        let from = member.tables.applied() as usize;
        let mut changed = false;
        for at in from..self.log.len().min(from.saturating_add(most)) {
            let envelope = &self.log[at];
            let applied = self.watch.apply(&mut member.tables, at, envelope, env);
            changed |= !applied.changes.is_empty();
            if let Some(place) = member.askers.remove(&envelope.id) {
                let (id, answer) = (envelope.id, applied.answer);
                env.send(Place::Manager(number), place, Parcel::Told { id, answer });
            }
        }
        if changed {
            self.control(number, Input::TablesChanged, env);
        }
    }

    // ---- one manager

    fn control(&mut self, number: usize, input: Input, env: &mut Env) {
        let member = &mut self.members[number];
        let now: Instant = member.clock.read(env.now_us);
        let mut actions = Vec::new();
        member
            .controller
            .step(now, &member.tables, input, &mut actions);
        for action in actions {
            self.carry_out(number, action, env);
        }
    }

    fn carry_out(&mut self, number: usize, action: Action, env: &mut Env) {
        let from = Place::Manager(number);
        let to = |id: NodeId, env: &Env| env.place(id);
        match action {
            Action::Propose(command) => self.propose(number, None, command, env),
            Action::AnswerHeartbeat(answer) => {
                if let Some(place) = to(answer.process.node, env) {
                    env.send(from, place, Parcel::HeartbeatAnswer(answer));
                }
            }
            Action::Seal(request) => {
                if let Some(place) = to(request.to.node, env) {
                    env.send(from, place, Parcel::Seal(request));
                }
            }
            Action::HandOver(request) => {
                if let Some(place) = to(request.to.node, env) {
                    env.send(from, place, Parcel::HandOver(request));
                }
            }
            Action::Warn(warning) => env.note(format_args!("{from} warns {warning:?}")),
            Action::Restart(request) => {
                if let Some(place) = to(request.process.node, env) {
                    env.send(from, place, Parcel::Restart(request.launch));
                }
            }
        }
    }

    pub fn on_tick(&mut self, manager: usize, run: u64, env: &mut Env) {
        let member = &self.members[manager];
        if member.run != run || !member.up {
            return;
        }
        env.after(TICK_US, Event::ManagerTick { manager, run });
        let wall_ms = wall_ms(env.now_us);
        self.control(manager, Input::Tick { wall_ms }, env);
    }

    pub fn on_parcel(&mut self, manager: usize, from: Place, parcel: Parcel, env: &mut Env) {
        if !self.members[manager].up {
            return;
        }
        match parcel {
            Parcel::Heartbeat(request) => self.control(manager, Input::Heartbeat(request), env),
            Parcel::SealAnswer(answer) => self.control(manager, Input::SealAnswer(answer), env),
            Parcel::HandOverAnswer(answer) => {
                self.control(manager, Input::HandOverAnswer(answer), env);
            }
            Parcel::Exit(report) => self.control(manager, Input::ExitReport(report), env),
            Parcel::Propose { id, command } => self.on_propose(manager, from, id, command, env),
            Parcel::Fetch { after } => {
                let rows = super::tables_watch::rows_after(&self.members[manager].tables, after);
                if let Some((revision, rows)) = rows {
                    let sessions = self.members[manager].tables.sessions().iter();
                    let ended = sessions.filter(|(_, session)| session.state != SessionState::Open);
                    let parcel = Parcel::Rows {
                        after,
                        revision,
                        rows,
                        ended: ended.map(|(client, _)| *client).collect(),
                    };
                    env.send(Place::Manager(manager), from, parcel);
                }
            }
            Parcel::Locate { call, shard } => {
                let copies = self.locate(manager, shard, env);
                let located = Parcel::Located {
                    call,
                    shard,
                    copies,
                };
                env.send(Place::Manager(manager), from, located);
            }
            _ => {}
        }
    }

    fn on_propose(
        &mut self,
        manager: usize,
        from: Place,
        id: RequestId,
        command: Command,
        env: &mut Env,
    ) {
        let member = &mut self.members[manager];
        if member.leading.is_none() {
            env.send(Place::Manager(manager), from, Parcel::NotLeading { id });
            return;
        }
        member.askers.insert(id, from);
        if member.proposals.iter().all(|proposal| proposal.id != id) {
            self.propose(manager, Some(id), command, env);
        }
    }

    /// The primary first, then the secondaries.
    fn locate(&self, manager: usize, shard: ShardId, env: &Env) -> Vec<usize> {
        let row = self.members[manager].tables.shard(shard);
        let nodes = row.into_iter().flat_map(|row| {
            let primary = row.primary.map(|p| p.node);
            primary
                .into_iter()
                .chain(row.secondaries.iter().map(|c| c.node))
        });
        nodes.filter_map(|id| env.hosts.get(&id).copied()).collect()
    }

    // ---- faults

    pub fn kill(&mut self, number: usize, env: &mut Env) {
        let member = &mut self.members[number];
        member.held_down += 1;
        if !member.up {
            return;
        }
        env.note(format_args!("m{} DIES", number + 1));
        member.up = false;
        member.leading = None;
        member.askers.clear();
        member.waiting.clear();
        // What the true leader proposed stays for its successor to find, or not.
        if self.leader != Some(number) {
            self.members[number].proposals.clear();
        }
    }

    /// It starts again with the tables of a snapshot and the log after it.
    pub fn restart(&mut self, number: usize, env: &mut Env) {
        let again = self.dice.permille(500);
        let member = &mut self.members[number];
        member.held_down = member.held_down.saturating_sub(1);
        if member.held_down > 0 || member.up {
            return;
        }
        member.tables = match again {
            true => self
                .watch
                .replay(&self.log[..member.tables.applied() as usize], env),
            false => self.watch.reload(&member.tables, env),
        };
        member.controller = Controller::new(self.control.clone());
        member.up = true;
        member.run += 1;
        member.told_leader = None;
        member.proposals.clear();
        if self.leader == Some(number) {
            self.leader = None;
        }
        let (manager, run) = (number, self.members[number].run);
        env.note(format_args!("m{} STARTS", number + 1));
        env.after(0, Event::ManagerTick { manager, run });
    }

    pub fn pause(&mut self, number: usize) {
        self.members[number].paused += 1;
    }

    pub fn resume(&mut self, number: usize, env: &mut Env) {
        let member = &mut self.members[number];
        member.paused = member.paused.saturating_sub(1);
        if member.paused == 0 {
            for event in std::mem::take(&mut member.waiting) {
                env.after(0, event);
            }
        }
    }

    /// Whether the event has to wait because the manager is paused.
    pub fn defers(&mut self, number: usize, event: &Event) -> bool {
        let member = &mut self.members[number];
        let paused = member.paused > 0;
        if paused {
            member.waiting.push_back(event.clone());
        }
        paused
    }

    /// The leader gives its leadership to another that reaches a quorum.
    pub fn transfer_leadership(&mut self, env: &mut Env) {
        let Some(old) = self.leader.filter(|l| self.has_quorum(*l, env)) else {
            return;
        };
        self.control(old, Input::TransferringLeadership, env);
        let able: Vec<usize> = (0..self.members.len())
            .filter(|m| *m != old && self.has_quorum(*m, env))
            .collect();
        // Nobody to take it: it stays silent until it is elected again.
        let winner = if able.is_empty() {
            old
        } else {
            *self.dice.pick(&able)
        };
        self.elect(winner, env);
    }

    /// That manager wins the next election, if it can win one.
    pub fn make_leader(&mut self, manager: usize, env: &mut Env) {
        if self.leader != Some(manager) && self.has_quorum(manager, env) {
            let blank_us = self.dice.between(200_000, 1_000_000);
            self.elect_with(manager, blank_us, env);
        }
    }

    /// A person wants the shard's primary elsewhere.
    pub fn transfer(&mut self, shard: ShardId, env: &mut Env) {
        let Some(leader) = self.leader else { return };
        let row = self.members[leader].tables.shard(shard);
        let targets: Vec<_> = row.map(|row| row.secondaries.clone()).unwrap_or_default();
        if !targets.is_empty() {
            let target = *self.dice.pick(&targets);
            self.control(leader, Input::TransferWanted { shard, target }, env);
        }
    }

    /// What a person asks for: the leader gets it, or the next one does.
    pub fn command(&mut self, command: Command, env: &mut Env) {
        match self
            .leader
            .filter(|leader| self.members[*leader].leading == Some(self.term))
        {
            Some(leader) => self.propose(leader, None, command, env),
            None => self.setup.push(command),
        }
    }

    pub fn place_of(&self, manager: usize) -> Place {
        self.members[manager].place()
    }
}

fn control_settings(seed: u64, election_timeout_max: Duration) -> ControlSettings {
    let usual = ControlSettings::default();
    // In one world of four whatever is uneven for a moment is evened out.
    let eager = seed % 4 == 1;
    let ms = Duration::from_millis;
    ControlSettings {
        election_timeout_max,
        balance_after: if eager { ms(600) } else { usual.balance_after },
        balance_pause: if eager { ms(50) } else { usual.balance_pause },
        ..usual
    }
}
