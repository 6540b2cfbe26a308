//! The life of a manager process: start the group, serve it, and on the word to stop hand leadership over and end.

use crate::admin::Readiness;
use crate::config::{InitialManager, ManagerConfig};
use crate::data_folder::{DataFolder, Role};
use crate::listening::{self, connections};
use crate::manager::MANAGER_BINDINGS;
use crate::manager::{
    Duty, DutySettings, Group, GroupConfig, ManagerNode, RaftServer, RaftSettings, StartError,
    dial_plain,
};
use crate::process::{Process, RoleError, Stop, advertised};
use crate::reflection::add_standard_services;
use crate::rpc::{cluster::ClusterServer, control::HeartbeatServer, naming::NamingServer};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;
use understudy_proto::limits::{INTERNAL_MESSAGE_BYTES_MAX, PUBLIC_MESSAGE_BYTES_MAX};
use understudy_proto::v1::cluster_server::ClusterServer as ClusterService;
use understudy_proto::v1::heartbeat_server::HeartbeatServer as HeartbeatService;
use understudy_proto::v1::naming_server::NamingServer as NamingService;
use understudy_proto::v1::raft_server::RaftServer as RaftService;
use understudy_proto::{ClientId, RequestId, Sequence};
use understudy_protocol::control::ControlSettings;
use understudy_protocol::tables::{Command, Envelope, SettingsChange};
use understudy_protocol::time::Duration as Length;

/// Runs a manager until it is told to stop, and has stopped.
pub async fn run(config: ManagerConfig, process: Process) -> Result<(), RoleError> {
    let mut folder = DataFolder::open(&config.data_dir, Role::Manager)?;
    let group = start(&config).await?;
    let duty = Duty::start(group.clone(), duty_settings(&config));
    let Process {
        public,
        internal,
        bound,
        stop,
        room,
        admin,
    } = process;
    let (servers, ended) = crate::process::stopper();
    let internal = tokio::spawn(serve_internal(
        internal,
        room.internal,
        group.clone(),
        duty.clone(),
        ended.clone(),
    ));
    let mut routes = RoutesBuilder::default();
    let health = add_standard_services(&mut routes)
        .await
        .map_err(RoleError::Failed)?;
    routes
        .add_service(
            ClusterService::new(ClusterServer::new(group.clone()))
                .max_decoding_message_size(PUBLIC_MESSAGE_BYTES_MAX),
        )
        .add_service(
            NamingService::new(NamingServer::new(group.clone()))
                .max_decoding_message_size(PUBLIC_MESSAGE_BYTES_MAX),
        );
    let public = tokio::spawn(serve_public(public, room.public, routes, ended));
    let shown = group.clone();
    admin.set_status(move || status(&shown));
    let mut recovered = group.recovered();
    tokio::select! {
        _ = recovered.wait_for(|recovered| *recovered) => {}
        () = stop.wait() => {}
    }
    if !stop.is_stopping() {
        health
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        admin.set_readiness(Readiness::Ready);
        tokio::select! {
            kept = keep_identity(&group, &mut folder) => {
                kept?;
                announce(&group, advertised(&config.advertise.public, bound.public)).await;
                stop.wait().await;
            }
            () = stop.wait() => {}
        }
    }
    admin.set_readiness(Readiness::NotReady("stopping".to_string()));
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    group
        .transfer_and_stop(Duration::from_millis(config.shutdown_timeout_ms))
        .await;
    servers.stop();
    // Streams of followers do not end by themselves.
    let _ = tokio::time::timeout(Duration::from_millis(500), async {
        (public.await, internal.await)
    })
    .await;
    Ok(())
}

async fn start(config: &ManagerConfig) -> Result<Group, RoleError> {
    let initial = config.initial().map_err(RoleError::Config)?;
    let node = |at: InitialManager| ManagerNode {
        internal_address: at.internal,
        public_address: at.public,
    };
    let initial_managers: BTreeMap<u64, ManagerNode> =
        initial.into_iter().map(|(id, at)| (id, node(at))).collect();
    let group = Group::start(GroupConfig {
        id: config.id,
        folder: config.data_dir.clone(),
        initial_managers,
        raft: raft_settings(config),
        dial: dial_plain(),
    });
    group.await.map_err(|error| match error {
        StartError::FolderUnusable(why) => RoleError::FolderUnusable(why),
        StartError::Config(why) => RoleError::Config(why),
    })
}

fn raft_settings(config: &ManagerConfig) -> RaftSettings {
    let raft = &config.raft;
    RaftSettings {
        heartbeat: Duration::from_millis(raft.heartbeat_ms),
        election_timeout_min: Duration::from_millis(raft.election_timeout_min_ms),
        election_timeout_max: Duration::from_millis(raft.election_timeout_max_ms),
        snapshot_every: raft.snapshot_every,
        log_kept: raft.log_kept,
    }
}

/// Only what differs from the defaults of the tables is written when the cluster is founded.
fn duty_settings(config: &ManagerConfig) -> DutySettings {
    let ours = &config.founding;
    let usual = crate::config::Founding::default();
    let changed = |mine: u64, default: u64| (mine != default).then(|| Length::from_millis(mine));
    DutySettings {
        control: ControlSettings {
            balance_after: Length::from_millis(config.balance_after_ms),
            ..ControlSettings::default()
        },
        site: String::new(),
        founding: SettingsChange {
            heartbeat_interval: changed(ours.heartbeat_interval_ms, usual.heartbeat_interval_ms),
            lease: changed(ours.lease_ms, usual.lease_ms),
            slower_candidates_wait: changed(
                ours.slower_candidates_wait_ms,
                usual.slower_candidates_wait_ms,
            ),
            replace_after: changed(ours.replace_after_ms, usual.replace_after_ms),
            ..SettingsChange::default()
        },
    }
}

/// Writes into the folder which cluster it is of, once the tables say it.
async fn keep_identity(group: &Group, folder: &mut DataFolder) -> Result<(), RoleError> {
    let view = group
        .stale()
        .map_err(|failure| RoleError::Failed(failure.to_string()))?;
    let mut revisions = view.revisions();
    loop {
        if let Some(cluster) = view.look(|tables| tables.cluster()) {
            return folder.belongs_to(cluster, group.id());
        }
        if revisions.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Binds this manager's public address to a name, so that nodes can tell their clients; tries until it is done.
async fn announce(group: &Group, address: String) {
    let client = ClientId::from_parts(crate::clock::unix_ms(), rand::random());
    let command = Command::Bind {
        name: format!("{MANAGER_BINDINGS}{}", group.id()),
        endpoints: vec![address],
        lease_ms: None,
        revision: None,
    };
    let id = RequestId {
        client,
        sequence: Sequence(1),
    };
    let envelope = Envelope { id, command };
    loop {
        match group
            .propose(envelope.clone(), Duration::from_secs(2))
            .await
        {
            Ok(Ok(_)) => return,
            Ok(Err(refusal)) => {
                return tracing::warn!(%refusal, "the address of this manager is not bound");
            }
            Err(failure) => {
                tracing::debug!(%failure, "the address of this manager is not bound yet")
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn status(group: &Group) -> serde_json::Value {
    let leader = group.leader();
    let tables = group.stale().ok().map(|view| {
        view.look(|tables| {
            let shards = tables.shards();
            json!({
                "cluster": tables.cluster().map(|cluster| cluster.to_string()),
                "revision": tables.revision().0,
                "nodes": tables.nodes().count(),
                "shards": shards.len(),
                "shards_without_primary": shards.values().filter(|entry| entry.primary.is_none()).count(),
                "open_cuts": shards.values().map(|entry| entry.open_cuts.len()).sum::<usize>(),
            })
        })
    });
    json!({
        "role": "manager",
        "manager": group.id(),
        "leader": leader.leader,
        "leads": leader.here,
        "tables": tables,
    })
}

async fn serve_public(
    listener: TcpListener,
    connections_max: usize,
    routes: RoutesBuilder,
    stop: Stop,
) -> Result<(), tonic::transport::Error> {
    listening::server()
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(connections(listener, connections_max), async move {
            stop.wait().await
        })
        .await
}

async fn serve_internal(
    listener: TcpListener,
    connections_max: usize,
    group: Group,
    duty: Duty,
    stop: Stop,
) -> Result<(), tonic::transport::Error> {
    let limit = INTERNAL_MESSAGE_BYTES_MAX;
    listening::server()
        .add_service(
            RaftService::new(RaftServer::new(group.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(
            HeartbeatService::new(HeartbeatServer::new(group, duty))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .serve_with_incoming_shutdown(connections(listener, connections_max), async move {
            stop.wait().await
        })
        .await
}
