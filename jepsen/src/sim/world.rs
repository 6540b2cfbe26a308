//! One simulated cluster from a seed: the safety phase with its faults, then everything heals and has to converge.
//!
//! One event at a time changes one place; after each the checks look at what it touched, after every thousandth and at the
//! end at everything. The same seed gives the same events in the same order.

use super::client::{Client, Space};
use super::env::Env;
use super::event::{Done, Event, Parcel};
use super::faults::Remedy;
use super::host::Host;
use super::managers::Managers;
use super::network::Place;
use super::outcome::{Outcome, Statistics};
use super::person::Forcing;
use super::quiet::{Expected, Quiet};
use super::sites::Sites;
use super::trace::{Keep, Trace};
use crate::dice::{Dice, Purpose};
use crate::history::History;
use crate::nemesis::{Plan, Scale};
use crate::workload::{Operation, Step};
use std::collections::BTreeMap;
use understudy_proto::ShardId;
use understudy_protocol::effect::Keep as KeepEntries;
use understudy_protocol::shard::message::Message;
use understudy_protocol::tables::{
    Command, ConflictPolicy, Forward, NamespaceSettings, Policy, SettingsChange,
};
use understudy_protocol::time::Duration;

/// Faults begin after the cluster had this time to start.
const START_US: u64 = 2_500_000;
/// After the last fault everything has to be well within this time: waits for leases, elections, retries, full copies.
const CONVERGE_US: u64 = 60_000_000;
/// Between two looks whether it is.
const LOOK_US: u64 = 200_000;
/// No seed needs so many; beyond it something asks again and again without end.
const EVENTS_MAX: u64 = 600_000;
/// Events between two full checks.
const FULL_CHECK_EVENTS: u64 = 1_000;

#[derive(Debug)]
pub struct World {
    pub(super) env: Env,
    pub(super) hosts: Vec<Host>,
    pub(super) managers: Managers,
    pub(super) clients: Vec<Client>,
    pub(super) history: History,
    pub(super) plan: Plan,
    pub(super) remedies: BTreeMap<usize, Remedy>,
    pub(super) space: Space,
    pub(super) copies: usize,
    pub(super) events: u64,
    pub(super) faults_done: u64,
    pub(super) quiet: Quiet,
    pub(super) expected: BTreeMap<usize, Expected>,
    pub(super) forcings: BTreeMap<usize, Forcing>,
    without_managers: u64,
    no_lease: u64,
    pub(super) agents: Dice,
    faults_until_us: u64,
}

/// How a world ended, before it is summed up.
enum End {
    Converged,
    Wrong,
    Stuck(String),
}

impl World {
    pub fn new(seed: u64, keep: Keep) -> World {
        let mut dice = Dice::new(seed, Purpose::Setup, 0);
        let nodes = dice.between(3, 5) as usize;
        let managers = if dice.permille(700) { 3 } else { 5 };
        let clients = dice.between(4, 6) as usize;
        let shards = 8;
        let copies = dice.between(2, 3) as usize;
        let phase_us = dice.between(5_000_000, 12_000_000);
        let plan = Plan::draw(
            seed,
            Scale {
                nodes,
                managers,
                shards,
                phase_us,
            },
        );
        let space = Space {
            first_shard: ShardId(1),
            shards,
            managers,
        };
        let election_timeout_max = Duration::from_millis(*dice.pick(&[300, 300, 600, 1_000]));
        let policies = policies(seed);
        let forwards = forwards(seed);
        let setup = setup(
            seed,
            &mut dice,
            shards,
            copies,
            election_timeout_max,
            policies,
            forwards,
        );
        let mut env = Env::new(seed, Trace::new(keep));
        for number in 0..shards {
            let shard = ShardId(space.first_shard.0 + u64::from(number));
            let half = usize::from(number >= shards / 2);
            let policy = policies[half];
            env.policies.insert(shard, policy);
            env.forward.insert(shard, forwards[half]);
            env.invariants.set_policy(shard, policy);
        }
        if dice.permille(600) {
            env.keep = KeepEntries {
                entries: dice.between(3, 12) as u32,
                age: Duration::from_millis(dice.between(500, 6_000)),
            };
        }
        World {
            env,
            hosts: (0..nodes)
                .map(|number| Host::new(seed, number, managers))
                .collect(),
            managers: Managers::new(seed, managers, setup, election_timeout_max),
            clients: (0..clients)
                .map(|number| Client::new(seed, number, space))
                .collect(),
            history: History::default(),
            plan,
            remedies: BTreeMap::new(),
            space,
            copies,
            events: 0,
            faults_done: 0,
            quiet: Quiet::default(),
            expected: BTreeMap::new(),
            forcings: BTreeMap::new(),
            without_managers: 0,
            no_lease: 0,
            agents: Dice::new(seed, Purpose::Agents, 1),
            faults_until_us: START_US + phase_us,
        }
    }

    /// Runs to the end and tells what came of it.
    pub fn run(mut self) -> Outcome {
        self.start();
        let end = match self.run_phases() {
            Err(stuck) => End::Stuck(stuck),
            Ok(()) if self.env.violation.is_some() => End::Wrong,
            Ok(()) => End::Converged,
        };
        let statistics = Statistics {
            faults: self.faults_done,
            events: self.events,
            acknowledged: self.env.invariants.acknowledged() as u64,
            orphans: self.env.invariants.orphans() as u64,
            recorded_again: self.env.invariants.reconciled().0 as u64,
            conflicts: self.env.invariants.reconciled().1 as u64,
            decided: self.env.invariants.decided() as u64,
            forgotten: self.env.invariants.forgotten().0 as u64,
            may_have_run: self.env.invariants.forgotten().1 as u64,
            without_managers: self.without_managers,
            no_lease: self.no_lease,
            deltas: self.env.invariants.deltas() as u64,
            operations: self.env.operations,
            with_objects: self.env.with_objects,
            forced: self.env.forced,
            compared: self.env.compared,
            broken: self.env.broken,
            virtual_us: self.env.now_us,
        };
        let last = self.env.trace.last().map(str::to_string).collect();
        let hash = self.env.trace.hash();
        let violation = self.env.violation.take();
        match (end, violation) {
            (_, Some(violation)) => Outcome::wrong(violation, hash, statistics, last, self.history),
            (End::Stuck(what), None) => Outcome::stuck(what, hash, statistics, last, self.history),
            _ => Outcome::clean(hash, statistics, self.history),
        }
    }

    fn start(&mut self) {
        self.managers.start(&mut self.env);
        for host in &self.hosts {
            self.env
                .after(1_000, Event::StartNode { node: host.number });
        }
        for client in 0..self.clients.len() {
            let wake = super::event::Wake::Next;
            self.env.after(START_US / 2, Event::Client { client, wake });
        }
        for (fault, planned) in self.plan.faults.iter().enumerate() {
            self.env
                .after(START_US + planned.at_us, Event::FaultBegins { fault });
        }
    }

    /// Faults; then healing and convergence; then each shard has to take a write, and all copies have to get it.
    fn run_phases(&mut self) -> Result<(), String> {
        self.run_until(self.faults_until_us);
        if self.is_over() {
            return self.too_many_events();
        }
        self.heal();
        self.converge(true)?;
        self.run_errands()?;
        self.converge(false)?;
        if self.env.violation.is_none() {
            self.check_everything();
            self.check_history();
        }
        Ok(())
    }

    fn run_until(&mut self, end_us: u64) {
        while self.env.now_us < end_us && !self.is_over() {
            let Some(event) = self.env.pop() else { return };
            self.events += 1;
            self.on_event(event);
            for (node, shard) in std::mem::take(&mut self.env.refused) {
                self.no_lease += 1;
                self.check_refusal(node, shard);
            }
            if self.events.is_multiple_of(FULL_CHECK_EVENTS) {
                self.check_everything();
            }
        }
    }

    fn too_many_events(&self) -> Result<(), String> {
        let endless = self.events >= EVENTS_MAX && self.env.violation.is_none();
        if endless {
            Err(format!("{EVENTS_MAX} events were not enough"))
        } else {
            Ok(())
        }
    }

    fn is_over(&self) -> bool {
        self.env.violation.is_some() || self.events >= EVENTS_MAX
    }

    fn converge(&mut self, working: bool) -> Result<(), String> {
        let deadline = self.env.now_us + CONVERGE_US;
        let mut missing = None;
        while !self.is_over() {
            // Some more work at first; then the clients rest, or nothing would ever be equal.
            let left = deadline - self.env.now_us;
            let rest = !working || left < CONVERGE_US - 1_000_000;
            self.clients
                .iter_mut()
                .for_each(|client| client.resting = rest);
            self.keep_all_in_use();
            self.run_until(self.env.now_us + LOOK_US);
            missing = self.missing();
            if rest && missing.is_none() {
                return Ok(());
            }
            if self.env.now_us >= deadline {
                break;
            }
        }
        match missing {
            Some(what) if self.env.violation.is_none() => Err(what),
            _ => self.too_many_events(),
        }
    }

    /// A put to every shard, which has to succeed.
    fn run_errands(&mut self) -> Result<(), String> {
        let tags: Vec<String> = (0..self.space.shards).map(|s| self.tag_of(s)).collect();
        let client = &mut self.clients[0];
        for tag in tags {
            let (key, value) = (format!("{{{tag}}}probe"), "probe".to_string());
            let operations = vec![Operation::Put { key, value }];
            client.errands.push_back(Step::Update {
                operations,
                conditions: Vec::new(),
                copies: 0,
            });
        }
        let wake = super::event::Wake::Next;
        self.env.after(0, Event::Client { client: 0, wake });
        let deadline = self.env.now_us + CONVERGE_US;
        while self.env.now_us < deadline && !self.is_over() {
            self.run_until(self.env.now_us + LOOK_US);
            let client = &self.clients[0];
            if client.errands.is_empty() && client.is_idle() {
                break;
            }
        }
        match self.clients[0].errands_failed {
            0 => Ok(()),
            count => Err(format!(
                "{count} of {} shards take no write",
                self.space.shards
            )),
        }
    }

    fn tag_of(&self, shard: u32) -> String {
        let shards = self.space.shards;
        let hits = |tag: &u32| {
            let tag = tag.to_string();
            understudy_proto::shard_of_key::shard_index(tag.as_bytes(), shards) == shard
        };
        (0..)
            .find(hits)
            .expect("some number hashes to every shard")
            .to_string()
    }

    fn on_event(&mut self, event: Event) {
        if self.defers(&event) {
            return;
        }
        match event {
            Event::Deliver { from, to, parcel } => self.deliver(from, to, *parcel),
            Event::Node { node, run, what } => self.hosts[node].on_event(run, what, &mut self.env),
            Event::StartNode { node } => self.hosts[node].start(&mut self.env),
            Event::Raft => self.managers.on_raft(&mut self.env),
            Event::Commit { manager, term } => {
                self.managers.on_commit(manager, term, &mut self.env);
            }
            Event::ManagerTick { manager, run } => {
                self.managers.on_tick(manager, run, &mut self.env);
            }
            Event::Client { client, wake } => {
                self.clients[client].on_wake(wake, &mut self.env, &mut self.history);
            }
            Event::FaultBegins { fault } => self.fault_begins(fault),
            Event::FaultEnds { fault } => self.fault_ends(fault),
            Event::AgentReports { node, report, more } => self.agent_reports(node, report, more),
            Event::Person { fault } => self.person_looks(fault),
        }
    }

    /// What comes to a paused process waits for it.
    fn defers(&mut self, event: &Event) -> bool {
        let (node, manager) = match event {
            // The agent is another process, which nobody paused.
            Event::Deliver { parcel, .. } if matches!(**parcel, Parcel::Restart(_)) => {
                return false;
            }
            Event::Deliver {
                to: Place::Node(node),
                ..
            }
            | Event::Node { node, .. } => (Some(*node), None),
            Event::Deliver {
                to: Place::Manager(manager),
                ..
            }
            | Event::ManagerTick { manager, .. }
            | Event::Commit { manager, .. } => (None, Some(*manager)),
            _ => return false,
        };
        if let Some(node) = node
            && self.hosts[node].is_paused()
        {
            self.hosts[node].wait_with(event.clone());
            return true;
        }
        manager.is_some_and(|manager| self.managers.defers(manager, event))
    }

    fn deliver(&mut self, from: Place, to: Place, parcel: Parcel) {
        self.env
            .note(format_args!("{from} -> {to} {}", parcel.brief()));
        let granted = matches!(parcel, Parcel::HeartbeatAnswer(_) | Parcel::Rows { .. });
        let witnessed = match &parcel {
            Parcel::Shard {
                shard,
                message: Message::Ack(ack),
            } => ack.beacon.map(|_| *shard),
            _ => None,
        };
        if let Parcel::Answered {
            answer: Ok(Done::Written(_)),
            ..
        } = &parcel
        {
            let lease = self.managers.tables().settings().lease_longest;
            let alone = self.env.now_us.saturating_sub(self.managers.led_us());
            self.without_managers += u64::from(alone > lease.0 * 2);
        }
        match to {
            Place::Node(node) if matches!(parcel, Parcel::Restart(_)) => {
                self.agent_restarts(node, parcel);
            }
            Place::Node(node) => self.hosts[node].on_parcel(from, parcel, &mut self.env),
            Place::Manager(manager) => {
                self.managers
                    .on_parcel(manager, from, parcel, &mut self.env);
            }
            Place::Client(client) => self.deliver_to_client(client, parcel),
        }
        if granted {
            self.check_holders();
        }
        if let Some(shard) = witnessed {
            self.check_holders_of(shard);
        }
    }

    fn deliver_to_client(&mut self, client: usize, parcel: Parcel) {
        let client = &mut self.clients[client];
        match parcel {
            Parcel::Answered { call, answer } => {
                client.on_answered(call, answer, &mut self.env, &mut self.history);
            }
            Parcel::Located {
                call,
                shard,
                copies,
            } => {
                client.on_located(call, shard, copies, &mut self.env);
            }
            _ => {}
        }
    }
}

/// What a person would do first.
fn setup(
    seed: u64,
    dice: &mut Dice,
    shards: u32,
    copies: usize,
    election_timeout_max: Duration,
    policies: [ConflictPolicy; 2],
    forwards: [Forward; 2],
) -> Vec<Command> {
    let replace_after = if dice.permille(500) {
        dice.between(1_500, 6_000)
    } else {
        30_000
    };
    // Not drawn, so that every other seed stays the run that it was.
    let interval = match seed % 7 {
        3 => 50,
        5 => 400,
        _ => 100,
    };
    let least = election_timeout_max.as_millis() * 2 + interval * 2;
    let lease = dice
        .permille(500)
        .then(|| dice.between(least, least + 1_000));
    let lease = lease.or((least > 1_000).then_some(least));
    let change = SettingsChange {
        heartbeat_interval: (interval != 100).then(|| Duration::from_millis(interval)),
        replace_after: Some(Duration::from_millis(replace_after)),
        election_timeout_max: Some(election_timeout_max),
        lease: lease.map(Duration::from_millis),
        ..SettingsChange::default()
    };
    // In three of five worlds one half of the shards is in_sync; any minimum that all copies together can meet.
    let (mixed, first) = (dice.permille(600), dice.permille(500));
    let min_in_sync = dice.between(1, copies as u64) as u32;
    let near_writers = Sites::draw(seed).is_some();
    let namespace = |name: &str, in_sync: bool, half: usize| Command::CreateNamespace {
        name: name.to_string(),
        shards: shards / 2,
        settings: NamespaceSettings {
            copies: copies as u32,
            policy: if in_sync {
                Policy::InSync
            } else {
                Policy::Lazy
            },
            min_in_sync,
            conflicts: policies[half],
            forward: forwards[half],
            primary_near_writers: near_writers,
            ..NamespaceSettings::default()
        },
    };
    vec![
        Command::SetSettings(change),
        namespace("first", mixed && first, 0),
        namespace("second", mixed && !first, 1),
    ]
}

/// In two of five worlds one of the namespaces, or both, do not have orphans applied.
fn policies(seed: u64) -> [ConflictPolicy; 2] {
    let mut dice = Dice::new(seed, Purpose::Policies, 0);
    let reapply = ConflictPolicy::ReapplyIfUnchanged;
    let mut policies = [reapply; 2];
    if dice.permille(400) {
        let others = [ConflictPolicy::Discard, ConflictPolicy::HoldForAPerson];
        policies[dice.index(2)] = *dice.pick(&others);
        if dice.permille(300) {
            policies = [policies[0], *dice.pick(&others)];
        }
    }
    policies
}

/// What each of the namespaces forwards: each form as often as the others.
fn forwards(seed: u64) -> [Forward; 2] {
    let mut dice = Dice::new(seed, Purpose::Forward, 0);
    let forms = [Forward::Components, Forward::Operation, Forward::Object];
    [0; 2].map(|_| *dice.pick(&forms))
}
