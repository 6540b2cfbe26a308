//! What must not happen while the world is quiet enough: writes refused for want of a lease, failovers that never end.
//!
//! With all managers away nothing is refused while a shard's copies see each other, and with a dead secondary nothing is
//! while a manager is there. A primary that has neither lease is followed by another, though copies still hear it.

use super::faults::Remedy;
use super::network::Place;
use super::world::World;
use crate::nemesis::FaultKind;
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{Epoch, ShardId};
use understudy_protocol::invariants::Violation;

/// Added to two leases: retries, slow disks, registration.
const SLACK_US: u64 = 1_000_000;
/// Managers find a leader, and it applies the first entry of its term.
const ELECTION_US: u64 = 3_500_000;

/// What a fault disturbs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mark {
    Everything,
    At(Place),
    Between(Place, Place),
}

/// When what was last disturbed by a fault that is over.
#[derive(Debug, Default)]
pub struct Quiet {
    ended_us: BTreeMap<Mark, u64>,
}

/// A shard that has to have another primary when a fault ends.
#[derive(Debug)]
pub struct Expected {
    shard: ShardId,
    epoch: Epoch,
    since_us: u64,
}

impl Quiet {
    pub fn note_end(&mut self, remedy: &Remedy, now_us: u64) {
        for mark in marks(remedy) {
            self.ended_us.insert(mark, now_us);
        }
        if let Remedy::MendAndLose(..) = remedy {
            // It stays a bad network from then on.
            self.ended_us.insert(Mark::Everything, u64::MAX);
        }
    }

    fn since(&self, mark: Mark, since_us: u64) -> bool {
        self.ended_us.get(&mark).is_none_or(|end| *end <= since_us)
    }
}

fn marks(remedy: &Remedy) -> Vec<Mark> {
    let between = |pairs: &[(Place, Place)]| {
        let each = pairs.iter();
        each.map(|(one, other)| Mark::Between(*one, *other))
            .collect()
    };
    match remedy {
        Remedy::StartNodes(nodes) | Remedy::StartOrLose(nodes, _) => {
            nodes.iter().map(|n| Mark::At(Place::Node(*n))).collect()
        }
        Remedy::StartManager(manager) | Remedy::ResumeManager(manager) => {
            vec![Mark::At(Place::Manager(*manager))]
        }
        Remedy::ResumeNode(node) | Remedy::Unhang(node) | Remedy::Reopen(node) => {
            vec![Mark::At(Place::Node(*node))]
        }
        Remedy::Mend(pairs) | Remedy::Steady(pairs) | Remedy::MendAndForce(pairs, _) => {
            between(pairs)
        }
        Remedy::MendAndLose(..) | Remedy::MendAndElect(..) | Remedy::Quiet(_) => {
            vec![Mark::Everything]
        }
        // A person's wish moves primaries, which costs no lease.
        Remedy::KeepInUse(_) => Vec::new(),
        Remedy::All(remedies) => remedies.iter().flat_map(marks).collect(),
    }
}

impl World {
    /// Whether no fault disturbed these, each itself and with the others, since then.
    fn quiet_since(&self, places: &[Place], since_us: u64) -> bool {
        let active: BTreeSet<Mark> = self.remedies.values().flat_map(marks).collect();
        let quiet = |mark: Mark| !active.contains(&mark) && self.quiet.since(mark, since_us);
        let pairs = places
            .iter()
            .flat_map(|one| places.iter().map(|other| Mark::Between(*one, *other)));
        quiet(Mark::Everything)
            && places.iter().all(|place| quiet(Mark::At(*place)))
            && pairs.into_iter().all(quiet)
    }

    fn window_us(&self) -> u64 {
        self.managers.tables().settings().lease_ever.0 * 2 + SLACK_US
    }

    /// A write was refused for want of a lease: nothing may have been in order for long.
    pub(super) fn check_refusal(&mut self, node: usize, shard: ShardId) {
        let now_us = self.env.now_us;
        let since_us = now_us.saturating_sub(self.window_us());
        let Some(process) = self.hosts[node].process.as_ref() else {
            return;
        };
        let Some(row) = self.managers.tables().shard(shard) else {
            return;
        };
        let serves = process.serves_since(shard);
        let settled = serves.is_some_and(|(epoch, at)| epoch == row.epoch && at <= since_us);
        if !settled || row.begun.is_some() {
            return;
        }
        let wrong = if self.has_its_witnesses(node, shard, since_us) {
            "its witnesses see it"
        } else if self.has_its_managers(node, since_us) {
            "the managers see it"
        } else {
            return;
        };
        let invariant = "LEASES";
        let what = format!("shard {shard}: n{} has no lease, and {wrong}", node + 1);
        self.env.check(Err(Violation { invariant, what }));
    }

    fn has_its_witnesses(&self, node: usize, shard: ShardId, since_us: u64) -> bool {
        let process = self.hosts[node].process.as_ref();
        let Some(copy) = process.and_then(|process| process.replica(shard)) else {
            return false;
        };
        let set = copy.assignment().map(|row| row.witnesses.clone());
        if set.is_none_or(|set| set.is_empty()) || copy.gave_up_witnesses() {
            return false;
        }
        let mut places = vec![Place::Node(node)];
        for witness in copy.demanded_witnesses() {
            let Some(host) = self.env.hosts.get(&witness.node) else {
                return false;
            };
            let host = &self.hosts[*host];
            let runs = host.process.as_ref().and_then(|it| it.runs_since());
            if host.store != witness.store || runs.is_none_or(|since| since > since_us) {
                return false;
            }
            places.push(host.place());
        }
        self.quiet_since(&places, since_us)
    }

    fn has_its_managers(&self, node: usize, since_us: u64) -> bool {
        let managers = (0..self.managers.count()).map(Place::Manager);
        let places: Vec<Place> = managers.chain([Place::Node(node)]).collect();
        let since_us = since_us.saturating_sub(ELECTION_US);
        let led = self.env.now_us - self.managers.led_us() < 100_000;
        since_us > 0 && led && self.quiet_since(&places, since_us)
    }

    /// When a fault takes both leases from a primary and nothing else is wrong, there has to be another one.
    pub(super) fn expect_failover(&mut self, number: usize) {
        // Whatever else happens now may keep the managers from it.
        self.expected.clear();
        let now_us = self.env.now_us;
        let FaultKind::NeitherLease { shard } = self.plan.faults[number].what else {
            return;
        };
        let shard = self.shard(shard);
        let since_us = now_us.saturating_sub(self.window_us());
        let nodes = (0..self.hosts.len()).map(Place::Node);
        let managers = (0..self.managers.count()).map(Place::Manager);
        let all: Vec<Place> = nodes.chain(managers).collect();
        let Some(row) = self.managers.tables().shard(shard) else {
            return;
        };
        let others = row.candidates().filter(|copy| {
            let runs = self.env.hosts.get(&copy.node).and_then(|host| {
                let process = self.hosts[*host].process.as_ref()?;
                process.runs_since()
            });
            row.is_secondary(*copy) && runs.is_some()
        });
        let lone = self.remedies.is_empty() && self.quiet_since(&all, since_us);
        if lone && others.count() > 0 && row.begun.is_none() {
            let (epoch, since_us) = (row.epoch, now_us);
            let expected = Expected {
                shard,
                epoch,
                since_us,
            };
            self.expected.insert(number, expected);
        }
    }

    pub(super) fn check_failover(&mut self, number: usize) {
        let Some(expected) = self.expected.remove(&number) else {
            return;
        };
        let lease = self.managers.tables().settings().lease_ever.0;
        // The lease that it had, one lease of beacons without, the grace, and what the managers need.
        let bound_us = lease * 3 + lease / 10 + 2_000_000;
        let lasted = self.env.now_us - expected.since_us;
        let row = self.managers.tables().shard(expected.shard);
        if lasted > bound_us && row.is_some_and(|row| row.epoch == expected.epoch) {
            let invariant = "LEASES";
            let shard = expected.shard;
            let what = format!("shard {shard}: its primary has no lease, and nobody followed it");
            self.env.check(Err(Violation { invariant, what }));
        }
    }
}
