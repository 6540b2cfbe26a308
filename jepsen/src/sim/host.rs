//! One machine of a data node: its clock, its disk, and the process on it, if one runs.
//!
//! The process lives in `process.rs`; here are its starts and ends, and what waits for it while it is paused.

use super::disk::Disk;
use super::env::{Clock, Env};
use super::event::{Event, NodeEvent, Parcel};
use super::network::Place;
use super::process::Process;
use crate::dice::{Dice, Purpose};
use std::collections::VecDeque;
use understudy_proto::{CopyId, StoreId};
use understudy_protocol::control::message::ExitReport;

/// Ticks of a replica come at least this often.
pub const TICK_US: u64 = 20_000;

#[derive(Debug)]
pub struct Host {
    pub number: usize,
    pub clock: Clock,
    pub disk: Disk,
    pub store: StoreId,
    pub process: Option<Process>,
    /// Whether an agent takes wishes about the process.
    pub agent: bool,
    /// How the last process was known, for the agent's report of its end.
    last: Option<ExitReport>,
    runs: u64,
    /// Faults that keep the process from starting.
    pub held_down: u32,
    paused: u32,
    waiting: VecDeque<Event>,
    dice: Dice,
    managers: usize,
}

impl Host {
    pub fn new(seed: u64, number: usize, managers: usize) -> Host {
        let mut dice = Dice::new(seed, Purpose::Hosts, number as u64);
        let clock = Clock {
            offset_us: dice.below(1_000_000_000),
            // The allowance is 1 % between two machines; each has less than half of it.
            drift_ppm: dice.below(9_000) as i64 - 4_500,
        };
        Host {
            number,
            clock,
            disk: Disk::new(seed, number),
            store: StoreId(dice.wide() | 1),
            process: None,
            agent: Dice::new(seed, Purpose::Agents, 0).permille(500),
            last: None,
            runs: 0,
            held_down: 0,
            paused: 0,
            waiting: VecDeque::new(),
            dice,
            managers,
        }
    }

    pub fn place(&self) -> Place {
        Place::Node(self.number)
    }

    fn copy(&self) -> Option<CopyId> {
        let process = self.process.as_ref()?;
        process.id().map(|id| id.copy())
    }

    /// The process starts, unless one runs or a fault holds it down.
    pub fn start(&mut self, env: &mut Env) {
        if self.process.is_some() || self.held_down > 0 {
            return;
        }
        self.runs += 1;
        let run = self.runs;
        env.note(format_args!("{} STARTS run {run}", self.place()));
        let agent = match self.agent {
            true => format!("{}:7429", self.place()),
            false => String::new(),
        };
        let (number, managers) = (self.number, self.managers);
        let process = Process::start(number, run, self.store, managers, agent, &mut self.dice);
        self.process = Some(process);
        self.after(0, NodeEvent::Tick, env);
    }

    fn after(&self, delay_us: u64, what: NodeEvent, env: &mut Env) {
        let (node, run) = (self.number, self.runs);
        env.after(delay_us, Event::Node { node, run, what });
    }

    /// The process dies at once.
    pub fn kill(&mut self, env: &mut Env) -> bool {
        let copy = self.copy();
        let Some(process) = self.process.take() else {
            return false;
        };
        env.note(format_args!("{} DIES", self.place()));
        self.last = Some(process.exit_report());
        self.disk.crash(copy, env);
        self.waiting.clear();
        true
    }

    /// What an agent on the machine tells of the process that died last.
    pub fn exit_report(&self) -> Option<ExitReport> {
        self.last.clone()
    }

    /// Whether a process runs, and one before it registered and died.
    pub fn follows_another(&self) -> bool {
        let before = self.last.as_ref().and_then(|report| report.process);
        self.process.is_some() && before.is_some()
    }

    /// A paused process dies like any other, and its successor runs.
    pub fn kill_even_if_paused(&mut self, env: &mut Env) -> bool {
        self.paused = 0;
        self.kill(env)
    }

    pub fn pause(&mut self) {
        self.paused += 1;
    }

    /// What waited happens now, in order.
    pub fn resume(&mut self, env: &mut Env) {
        self.paused = self.paused.saturating_sub(1);
        if self.paused == 0 {
            for event in std::mem::take(&mut self.waiting) {
                env.after(0, event);
            }
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused > 0
    }

    pub fn wait_with(&mut self, event: Event) {
        self.waiting.push_back(event);
    }

    pub fn on_parcel(&mut self, from: Place, parcel: Parcel, env: &mut Env) {
        let Some(process) = &mut self.process else {
            return;
        };
        process.on_parcel(from, parcel, self.clock, &mut self.disk, env);
        self.settle(env);
    }

    pub fn on_event(&mut self, run: u64, what: NodeEvent, env: &mut Env) {
        let Some(process) = self.process.as_mut().filter(|process| process.run == run) else {
            return;
        };
        match what {
            NodeEvent::Tick => {
                process.on_tick(self.clock, &mut self.disk, env);
                self.after(TICK_US, NodeEvent::Tick, env);
            }
            NodeEvent::Persisted { shard, number } => {
                process.on_persisted(shard, number, self.clock, &mut self.disk, env);
            }
            NodeEvent::Synced { batches } => self.on_synced(batches, env),
        }
        self.settle(env);
    }

    fn on_synced(&mut self, batches: usize, env: &mut Env) {
        let Some(copy) = self.copy() else { return };
        for batch in self.disk.end_sync(copy, batches, env) {
            env.note(format_args!(
                "{} durable s{} batch {}",
                self.place(),
                batch.shard,
                batch.number
            ));
            // The driver's threads hear of it a little later, in order.
            let what = NodeEvent::Persisted {
                shard: batch.shard,
                number: batch.number,
            };
            self.after(20, what, env);
        }
    }

    /// After each stimulus: what was written is synced together, and a process that cannot go on ends.
    fn settle(&mut self, env: &mut Env) {
        if let Some((delay, batches)) = self.disk.begin_sync() {
            self.after(delay, NodeEvent::Synced { batches }, env);
        }
        if self.process.as_ref().is_some_and(Process::has_to_end) {
            self.kill(env);
            env.after(500_000, Event::StartNode { node: self.number });
        }
    }

    /// A hung disk takes up its work again.
    pub fn unhang(&mut self, env: &mut Env) {
        self.disk.unhang();
        self.settle(env);
    }

    /// The disk takes no writes any more, and the process says so.
    pub fn fail_store(&mut self) {
        self.disk.hang();
        if let Some(process) = &mut self.process {
            process.fail_store();
        }
    }

    /// A new process on a disk that takes writes.
    pub fn reopen(&mut self, env: &mut Env) {
        self.kill(env);
        self.disk.unhang();
        self.start(env);
    }

    /// The data folder is gone; the next start makes a new one.
    pub fn lose_store(&mut self, seed: u64, env: &mut Env) {
        self.kill(env);
        self.disk = Disk::new(seed.wrapping_add(self.runs), self.number);
        self.store = StoreId(self.dice.wide() | 1);
        env.note(format_args!("{} LOSES ITS STORE", self.place()));
    }
}
