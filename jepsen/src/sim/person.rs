//! The person of the simulation who forces promotions: looks now and then at a shard whose primary is away, and makes the
//! copy primary that is left, whatever the others had.
//!
//! That the old primary's process is stopped the person says only of one that is.

use super::event::Event;
use super::faults::Remedy;
use super::network::Place;
use super::world::World;
use crate::dice::{Dice, Purpose};
use understudy_proto::{CopyId, ProcessId, ShardId};
use understudy_protocol::tables::{Command, Forced, NodeState, ShardEntry};

/// Between two looks.
const LOOK_US: u64 = 400_000;

/// What is to become of a shard that a person forces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forcing {
    pub shard: ShardId,
    /// The host of the copy that is chosen.
    pub left: usize,
    /// How long the others are away.
    pub away_us: u64,
    /// Their stores are gone for good, too.
    pub lose: bool,
}

impl World {
    /// First one copy is left behind, then all others die.
    pub(super) fn leave_behind(&mut self, shard: u32, away_us: u64, lose: bool) -> Option<Remedy> {
        let shard = self.shard(shard);
        let row = self.managers.tables().shard(shard)?;
        let left = *self.env.hosts.get(&row.secondaries.last()?.node)?;
        let others = (0..self.hosts.len()).filter(|other| *other != left);
        let pairs = others.flat_map(|other| {
            let (one, other) = (Place::Node(left), Place::Node(other));
            [(one, other), (other, one)]
        });
        let forcing = Forcing {
            shard,
            left,
            away_us,
            lose,
        };
        match self.cut(pairs.collect())? {
            Remedy::Mend(pairs) => Some(Remedy::MendAndForce(pairs, forcing)),
            remedy => Some(remedy),
        }
    }

    /// The second half of that fault.
    pub(super) fn leave_alone(&mut self, number: usize, forcing: Forcing) {
        let row = self.managers.tables().shard(forcing.shard);
        let full: Vec<CopyId> = row
            .map(|row| row.full_copies().collect())
            .unwrap_or_default();
        let hosts = full
            .iter()
            .filter_map(|copy| self.env.hosts.get(&copy.node));
        let nodes: Vec<usize> = hosts
            .copied()
            .filter(|host| *host != forcing.left)
            .collect();
        if self.crash(nodes.clone(), false).is_none() {
            return;
        }
        let (left, shard) = (forcing.left + 1, forcing.shard);
        self.env.note(format_args!(
            "FAULT {number} leaves n{left} alone with s{shard}"
        ));
        let away_us = forcing.away_us;
        self.remedies
            .insert(number, Remedy::StartOrLose(nodes, forcing.clone()));
        self.env.after(away_us, Event::FaultEnds { fault: number });
        self.forcings.insert(number, forcing);
        self.env.after(LOOK_US, Event::Person { fault: number });
    }

    /// The primary loses sight of the managers and keeps its witnesses; a person who thinks that it is gone forces another copy.
    pub(super) fn force_beside(&mut self, number: usize, shard: u32) -> Option<Remedy> {
        let (index, shard) = (shard, self.shard(shard));
        let row = self.managers.tables().shard(shard)?;
        let left = *self.env.hosts.get(&row.secondaries.last()?.node)?;
        let primary = self.primary_of(index)?;
        let managers = (0..self.managers.count()).map(Place::Manager);
        let pairs = managers.map(|manager| (Place::Node(primary), manager));
        let forcing = Forcing {
            shard,
            left,
            away_us: 0,
            lose: false,
        };
        self.forcings.insert(number, forcing);
        self.env.after(LOOK_US, Event::Person { fault: number });
        self.cut_both(pairs.collect())
    }

    /// The stores of those that were away are gone, as far as every shard can bear it.
    pub(super) fn lose_for_good(&mut self, nodes: &[usize], forcing: &Forcing) {
        let done = |world: &World| {
            let row = world.managers.tables().shard(forcing.shard);
            let copy = world.env.copy_at(forcing.left);
            row.is_some_and(|row| row.begun.is_none() && row.primary.map(ProcessId::copy) == copy)
        };
        for node in nodes {
            if forcing.lose && done(self) && self.may_lose_store(*node) {
                self.hosts[*node].lose_store(self.env.seed, &mut self.env);
            }
        }
    }

    pub(super) fn person_looks(&mut self, fault: usize) {
        let Some(forcing) = self.forcings.get(&fault).cloned() else {
            return;
        };
        if !self.remedies.contains_key(&fault) {
            // What was away comes back.
            self.forcings.remove(&fault);
            return;
        }
        self.env.after(LOOK_US, Event::Person { fault });
        let wish = self.wish(fault, &forcing);
        if let Some((revision, forced)) = wish {
            let shard = forcing.shard;
            self.env
                .note(format_args!("A PERSON forces s{shard} {forced:?}"));
            let command = Command::ForcePromotion {
                shard,
                revision,
                forced,
            };
            self.managers.command(command, &mut self.env);
        }
    }

    fn wish(
        &self,
        fault: usize,
        forcing: &Forcing,
    ) -> Option<(understudy_proto::Revision, Forced)> {
        let row = self.managers.tables().shard(forcing.shard)?;
        let primary = row.primary?;
        if row.forcing().is_some() || self.is_up(primary) {
            return None;
        }
        let process = self.hosts[forcing.left].process.as_ref()?;
        let copy = process.id()?.copy();
        if !row.full_copies().any(|other| other == copy) || primary.copy() == copy {
            return None;
        }
        let least = process.replica(forcing.shard)?.report().durable;
        let mut dice = Dice::new(self.env.seed, Purpose::ForcedFaults, 1 + fault as u64);
        let says = dice.permille(700);
        let stopped = (says && !self.runs(primary)).then_some(primary);
        let forced = Forced {
            copy,
            least,
            stopped,
        };
        Some((row.revision, forced))
    }

    /// As the tables know it.
    fn is_up(&self, process: ProcessId) -> bool {
        let node = self.managers.tables().node(process.node);
        node.is_some_and(|node| node.process() == process && node.state != NodeState::Down)
    }

    fn runs(&self, process: ProcessId) -> bool {
        let host = self.env.hosts.get(&process.node);
        let process_there = host.and_then(|host| self.hosts[*host].process.as_ref());
        process_there.and_then(|there| there.id()) == Some(process)
    }

    /// Nobody may lose the one copy that a forced promotion waits for.
    pub(super) fn waits_for(
        row: &ShardEntry,
        host_of: impl Fn(CopyId) -> Option<usize>,
        node: usize,
    ) -> bool {
        let chosen = row.forcing().map(|forced| forced.copy);
        chosen.and_then(host_of) == Some(node)
    }
}
