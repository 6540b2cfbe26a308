//! A data node: opens and checks its store, registers with the managers, follows their tables, and serves clients and peers.
//!
//! `run` is the life of the process in order. The tasks beside it: `heart` beats and keeps the leases, `watch` follows
//! the tables, the shard threads do the work.

mod directory;
mod heart;
mod managers;
mod scrub;
mod sessions;
mod status;
pub mod store;
mod watch;

pub use directory::{Directory, KnownClients};
pub use managers::Managers;
pub use sessions::Sessions;
pub use store::StoreStart;

use crate::admin::Readiness;
use crate::channels::Channels;
use crate::clock;
use crate::config::{NodeConfig, StartedBy};
use crate::data_folder::{DataFolder, Role};
use crate::listening::{self, connections};
use crate::manager::dial_plain;
use crate::peers::Peers;
use crate::process::{Process, RoleError, Stop, advertised, boot_id};
use crate::reflection::add_standard_services;
use crate::rpc::control::RegisterRequest;
use crate::rpc::{
    objects::ObjectsServer, replica::ReplicaServer, replica::ReplicationServer,
    request_log::RequestLogServer, routes::RoutesServer,
};
use crate::shard::driver::Outside;
use crate::shard::{Differing, Judged, NodePace, Served, ShardHost};
use crate::storage::{Database, Options, Writer};
use parking_lot::RwLock;
use std::io::{BufRead, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use understudy_proto::failure::Reason;
use understudy_proto::limits::{
    DELTA_RECORDS_MIN, DELTA_WALKS_MAX, INTERNAL_MESSAGE_BYTES_MAX, PUBLIC_MESSAGE_BYTES_MAX,
};
use understudy_proto::v1::naming_server::NamingServer as NamingService;
use understudy_proto::v1::objects_server::ObjectsServer as ObjectsService;
use understudy_proto::v1::replica_server::ReplicaServer as ReplicaService;
use understudy_proto::v1::replication_server::ReplicationServer as ReplicationService;
use understudy_proto::v1::request_log_server::RequestLogServer as RequestLogService;
use understudy_proto::{ClientId, ClusterId, ProcessId, RequestId, Revision, Sequence, StoreId};
use understudy_protocol::control::NodeControl;
use understudy_protocol::control::message::Condition;
use understudy_protocol::shard::Settings;
use understudy_protocol::tables::{Address, BootId, LaunchId, NodeEntry, NodeState, Registration};
use understudy_protocol::time::Duration as Length;

/// What the services and tasks of one node share.
pub struct Node {
    pub me: ProcessId,
    pub cluster: ClusterId,
    pub directory: Arc<RwLock<Directory>>,
    pub control: Arc<Mutex<NodeControl>>,
    pub database: Arc<Database>,
    pub writer: Writer,
    /// What the check of the store at start found.
    pub start: StoreStart,
    pub host: ShardHost,
    pub compared: scrub::Compared,
    pub judged: Arc<Judged>,
    pub served: Arc<Served>,
    pub differing: Arc<Differing>,
    pub managers: Arc<Managers>,
    pub channels: Channels,
    pub sessions: Sessions,
    pub peers: Arc<Peers>,
    pub stop: Stop,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.me)
    }
}

/// How long one call to a manager may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// The agent writes the process id right after the start.
const AGENT_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// When a node that stops hands nothing over for so long, there is no other to take it: the cluster stops. Longer than a
/// hand-over may take (1 s) and the wait before it is tried again (1 s).
const NOBODY_TAKES_THEM: Duration = Duration::from_millis(2_500);
/// Above the silence after which a node counts as down: 2.5 times the longest heartbeat interval, 60 s.
const REPLACED_PATIENCE: Duration = Duration::from_secs(300);

/// Runs a data node until it is told to stop, and has stopped.
pub async fn run(config: NodeConfig, process: Process) -> Result<(), RoleError> {
    let folder = DataFolder::open(&config.data_dir, Role::Node)?;
    process.admin.set_readiness(Readiness::NotReady(
        "compares its copies with their logs".to_string(),
    ));
    let (mut folder, ready) = prepare_store(folder, &config).await?;
    let store = folder.identity().store.ok_or_else(|| {
        RoleError::FolderUnusable("CLUSTER names no store; name another folder".to_string())
    })?;
    process.admin.set_readiness(Readiness::NotReady(
        "registers with the managers".to_string(),
    ));
    let channels = Channels::new(dial_plain());
    let managers = Arc::new(Managers::new(channels.clone(), &config.managers));
    let registration = registration(&config, &process, store);
    let known = folder.identity().cluster;
    // With a store that was replaced, now or by a start that got no further.
    let patience = match folder.identity().id {
        Some(_) => REPLACED_PATIENCE,
        None => Duration::ZERO,
    };
    let registered = register(&managers, known, registration, patience, &process.stop).await?;
    let Some(registered) = registered else {
        return Ok(());
    };
    folder.belongs_to(registered.cluster, registered.process.node.0)?;
    tracing::info!(process = %registered.process, cluster = %registered.cluster, "registered");
    let node = Arc::new(start(
        &config,
        &process,
        ready,
        managers,
        channels,
        &registered,
    )?);
    serve(config, process, node).await
}

/// Off the threads that serve: it reads the ends of all logs.
async fn prepare_store(
    mut folder: DataFolder,
    config: &NodeConfig,
) -> Result<(DataFolder, store::Ready), RoleError> {
    let options = Options {
        cache_bytes: config.storage.cache_bytes as usize,
        write_buffer_bytes: config.storage.write_buffer_bytes as usize,
        open_files: config.storage.open_files as i32,
        reserve_bytes: config.storage.reserve_bytes,
    };
    let preparing = tokio::task::spawn_blocking(move || {
        let ready = store::prepare(&mut folder, &options)?;
        Ok((folder, ready))
    });
    preparing.await.map_err(|error| {
        RoleError::Failed(format!("the check of the store ended unfinished: {error}"))
    })?
}

fn registration(config: &NodeConfig, process: &Process, store: StoreId) -> Registration {
    let inside = advertised(&config.advertise.inside, process.bound.public);
    let outside = match config.advertise.outside.as_str() {
        "" => inside.clone(),
        outside => outside.to_string(),
    };
    let internal = advertised(&config.advertise.internal, process.bound.internal);
    let (launch, agent) = match is_child_of(&config.agent) {
        true => (
            config.agent.launch_id.clone(),
            config.agent.address.as_str(),
        ),
        false => (format!("{:032x}", rand::random::<u128>()), ""),
    };
    Registration {
        name: name_of(config),
        store,
        public: Address { inside, outside },
        internal: Address {
            inside: internal.clone(),
            outside: internal,
        },
        site: config.site.clone(),
        labels: config.labels.clone(),
        capacity: 1,
        launch: LaunchId(launch),
        boot: BootId(boot_id()),
        agent: agent.to_string(),
    }
}

/// Whether an agent started exactly this process, so that it sees its end. What a script started inherits the script's
/// environment, and may have the agent as its parent once the script has ended; it does not have the process id that the
/// agent wrote into the pipe.
fn is_child_of(agent: &StartedBy) -> bool {
    if agent.launch_id.is_empty() || agent.pid == 0 {
        return false;
    }
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().cast_unsigned());
    let (tell, told) = std::sync::mpsc::channel();
    // A thread, since the agent may hang; it ends with the process at the latest.
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().lock().take(16).read_line(&mut line);
        let _ = tell.send(line);
    });
    let line = told.recv_timeout(AGENT_PATIENCE).unwrap_or_default();
    let ours = std::process::id();
    let is_child = parent == Some(agent.pid) && line.trim_end().parse::<u32>().ok() == Some(ours);
    if !is_child {
        tracing::warn!(
            "an agent's child started this process, or the agent is gone: no exit of it is reported"
        );
    }
    is_child
}

/// The configured name, or else the machine's.
fn name_of(config: &NodeConfig) -> String {
    match config.name.as_str() {
        "" => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        name => name.to_string(),
    }
}

/// Tries until a manager takes it. `None`: told to stop before that. `patience`: how long the name may still be that of the
/// process with the store that was replaced; it certainly ended, since this one has its folder.
async fn register(
    managers: &Managers,
    cluster: Option<ClusterId>,
    registration: Registration,
    patience: Duration,
    stop: &Stop,
) -> Result<Option<crate::rpc::control::RegisterResponse>, RoleError> {
    let client = ClientId::from_parts(clock::unix_ms(), rand::random());
    let id = RequestId {
        client,
        sequence: Sequence(1),
    };
    let mut request = RegisterRequest { id, registration };
    let mut told = false;
    let began = tokio::time::Instant::now();
    loop {
        let failure = match managers.register(cluster, &request, CALL_LIMIT).await {
            Ok(response) => return Ok(Some(response)),
            Err(failure) => failure,
        };
        match failure.reason {
            Reason::NotAllowed if failure.message.contains("another cluster") => {
                return Err(RoleError::FolderUnusable(format!(
                    "the managers are of another cluster than the folder: {}",
                    failure.message
                )));
            }
            Reason::AlreadyExists if began.elapsed() < patience => {
                if !told {
                    tracing::info!(%failure, "waiting until the process with the old store counts as down");
                    told = true;
                }
                // It was answered: under this id the answer would stay the same.
                request.id.sequence = Sequence(request.id.sequence.0 + 1);
            }
            Reason::FieldInvalid | Reason::AlreadyExists | Reason::NotAllowed => {
                return Err(RoleError::Failed(format!(
                    "the managers refuse this node: {}",
                    failure.message
                )));
            }
            _ if !told => {
                tracing::info!(%failure, "no manager takes the registration yet; trying on");
                told = true;
            }
            _ => {}
        }
        tokio::select! {
            () = stop.wait() => return Ok(None),
            () = tokio::time::sleep(REGISTER_PAUSE) => {}
        }
    }
}

fn start(
    config: &NodeConfig,
    process: &Process,
    ready: store::Ready,
    managers: Arc<Managers>,
    channels: Channels,
    registered: &crate::rpc::control::RegisterResponse,
) -> Result<Node, RoleError> {
    let me = registered.process;
    let interval = Length::from_millis(config.heartbeat_interval_ms);
    let ids = registered
        .managers
        .iter()
        .map(|(id, _)| (*id).into())
        .collect();
    let control = Arc::new(Mutex::new(NodeControl::new(me, ids, interval)));
    let directory = Arc::new(RwLock::new(Directory::new(config.site.clone())));
    let peers = Arc::new(Peers::new(
        me,
        registered.cluster,
        directory.clone(),
        channels.clone(),
        tokio::runtime::Handle::current(),
    ));
    let database = Arc::new(ready.database);
    let writer = Writer::start(database.clone(), Arc::new(clock::now));
    let threads = match config.shard_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads as usize,
    };
    let judged = Arc::new(Judged::default());
    let served = Arc::new(Served::default());
    let differing = Arc::new(Differing::default());
    let outside = Outside {
        clients: Arc::new(KnownClients(directory.clone())),
        me,
        settings: Settings {
            interval,
            log_bytes: config.retention.log_bytes,
            log_age: Length::from_millis(config.retention.log_age_ms),
            delta_records_min: DELTA_RECORDS_MIN,
            delta_walks_max: (DELTA_WALKS_MAX / threads).max(1),
        },
        database: database.clone(),
        control: control.clone(),
        peers: peers.clone(),
        judged: judged.clone(),
        served: served.clone(),
        differing: differing.clone(),
        pace: Arc::new(NodePace::new(config.full_copy_bytes_per_second)),
        broken: Arc::new(|shard, error| tracing::error!(%shard, %error, "a copy cannot go on")),
    };
    let host = ShardHost::start(threads, outside, &writer)
        .map_err(|error| RoleError::FolderUnusable(error.to_string()))?;
    Ok(Node {
        me,
        cluster: registered.cluster,
        sessions: Sessions::new(managers.clone(), directory.clone(), control.clone()),
        directory,
        control,
        database,
        writer,
        start: ready.start,
        host,
        compared: scrub::Compared::default(),
        judged,
        served,
        differing,
        managers,
        channels,
        peers,
        stop: process.stop.clone(),
    })
}

async fn serve(config: NodeConfig, process: Process, node: Arc<Node>) -> Result<(), RoleError> {
    let Process {
        public,
        internal,
        stop,
        admin,
        room,
        ..
    } = process;
    status::register(&admin, &node);
    // The servers go on while the primaries are handed over.
    let (servers, ended) = crate::process::stopper();
    let internal = tokio::spawn(serve_internal(
        internal,
        room.internal,
        node.clone(),
        ended.clone(),
    ));
    let watching = tokio::spawn(watch::run(node.clone()));
    let beating = tokio::spawn(heart::run(node.clone()));
    let scrubbing = tokio::spawn(scrub::run(node.clone(), config.scrub.clone()));
    let mut routes = RoutesBuilder::default();
    let health = add_standard_services(&mut routes)
        .await
        .map_err(RoleError::Failed)?;
    add_public(&mut routes, &node);
    let public = tokio::spawn(serve_public(public, room.public, routes, ended));
    let ready = async {
        // Until it has the tables it refuses everything.
        while node.directory.read().revision == Revision::ZERO {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        health
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        admin.set_readiness(Readiness::Ready);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.wait() => {}
        () = ready => {}
        ended = beating => {
            return Err(RoleError::Failed(match ended {
                Ok(why) => why,
                Err(error) => format!("the heartbeats ended: {error}"),
            }));
        }
    }
    admin.set_readiness(Readiness::NotReady("stopping".to_string()));
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    // The rest is for what is on its way.
    let limit = Duration::from_millis(config.shutdown_timeout_ms).mul_f32(0.8);
    hand_over(&node, limit).await;
    servers.stop();
    watching.abort();
    scrubbing.abort();
    // Streams of peers and followers do not end by themselves.
    let _ = tokio::time::timeout(Duration::from_millis(500), async {
        (public.await, internal.await)
    })
    .await;
    Ok(())
}

fn add_public(routes: &mut RoutesBuilder, node: &Arc<Node>) {
    let limit = PUBLIC_MESSAGE_BYTES_MAX;
    routes
        .add_service(
            ObjectsService::new(ObjectsServer::new(node.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX),
        )
        .add_service(
            RequestLogService::new(RequestLogServer::new(node.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX),
        )
        .add_service(
            NamingService::new(RoutesServer::new(node.clone())).max_decoding_message_size(limit),
        );
}

async fn serve_public(
    listener: TcpListener,
    connections_max: usize,
    routes: RoutesBuilder,
    stop: Stop,
) -> Result<(), tonic::transport::Error> {
    server()
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(connections(listener, connections_max), async move {
            stop.wait().await
        })
        .await
}

async fn serve_internal(
    listener: TcpListener,
    connections_max: usize,
    node: Arc<Node>,
    stop: Stop,
) -> Result<(), tonic::transport::Error> {
    let limit = INTERNAL_MESSAGE_BYTES_MAX;
    server()
        .add_service(
            ReplicationService::new(ReplicationServer::new(node.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(
            ReplicaService::new(ReplicaServer::new(node))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .serve_with_incoming_shutdown(connections(listener, connections_max), async move {
            stop.wait().await
        })
        .await
}

fn server() -> Server {
    listening::server()
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
}

fn others_are_up(node: &Node) -> bool {
    let up = |other: &&NodeEntry| other.id != node.me.node && other.state == NodeState::Up;
    node.directory.read().nodes().any(|other| up(&other))
}

/// Until it has no primary any more, or nobody takes them, or time is up; then it acts as none.
async fn hand_over(node: &Node, limit: Duration) {
    let lock = || {
        node.control
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    lock().set_condition(Condition::Stopping);
    let began = tokio::time::Instant::now();
    let (mut left, mut moved) = (usize::MAX, began);
    loop {
        let now = tokio::time::Instant::now();
        {
            let mut control = lock();
            let claims = control.leases().claims().count();
            if claims < left {
                (left, moved) = (claims, now);
            }
            let alone = !others_are_up(node);
            if claims == 0 || alone || now >= began + limit || now >= moved + NOBODY_TAKES_THEM {
                // A shard whose target is lost now may be given back: what was acknowledged here would be cut off.
                control.retire();
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
