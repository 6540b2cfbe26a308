//! A server in this process that answers as a script says: Objects, Naming and RequestLog on a free port of 127.0.0.1.
//!
//! It keeps nothing but what it was asked. A script is a function from the question to a reply; replies can be held back,
//! so that a test sees what is in flight.

#![allow(dead_code, missing_debug_implementations)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use understudy_client::proto::failure::Failure;
use understudy_client::v1::naming_server::{Naming, NamingServer};
use understudy_client::v1::objects_server::{Objects, ObjectsServer};
use understudy_client::v1::request_log_server::{RequestLog, RequestLogServer};
use understudy_client::v1::{self, stream_answer, stream_item};

/// What a server does with one question.
pub enum Reply {
    Answer(stream_answer::Kind),
    Fail(Failure),
    /// No answer, ever.
    Silence,
    /// No answer, and the stream breaks.
    Break,
    /// The answer waits until so many do, then all of them go.
    HoldUntil(usize, stream_answer::Kind),
}

type Script = Box<dyn FnMut(&stream_item::Kind) -> Reply + Send>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<Q, A> = Box<dyn FnMut(&Q) -> Result<A, Status> + Send>;
/// The messages of one stream; it breaks after them.
type Streams<Q, A> = Answer<Q, Vec<A>>;

/// What a server was asked.
#[derive(Default)]
pub struct Seen {
    pub executes: Vec<v1::ExecuteRequest>,
    pub reads: Vec<v1::ReadRequest>,
    /// How many questions each message of a stream had.
    pub batches: Vec<usize>,
    /// The most questions that were unanswered at once.
    pub most_open: usize,
    pub routes: usize,
    pub binds: Vec<v1::BindRequest>,
    pub watches: Vec<v1::WatchRequest>,
    pub follows: Vec<v1::FollowRequest>,
    pub scans: Vec<v1::ScanRequest>,
    open: usize,
}

struct State {
    script: Mutex<Script>,
    seen: Mutex<Seen>,
    route: Mutex<Option<v1::RouteResponse>>,
    watched: watch::Sender<Option<v1::RouteResponse>>,
    bind: Mutex<Answer<v1::BindRequest, u64>>,
    watch: Mutex<Streams<v1::WatchRequest, v1::WatchResponse>>,
    follow: Mutex<Streams<v1::FollowRequest, v1::FollowResponse>>,
    scan: Mutex<Answer<v1::ScanRequest, v1::ScanResponse>>,
}

#[derive(Clone)]
pub struct Fake {
    pub address: String,
    state: Arc<State>,
}

impl Fake {
    /// A server that knows nothing and refuses everything, until it is told.
    pub async fn start() -> Fake {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let closed = || Status::unavailable("no script");
        let state = Arc::new(State {
            script: Mutex::new(Box::new(|_| Reply::Silence)),
            seen: Mutex::default(),
            route: Mutex::default(),
            watched: watch::Sender::new(None),
            bind: Mutex::new(Box::new(move |_| Err(closed()))),
            watch: Mutex::new(Box::new(move |_| Err(closed()))),
            follow: Mutex::new(Box::new(move |_| Err(closed()))),
            scan: Mutex::new(Box::new(move |_| Err(closed()))),
        });
        let fake = Fake { address, state };
        let server = Server::builder()
            .add_service(ObjectsServer::new(fake.clone()))
            .add_service(NamingServer::new(fake.clone()))
            .add_service(RequestLogServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        fake
    }

    pub fn script(&self, script: impl FnMut(&stream_item::Kind) -> Reply + Send + 'static) {
        *self.state.script.lock().expect("script") = Box::new(script);
    }

    /// Fails or answers each write; reads stay silent.
    pub fn on_execute(
        &self,
        mut script: impl FnMut(&v1::ExecuteRequest) -> Reply + Send + 'static,
    ) {
        self.script(move |question| match question {
            stream_item::Kind::Execute(request) => script(request),
            stream_item::Kind::Read(_) => Reply::Silence,
        });
    }

    pub fn route(&self, route: v1::RouteResponse) {
        *self.state.route.lock().expect("route") = Some(route);
    }

    /// Tells those who watch the routes; those who ask get what they got.
    pub fn push_route(&self, route: v1::RouteResponse) {
        self.state.watched.send_replace(Some(route));
    }

    pub fn on_bind(
        &self,
        bind: impl FnMut(&v1::BindRequest) -> Result<u64, Status> + Send + 'static,
    ) {
        *self.state.bind.lock().expect("bind") = Box::new(bind);
    }

    pub fn on_watch(
        &self,
        watch: impl FnMut(&v1::WatchRequest) -> Result<Vec<v1::WatchResponse>, Status> + Send + 'static,
    ) {
        *self.state.watch.lock().expect("watch") = Box::new(watch);
    }

    pub fn on_follow(
        &self,
        follow: impl FnMut(&v1::FollowRequest) -> Result<Vec<v1::FollowResponse>, Status>
        + Send
        + 'static,
    ) {
        *self.state.follow.lock().expect("follow") = Box::new(follow);
    }

    pub fn on_scan(
        &self,
        scan: impl FnMut(&v1::ScanRequest) -> Result<v1::ScanResponse, Status> + Send + 'static,
    ) {
        *self.state.scan.lock().expect("scan") = Box::new(scan);
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.state.seen.lock().expect("seen"))
    }

    fn note<T>(&self, write: impl FnOnce(&mut Seen) -> T) -> T {
        write(&mut self.state.seen.lock().expect("seen"))
    }

    fn ask(&self, question: &stream_item::Kind) -> Reply {
        self.note(|seen| match question {
            stream_item::Kind::Execute(request) => seen.executes.push(request.clone()),
            stream_item::Kind::Read(request) => seen.reads.push(request.clone()),
        });
        (self.state.script.lock().expect("script"))(question)
    }
}

/// The route of namespace "shop": one shard for each entry of `primaries`, all of these servers hold copies.
pub fn route(
    epoch: u64,
    primaries: &[usize],
    servers: &[&Fake],
    managers: &[&Fake],
) -> v1::RouteResponse {
    let all: Vec<u64> = (1..=servers.len() as u64).collect();
    let shard = |(index, primary): (usize, &usize)| v1::ShardRoute {
        index: index as u32,
        shard: 100 + index as u64,
        epoch,
        primary: *primary as u64,
        secondaries: all
            .iter()
            .copied()
            .filter(|node| *node != *primary as u64)
            .collect(),
    };
    let node = |(at, fake): (usize, &&Fake)| v1::NodeAddress {
        node: at as u64 + 1,
        address: fake.address.clone(),
        ..Default::default()
    };
    v1::RouteResponse {
        namespace_id: 1,
        namespace: "shop".to_string(),
        revision: epoch,
        shard_count: primaries.len() as u32,
        shards: primaries.iter().enumerate().map(shard).collect(),
        nodes: servers.iter().enumerate().map(node).collect(),
        managers: managers
            .iter()
            .map(|manager| manager.address.clone())
            .collect(),
    }
}

/// The request was applied, at this version of epoch 1.
pub fn applied(version: u64) -> stream_answer::Kind {
    let result = v1::OpResult {
        kind: Some(v1::op_result::Kind::Existed(false)),
    };
    stream_answer::Kind::Executed(v1::ExecuteResponse {
        outcome: Some(v1::Outcome {
            status: v1::outcome::Status::Applied.into(),
            results: vec![result],
            ..Default::default()
        }),
        pair: Some(v1::Pair { epoch: 1, version }),
        shard: 100,
        level: v1::Level::Primary.into(),
        primary_node: 1,
        ..Default::default()
    })
}

#[tonic::async_trait]
impl Objects for Fake {
    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        match self.ask(&stream_item::Kind::Execute(request.into_inner())) {
            Reply::Answer(stream_answer::Kind::Executed(answer)) => Ok(Response::new(answer)),
            Reply::Fail(failure) => Err(failure.into()),
            _ => std::future::pending().await,
        }
    }

    type ExecuteStreamStream = Answers<v1::StreamResponse>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<v1::StreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(answer_stream(self.clone(), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn read(
        &self,
        _: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        Err(Status::unimplemented("over the stream only"))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        let request = request.into_inner();
        self.note(|seen| seen.scans.push(request.clone()));
        (self.state.scan.lock().expect("scan"))(&request).map(Response::new)
    }

    async fn verify(
        &self,
        _: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.note(|seen| seen.watches.push(request.clone()));
        let messages = (self.state.watch.lock().expect("watch"))(&request)?;
        Ok(Response::new(then_break(messages)))
    }
}

/// The messages, then a broken connection.
fn then_break<T: Send + 'static>(messages: Vec<T>) -> Answers<T> {
    let broken = std::iter::once(Err(Status::unknown("the connection broke")));
    Box::pin(tokio_stream::iter(
        messages.into_iter().map(Ok).chain(broken),
    ))
}

async fn answer_stream(
    fake: Fake,
    mut questions: Streaming<v1::StreamRequest>,
    answers: mpsc::Sender<Result<v1::StreamResponse, Status>>,
) {
    let mut held = Vec::new();
    while let Some(Ok(message)) = questions.next().await {
        fake.note(|seen| {
            seen.batches.push(message.items.len());
            seen.open += message.items.len();
            seen.most_open = seen.most_open.max(seen.open);
        });
        let mut ready = Vec::new();
        for item in message.items {
            let Some(question) = item.kind else { continue };
            let tag = item.tag;
            let answer = |kind| v1::StreamAnswer {
                tag,
                kind: Some(kind),
            };
            match fake.ask(&question) {
                Reply::Answer(kind) => ready.push(answer(kind)),
                Reply::Fail(failure) => ready.push(answer(stream_failure(failure))),
                Reply::Silence => {}
                Reply::Break => {
                    let _ = answers.send(Err(Status::unknown("the server died"))).await;
                    return;
                }
                Reply::HoldUntil(count, kind) => {
                    held.push(answer(kind));
                    if held.len() >= count {
                        ready.append(&mut held);
                    }
                }
            }
        }
        fake.note(|seen| seen.open -= ready.len());
        if !ready.is_empty() {
            let message = v1::StreamResponse { answers: ready };
            let _ = answers.send(Ok(message)).await;
        }
    }
}

fn stream_failure(failure: Failure) -> stream_answer::Kind {
    let mut metadata: BTreeMap<_, _> = failure.metadata;
    metadata.insert("applied".to_string(), failure.applied.as_str().to_string());
    stream_answer::Kind::Failure(v1::StreamFailure {
        code: failure.reason.code() as u32,
        reason: failure.reason.to_string(),
        message: failure.message,
        metadata: metadata.into_iter().collect(),
    })
}

#[tonic::async_trait]
impl Naming for Fake {
    async fn route(
        &self,
        _: Request<v1::RouteRequest>,
    ) -> Result<Response<v1::RouteResponse>, Status> {
        self.note(|seen| seen.routes += 1);
        let route = self.state.route.lock().expect("route").clone();
        route
            .map(Response::new)
            .ok_or_else(|| Status::unavailable("no route yet"))
    }

    type WatchRoutesStream = Answers<v1::RouteResponse>;

    async fn watch_routes(
        &self,
        _: Request<v1::RouteRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let routes = WatchStream::new(self.state.watched.subscribe());
        Ok(Response::new(Box::pin(
            routes.filter_map(|route| route.map(Ok)),
        )))
    }

    async fn lookup(
        &self,
        _: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn bind(
        &self,
        request: Request<v1::BindRequest>,
    ) -> Result<Response<v1::BindResponse>, Status> {
        let request = request.into_inner();
        self.note(|seen| seen.binds.push(request.clone()));
        let revision = (self.state.bind.lock().expect("bind"))(&request)?;
        Ok(Response::new(v1::BindResponse { revision }))
    }

    async fn unbind(
        &self,
        _: Request<v1::UnbindRequest>,
    ) -> Result<Response<v1::UnbindResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_bindings(
        &self,
        _: Request<v1::ListBindingsRequest>,
    ) -> Result<Response<v1::ListBindingsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type WatchStream = Answers<v1::NamingWatchResponse>;

    async fn watch(
        &self,
        _: Request<v1::NamingWatchRequest>,
    ) -> Result<Response<<Self as Naming>::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl RequestLog for Fake {
    type FollowStream = Answers<v1::FollowResponse>;

    async fn list_conflicts(
        &self,
        _: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_conflict(
        &self,
        _: Request<v1::GetConflictRequest>,
    ) -> Result<Response<v1::GetConflictResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let request = request.into_inner();
        self.note(|seen| seen.follows.push(request.clone()));
        let messages = (self.state.follow.lock().expect("follow"))(&request)?;
        Ok(Response::new(then_break(messages)))
    }

    async fn get_outcome(
        &self,
        _: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_orphans(
        &self,
        _: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
