//! The one way in which the tables change: a command at its index, applied at most once under its request id.

use super::answers::Outcome;
use super::command::{Answer, Command, EntryChange, Envelope, Refusal, invalid, not_allowed};
use super::command::{ENTRY_CHANGES_MAX, EntryOp, RENEWALS_MAX};
use super::forced::Forced;
use super::membership::{LaunchId, NodeEntry, NodeState, Registration};
use super::naming::{Namespace, NamespaceSettings};
use super::settings::ClusterSettings;
use super::state::Tables;
use super::watch::{Change, Changed};
use crate::mutant::Mutant;
use crate::time::Duration;
use understudy_proto::ids::{
    ClientId, ClusterId, CopyId, Incarnation, NodeId, ProcessId, Revision, ShardId,
};

/// What applying one envelope came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub answer: Result<Answer, Refusal>,
    /// True: the command ran before, or its id is refused; this is the answer kept and nothing has changed.
    pub duplicate: bool,
    /// What changed, all with one revision.
    pub changes: Vec<Change>,
}

impl Tables {
    /// Applies the command of the log entry at `index`. Indices rise, with gaps where the log holds other entries.
    pub fn apply(&mut self, index: u64, envelope: &Envelope) -> Applied {
        assert!(index > self.applied, "index {index} after {}", self.applied);
        self.applied = index;
        let fingerprint = fingerprint(&envelope.command);
        if let Some(answer) = self.answers.find(envelope.id, fingerprint) {
            return Applied {
                answer,
                duplicate: true,
                changes: Vec::new(),
            };
        }
        let mut changes = Changes {
            revision: self.revision.next(),
            list: Vec::new(),
        };
        let answer = self.run(&envelope.command, &mut changes);
        let changes = self.publish(changes);
        self.answers
            .keep(index, envelope.id, fingerprint, answer.clone());
        Applied {
            answer,
            duplicate: false,
            changes,
        }
    }

    /// An entry of the managers' log that holds no command (a blank or membership entry of Raft).
    pub fn skip(&mut self, index: u64) {
        assert!(index > self.applied, "index {index} after {}", self.applied);
        self.applied = index;
    }

    fn publish(&mut self, changes: Changes) -> Vec<Change> {
        let Changes { revision, list } = changes;
        if list.is_empty() {
            return list;
        }
        self.revision = revision;
        self.changes.extend(&list);
        for change in &list {
            match &change.what {
                Changed::Settings(_) => self.settings.revision = revision,
                Changed::Node(_) => self.membership.revision = revision,
                Changed::Session(..) => self.sessions.revision = revision,
                Changed::Bound(..) | Changed::Unbound(_) => self.bindings.revision = revision,
                Changed::Namespace(_)
                | Changed::NamespaceDeleted(_)
                | Changed::Shard(..)
                | Changed::ShardDeleted(_) => self.naming.revision = revision,
            }
        }
        list
    }

    fn run(&mut self, command: &Command, changes: &mut Changes) -> Outcome {
        match command {
            Command::Found { cluster } => self.found(*cluster, changes),
            Command::SetSettings(change) => {
                let settings = self.settings.changed(change)?;
                self.set_settings(settings, changes)
            }
            Command::LowerLeaseLongest { revision, to } => self.lower(*revision, *to, changes),
            Command::RegisterNode(registration) => self.register_node(registration, changes),
            Command::SetNodeState {
                node,
                revision,
                state,
            } => self.set_node_state(*node, *revision, *state, changes),
            Command::ReportExit {
                node,
                incarnation,
                launch,
            } => self.report_exit(*node, *incarnation, launch, changes),
            Command::DrainNode { node, drain } => self.drain(*node, *drain, changes),
            Command::RemoveNode { node } => self.remove_node(*node, changes),
            Command::CreateNamespace {
                name,
                shards,
                settings,
            } => self.create_namespace(name, *shards, settings, changes),
            Command::AlterNamespace {
                name,
                revision,
                settings,
            } => self.alter_namespace(name, *revision, settings, changes),
            Command::DeleteNamespace { name } => self.delete_namespace(name, changes),
            Command::ChangeEntries(list) => self.change_entries(list, changes),
            Command::DeclareStoreLost { copy } => self.declare_lost(*copy, changes),
            Command::RegisterSession { client } => self.register_session(*client, changes),
            Command::RenewSessions { clients } => self.renew_sessions(clients),
            Command::CloseSession { client } => self.close_session(*client, changes),
            Command::ExpireSessions { clients } => self.expire_sessions(clients, changes),
            Command::RaiseClock {
                from_ms,
                to_ms,
                step,
            } => self.raise_clock(*from_ms, *to_ms, *step, changes),
            Command::Bind {
                name,
                endpoints,
                lease_ms,
                revision,
            } => self.bind(name, endpoints, *lease_ms, *revision, changes),
            Command::Unbind { name, revision } => self.unbind(name, *revision, changes),
            Command::ForcePromotion {
                shard,
                revision,
                forced,
            } => self.force_promotion(*shard, *revision, *forced, changes),
        }
    }

    fn done(&self, changes: &Changes) -> Outcome {
        let changed = !changes.list.is_empty();
        let revision = if changed {
            changes.revision
        } else {
            self.revision
        };
        Ok(Answer::Done { revision })
    }
}

/// The changes of one command while it runs.
struct Changes {
    revision: Revision,
    list: Vec<Change>,
}

impl Changes {
    fn push(&mut self, what: Changed) {
        self.list.push(Change {
            revision: self.revision,
            what,
        });
    }
}

fn fingerprint(command: &Command) -> u64 {
    let bytes = rmp_serde::to_vec(command).expect("a command holds nothing MessagePack cannot");
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// A compare-and-set that a person makes only when a revision is given.
fn expect_revision(wanted: Option<Revision>, have: Revision) -> Result<(), Refusal> {
    match wanted {
        Some(wanted) if wanted != have && !Mutant::SkipCompareAndSet.on() => {
            Err(Refusal::Changed { revision: have })
        }
        _ => Ok(()),
    }
}

// Cluster settings.
impl Tables {
    fn found(&mut self, cluster: ClusterId, changes: &mut Changes) -> Outcome {
        if let Some(cluster) = self.settings.cluster {
            return Ok(Answer::Founded { cluster });
        }
        let settings = ClusterSettings {
            cluster: Some(cluster),
            ..self.settings.clone()
        };
        self.set_settings(settings, changes)?;
        Ok(Answer::Founded { cluster })
    }

    fn set_settings(&mut self, mut settings: ClusterSettings, changes: &mut Changes) -> Outcome {
        assert!(
            settings.lease_longest >= settings.lease(),
            "a wait is short"
        );
        settings.revision = changes.revision;
        self.settings = settings.clone();
        changes.push(Changed::Settings(settings));
        self.done(changes)
    }

    fn lower(&mut self, revision: Revision, to: Duration, changes: &mut Changes) -> Outcome {
        expect_revision(Some(revision), self.settings.revision)?;
        if to < self.settings.lease() || to >= self.settings.lease_longest {
            return Err(not_allowed("the longest lease is lowered to the lease"));
        }
        let settings = ClusterSettings {
            lease_longest: to,
            ..self.settings.clone()
        };
        self.set_settings(settings, changes)
    }
}

// Membership.
impl Tables {
    fn register_node(&mut self, r: &Registration, changes: &mut Changes) -> Outcome {
        if self.naming.lost.iter().any(|c| c.store == r.store) {
            let why = "a person declared this data folder lost: start with an empty one";
            return Err(not_allowed(why));
        }
        let before = self.membership.by_name(&r.name).map(NodeEntry::copy);
        let (entry, new) = self.membership.register(r)?;
        let process = entry.process();
        if new {
            if let Some(before) = before.filter(|before| before.store != r.store) {
                self.forget_eligible(before, changes);
            }
            self.set_node(entry, changes);
        }
        Ok(Answer::Registered { process })
    }

    fn set_node(&mut self, mut entry: NodeEntry, changes: &mut Changes) {
        assert!(entry.ended <= entry.incarnation, "{} ended later", entry.id);
        entry.revision = changes.revision;
        let old = self.membership.nodes.insert(entry.id, entry.clone());
        if let Some(old) = old {
            let (from, to) = (old.incarnation, entry.incarnation);
            assert!(from <= to, "incarnation of {} falls", entry.id);
        }
        changes.push(Changed::Node(entry));
    }

    fn living_node(&self, node: NodeId) -> Result<NodeEntry, Refusal> {
        let entry = self.node(node).filter(|n| n.state != NodeState::Removed);
        entry.cloned().ok_or_else(|| Refusal::NotFound {
            what: format!("node {node}"),
        })
    }

    fn set_node_state(
        &mut self,
        node: NodeId,
        revision: Revision,
        state: NodeState,
        changes: &mut Changes,
    ) -> Outcome {
        let mut entry = self.living_node(node)?;
        expect_revision(Some(revision), entry.revision)?;
        let allowed = match state {
            NodeState::Up => !entry.drain,
            NodeState::Draining => entry.drain,
            NodeState::Suspect | NodeState::Down => true,
            NodeState::Joining | NodeState::Removed => false,
        };
        if !allowed {
            return Err(not_allowed("the node cannot be in that state"));
        }
        if entry.state != state {
            entry.state = state;
            self.set_node(entry, changes);
        }
        self.done(changes)
    }

    fn report_exit(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        launch: &LaunchId,
        changes: &mut Changes,
    ) -> Outcome {
        let mut entry = self.living_node(node)?;
        let exact = entry.incarnation == incarnation && entry.launch == *launch;
        if !exact && !Mutant::ExitReportOfAnotherIncarnation.on() {
            return Err(not_allowed("that is not the node's newest process"));
        }
        let incarnation = match exact {
            true => incarnation,
            false => entry.incarnation,
        };
        if entry.ended < incarnation {
            entry.ended = incarnation;
            entry.state = NodeState::Down;
            self.set_node(entry, changes);
        }
        self.done(changes)
    }

    fn drain(&mut self, node: NodeId, drain: bool, changes: &mut Changes) -> Outcome {
        let mut entry = self.living_node(node)?;
        if entry.drain != drain {
            entry.drain = drain;
            if matches!(entry.state, NodeState::Up | NodeState::Draining) {
                entry.state = entry.alive_state();
            }
            self.set_node(entry, changes);
        }
        self.done(changes)
    }

    fn remove_node(&mut self, node: NodeId, changes: &mut Changes) -> Outcome {
        if self
            .node(node)
            .is_some_and(|n| n.state == NodeState::Removed)
        {
            return self.done(changes);
        }
        let mut entry = self.living_node(node)?;
        let holds = |c: CopyId| c.node == node;
        let named = |s: &super::ShardEntry| {
            s.copies().any(holds)
                || s.open_cuts
                    .iter()
                    .any(|c| c.stores.iter().any(|s| holds(*s)))
        };
        if self.naming.shards.values().any(named) {
            let why = "shards name copies of the node: drain it first, or declare its store lost";
            return Err(not_allowed(why));
        }
        entry.state = NodeState::Removed;
        self.set_node(entry, changes);
        self.done(changes)
    }
}

// Naming.
impl Tables {
    fn create_namespace(
        &mut self,
        name: &str,
        shards: u32,
        settings: &NamespaceSettings,
        changes: &mut Changes,
    ) -> Outcome {
        let revision = changes.revision;
        let namespace = self.naming.create(name, shards, settings, revision)?;
        changes.push(Changed::Namespace(namespace.clone()));
        for shard in namespace.shard_ids() {
            changes.push(Changed::Shard(shard, self.naming.shards[&shard].clone()));
        }
        Ok(Answer::Namespace(Box::new(namespace)))
    }

    fn known_namespace(&self, name: &str) -> Result<Namespace, Refusal> {
        let known = self.naming.by_name(name).cloned();
        known.ok_or_else(|| Refusal::NotFound {
            what: format!("namespace {name}"),
        })
    }

    fn alter_namespace(
        &mut self,
        name: &str,
        revision: Option<Revision>,
        settings: &NamespaceSettings,
        changes: &mut Changes,
    ) -> Outcome {
        let mut namespace = self.known_namespace(name)?;
        expect_revision(revision, namespace.revision)?;
        settings.check()?;
        if namespace.settings.policy != settings.policy {
            return Err(not_allowed(
                "the mode of a namespace is fixed at its creation",
            ));
        }
        if namespace.settings != *settings {
            self.set_min_in_sync(&namespace, settings, changes);
            namespace.settings = settings.clone();
            namespace.revision = changes.revision;
            let copy = namespace.clone();
            self.naming.namespaces.insert(namespace.id, copy);
            changes.push(Changed::Namespace(namespace.clone()));
        }
        Ok(Answer::Namespace(Box::new(namespace)))
    }

    fn set_min_in_sync(
        &mut self,
        namespace: &Namespace,
        settings: &NamespaceSettings,
        changes: &mut Changes,
    ) {
        let Some(min) = settings.row_min_in_sync() else {
            return;
        };
        for shard in namespace.shard_ids() {
            let row = self.naming.shards.get_mut(&shard);
            let row = row.expect("a namespace has the rows of its shards");
            if row.set_min_in_sync(min) {
                row.revision = changes.revision;
                changes.push(Changed::Shard(shard, row.clone()));
            }
        }
    }

    /// A copy whose store is gone does not come back as what it was.
    fn forget_eligible(&mut self, copy: CopyId, changes: &mut Changes) {
        for (shard, row) in &mut self.naming.shards {
            if row.eligible.remove(&copy) {
                row.revision = changes.revision;
                changes.push(Changed::Shard(*shard, row.clone()));
            }
        }
    }

    fn delete_namespace(&mut self, name: &str, changes: &mut Changes) -> Outcome {
        let namespace = self.known_namespace(name)?;
        for shard in namespace.shard_ids() {
            self.naming.shards.remove(&shard);
            changes.push(Changed::ShardDeleted(shard));
        }
        self.naming.namespaces.remove(&namespace.id);
        self.naming.names.remove(name);
        changes.push(Changed::NamespaceDeleted(namespace.id));
        self.done(changes)
    }

    fn change_entries(&mut self, list: &[EntryChange], changes: &mut Changes) -> Outcome {
        if list.len() > ENTRY_CHANGES_MAX {
            return Err(Refusal::TooMany {
                field: "changes".to_string(),
                limit: ENTRY_CHANGES_MAX as u64,
            });
        }
        let mut applied = 0;
        let mut refused = None;
        for change in list {
            match self.change_entry(change, changes) {
                Ok(()) => applied += 1,
                Err(why) => refused = refused.or(Some((change.shard, Box::new(why)))),
            }
        }
        Ok(Answer::Entries { applied, refused })
    }

    fn change_entry(&mut self, change: &EntryChange, changes: &mut Changes) -> Result<(), Refusal> {
        let shard = change.shard;
        let Some(old) = self.naming.shards.get(&shard) else {
            return Err(Refusal::NotFound {
                what: format!("shard {shard}"),
            });
        };
        expect_revision(Some(change.revision), old.revision)?;
        self.check_copies_are_of_known_nodes(&change.op)?;
        let mut new = old.clone();
        let present = |copy| self.is_present(copy);
        new.change(&change.op, &self.naming.lost, &present)?;
        new.revision = changes.revision;
        let faults = new.faults();
        assert!(faults.is_empty(), "shard {shard}: {faults:?} in {new:?}");
        assert!(new.epoch >= old.epoch, "the epoch of shard {shard} falls");
        assert!(
            new.primary == old.primary || new.epoch > old.epoch,
            "shard {shard} has two primaries in epoch {}",
            new.epoch
        );
        self.naming.shards.insert(shard, new.clone());
        changes.push(Changed::Shard(shard, new));
        Ok(())
    }

    fn force_promotion(
        &mut self,
        shard: ShardId,
        revision: Revision,
        forced: Forced,
        changes: &mut Changes,
    ) -> Outcome {
        let Some(old) = self.naming.shards.get(&shard) else {
            return Err(Refusal::NotFound {
                what: format!("shard {shard}"),
            });
        };
        expect_revision(Some(revision), old.revision)?;
        self.check_forced(old, &forced)?;
        let mut new = old.clone();
        new.force(forced)?;
        new.revision = changes.revision;
        self.naming.shards.insert(shard, new.clone());
        changes.push(Changed::Shard(shard, new));
        self.done(changes)
    }

    /// Whether a node that was not removed has that store now, and no person declared it lost.
    fn is_present(&self, copy: CopyId) -> bool {
        let row = self.node(copy.node);
        let stays = row.is_some_and(|node| node.state != NodeState::Removed);
        stays && self.process_of(copy).is_some() && !self.is_lost(copy)
    }

    /// A copy gets a role only at a node that has its store now; a process acts only while it is the newest.
    fn check_copies_are_of_known_nodes(&self, op: &EntryOp) -> Result<(), Refusal> {
        let present = |copy: CopyId| match self.is_present(copy) {
            true => Ok(()),
            false => Err(not_allowed("no node has that store now")),
        };
        let newest = |process: ProcessId| {
            present(process.copy())?;
            let current = self.process_of(process.copy()) == Some(process);
            if current && !self.has_ended(process) {
                Ok(())
            } else {
                Err(not_allowed("that process is not the node's newest"))
            }
        };
        match op {
            EntryOp::Place {
                primary,
                secondaries,
            } => {
                newest(*primary)?;
                secondaries.iter().try_for_each(|c| present(*c))?;
                let nodes = secondaries.iter().map(|c| c.node).chain([primary.node]);
                let distinct: std::collections::BTreeSet<NodeId> = nodes.collect();
                if distinct.len() <= secondaries.len() {
                    return Err(invalid("secondaries", "has a node twice"));
                }
                Ok(())
            }
            EntryOp::Promote { promoted, .. } => newest(*promoted),
            EntryOp::AddJoining { copy, .. }
            | EntryOp::Complete { copy, .. }
            | EntryOp::AddInSync { copy, .. }
            | EntryOp::AddWitness { copy, .. } => present(*copy),
            _ => Ok(()),
        }
    }

    fn declare_lost(&mut self, copy: CopyId, changes: &mut Changes) -> Outcome {
        let known = self.node(copy.node).is_some();
        if !known {
            return Err(Refusal::NotFound {
                what: format!("node {}", copy.node),
            });
        }
        let lives = self.process_of(copy).is_some_and(|p| !self.has_ended(p));
        let state = self.node(copy.node).map(|n| n.state);
        if lives && !matches!(state, Some(NodeState::Down | NodeState::Removed)) {
            return Err(not_allowed("the store is in use: its node is not down"));
        }
        self.naming.lost.insert(copy);
        let rows: Vec<ShardId> = self.naming.shards.keys().copied().collect();
        for shard in rows {
            let row = self
                .naming
                .shards
                .get_mut(&shard)
                .expect("the key was listed above");
            if row.declare_lost(copy) {
                row.revision = changes.revision;
                changes.push(Changed::Shard(shard, row.clone()));
            }
        }
        self.done(changes)
    }
}

fn bounded(clients: &[ClientId]) -> Result<(), Refusal> {
    if clients.len() <= RENEWALS_MAX {
        return Ok(());
    }
    Err(Refusal::TooMany {
        field: "clients".to_string(),
        limit: RENEWALS_MAX as u64,
    })
}

// Sessions and bindings.
impl Tables {
    fn register_session(&mut self, client: ClientId, changes: &mut Changes) -> Outcome {
        let (_, new) = self.sessions.register(client)?;
        self.answer_session(client, new, changes)
    }

    fn close_session(&mut self, client: ClientId, changes: &mut Changes) -> Outcome {
        let (_, new) = self.sessions.close(client)?;
        self.answer_session(client, new, changes)
    }

    fn answer_session(&mut self, client: ClientId, new: bool, changes: &mut Changes) -> Outcome {
        let row = self
            .sessions
            .rows
            .get_mut(&client)
            .expect("the row was just made");
        if new {
            row.revision = changes.revision;
            changes.push(Changed::Session(client, *row));
        }
        Ok(Answer::Session(*row))
    }

    fn renew_sessions(&mut self, clients: &[ClientId]) -> Outcome {
        bounded(clients)?;
        self.sessions.renew(clients);
        Ok(Answer::Done {
            revision: self.revision,
        })
    }

    fn expire_sessions(&mut self, clients: &[ClientId], changes: &mut Changes) -> Outcome {
        bounded(clients)?;
        for (client, row) in self.sessions.expire(clients, changes.revision) {
            changes.push(Changed::Session(client, row));
        }
        Ok(Answer::Done {
            revision: self.revision,
        })
    }

    fn raise_clock(&mut self, from: u64, to: u64, step: bool, changes: &mut Changes) -> Outcome {
        if from != self.sessions.clock_ms {
            return Err(not_allowed("the table's clock was raised meanwhile"));
        }
        if to <= from {
            return Err(not_allowed("the table's clock never falls"));
        }
        let floor = self.sessions.floor_ms;
        if step {
            self.sessions.forgive(to - from);
        }
        self.sessions.raise_clock(to);
        assert!(self.sessions.floor_ms >= floor, "the floor never falls");
        if step {
            self.bindings.renew_all(to);
        }
        for name in self.bindings.expire(to) {
            changes.push(Changed::Unbound(name));
        }
        self.done(changes)
    }

    fn bind(
        &mut self,
        name: &str,
        endpoints: &[String],
        lease_ms: Option<u64>,
        revision: Option<Revision>,
        changes: &mut Changes,
    ) -> Outcome {
        let have = self.binding(name).map_or(Revision::ZERO, |b| b.revision);
        expect_revision(revision, have)?;
        let clock = self.clock_ms();
        let (mut binding, visible) = self.bindings.bind(name, endpoints, lease_ms, clock)?;
        if visible {
            binding.revision = changes.revision;
            self.bindings.rows.insert(name.to_string(), binding.clone());
            changes.push(Changed::Bound(name.to_string(), binding));
        }
        self.done(changes)
    }

    fn unbind(&mut self, name: &str, revision: Option<Revision>, changes: &mut Changes) -> Outcome {
        let Some(binding) = self.binding(name) else {
            return Err(Refusal::NotFound {
                what: format!("binding {name}"),
            });
        };
        expect_revision(revision, binding.revision)?;
        self.bindings.rows.remove(name);
        changes.push(Changed::Unbound(name.to_string()));
        self.done(changes)
    }
}
