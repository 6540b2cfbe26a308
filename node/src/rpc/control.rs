//! The `Heartbeat` service of a manager: nodes register, beat, ask and follow the tables here.
//!
//! Payloads are MessagePack with named fields, as the protocol crate writes its messages; the further ones, that only
//! a node and a manager exchange, are defined here. A call of another cluster is refused; only a first registration may
//! come without a cluster id.

use crate::manager::{Duty, DutyQuestion, Group, View};
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::heartbeat_server::Heartbeat;
use understudy_proto::v1::{ControlRequest, ControlResponse};
use understudy_proto::{ClientId, ClusterId, ProcessId, RequestId, Revision};
use understudy_protocol::control::message::{self, ExitReport};
use understudy_protocol::tables::{
    Answer, Change, Command, Envelope, LaunchId, Registration, Session,
};

/// How long a command of a node may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a snapshot of the tables in one message.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Changes in one message.
const CHANGES_PER_MESSAGE: usize = 1_024;

/// A process starts. The same id and launch again gets the same answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterRequest {
    pub id: RequestId,
    pub registration: Registration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    pub cluster: ClusterId,
    pub process: ProcessId,
    /// Id and internal address of every manager.
    pub managers: Vec<(u64, String)>,
}

/// What a node or an agent asks beside heartbeats.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum NodeRequest {
    /// A client that no table knows yet; answered with its session.
    RegisterSession { id: RequestId, client: ClientId },
    /// An agent saw a process end; passed on to the leader.
    Exit(ExitReport),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeResponse {
    Session(Session),
    /// What the manager that was asked knows of that exit by then.
    Exit(ExitKnown),
}

/// Where the report of an exit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitKnown {
    /// It is in the tables: nothing more has to be told.
    Ended,
    /// The process is in the tables as one that may run.
    NotYet,
    /// No node's newest process was launched so: it did not register yet, or a later one did.
    Unknown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FollowRequest {
    /// Changes after this revision; `None`: begin with the tables.
    pub after: Option<Revision>,
}

/// One message of the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FollowItem {
    /// A part of `Tables::encode`; what was known before is void with the first part.
    Snapshot { part: Bytes, last: bool },
    /// All changes up to and with that revision.
    Changes {
        revision: Revision,
        changes: Vec<Change>,
    },
}

/// The service on a manager's internal port.
#[derive(Clone, Debug)]
pub struct HeartbeatServer {
    group: Group,
    duty: Duty,
}

impl HeartbeatServer {
    pub fn new(group: Group, duty: Duty) -> HeartbeatServer {
        HeartbeatServer { group, duty }
    }

    fn check(&self, request: &ControlRequest) -> Result<(), Failure> {
        let here = self.group.stale()?.look(|tables| tables.cluster());
        match (here, ClusterId::from_slice(&request.cluster_id)) {
            (Some(here), Some(there)) if here == there => Ok(()),
            (None, _) => Err(Failure::no(
                Reason::Starting,
                "the cluster is not founded yet",
            )),
            (_, None) => Err(Failure::field("cluster_id", "cluster_id has 16 bytes")),
            (Some(_), Some(_)) => Err(Failure::no(
                Reason::NotAllowed,
                "the call is of another cluster",
            )),
        }
    }

    /// Until the tables' clock is set, every client id is one from the future, and a refusal would name no time to go by.
    fn check_clock(&self) -> Result<(), Failure> {
        if self.group.stale()?.look(|tables| tables.clock_ms()) > 0 {
            return Ok(());
        }
        let why =
            "the cluster's clock is not set yet; if that lasts, the leading manager's log says why";
        Err(Failure::no(Reason::Starting, why))
    }

    async fn run(&self, id: RequestId, command: Command) -> Result<Answer, Failure> {
        let answer = self.group.propose(Envelope { id, command }, LIMIT).await?;
        answer.map_err(Failure::from)
    }

    async fn answer(&self, asked: NodeRequest) -> Result<NodeResponse, Failure> {
        match asked {
            NodeRequest::RegisterSession { id, client } => {
                self.check_clock()?;
                match self.run(id, Command::RegisterSession { client }).await? {
                    Answer::Session(session) => Ok(NodeResponse::Session(session)),
                    other => Err(unexpected(&other)),
                }
            }
            NodeRequest::Exit(report) => {
                let launch = report.launch.clone();
                self.group.duty(DutyQuestion::Exit(report), LIMIT).await?;
                Ok(NodeResponse::Exit(self.known_of(&launch)?))
            }
        }
    }

    /// By this manager's own tables, which may be behind the leader's: whoever asked asks again.
    fn known_of(&self, launch: &LaunchId) -> Result<ExitKnown, Failure> {
        let view = self.group.stale()?;
        Ok(view.look(|tables| match tables.launched(launch) {
            Some(node) if node.ended >= node.incarnation => ExitKnown::Ended,
            Some(_) => ExitKnown::NotYet,
            None => ExitKnown::Unknown,
        }))
    }
}

pub(super) fn unexpected(answer: &Answer) -> Failure {
    Failure::unknown(
        Reason::Internal,
        format!("an answer of another kind: {answer:?}"),
    )
}

#[tonic::async_trait]
impl Heartbeat for HeartbeatServer {
    async fn register(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        if !request.cluster_id.is_empty() {
            self.check(&request)?;
        }
        let asked: RegisterRequest = decode(&request)?;
        let command = Command::RegisterNode(asked.registration);
        let process = match self.run(asked.id, command).await? {
            Answer::Registered { process } => process,
            other => return Err(unexpected(&other).into()),
        };
        let cluster = self
            .group
            .read(LIMIT)
            .await?
            .look(|tables| tables.cluster());
        let cluster = cluster
            .ok_or_else(|| Failure::no(Reason::Starting, "the cluster is not founded yet"))?;
        let managers = self.group.managers();
        encode(&RegisterResponse {
            cluster,
            process,
            managers: managers
                .into_iter()
                .map(|m| (m.id, m.node.internal_address))
                .collect(),
        })
    }

    async fn beat(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        self.check(&request)?;
        encode(&self.duty.beat(decode(&request)?).await?)
    }

    async fn request(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        let asked = decode(&request)?;
        // An agent is of a machine and of no cluster; what it names was drawn at random and is nobody else's.
        let of_agent = matches!(asked, NodeRequest::Exit(_)) && request.cluster_id.is_empty();
        if !of_agent {
            self.check(&request)?;
        }
        encode(&self.answer(asked).await?)
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Result<ControlResponse, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let request = request.into_inner();
        self.check(&request)?;
        let asked: FollowRequest = decode(&request)?;
        let view = self.group.stale()?;
        let (items, stream) = mpsc::channel(8);
        tokio::spawn(follow(view, asked.after, items));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

type Items = mpsc::Sender<Result<ControlResponse, Status>>;

/// Sends the tables when needed and then every change, until the caller goes away.
async fn follow(view: View, after: Option<Revision>, items: Items) {
    let mut revisions = view.revisions();
    let mut known = after;
    loop {
        revisions.borrow_and_update();
        let sent = match changes(&view, known) {
            Some((revision, changes)) => send_changes(&items, revision, changes)
                .await
                .map(|()| revision),
            None => send_tables(&items, &view).await,
        };
        let Some(revision) = sent else {
            return;
        };
        known = Some(revision);
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = items.closed() => return,
        }
    }
}

/// What came after a revision, nothing while this manager is behind it. `None`: it is not kept.
fn changes(view: &View, known: Option<Revision>) -> Option<(Revision, Vec<Change>)> {
    let known = known?;
    view.look(|tables| {
        let changes = tables.changes_after(known).ok()?.cloned().collect();
        Some((tables.revision().max(known), changes))
    })
}

async fn send_changes(items: &Items, revision: Revision, changes: Vec<Change>) -> Option<()> {
    let mut rest = changes.as_slice();
    while !rest.is_empty() {
        let (part, later) = split(rest);
        let last = part.last().map_or(revision, |change| change.revision);
        let item = FollowItem::Changes {
            revision: last,
            changes: part.to_vec(),
        };
        send(items, &item).await?;
        rest = later;
    }
    Some(())
}

/// All changes of one revision go together, so that a break leaves no part of it.
fn split(changes: &[Change]) -> (&[Change], &[Change]) {
    let mut end = changes.len().min(CHANGES_PER_MESSAGE);
    while end < changes.len() && changes[end].revision == changes[end - 1].revision {
        end += 1;
    }
    changes.split_at(end)
}

async fn send_tables(items: &Items, view: &View) -> Option<Revision> {
    // Encoding takes longer than copying, and applying waits for whoever looks.
    let tables = view.look(Clone::clone);
    let revision = tables.revision();
    let mut rest = Bytes::from(tables.encode());
    loop {
        let part = rest.split_to(rest.len().min(CHUNK_BYTES));
        let last = rest.is_empty();
        send(items, &FollowItem::Snapshot { part, last }).await?;
        if last {
            return Some(revision);
        }
    }
}

async fn send(items: &Items, item: &FollowItem) -> Option<()> {
    let payload = message::encode(item).into();
    items.send(Ok(ControlResponse { payload })).await.ok()
}

fn decode<T: DeserializeOwned>(request: &ControlRequest) -> Result<T, Status> {
    message::decode(&request.payload).map_err(|why| Failure::field("payload", why).into())
}

fn encode<T: Serialize>(answer: &T) -> Result<Response<ControlResponse>, Status> {
    let payload = message::encode(answer).into();
    Ok(Response::new(ControlResponse { payload }))
}
