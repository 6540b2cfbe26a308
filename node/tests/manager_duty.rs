//! Managers with all their services, and nodes that register, beat, follow the tables and let themselves be sealed.
//!
//! The nodes here have the real lease logic and no data: what is tested is that the managers place, grant, seal and
//! promote over real connections, and that nothing of it is lost with a leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use understudy_node::clock;
use understudy_node::manager::{
    Duty, DutySettings, Group, GroupConfig, ManagerNode, RaftServer, RaftSettings, dial_plain,
};
use understudy_node::rpc::cluster::ClusterServer;
use understudy_node::rpc::control::{
    FollowItem, FollowRequest, HeartbeatServer, NodeRequest, NodeResponse, RegisterRequest,
    RegisterResponse,
};
use understudy_node::rpc::naming::NamingServer;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::cluster_client::ClusterClient;
use understudy_proto::v1::cluster_server::ClusterServer as ClusterService;
use understudy_proto::v1::heartbeat_client::HeartbeatClient;
use understudy_proto::v1::heartbeat_server::HeartbeatServer as HeartbeatService;
use understudy_proto::v1::naming_client::NamingClient;
use understudy_proto::v1::naming_event::Kind;
use understudy_proto::v1::naming_server::NamingServer as NamingService;
use understudy_proto::v1::raft_server::RaftServer as RaftService;
use understudy_proto::v1::replica_server::{Replica, ReplicaServer};
use understudy_proto::v1::{
    BindRequest, Binding, ControlRequest, ControlResponse, CreateNamespaceRequest, LookupRequest,
    NamespacePolicy, NamingWatchRequest, NamingWatchResponse, RouteRequest, RouteResponse,
    StatusRequest,
};
use understudy_proto::{
    ClientId, Epoch, NodeId, Pair, ProcessId, RequestId, Sequence, ShardId, StoreId,
};
use understudy_protocol::control::NodeControl;
use understudy_protocol::control::message::{
    self, CopyReport, HandOverAnswer, HandOverOutcome, HandOverRequest, SealAnswer, SealOutcome,
    SealRequest,
};
use understudy_protocol::tables::{Address, Changed, Registration, ShardEntry, Tables};
use understudy_protocol::time;

/// No test waits that long unless something is broken.
const LIMIT: Duration = Duration::from_secs(30);

struct Manager {
    group: Group,
    address: String,
    served: JoinHandle<()>,
    _folder: TempDir,
}

async fn managers(count: u64) -> BTreeMap<u64, Manager> {
    let mut listeners = Vec::new();
    let mut initial = BTreeMap::new();
    for id in 1..=count {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        initial.insert(
            id,
            ManagerNode {
                internal_address: address.clone(),
                public_address: address,
            },
        );
        listeners.push((id, listener));
    }
    let mut managers = BTreeMap::new();
    for (id, listener) in listeners {
        managers.insert(id, manager(id, listener, initial.clone()).await);
    }
    managers
}

async fn manager(
    id: u64,
    listener: TcpListener,
    initial_managers: BTreeMap<u64, ManagerNode>,
) -> Manager {
    let folder = tempfile::tempdir().unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = GroupConfig {
        id,
        folder: folder.path().to_path_buf(),
        initial_managers,
        raft: RaftSettings::default(),
        dial: dial_plain(),
    };
    let group = Group::start(config).await.unwrap();
    let duty = Duty::start(group.clone(), DutySettings::default());
    let serving = Server::builder()
        .add_service(RaftService::new(RaftServer::new(group.clone())))
        .add_service(HeartbeatService::new(HeartbeatServer::new(
            group.clone(),
            duty.clone(),
        )))
        .add_service(NamingService::new(NamingServer::new(group.clone())))
        .add_service(ClusterService::new(ClusterServer::new(group.clone())))
        .serve_with_incoming(TcpIncoming::from(listener));
    let served = tokio::spawn(async move { serving.await.unwrap() });
    Manager {
        group,
        address,
        served,
        _folder: folder,
    }
}

impl Manager {
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn kill(self) {
        self.group.stop(LIMIT).await;
        self.served.abort();
    }
}

fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

/// Repeats what a starting or leaderless cluster may refuse.
async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(start.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A node with leases and without data.
struct Node {
    control: Arc<Mutex<NodeControl>>,
    process: ProcessId,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Copies {
    process: Arc<Mutex<Option<ProcessId>>>,
    control: Arc<Mutex<Option<Arc<Mutex<NodeControl>>>>>,
}

#[tonic::async_trait]
impl Replica for Copies {
    async fn seal(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let asked: SealRequest = message::decode(&request.into_inner().payload).unwrap();
        let control = self.control.lock().unwrap().clone().unwrap();
        for seal in &asked.seals {
            control.lock().unwrap().give_up(seal.shard);
        }
        let sealed = SealOutcome::Sealed {
            last: Pair::new(1, 1),
        };
        let answer = SealAnswer {
            from: self.process.lock().unwrap().unwrap(),
            seals: asked
                .seals
                .into_iter()
                .map(|seal| (seal.claim(), sealed))
                .collect(),
        };
        let payload = message::encode(&answer).into();
        Ok(Response::new(ControlResponse { payload }))
    }

    async fn hand_over(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let asked: HandOverRequest = message::decode(&request.into_inner().payload).unwrap();
        let promised = HandOverOutcome::Promised {
            last: Pair::new(1, 1),
        };
        let answer = HandOverAnswer {
            from: self.process.lock().unwrap().unwrap(),
            hand_overs: asked
                .hand_overs
                .into_iter()
                .map(|wanted| (wanted, promised))
                .collect(),
        };
        let payload = message::encode(&answer).into();
        Ok(Response::new(ControlResponse { payload }))
    }

    async fn describe(
        &self,
        _: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        Err(Status::unavailable("these copies have nothing to tell"))
    }
}

impl Node {
    async fn start(name: &str, number: u64, manager: &str) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let copies = Copies {
            process: Arc::default(),
            control: Arc::default(),
        };
        let serving = Server::builder()
            .add_service(ReplicaServer::new(copies.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let served = tokio::spawn(async move { serving.await.unwrap() });
        let registered = register(name, number, &address, manager).await;
        let ids = registered
            .managers
            .iter()
            .map(|(id, _)| NodeId(*id))
            .collect();
        let interval = time::Duration::from_millis(100);
        let control = Arc::new(Mutex::new(NodeControl::new(
            registered.process,
            ids,
            interval,
        )));
        *copies.process.lock().unwrap() = Some(registered.process);
        *copies.control.lock().unwrap() = Some(control.clone());
        let process = registered.process;
        let beating = tokio::spawn(beat(control.clone(), registered.clone()));
        let following = tokio::spawn(follow(control.clone(), registered));
        Node {
            control,
            process,
            tasks: vec![served, beating, following],
        }
    }

    fn holds(&self, shard: ShardId, epoch: Epoch) -> bool {
        self.control
            .lock()
            .unwrap()
            .holds(shard, epoch, clock::now())
    }

    fn kill(self) {
        for task in self.tasks {
            task.abort();
        }
    }
}

async fn register(name: &str, number: u64, address: &str, manager: &str) -> RegisterResponse {
    let at = Address {
        inside: address.to_string(),
        outside: String::new(),
    };
    let request = RegisterRequest {
        id: RequestId {
            client: ClientId::from_parts(clock::unix_ms(), u128::from(number)),
            sequence: Sequence(1),
        },
        registration: Registration {
            name: name.to_string(),
            store: StoreId(u128::from(number)),
            public: at.clone(),
            internal: at,
            ..Registration::default()
        },
    };
    let client = HeartbeatClient::new(channel(manager));
    let payload = bytes::Bytes::from(message::encode(&request));
    eventually("a node registers", || {
        let mut client = client.clone();
        let payload = payload.clone();
        async move {
            let request = ControlRequest {
                payload,
                ..Default::default()
            };
            let answer = client.register(request).await.ok()?;
            message::decode(&answer.into_inner().payload).ok()
        }
    })
    .await
}

fn request(registered: &RegisterResponse, payload: Vec<u8>) -> ControlRequest {
    ControlRequest {
        cluster_id: registered.cluster.to_bytes().to_vec().into(),
        payload: payload.into(),
    }
}

async fn beat(control: Arc<Mutex<NodeControl>>, registered: RegisterResponse) {
    let managers = registered.managers.iter();
    let clients: BTreeMap<NodeId, HeartbeatClient<Channel>> = managers
        .map(|(id, address)| (NodeId(*id), HeartbeatClient::new(channel(address))))
        .collect();
    loop {
        let next = control
            .lock()
            .unwrap()
            .next_heartbeat(clock::now(), clock::unix_ms(), true);
        if let Some((to, heartbeat)) = next {
            let (control, mut client) = (control.clone(), clients[&to].clone());
            let request = request(&registered, message::encode(&heartbeat));
            tokio::spawn(async move {
                if let Ok(answer) = client.beat(request).await {
                    let answer = message::decode(&answer.into_inner().payload).unwrap();
                    control.lock().unwrap().on_answer(clock::now(), to, answer);
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Claims what the tables name this process for, from whichever manager answers.
async fn follow(control: Arc<Mutex<NodeControl>>, registered: RegisterResponse) {
    let mut after = None;
    for (_, address) in registered.managers.iter().cycle() {
        let mut client = HeartbeatClient::new(channel(address));
        let asked = message::encode(&FollowRequest { after });
        if let Ok(stream) = client.follow(request(&registered, asked)).await {
            let mut stream = stream.into_inner();
            let mut snapshot = Vec::new();
            while let Ok(Some(item)) = stream.message().await {
                match message::decode(&item.payload).unwrap() {
                    FollowItem::Snapshot { part, last } => {
                        snapshot.extend_from_slice(&part);
                        if last {
                            let tables = Tables::decode(&std::mem::take(&mut snapshot)).unwrap();
                            for (shard, entry) in tables.shards() {
                                take(&control, *shard, entry);
                            }
                            after = Some(tables.revision());
                        }
                    }
                    FollowItem::Changes { revision, changes } => {
                        for change in changes {
                            if let Changed::Shard(shard, entry) = change.what {
                                take(&control, shard, &entry);
                            }
                        }
                        after = Some(revision);
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn take(control: &Mutex<NodeControl>, shard: ShardId, entry: &ShardEntry) {
    let mut control = control.lock().unwrap();
    let process = control.process();
    if entry.primary == Some(process) {
        control.claim(shard, entry.epoch);
    } else {
        control.give_up(shard);
    }
    control.report(CopyReport {
        shard,
        present: entry.names(process.copy()),
        last: Pair::new(1, 1),
        promised: entry.epoch,
        followed: entry.epoch,
        orphans: 0,
    });
}

async fn create_namespace(address: &str, copies: u32) {
    let client = ClusterClient::new(channel(address));
    eventually("a namespace is made", || {
        let mut client = client.clone();
        async move {
            let policy = NamespacePolicy {
                copies,
                shards: 2,
                ..Default::default()
            };
            let request = CreateNamespaceRequest {
                name: "n".to_string(),
                policy: Some(policy),
                if_not_exists: true,
                ..Default::default()
            };
            client.create_namespace(request).await.ok()
        }
    })
    .await;
}

/// The route, once every shard has that primary.
async fn route_led_by(address: &str, wanted: impl Fn(u64) -> bool + Copy) -> RouteResponse {
    let client = NamingClient::new(channel(address));
    eventually("all shards are led", || {
        let mut client = client.clone();
        async move {
            let request = RouteRequest {
                namespace: "n".to_string(),
                ..Default::default()
            };
            let route = client.route(request).await.ok()?.into_inner();
            let led =
                route.shards.len() == 2 && route.shards.iter().all(|shard| wanted(shard.primary));
            led.then_some(route)
        }
    })
    .await
}

// capabilities A10, B02, B03, B09, B10, B11, B15, B17
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_falls_silent_is_replaced_and_its_leases_end_first() {
    let managers = managers(3).await;
    let address = managers[&1].address();
    let first = Node::start("first", 1, &address).await;
    let second = Node::start("second", 2, &managers[&2].address()).await;
    create_namespace(&address, 2).await;
    let route = route_led_by(&address, |primary| primary != 0).await;
    let shard = ShardId(route.shards[0].shard);
    let (old, new) = match route.shards[0].primary == first.process.node.0 {
        true => (first, second),
        false => (second, first),
    };
    let epoch = Epoch(route.shards[0].epoch);
    eventually("the primary has its lease", || async {
        old.holds(shard, epoch).then_some(())
    })
    .await;
    assert!(!new.holds(shard, epoch));

    let control = old.control.clone();
    old.kill();
    let node = new.process.node.0;
    let later = route_led_by(&address, |primary| primary == node).await;
    assert!(
        !control.lock().unwrap().holds(shard, epoch, clock::now()),
        "its lease ended before"
    );
    let epoch = Epoch(later.shards[0].epoch);
    eventually("the new primary has its lease", || async {
        new.holds(shard, epoch).then_some(())
    })
    .await;
    new.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_go_on_under_a_new_leader() {
    let mut managers = managers(3).await;
    let address = managers[&1].address();
    let node = Node::start("only", 1, &address).await;
    create_namespace(&address, 1).await;
    let route = route_led_by(&address, |primary| primary != 0).await;
    let claims: Vec<(ShardId, Epoch)> = route
        .shards
        .iter()
        .map(|shard| (ShardId(shard.shard), Epoch(shard.epoch)))
        .collect();
    let (shard, epoch) = claims[0];
    eventually("the primary has its lease", || async {
        node.holds(shard, epoch).then_some(())
    })
    .await;

    let leader = managers
        .values()
        .find_map(|manager| manager.group.leader().leader)
        .unwrap();
    managers.remove(&leader).unwrap().kill().await;
    let until = || node.control.lock().unwrap().leases().until(shard, epoch);
    let granted_before = until();
    eventually("a new leader grants", || async {
        (until() > granted_before).then_some(())
    })
    .await;
    let other = managers.values().next().unwrap().address();
    let after = route_led_by(&other, |primary| primary != 0).await;
    assert_eq!(after.shards, route.shards, "nothing failed over");
    node.kill();
}

async fn next(stream: &mut tonic::Streaming<NamingWatchResponse>) -> NamingWatchResponse {
    tokio::time::timeout(LIMIT, stream.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

fn bind(name: &str) -> BindRequest {
    BindRequest {
        binding: Some(Binding {
            name: name.to_string(),
            endpoints: vec!["host:1".to_string()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_are_watched_without_a_hole_from_any_manager() {
    let managers = managers(3).await;
    let mut one = NamingClient::new(channel(&managers[&1].address()));
    let mut two = NamingClient::new(channel(&managers[&2].address()));
    let begin = one.bind(bind("a")).await.unwrap().into_inner().revision;
    let found = two
        .lookup(LookupRequest {
            name: "a".to_string(),
            stale: false,
        })
        .await
        .unwrap();
    assert_eq!(found.into_inner().binding.unwrap().endpoints, ["host:1"]);
    for number in 0..20 {
        one.bind(bind(&format!("w/{number}"))).await.unwrap();
        one.bind(bind(&format!("wide/{number}"))).await.unwrap();
    }
    let asked = NamingWatchRequest {
        after_revision: Some(begin),
        prefix: "w".to_string(),
        all_tables: false,
    };
    let mut stream = two.watch(asked).await.unwrap().into_inner();
    for number in 20..40 {
        one.bind(bind(&format!("w/{number}"))).await.unwrap();
    }
    let mut last = begin;
    for number in 0..40 {
        let response = next(&mut stream).await;
        assert!(response.revision > last);
        last = response.revision;
        let [event] = response.events.as_slice() else {
            panic!("one binding a revision: {response:?}");
        };
        let Some(Kind::Bound(bound)) = &event.kind else {
            panic!("only bindings: {event:?}");
        };
        assert_eq!(bound.name, format!("w/{number}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_by_its_reason() {
    let managers = managers(1).await;
    let address = managers[&1].address();
    let mut naming = NamingClient::new(channel(&address));
    let reason = |status: Status| Failure::from_status(&status).map(|failure| failure.reason);
    naming.bind(bind("a")).await.unwrap();
    let route = RouteRequest {
        namespace: "none".to_string(),
        ..Default::default()
    };
    let missing = naming.route(route).await.unwrap_err();
    assert_eq!(reason(missing), Some(Reason::NamespaceUnknown));
    let missing = naming
        .lookup(LookupRequest {
            name: "b".to_string(),
            stale: true,
        })
        .await
        .unwrap_err();
    assert_eq!(reason(missing), Some(Reason::NotFound));
    let missing = naming.bind(BindRequest::default()).await.unwrap_err();
    assert_eq!(reason(missing), Some(Reason::FieldInvalid));
    let mut heartbeat = HeartbeatClient::new(channel(&address));
    let foreign = ControlRequest {
        cluster_id: vec![7; 16].into(),
        payload: bytes::Bytes::new(),
    };
    let refused = eventually("the cluster is founded", || {
        let (mut heartbeat, foreign) = (heartbeat.clone(), foreign.clone());
        async move {
            let refused = heartbeat.beat(foreign).await.unwrap_err();
            reason(refused).filter(|reason| *reason != Reason::Starting)
        }
    })
    .await;
    assert_eq!(refused, Reason::NotAllowed);
    let status = ClusterClient::new(channel(&address))
        .status(StatusRequest { stale: false })
        .await
        .unwrap();
    let status = status.into_inner();
    assert_eq!(
        (
            status.leader,
            status.managers.len(),
            status.cluster_id.len()
        ),
        (1, 1, 16)
    );
    let empty = heartbeat
        .follow(ControlRequest::default())
        .await
        .unwrap_err();
    assert_eq!(reason(empty), Some(Reason::FieldInvalid));
}

/// A new cluster's clock is at zero until its nodes were heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_for_the_clusters_clock() {
    let managers = managers(1).await;
    let address = managers[&1].address();
    let registered = register("n1", 1, "127.0.0.1:1", &address).await;
    let ask = || {
        let client = ClientId::from_parts(clock::unix_ms(), 7);
        let id = RequestId {
            client: ClientId::from_parts(clock::unix_ms(), rand::random()),
            sequence: Sequence(1),
        };
        let asked = NodeRequest::RegisterSession { id, client };
        let request = request(&registered, message::encode(&asked));
        let mut heartbeat = HeartbeatClient::new(channel(&address));
        async move { heartbeat.request(request).await }
    };
    let failure = Failure::from_status(&ask().await.unwrap_err()).unwrap();
    assert_eq!(failure.reason, Reason::Starting, "{failure}");

    let interval = time::Duration::from_millis(100);
    let control = NodeControl::new(registered.process, vec![NodeId(1)], interval);
    let beating = tokio::spawn(beat(Arc::new(Mutex::new(control)), registered.clone()));
    let answer = eventually("the clock is set", || async { ask().await.ok() }).await;
    let answer: NodeResponse = message::decode(&answer.into_inner().payload).unwrap();
    assert!(matches!(answer, NodeResponse::Session(_)), "{answer:?}");
    beating.abort();
}
