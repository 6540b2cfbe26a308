//! The `Cluster` service of a manager: members, namespaces, sessions, managers, moving and giving up copies.

use super::tables::{
    Desk, client_id, limit, namespace, nodes, pair, primary, state, store_id, unknown_namespace,
};
use crate::manager::{DutyAnswer, DutyQuestion, Group, ManagerNode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::cluster_server::Cluster;
use understudy_proto::v1::namespace_policy::{CutOff, Forward as WireForward, Mode};
use understudy_proto::v1::*;
use understudy_proto::{CopyId, Epoch, NodeId, ShardId, limits};
use understudy_protocol::tables::{
    Answer, Command, ConflictPolicy, Forward, Namespace, NamespaceSettings, NodeEntry, NodeState,
    Policy, Refusal, SessionState, ShardEntry, Tables,
};

/// Sessions in one answer.
const SESSIONS_MAX: u32 = 10_000;
const SESSIONS_DEFAULT: u32 = 1_000;
/// How long a status waits for the leader's word on orphans.
const ORPHANS_LIMIT: Duration = Duration::from_secs(1);
/// How long a move of a primary is waited for: many times what it takes.
const MOVED_LIMIT: Duration = Duration::from_secs(10);

/// The service on a manager's public port.
#[derive(Clone, Debug)]
pub struct ClusterServer {
    pub(super) desk: Arc<Desk>,
}

impl ClusterServer {
    pub fn new(group: Group) -> ClusterServer {
        ClusterServer {
            desk: Arc::new(Desk::new(group)),
        }
    }

    /// What the nodes told the leader. Nothing when the caller takes what this manager has and it does not lead, or when
    /// no leader answers: everything else is told all the same.
    async fn orphans(&self, stale: bool, end: Instant) -> Option<BTreeMap<NodeId, u64>> {
        if stale && !self.desk.group.leader().here {
            return None;
        }
        // What else is asked is known already: half of the time that is left is for the answer's way back.
        let limit = end.saturating_duration_since(Instant::now()) / 2;
        let limit = limit.min(ORPHANS_LIMIT);
        match self.desk.group.duty(DutyQuestion::Orphans, limit).await {
            Ok(DutyAnswer::Orphans(orphans)) => Some(orphans),
            _ => None,
        }
    }

    /// Where the updates come from, as the leader knows it: nothing where it is not asked or does not answer.
    async fn writers(
        &self,
        namespace: &str,
        stale: bool,
        end: Instant,
    ) -> BTreeMap<ShardId, BTreeMap<String, u32>> {
        if stale && !self.desk.group.leader().here {
            return BTreeMap::new();
        }
        let limit = end.saturating_duration_since(Instant::now()) / 2;
        let limit = limit.min(ORPHANS_LIMIT);
        let namespace = namespace.to_string();
        let question = DutyQuestion::Writers { namespace };
        match self.desk.group.duty(question, limit).await {
            Ok(DutyAnswer::Writers(writers)) => writers,
            _ => BTreeMap::new(),
        }
    }

    fn managers(&self) -> Vec<ManagerInfo> {
        let managers = self.desk.group.managers().into_iter();
        let info = managers.map(|manager| ManagerInfo {
            id: manager.id,
            public_address: manager.node.public_address,
            internal_address: manager.node.internal_address,
            voter: manager.voter,
            leader: manager.leader,
            matched_index: manager.matched,
        });
        info.collect()
    }

    async fn namespace_command(
        &self,
        id: Option<RequestId>,
        command: Command,
        limit: Duration,
    ) -> Result<Result<NamespaceInfo, Refusal>, Failure> {
        match self.desk.run(id, command, limit).await? {
            Ok(Answer::Namespace(row)) => Ok(Ok(namespace(&row))),
            Ok(other) => Err(super::control::unexpected(&other)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    async fn find_namespace(&self, name: &str, limit: Duration) -> Result<Namespace, Failure> {
        let view = self.desk.group.read(limit).await?;
        let found = view.look(|tables| tables.namespace_by_name(name).cloned());
        found.ok_or_else(|| unknown_namespace(name))
    }

    /// Waits until the shard has a later epoch than that.
    async fn moved(
        &self,
        shard: ShardId,
        from: Epoch,
        end: Instant,
    ) -> Result<TransferShardResponse, Failure> {
        let view = self.desk.group.stale()?;
        let mut revisions = view.revisions();
        loop {
            revisions.borrow_and_update();
            let now = view.look(|tables| {
                tables
                    .shard(shard)
                    .map(|entry| (entry.epoch, primary(entry)))
            });
            match now {
                Some((epoch, primary)) if epoch > from => {
                    return Ok(TransferShardResponse {
                        epoch: epoch.0,
                        primary,
                    });
                }
                Some(_) => {}
                None => {
                    return Err(Failure::unknown(
                        Reason::NotFound,
                        "the shard was deleted meanwhile",
                    ));
                }
            }
            if timeout_at(end, revisions.changed()).await.is_err() {
                let why = "the shard has not moved yet; it may still";
                return Err(Failure::unknown(Reason::DeadlinePassed, why));
            }
        }
    }
}

/// What of a policy is a setting; zero and empty stay as they are in `base`.
fn settings(
    policy: &NamespacePolicy,
    base: NamespaceSettings,
) -> Result<NamespaceSettings, Failure> {
    if policy.log_bytes > 0 || policy.log_age_ms > 0 {
        let why = "log_bytes and log_age_ms cannot be set yet";
        return Err(Failure::no(Reason::Unimplemented, why).with("field", "policy"));
    }
    let or = |new: u32, old: u32| if new == 0 { old } else { new };
    Ok(NamespaceSettings {
        copies: or(policy.copies, base.copies),
        policy: match policy.mode() {
            Mode::Unspecified => base.policy,
            Mode::Lazy => Policy::Lazy,
            Mode::InSync => Policy::InSync,
        },
        min_in_sync: or(policy.min_in_sync, base.min_in_sync),
        conflicts: match policy.cut_off() {
            CutOff::Unspecified => base.conflicts,
            CutOff::ReapplyIfUnchanged => ConflictPolicy::ReapplyIfUnchanged,
            CutOff::Discard => ConflictPolicy::Discard,
            CutOff::Hold => ConflictPolicy::HoldForAPerson,
        },
        sites: if policy.sites.is_empty() {
            base.sites
        } else {
            policy.sites.clone()
        },
        dedup_entries_per_client: or(policy.dedup_entries, base.dedup_entries_per_client),
        dedup_age_ms: if policy.dedup_age_ms == 0 {
            base.dedup_age_ms
        } else {
            policy.dedup_age_ms
        },
        primary_near_writers: policy
            .primary_near_writers
            .unwrap_or(base.primary_near_writers),
        forward: match policy.forward() {
            WireForward::Unspecified => base.forward,
            WireForward::Components => Forward::Components,
            WireForward::Operation => Forward::Operation,
            WireForward::Object => Forward::Object,
        },
    })
}

#[tonic::async_trait]
impl Cluster for ClusterServer {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let (stale, limit) = (request.get_ref().stale, limit(&request));
        let end = Instant::now() + limit;
        let view = self.desk.view(stale, limit).await?;
        let orphans = self.orphans(stale, end).await;
        let mut status = view.look(status);
        status.orphans = orphans.map(|orphans| orphans.values().sum());
        status.managers = self.managers();
        status.leader = self.desk.group.leader().leader.unwrap_or(0);
        Ok(Response::new(status))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let (stale, limit) = (request.get_ref().stale, limit(&request));
        let end = Instant::now() + limit;
        let view = self.desk.view(stale, limit).await?;
        let orphans = self.orphans(stale, end).await.unwrap_or_default();
        let info = |tables: &Tables, node: &NodeEntry| NodeInfo {
            orphans: orphans.get(&node.id).copied(),
            ..node_info(tables, node)
        };
        Ok(Response::new(view.look(|tables| ListNodesResponse {
            nodes: tables.nodes().map(|node| info(tables, node)).collect(),
            revision: tables.revision().0,
        })))
    }

    async fn list_shards(
        &self,
        request: Request<ListShardsRequest>,
    ) -> Result<Response<ListShardsResponse>, Status> {
        let (stale, limit) = (request.get_ref().stale, limit(&request));
        let end = Instant::now() + limit;
        let view = self.desk.view(stale, limit).await?;
        let name = request.into_inner().namespace;
        let follows = |row: &Namespace| {
            row.settings.primary_near_writers && (name.is_empty() || row.name == name)
        };
        let writers = match view.look(|tables| tables.namespaces().any(follows)) {
            true => self.writers(&name, stale, end).await,
            false => BTreeMap::new(),
        };
        let shards = view.look(|tables| {
            let known = name.is_empty() || tables.namespace_by_name(&name).is_some();
            let wanted = |row: &&Namespace| name.is_empty() || row.name == name;
            known.then(|| ListShardsResponse {
                shards: tables
                    .namespaces()
                    .filter(wanted)
                    .flat_map(|row| shard_infos(tables, row, &writers))
                    .collect(),
                revision: tables.revision().0,
            })
        });
        Ok(Response::new(
            shards.ok_or_else(|| unknown_namespace(&name))?,
        ))
    }

    async fn create_namespace(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<NamespaceInfo>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let policy = asked.policy.unwrap_or_default();
        let wanted = settings(&policy, NamespaceSettings::default())?;
        let shards = if policy.shards == 0 {
            limits::SHARDS_PER_NAMESPACE_DEFAULT
        } else {
            policy.shards
        };
        let command = Command::CreateNamespace {
            name: asked.name.clone(),
            shards,
            settings: wanted.clone(),
        };
        let refusal = match self
            .namespace_command(asked.request_id, command, limit)
            .await?
        {
            Ok(created) => return Ok(Response::new(created)),
            Err(refusal) => refusal,
        };
        if asked.if_not_exists && matches!(refusal, Refusal::AlreadyExists { .. }) {
            let found = self.find_namespace(&asked.name, limit).await?;
            if found.settings == wanted && found.shards == shards {
                return Ok(Response::new(namespace(&found)));
            }
        }
        Err(Failure::from(refusal).into())
    }

    async fn alter_namespace(
        &self,
        request: Request<AlterNamespaceRequest>,
    ) -> Result<Response<NamespaceInfo>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let policy = asked.policy.unwrap_or_default();
        let old = self.find_namespace(&asked.name, limit).await?;
        if policy.shards != 0 && policy.shards != old.shards {
            return Err(Failure::field(
                "policy.shards",
                "the number of shards is fixed at creation",
            )
            .into());
        }
        let new = settings(&policy, old.settings.clone())?;
        if new.policy != old.settings.policy {
            return Err(Failure::field("policy.mode", "the mode is fixed at creation").into());
        }
        let command = Command::AlterNamespace {
            name: asked.name,
            // The same command again under the same id, also when the first one has made its change.
            revision: None,
            settings: new,
        };
        let altered = self
            .namespace_command(asked.request_id, command, limit)
            .await?;
        Ok(Response::new(altered.map_err(Failure::from)?))
    }

    async fn delete_namespace(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<DeleteNamespaceResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let command = Command::DeleteNamespace { name: asked.name };
        let revision = self.desk.done(asked.request_id, command, limit).await?;
        Ok(Response::new(DeleteNamespaceResponse { revision }))
    }

    async fn list_namespaces(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let view = self
            .desk
            .view(request.get_ref().stale, limit(&request))
            .await?;
        Ok(Response::new(view.look(|tables| ListNamespacesResponse {
            namespaces: tables.namespaces().map(namespace).collect(),
            revision: tables.revision().0,
        })))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let view = self
            .desk
            .view(request.get_ref().stale, limit(&request))
            .await?;
        let count = match request.get_ref().limit {
            0 => SESSIONS_DEFAULT,
            asked => asked.min(SESSIONS_MAX),
        };
        Ok(Response::new(view.look(|tables| ListSessionsResponse {
            sessions: sessions(tables, count as usize),
            table_time_ms: tables.clock_ms(),
            registration_floor_ms: tables.registration_floor_ms(),
            total: tables.sessions().len() as u64,
        })))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let limit = limit(&request);
        let client = client_id(&request.into_inner().client_id)?;
        // Closing again changes nothing, so it needs no id of the caller's.
        let revision = self
            .desk
            .done(None, Command::CloseSession { client }, limit)
            .await?;
        Ok(Response::new(CloseSessionResponse { revision }))
    }

    async fn add_manager(
        &self,
        request: Request<AddManagerRequest>,
    ) -> Result<Response<ManagersResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        if asked.internal_address.is_empty() {
            return Err(Failure::field("internal_address", "internal_address is missing").into());
        }
        let node = ManagerNode {
            internal_address: asked.internal_address,
            public_address: asked.public_address,
        };
        self.desk.group.add_manager(asked.id, node, limit).await?;
        Ok(Response::new(ManagersResponse {
            managers: self.managers(),
        }))
    }

    async fn remove_manager(
        &self,
        request: Request<RemoveManagerRequest>,
    ) -> Result<Response<ManagersResponse>, Status> {
        let limit = limit(&request);
        self.desk
            .group
            .remove_manager(request.into_inner().id, limit)
            .await?;
        Ok(Response::new(ManagersResponse {
            managers: self.managers(),
        }))
    }

    async fn list_managers(
        &self,
        _request: Request<ListManagersRequest>,
    ) -> Result<Response<ManagersResponse>, Status> {
        Ok(Response::new(ManagersResponse {
            managers: self.managers(),
        }))
    }

    async fn transfer_shard(
        &self,
        request: Request<TransferShardRequest>,
    ) -> Result<Response<TransferShardResponse>, Status> {
        // No move takes so long; and its refusal is to arrive before the caller gives up.
        let limit = limit(&request).mul_f32(0.9).min(MOVED_LIMIT);
        let end = Instant::now() + limit;
        let asked = request.into_inner();
        let row = self.find_namespace(&asked.namespace, limit).await?;
        let shard = row.shard(asked.shard);
        let shard = shard.ok_or_else(|| {
            Failure::no(
                Reason::NotFound,
                format!("there is no shard {}", asked.shard),
            )
        })?;
        let view = self.desk.group.stale()?;
        let (epoch, target) = view.look(|tables| target(tables, shard, asked.target_node))?;
        let Some(target) = target else {
            let primary = asked.target_node;
            return Ok(Response::new(TransferShardResponse {
                epoch: epoch.0,
                primary,
            }));
        };
        let wish = DutyQuestion::Transfer { shard, target };
        let left = end.saturating_duration_since(Instant::now());
        self.desk.group.duty(wish, left).await?;
        Ok(Response::new(self.moved(shard, epoch, end).await?))
    }

    async fn declare_store_lost(
        &self,
        request: Request<DeclareStoreLostRequest>,
    ) -> Result<Response<DeclareStoreLostResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let copy = CopyId {
            node: NodeId(asked.node),
            store: store_id(&asked.store_id)?,
        };
        // Declaring again changes nothing, so it needs no id of the caller's.
        let revision = self
            .desk
            .done(None, Command::DeclareStoreLost { copy }, limit)
            .await?;
        Ok(Response::new(DeclareStoreLostResponse { revision }))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        let limit = limit(&request);
        let DrainNodeRequest { node, undo } = request.into_inner();
        let command = Command::DrainNode {
            node: NodeId(node),
            drain: !undo,
        };
        // Said again it changes nothing, so it needs no id of the caller's.
        let revision = self.desk.done(None, command, limit).await?;
        Ok(Response::new(DrainNodeResponse { revision }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let limit = limit(&request);
        let node = NodeId(request.into_inner().node);
        let command = Command::RemoveNode { node };
        // Said again it changes nothing, so it needs no id of the caller's.
        let revision = self.desk.done(None, command, limit).await?;
        Ok(Response::new(RemoveNodeResponse { revision }))
    }

    async fn show_promotion(
        &self,
        request: Request<ShowPromotionRequest>,
    ) -> Result<Response<ShowPromotionResponse>, Status> {
        let limit = limit(&request);
        Ok(Response::new(self.show(request.into_inner(), limit).await?))
    }

    async fn force_promotion(
        &self,
        request: Request<ForcePromotionRequest>,
    ) -> Result<Response<ForcePromotionResponse>, Status> {
        let limit = limit(&request);
        Ok(Response::new(
            self.force(request.into_inner(), limit).await?,
        ))
    }
}

/// The shard's epoch, and the copy to promote; `None` when it is the primary already.
fn target(tables: &Tables, shard: ShardId, node: u64) -> Result<(Epoch, Option<CopyId>), Failure> {
    let entry = tables
        .shard(shard)
        .ok_or_else(|| Failure::no(Reason::NotFound, "the shard is not placed"))?;
    if node != 0 && primary(entry) == node {
        return Ok((entry.epoch, None));
    }
    let up = |copy: &&CopyId| {
        tables
            .node(copy.node)
            .is_some_and(|row| row.state == NodeState::Up)
    };
    let mut secondaries = entry.secondaries.iter();
    let found = match node {
        0 => secondaries.find(up),
        node => secondaries.find(|copy| copy.node.0 == node),
    };
    let why = "that node has no complete copy of the shard, or no complete copy is up";
    let found = found.ok_or_else(|| Failure::no(Reason::NotAllowed, why))?;
    Ok((entry.epoch, Some(*found)))
}

fn status(tables: &Tables) -> StatusResponse {
    let nodes: Vec<&NodeEntry> = tables
        .nodes()
        .filter(|node| node.state != NodeState::Removed)
        .collect();
    let up = |id: NodeId| {
        tables
            .node(id)
            .is_some_and(|node| node.state == NodeState::Up)
    };
    let shards = tables.shards();
    let led =
        |entry: &ShardEntry| entry.begun.is_none() && entry.primary.is_some_and(|p| up(p.node));
    let short = |entry: &ShardEntry| {
        let wanted = tables
            .namespace(entry.namespace)
            .map_or(0, |row| row.settings.copies as usize);
        // A copy of a store that its node no longer has is named until it is replaced, and is no copy.
        let there = |copy: &CopyId| tables.process_of(*copy).is_some();
        entry.full_copies().filter(there).count() < wanted
    };
    StatusResponse {
        cluster_id: tables
            .cluster()
            .map_or_else(Default::default, |id| id.to_bytes().to_vec().into()),
        revision: tables.revision().0,
        nodes_up: nodes
            .iter()
            .filter(|node| node.state == NodeState::Up)
            .count() as u32,
        nodes_total: nodes.len() as u32,
        shards_total: shards.len() as u64,
        shards_without_primary: shards.values().filter(|entry| !led(entry)).count() as u64,
        shards_short_of_copies: shards.values().filter(|entry| short(entry)).count() as u64,
        namespaces: tables.namespaces().count() as u32,
        open_cuts: shards
            .values()
            .map(|entry| entry.open_cuts.len() as u64)
            .sum(),
        ..StatusResponse::default()
    }
}

fn node_info(tables: &Tables, node: &NodeEntry) -> NodeInfo {
    let copy = node.copy();
    let count = |has: &dyn Fn(&ShardEntry) -> bool| {
        tables.shards().values().filter(|entry| has(entry)).count() as u32
    };
    NodeInfo {
        node: node.id.0,
        name: node.name.clone(),
        store_id: node.store.to_bytes().to_vec().into(),
        incarnation: node.incarnation.0,
        site: node.site.clone(),
        inside_address: node.public.inside.clone(),
        outside_address: node.public.outside.clone(),
        internal_address: node.internal.inside.clone(),
        state: state(node.state).to_string(),
        primaries: count(&|entry| entry.primary.is_some_and(|process| process.copy() == copy)),
        secondaries: count(&|entry| entry.is_secondary(copy)),
        joining: count(&|entry| entry.joining.contains(&copy)),
        labels: node.labels.clone().into_iter().collect(),
        orphans: None,
    }
}

fn shard_infos<'a>(
    tables: &'a Tables,
    row: &'a Namespace,
    writers: &'a BTreeMap<ShardId, BTreeMap<String, u32>>,
) -> impl Iterator<Item = ShardInfo> + 'a {
    row.shard_ids().zip(0u32..).filter_map(|(shard, index)| {
        let entry = tables.shard(shard)?;
        let cut = |cut: &understudy_protocol::tables::OpenCut| OpenCut {
            old_epoch: cut.old_epoch.0,
            cut: Some(pair(cut.cut)),
            nodes: nodes(&cut.stores),
            store_ids: cut
                .stores
                .iter()
                .map(|copy| copy.store.to_bytes().to_vec().into())
                .collect(),
        };
        Some(ShardInfo {
            shard: shard.0,
            namespace: row.name.clone(),
            index,
            revision: entry.revision.0,
            epoch: entry.epoch.0,
            primary: primary(entry),
            secondaries: nodes(&entry.secondaries),
            joining: nodes(&entry.joining),
            open_cuts: entry.open_cuts.iter().map(cut).collect(),
            writers: writers.get(&shard).map(writer_sites).unwrap_or_default(),
        })
    })
}

fn writer_sites(sites: &BTreeMap<String, u32>) -> Vec<WriterSite> {
    let site = |(site, permille): (&String, &u32)| WriterSite {
        site: site.clone(),
        permille: *permille,
    };
    sites.iter().map(site).collect()
}

fn sessions(tables: &Tables, count: usize) -> Vec<SessionInfo> {
    let rows = tables.sessions().iter().take(count);
    rows.map(|(client, session)| SessionInfo {
        client_id: client.to_bytes().to_vec().into(),
        closed: session.state == SessionState::Closed,
        last_active_ms: session.active_ms,
    })
    .collect()
}
