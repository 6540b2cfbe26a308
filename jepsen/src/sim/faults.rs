//! Carrying out a plan: each fault begins, lasts and ends; faults overlap. What cannot be done is skipped and said so.

use super::event::Event;
use super::network::{Noise, Place};
use super::person::Forcing;
use super::world::World;
use crate::nemesis::{Fault, FaultKind};
use understudy_proto::{CopyId, ShardId};
use understudy_protocol::tables::{Command, ShardEntry};

/// What undoes a fault when its time is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remedy {
    StartNodes(Vec<usize>),
    StartManager(usize),
    ResumeNode(usize),
    ResumeManager(usize),
    Mend(Vec<(Place, Place)>),
    /// And then these links lose so much, until everything heals.
    MendAndLose(Vec<(Place, Place)>, Vec<(Place, Place)>, u32),
    /// And then that manager leads.
    MendAndElect(Vec<(Place, Place)>, usize),
    Quiet(Noise),
    Steady(Vec<(Place, Place)>),
    KeepInUse(usize),
    Unhang(usize),
    Reopen(usize),
    All(Vec<Remedy>),
    /// And then all other copies of the shard die, and a person forces the one that is left.
    MendAndForce(Vec<(Place, Place)>, Forcing),
    /// With empty disks, when they are gone for good.
    StartOrLose(Vec<usize>, Forcing),
}

impl World {
    pub(super) fn fault_begins(&mut self, number: usize) {
        let Fault { lasts_us, what, .. } = self.plan.faults[number].clone();
        self.env.note(format_args!(
            "FAULT {number} for {} ms: {what:?}",
            lasts_us / 1_000
        ));
        match self.begin(number, what) {
            Some(remedy) => {
                self.faults_done += 1;
                self.expect_failover(number);
                self.remedies.insert(number, remedy);
                self.env.after(lasts_us, Event::FaultEnds { fault: number });
            }
            None => {
                // It may have been carried out all the same.
                self.expected.clear();
                self.env
                    .note(format_args!("FAULT {number} leaves nothing to undo"));
            }
        }
    }

    pub(super) fn fault_ends(&mut self, number: usize) {
        if let Some(remedy) = self.remedies.remove(&number) {
            self.env.note(format_args!("FAULT {number} ENDS"));
            let then = match &remedy {
                Remedy::MendAndForce(_, forcing) => Some(forcing.clone()),
                _ => None,
            };
            self.end(number, remedy);
            if let Some(forcing) = then {
                self.leave_alone(number, forcing);
            }
        }
    }

    fn begin(&mut self, number: usize, what: FaultKind) -> Option<Remedy> {
        match what {
            FaultKind::CrashNode { node, seen } => self.crash(vec![node], seen),
            FaultKind::CrashPrimary { shard, seen } => {
                let node = self.primary_of(shard)?;
                self.crash(vec![node], seen)
            }
            FaultKind::CrashNodes { nodes } => self.crash(nodes, false),
            FaultKind::CrashManager { manager } => self.crash_manager(manager),
            FaultKind::CrashLeader => {
                let leader = self.managers.leader()?;
                self.crash_manager(leader)
            }
            FaultKind::TransferLeadership => {
                self.managers.transfer_leadership(&mut self.env);
                self.faults_done += 1;
                None
            }
            FaultKind::PauseNode { node } => self.pause(node),
            FaultKind::PausePrimary { shard } => {
                let node = self.primary_of(shard)?;
                self.pause(node)
            }
            FaultKind::PauseSuccessor => {
                let rows = self.managers.tables().shards().values();
                let primaries = rows.into_iter().filter_map(|row| row.primary);
                let mut nodes = primaries.filter_map(|p| self.env.hosts.get(&p.node).copied());
                let node = nodes.find(|node| self.hosts[*node].follows_another())?;
                self.hosts[node].pause();
                self.agent_repeats_itself(node, true);
                Some(Remedy::ResumeNode(node))
            }
            FaultKind::PauseLeader => {
                let leader = self.managers.leader()?;
                self.managers.pause(leader);
                Some(Remedy::ResumeManager(leader))
            }
            FaultKind::IsolateNode { node } => self.isolate(Place::Node(node)),
            FaultKind::IsolateManager { manager } => self.isolate(Place::Manager(manager)),
            FaultKind::IsolateLeader => {
                let leader = self.managers.leader()?;
                self.isolate(Place::Manager(leader))
            }
            FaultKind::Halves { first } => self.halve(&first),
            FaultKind::OneWay { from, to } => self.cut(vec![(Place::Node(from), Place::Node(to))]),
            FaultKind::PrimaryAlone { shard } => {
                let node = self.primary_of(shard)?;
                let others = (0..self.hosts.len()).filter(|other| *other != node);
                let pairs = others.map(|other| (Place::Node(node), Place::Node(other)));
                self.cut_both(pairs.collect())
            }
            FaultKind::NodesFromManagers { nodes } => {
                let managers = self.managers.count();
                let each =
                    |node| (0..managers).map(move |m| (Place::Node(node), Place::Manager(m)));
                self.cut_both(nodes.into_iter().flat_map(each).collect())
            }
            FaultKind::LeaderWithPrimary { shard, returns } => {
                let manager = self.managers.leader()?;
                let leader = Place::Manager(manager);
                let primary = Place::Node(self.primary_of(shard)?);
                let inside = |place: &Place| *place == leader || *place == primary;
                let servers = self.places().into_iter();
                let others = servers.filter(|p| !inside(p) && !matches!(p, Place::Client(_)));
                let pairs = others.flat_map(|other| [(leader, other), (primary, other)]);
                match self.cut_both(pairs.collect())? {
                    Remedy::Mend(pairs) if returns => Some(Remedy::MendAndElect(pairs, manager)),
                    remedy => Some(remedy),
                }
            }
            FaultKind::Flaky {
                nodes,
                loss_permille,
            } => {
                let managers = self.managers.count();
                let each = |node| {
                    (0..managers).flat_map(move |m| {
                        let (node, manager) = (Place::Node(node), Place::Manager(m));
                        [(node, manager), (manager, node)]
                    })
                };
                let pairs: Vec<(Place, Place)> = nodes.into_iter().flat_map(each).collect();
                for (one, other) in &pairs {
                    let loss = Some(loss_permille);
                    self.env.network.set_flaky(*one, *other, loss);
                }
                Some(Remedy::Steady(pairs))
            }
            FaultKind::Flicker {
                shard,
                loss_permille,
            } => {
                let primary = Place::Node(self.primary_of(shard)?);
                let nodes = (0..self.hosts.len()).map(Place::Node);
                let managers = self.managers.count();
                let each = |node| (0..managers).map(move |m| (node, Place::Manager(m)));
                let pairs: Vec<(Place, Place)> = nodes.flat_map(each).collect();
                let of_primary = each(primary).flat_map(|(node, m)| [(node, m), (m, node)]);
                let links = of_primary.collect();
                match self.cut_both(pairs)? {
                    Remedy::Mend(pairs) => Some(Remedy::MendAndLose(pairs, links, loss_permille)),
                    remedy => Some(remedy),
                }
            }
            FaultKind::Drain { node } => {
                self.drain(node, true);
                Some(Remedy::KeepInUse(node))
            }
            FaultKind::ManagersApart => {
                let count = self.managers.count();
                let each = |m| (0..m).map(move |n| (Place::Manager(m), Place::Manager(n)));
                self.cut_both((0..count).flat_map(each).collect())
            }
            FaultKind::Noise {
                loss_permille,
                repeat_permille,
                delay_max_us,
            } => {
                let noise = Noise {
                    loss_permille,
                    repeat_permille,
                    delay_max_us,
                };
                self.env.network.add_noise(noise);
                Some(Remedy::Quiet(noise))
            }
            FaultKind::DiskFails { node } => {
                self.hosts[node].disk.fail();
                self.faults_done += 1;
                None
            }
            FaultKind::DiskHangs { node } => {
                self.hosts[node].disk.hang();
                self.agent_repeats_itself(node, false);
                Some(Remedy::Unhang(node))
            }
            FaultKind::StoreFails { node } => {
                self.hosts[node].fail_store();
                Some(Remedy::Reopen(node))
            }
            FaultKind::Transfer { shard } => {
                let shard = self.shard(shard);
                self.managers.transfer(shard, &mut self.env);
                self.faults_done += 1;
                None
            }
            FaultKind::NoManagers { paused } => {
                let all = 0..self.managers.count();
                let each = |manager| match paused {
                    true => {
                        self.managers.pause(manager);
                        Remedy::ResumeManager(manager)
                    }
                    false => {
                        self.managers.kill(manager, &mut self.env);
                        Remedy::StartManager(manager)
                    }
                };
                Some(Remedy::All(all.map(each).collect()))
            }
            FaultKind::NeitherLease { shard } => {
                let row = self.managers.tables().shard(self.shard(shard))?;
                let primary = self.primary_of(shard)?;
                let witness = row.witnesses.iter().next()?;
                let witness = *self.env.hosts.get(&witness.node)?;
                let managers = (0..self.managers.count()).map(Place::Manager);
                let pairs = managers.map(|manager| (Place::Node(primary), manager));
                let cut = self.cut_both(pairs.collect())?;
                let crash = self.crash(vec![witness], false)?;
                Some(Remedy::All(vec![cut, crash]))
            }
            FaultKind::LeftAlone {
                shard,
                away_us,
                lose,
            } => self.leave_behind(shard, away_us, lose),
            FaultKind::ForcedBeside { shard } => self.force_beside(number, shard),
            FaultKind::LoseStore { node } => {
                if !self.may_lose_store(node) {
                    return None;
                }
                self.hosts[node].held_down += 1;
                self.hosts[node].lose_store(self.env.seed, &mut self.env);
                Some(Remedy::StartNodes(vec![node]))
            }
        }
    }

    fn end(&mut self, number: usize, remedy: Remedy) {
        self.check_failover(number);
        self.quiet.note_end(&remedy, self.env.now_us);
        self.undo(remedy);
    }

    fn undo(&mut self, remedy: Remedy) {
        match remedy {
            Remedy::All(remedies) => remedies.into_iter().for_each(|remedy| self.undo(remedy)),
            Remedy::StartNodes(nodes) => {
                for node in nodes {
                    self.hosts[node].held_down -= 1;
                    self.hosts[node].start(&mut self.env);
                }
            }
            Remedy::StartManager(manager) => self.managers.restart(manager, &mut self.env),
            Remedy::ResumeNode(node) => self.hosts[node].resume(&mut self.env),
            Remedy::ResumeManager(manager) => self.managers.resume(manager, &mut self.env),
            Remedy::MendAndLose(pairs, links, loss_permille) => {
                self.undo(Remedy::Mend(pairs));
                for (one, other) in links {
                    let loss = Some(loss_permille);
                    self.env.network.set_flaky(one, other, loss);
                }
            }
            Remedy::MendAndElect(pairs, manager) => {
                self.undo(Remedy::Mend(pairs));
                self.managers.make_leader(manager, &mut self.env);
            }
            Remedy::StartOrLose(nodes, forcing) => {
                self.lose_for_good(&nodes, &forcing);
                self.undo(Remedy::StartNodes(nodes));
            }
            Remedy::Mend(pairs) | Remedy::MendAndForce(pairs, _) => {
                for (from, to) in pairs {
                    self.env.network.mend(from, to);
                }
            }
            Remedy::Steady(pairs) => {
                for (one, other) in pairs {
                    self.env.network.set_flaky(one, other, None);
                }
            }
            Remedy::KeepInUse(node) => self.drain(node, false),
            Remedy::Quiet(noise) => self.env.network.take_noise(noise),
            Remedy::Unhang(node) => self.hosts[node].unhang(&mut self.env),
            Remedy::Reopen(node) => self.hosts[node].reopen(&mut self.env),
        }
    }

    /// All faults end now, and the network is good.
    pub(super) fn heal(&mut self) {
        self.env.note(format_args!("HEAL"));
        for (number, remedy) in std::mem::take(&mut self.remedies) {
            self.end(number, remedy);
        }
        self.env.network.heal();
    }

    pub(super) fn shard(&self, number: u32) -> ShardId {
        ShardId(self.space.first_shard.0 + u64::from(number))
    }

    pub(super) fn primary_of(&self, shard: u32) -> Option<usize> {
        let row = self.managers.tables().shard(self.shard(shard))?;
        self.env.hosts.get(&row.primary?.node).copied()
    }

    /// The last full copy of a shard is never destroyed: nothing could converge after that without a person.
    pub(super) fn may_lose_store(&self, node: usize) -> bool {
        let intact = |copy: &CopyId| {
            let host = self.env.hosts.get(&copy.node);
            host.is_some_and(|host| *host != node && self.hosts[*host].store == copy.store)
        };
        // With a minimum of one the set may be about to shrink to the very copy that is lost: then nobody may be promoted.
        let alone = |row: &ShardEntry| row.min_in_sync == Some(1);
        // With the last witness and the primary gone nobody could tell that the primary's lease is over.
        let witnessed =
            |row: &ShardEntry| row.witnesses.is_empty() || row.witnesses.iter().any(&intact);
        let rows = self.managers.tables().shards().values();
        let host_of = |copy: CopyId| self.env.hosts.get(&copy.node).copied();
        rows.into_iter().all(|row| {
            let free = !alone(row) && witnessed(row) && !World::waits_for(row, host_of, node);
            free && row.candidates().any(|copy| intact(&copy))
        })
    }

    /// A person's wish may get lost with a leader; it is repeated until the tables show it.
    pub(super) fn keep_all_in_use(&mut self) {
        let drained: Vec<usize> = (0..self.hosts.len())
            .filter(|node| {
                let copy = self.env.copy_at(*node);
                let entry = copy.and_then(|copy| self.managers.tables().node(copy.node));
                entry.is_some_and(|entry| entry.drain)
            })
            .collect();
        for node in drained {
            self.drain(node, false);
        }
    }

    fn drain(&mut self, node: usize, drain: bool) {
        if let Some(copy) = self.env.copy_at(node) {
            let node = copy.node;
            self.managers
                .command(Command::DrainNode { node, drain }, &mut self.env);
        }
    }

    pub(super) fn crash(&mut self, nodes: Vec<usize>, seen: bool) -> Option<Remedy> {
        for node in &nodes {
            let host = &mut self.hosts[*node];
            host.held_down += 1;
            let died = host.kill(&mut self.env);
            if died && seen {
                self.agent_saw_exit(*node);
            }
        }
        (!nodes.is_empty()).then_some(Remedy::StartNodes(nodes))
    }

    fn crash_manager(&mut self, manager: usize) -> Option<Remedy> {
        self.managers.kill(manager, &mut self.env);
        Some(Remedy::StartManager(manager))
    }

    fn pause(&mut self, node: usize) -> Option<Remedy> {
        self.hosts[node].pause();
        self.agent_repeats_itself(node, false);
        Some(Remedy::ResumeNode(node))
    }

    fn places(&self) -> Vec<Place> {
        let nodes = (0..self.hosts.len()).map(Place::Node);
        let managers = (0..self.managers.count()).map(Place::Manager);
        let clients = (0..self.clients.len()).map(Place::Client);
        nodes.chain(managers).chain(clients).collect()
    }

    fn isolate(&mut self, place: Place) -> Option<Remedy> {
        let others = self.places().into_iter().filter(|other| *other != place);
        let pairs = others.map(|other| (place, other)).collect();
        self.cut_both(pairs)
    }

    fn halve(&mut self, first: &[usize]) -> Option<Remedy> {
        let second = (0..self.hosts.len()).filter(|node| !first.contains(node));
        let mut pairs = Vec::new();
        for node in second {
            for other in self.places() {
                let together = matches!(other, Place::Node(n) if !first.contains(&n));
                if !together {
                    pairs.push((Place::Node(node), other));
                }
            }
        }
        self.cut_both(pairs)
    }

    pub(super) fn cut_both(&mut self, pairs: Vec<(Place, Place)>) -> Option<Remedy> {
        self.cut(
            pairs
                .into_iter()
                .flat_map(|(one, other)| [(one, other), (other, one)])
                .collect(),
        )
    }

    pub(super) fn cut(&mut self, pairs: Vec<(Place, Place)>) -> Option<Remedy> {
        for (from, to) in &pairs {
            self.env.network.cut(*from, *to);
        }
        (!pairs.is_empty()).then_some(Remedy::Mend(pairs))
    }
}
