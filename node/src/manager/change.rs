//! Adding and removing managers at run time.
//!
//! A new manager joins as a learner, catches up, and becomes a voter. An id that was ever in the group is refused for
//! another manager: one that starts empty under a known id could vote twice. A leader that is to go hands over first.

use super::MANAGER_BINDINGS;
use super::forward::ManagerChange;
use super::group::{Group, not_leader, stopped};
use super::types::ManagerNode;
use crate::clock;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::{ClientId, RequestId, Sequence};
use understudy_protocol::tables::{Command, Envelope};

/// One manager as the group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    pub id: u64,
    pub node: ManagerNode,
    pub voter: bool,
    pub leader: bool,
    /// How much of the log the leader knows to be on it; only when this manager leads.
    pub matched: Option<u64>,
}

impl Group {
    /// Adds a manager that was started with an empty folder and no `initial_managers`.
    pub async fn add_manager(
        &self,
        id: u64,
        node: ManagerNode,
        limit: Duration,
    ) -> Result<(), Failure> {
        self.change_managers(ManagerChange::Add { id, node }, limit)
            .await
    }

    /// Removes a manager. Its process may be stopped afterwards; its id is never used again.
    pub async fn remove_manager(&self, id: u64, limit: Duration) -> Result<(), Failure> {
        self.change_managers(ManagerChange::Remove { id }, limit)
            .await
    }

    /// The managers as this one knows them.
    pub fn managers(&self) -> Vec<Manager> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let matched = |id: &u64| metrics.replication.as_ref()?.get(id)?.map(|id| id.index);
        // A founding list names internal addresses only; the public one each manager binds to a name itself.
        let bound = |id: &u64| {
            let name = format!("{MANAGER_BINDINGS}{id}");
            self.view()
                .look(|tables| tables.binding(&name)?.endpoints.first().cloned())
        };
        let with_public = |id: &u64, node: &ManagerNode| match node.public_address.as_str() {
            "" => ManagerNode {
                public_address: bound(id).unwrap_or_default(),
                ..node.clone()
            },
            _ => node.clone(),
        };
        let manager = |(id, node): (&u64, &ManagerNode)| Manager {
            id: *id,
            node: with_public(id, node),
            voter: voters.contains(id),
            leader: metrics.current_leader == Some(*id),
            matched: matched(id),
        };
        membership.nodes().map(manager).collect()
    }

    pub(super) async fn change_managers_here(
        &self,
        change: ManagerChange,
        limit: Duration,
    ) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        match change {
            ManagerChange::Add { id, node } => self.add_here(id, node, end).await,
            ManagerChange::Remove { id } => self.remove_here(id, end).await,
        }
    }

    async fn add_here(&self, id: u64, node: ManagerNode, end: Instant) -> Result<(), Failure> {
        let known = self.managers().into_iter().find(|manager| manager.id == id);
        match known {
            Some(known) if known.node != node => {
                let at = known.node.internal_address;
                return Err(Failure::no(
                    Reason::AlreadyExists,
                    format!("manager {id} is at {at}"),
                ));
            }
            Some(known) if known.voter => return Ok(()),
            Some(_) => {}
            None if id == 0 => return Err(Failure::field("id", "a manager's id is at least 1")),
            None if self.view().ever().contains(&id) => {
                let why =
                    format!("manager {id} was removed: its id is never used again, choose another");
                return Err(Failure::no(Reason::NotAllowed, why));
            }
            None => {}
        }
        // Waits until the learner has (nearly) the whole log.
        self.written(end, self.raft().add_learner(id, node, true))
            .await?;
        let voter = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.written(end, self.raft().change_membership(voter, true))
            .await
    }

    async fn remove_here(&self, id: u64, end: Instant) -> Result<(), Failure> {
        let managers = self.managers();
        let Some(manager) = managers.iter().find(|manager| manager.id == id) else {
            return self.unbind(id, end).await;
        };
        if manager.voter && managers.iter().filter(|manager| manager.voter).count() == 1 {
            return Err(Failure::no(
                Reason::NotAllowed,
                "the last manager cannot be removed",
            ));
        }
        if id == self.id() {
            let left = end.saturating_duration_since(Instant::now());
            self.transfer_leadership(left / 2).await?;
            return Err(Failure::no(
                Reason::NotLeader,
                "this manager has handed leadership over",
            ));
        }
        let gone = BTreeSet::from([id]);
        if manager.voter {
            let removed = ChangeMembers::RemoveVoters(gone.clone());
            self.written(end, self.raft().change_membership(removed, false))
                .await?;
        } else {
            let removed = ChangeMembers::RemoveNodes(gone);
            self.written(end, self.raft().change_membership(removed, false))
                .await?;
        }
        self.unbind(id, end).await
    }

    /// The name under which nodes tell clients of that manager.
    async fn unbind(&self, id: u64, end: Instant) -> Result<(), Failure> {
        let name = format!("{MANAGER_BINDINGS}{id}");
        if self.view().look(|tables| tables.binding(&name).is_none()) {
            return Ok(());
        }
        let id = RequestId {
            client: ClientId::from_parts(clock::unix_ms(), rand::random()),
            sequence: Sequence(1),
        };
        let revision = None;
        let command = Command::Unbind { name, revision };
        let left = end.saturating_duration_since(Instant::now());
        // Refused is only what somebody else has unbound meanwhile.
        let answered = self.propose_here(Envelope { id, command }, left).await?;
        if let Err(refusal) = answered {
            tracing::debug!(%refusal, "a removed manager's name was unbound already");
        }
        Ok(())
    }

    async fn written<T>(
        &self,
        end: Instant,
        writing: impl Future<
            Output = Result<
                T,
                RaftError<super::types::TypeConfig, ClientWriteError<super::types::TypeConfig>>,
            >,
        >,
    ) -> Result<(), Failure> {
        match timeout_at(end, writing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(&error)),
            Ok(Err(RaftError::APIError(error))) => Err(refused(&error)),
            Err(_) => Err(Failure::unknown(
                Reason::DeadlinePassed,
                "the change was not made in time; ask again",
            )),
        }
    }
}

fn refused(error: &ClientWriteError<super::types::TypeConfig>) -> Failure {
    match error {
        ClientWriteError::ForwardToLeader(error) => not_leader(error),
        ClientWriteError::LogEntryDiscarded(error) => Failure {
            applied: understudy_proto::failure::Applied::Unknown,
            ..not_leader(error)
        },
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            Failure::no(
                Reason::Overloaded,
                "another change of the managers is under way; ask again",
            )
        }
        other => Failure::no(Reason::NotAllowed, other.to_string()),
    }
}

/// A list `id@host:port` of internal addresses, as the configuration has it.
pub fn parse_managers(list: &[String]) -> Result<BTreeMap<u64, ManagerNode>, String> {
    let mut managers = BTreeMap::new();
    for item in list {
        let bad = || format!("'{item}' is not like 1@host:7421");
        let (id, address) = item.split_once('@').ok_or_else(bad)?;
        let id = id
            .parse::<u64>()
            .ok()
            .filter(|id| *id > 0)
            .ok_or_else(bad)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        let node = ManagerNode {
            internal_address: address.to_string(),
            public_address: String::new(),
        };
        if managers.insert(id, node).is_some() {
            return Err(format!("manager {id} is named twice"));
        }
    }
    Ok(managers)
}
