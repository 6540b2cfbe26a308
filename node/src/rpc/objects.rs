//! The `Objects` service of a data node: checks, finds the shard, hands over to its thread or forwards to its primary.
//!
//! No handler does work in its own future: a write that reached the mailbox is finished whatever becomes of the call.

use super::stream::{self, StreamOut};
use super::watch::{self, WatchOut};
use super::{scan, verify, wire};
use crate::clock;
use crate::data_node::Node;
use crate::shard::{ReadResponder, Responder, Wanted};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::limits::{
    COPIES_MAX, INTERNAL_MESSAGE_BYTES_MAX, KEYS_PER_READ_MAX, NAME_BYTES_MAX, SESSION_TOKENS_MAX,
};
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::objects_server::Objects;
use understudy_proto::{NodeId, Pair, Sequence, ShardId, v1};
use understudy_protocol::conflict::resolution;
use understudy_protocol::effect::{Answer, Level};
use understudy_protocol::request::{Op, Request as ShardRequest};
use understudy_protocol::shard::{Freshness, ReadAnswer, ReadLevel};
use understudy_protocol::tables::Namespace;
use understudy_protocol::time::{Duration as Length, Instant};

/// The service on a node's public port.
#[derive(Clone, Debug)]
pub struct ObjectsServer {
    pub(super) node: Arc<Node>,
}

/// A write that was checked and is ready for its shard.
pub(super) struct CheckedWrite {
    pub shard: ShardId,
    pub request: ShardRequest,
    pub copies: u32,
    pub deadline: Instant,
    /// Of each operation, when one of them reads.
    pub keys: Vec<Bytes>,
    /// Where it comes from, if that is to be counted.
    pub site: Option<Box<str>>,
}

/// A read that was checked.
pub(super) struct CheckedRead {
    pub shard: ShardId,
    pub keys: Vec<Bytes>,
    pub wanted: Wanted,
}

impl ObjectsServer {
    pub fn new(node: Arc<Node>) -> ObjectsServer {
        ObjectsServer { node }
    }

    pub(super) fn namespace(&self, name: &str) -> Result<Arc<Namespace>, Failure> {
        self.node.namespace(name)
    }

    pub(super) fn check_write(&self, asked: v1::ExecuteRequest) -> Result<CheckedWrite, Failure> {
        let id = wire::to_request_id(asked.request_id)?;
        let namespace = self.namespace(&asked.namespace)?;
        if asked.copies >= COPIES_MAX {
            return Err(Failure::field(
                "copies",
                format!("at most {} secondaries", COPIES_MAX - 1),
            ));
        }
        let site = &asked.site;
        if site.len() > NAME_BYTES_MAX || site.chars().any(char::is_control) {
            let why = format!("at most {NAME_BYTES_MAX} bytes, without control characters");
            return Err(Failure::field("site", why));
        }
        let counts = namespace.settings.primary_near_writers && !site.is_empty();
        let site = counts.then(|| site.as_str().into());
        let shown = asked.resolves.map(wire::to_shown).transpose()?;
        let to_content = match shown {
            Some(_) => wire::to_resolution,
            None => wire::to_content,
        };
        let content = to_content(
            asked.ops,
            asked.preconditions,
            asked.shard,
            namespace.shards,
        )?;
        let shard = namespace
            .shard(content.shard_index)
            .expect("the index is below the count");
        let reads = content.ops.iter().any(|op| matches!(op, Op::Get { .. }));
        let keys = if reads {
            content.ops.iter().map(|op| op.key().clone()).collect()
        } else {
            Vec::new()
        };
        let answered = Sequence(asked.answered_upto);
        let (ops, preconditions) = (content.ops, content.preconditions);
        let request = match shown {
            None => ShardRequest::new(id, namespace.id, ops, preconditions, answered),
            Some(shown) => resolution(id, namespace.id, shown, ops, preconditions, answered),
        };
        let deadline = clock::now() + Length::from_millis(wire::deadline_ms(asked.deadline_ms));
        Ok(CheckedWrite {
            shard,
            request,
            copies: asked.copies,
            deadline,
            keys,
            site,
        })
    }

    pub(super) fn check_read(&self, asked: &v1::ReadRequest) -> Result<CheckedRead, Failure> {
        let namespace = self.namespace(&asked.namespace)?;
        if asked.keys.len() > KEYS_PER_READ_MAX {
            return Err(Failure::too_large(
                "keys",
                asked.keys.len(),
                KEYS_PER_READ_MAX,
            ));
        }
        for key in &asked.keys {
            wire::check_key("keys", key)?;
        }
        let index = wire::one_shard(asked.keys.iter(), asked.shard, namespace.shards)?;
        let shard = namespace
            .shard(index)
            .expect("the index is below the count");
        Ok(CheckedRead {
            shard,
            keys: asked.keys.clone(),
            wanted: wanted(asked)?,
        })
    }

    async fn execute_here(&self, write: CheckedWrite) -> Result<v1::ExecuteResponse, Failure> {
        self.node.sessions.admit(write.request.id.client).await?;
        self.node.sessions.active(write.request.id.client);
        let (reply, answer) = oneshot::channel();
        let CheckedWrite {
            shard,
            request,
            copies,
            deadline,
            keys,
            site,
        } = write;
        let responder = Responder::Call(reply);
        self.node
            .host
            .write(shard, request, copies, deadline, responder, site);
        let answer = answer.await.map_err(|_| stopping())??;
        let directory = self.node.directory.read();
        let address = directory.public_address(self.node.me.node, directory.site());
        Ok(v1::ExecuteResponse {
            primary_address: address.unwrap_or_default(),
            ..self.executed(shard, answer, &keys)
        })
    }

    pub(super) fn executed(
        &self,
        shard: ShardId,
        answer: Answer,
        keys: &[Bytes],
    ) -> v1::ExecuteResponse {
        let level = match answer.level {
            Level::Primary => v1::Level::Primary,
            Level::Copies => v1::Level::Copies,
            Level::InSync => v1::Level::InSync,
        };
        v1::ExecuteResponse {
            outcome: Some(wire::outcome(answer.outcome, keys)),
            pair: Some(wire::pair(answer.pair)),
            shard: shard.0,
            duplicate: answer.duplicate,
            conflict: answer.conflict,
            copies_durable: answer.copies_durable,
            level: level as i32,
            primary_node: self.node.me.node.0,
            primary_address: String::new(),
        }
    }

    pub(super) async fn execute_anywhere(
        &self,
        asked: v1::ExecuteRequest,
    ) -> Result<v1::ExecuteResponse, Failure> {
        let forwards = !asked.refuse_forwarding;
        let again = forwards.then(|| asked.clone());
        let write = self.check_write(asked)?;
        let shard = write.shard;
        match (self.execute_here(write).await, again) {
            (Err(failure), Some(asked)) if failure.reason == Reason::NotPrimary => {
                let Some(primary) = self.node.other_primary(shard) else {
                    return Err(self.node.with_primary(shard, failure));
                };
                self.forward_execute(primary, asked).await
            }
            (answer, _) => answer.map_err(|failure| self.node.with_primary(shard, failure)),
        }
    }

    async fn forward_execute(
        &self,
        to: NodeId,
        asked: v1::ExecuteRequest,
    ) -> Result<v1::ExecuteResponse, Failure> {
        let limit = Duration::from_millis(wire::deadline_ms(asked.deadline_ms));
        let mut client = self.node.objects_client(to)?;
        let call = client.execute(v1::ExecuteRequest {
            refuse_forwarding: true,
            ..asked
        });
        forwarded(limit, call).await
    }

    async fn read_here(&self, read: CheckedRead) -> Result<v1::ReadResponse, Failure> {
        let (reply, answer) = oneshot::channel();
        self.node.host.read(
            read.shard,
            read.keys.clone(),
            read.wanted,
            ReadResponder::Call(reply),
        );
        let answer = answer.await.map_err(|_| stopping())??;
        Ok(self.was_read(read.shard, &read.keys, answer))
    }

    pub(super) fn was_read(
        &self,
        shard: ShardId,
        keys: &[Bytes],
        answer: ReadAnswer,
    ) -> v1::ReadResponse {
        let objects = keys.iter().zip(answer.objects);
        v1::ReadResponse {
            objects: objects
                .map(|(key, found)| wire::object_or_absent(key, found))
                .collect(),
            token: Some(wire::pair(answer.token)),
            shard: shard.0,
            node: self.node.me.node.0,
            // Rounded up: it is never told younger than it is.
            age_ms: answer.age.map(|age| age.0.div_ceil(1_000)),
        }
    }

    pub(super) async fn read_anywhere(
        &self,
        asked: v1::ReadRequest,
    ) -> Result<v1::ReadResponse, Failure> {
        let read = self.check_read(&asked)?;
        let shard = read.shard;
        match self.read_here(read).await {
            Err(failure) if failure.reason == Reason::NotPrimary && !asked.refuse_forwarding => {
                let Some(primary) = self.node.other_primary(shard) else {
                    return Err(self.node.with_primary(shard, failure));
                };
                let limit = Duration::from_millis(wire::deadline_ms(asked.deadline_ms));
                let mut client = self.node.objects_client(primary)?;
                let call = client.read(v1::ReadRequest {
                    refuse_forwarding: true,
                    ..asked
                });
                forwarded(limit, call).await.map_err(|failure| Failure {
                    applied: Applied::No,
                    ..failure
                })
            }
            answer => answer.map_err(|failure| self.node.with_primary(shard, failure)),
        }
    }
}

impl Node {
    pub fn namespace(&self, name: &str) -> Result<Arc<Namespace>, Failure> {
        let directory = self.directory.read();
        directory.namespace(name).ok_or_else(|| {
            if directory.revision.0 == 0 {
                return Failure::no(
                    Reason::Starting,
                    "this node does not have the tables yet; ask again",
                );
            }
            let shown: String = name.chars().take(80).collect();
            Failure::no(
                Reason::NamespaceUnknown,
                format!("there is no namespace '{shown}'; create it first"),
            )
        })
    }

    /// The primary of a shard when it is another node.
    pub(super) fn other_primary(&self, shard: ShardId) -> Option<NodeId> {
        self.directory
            .read()
            .primary(shard)
            .filter(|primary| *primary != self.me.node)
    }

    /// Names the primary and its address, where they are known.
    pub(super) fn with_primary(&self, shard: ShardId, failure: Failure) -> Failure {
        if failure.reason != Reason::NotPrimary {
            return failure;
        }
        let directory = self.directory.read();
        let Some(entry) = directory.shard(shard) else {
            return failure;
        };
        let failure = failure
            .with("shard", shard.to_string())
            .with("epoch", entry.epoch.to_string());
        let Some(primary) = entry.primary.filter(|primary| primary.node != self.me.node) else {
            // The row names this node, or nobody: it will take over in a moment, or another will.
            return Failure {
                reason: Reason::NoPrimary,
                ..failure
            };
        };
        let failure = failure.with("primary", primary.node.to_string());
        match directory.public_address(primary.node, directory.site()) {
            Some(address) => failure.with("address", address),
            None => failure,
        }
    }

    pub(super) fn channel_to(&self, to: NodeId) -> Result<Channel, Failure> {
        let address = {
            let directory = self.directory.read();
            directory.public_address(to, directory.site())
        };
        let address = address.ok_or_else(|| {
            Failure::no(
                Reason::PeerUnreachable,
                "the address of the primary is not known",
            )
        })?;
        self.channels
            .get(&address)
            .map_err(|why| Failure::no(Reason::PeerUnreachable, why))
    }

    pub(super) fn objects_client(&self, to: NodeId) -> Result<ObjectsClient<Channel>, Failure> {
        Ok(ObjectsClient::new(self.channel_to(to)?)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX))
    }
}

/// The answer of the node that a call was passed on to. Whatever is not its own word is *unknown*.
pub(super) async fn forwarded<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::from_status(&status).unwrap_or_else(|| {
            let why = format!("the primary was not reached: {}", status.message());
            Failure::unknown(Reason::PeerUnreachable, why)
        })),
        Err(_) => Err(Failure::unknown(
            Reason::DeadlinePassed,
            "the primary did not answer in time",
        )),
    }
}

fn wanted(asked: &v1::ReadRequest) -> Result<Wanted, Failure> {
    let freshness = match asked.level() {
        v1::ReadLevel::Unspecified | v1::ReadLevel::Primary => {
            return Ok(Wanted::Now(ReadLevel::Primary));
        }
        v1::ReadLevel::Any => return Ok(Wanted::Now(ReadLevel::Any)),
        v1::ReadLevel::Session => Freshness::Session(session_tokens(asked)?),
        v1::ReadLevel::Bounded => bounded(asked.staleness_ms)?,
    };
    let limit = Length::from_millis(wire::deadline_ms(asked.deadline_ms));
    Ok(Wanted::Fresh(freshness, clock::now() + limit))
}

fn session_tokens(asked: &v1::ReadRequest) -> Result<Vec<Pair>, Failure> {
    let count = 1 + asked.earlier_tokens.len();
    if count > SESSION_TOKENS_MAX {
        let limit = SESSION_TOKENS_MAX - 1;
        return Err(Failure::too_large("earlier_tokens", count - 1, limit));
    }
    let tokens = asked.earlier_tokens.iter().copied().chain(asked.token);
    Ok(tokens.map(|token| wire::to_pair(Some(token))).collect())
}

pub(super) fn bounded(staleness_ms: u32) -> Result<Freshness, Failure> {
    match staleness_ms {
        0 => Err(Failure::field(
            "staleness_ms",
            "level BOUNDED says how old the answer may be, at least 1 ms",
        )),
        ms => Ok(Freshness::Bounded(Length::from_millis(u64::from(ms)))),
    }
}

fn stopping() -> Failure {
    Failure::unknown(
        Reason::Stopping,
        "this node is stopping; ask another under the same id",
    )
}

#[tonic::async_trait]
impl Objects for ObjectsServer {
    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        let asked = request.into_inner();
        // The server's own deadline drops this future; the write goes on, and so does a forwarded one.
        let server = self.clone();
        let run = tokio::spawn(async move { server.execute_anywhere(asked).await });
        let answer = run.await.map_err(|_| Status::from(stopping()))?;
        Ok(Response::new(answer?))
    }

    type ExecuteStreamStream = StreamOut;

    async fn execute_stream(
        &self,
        request: Request<Streaming<v1::StreamRequest>>,
    ) -> Result<Response<StreamOut>, Status> {
        Ok(Response::new(stream::start(
            self.clone(),
            request.into_inner(),
        )))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        Ok(Response::new(
            self.read_anywhere(request.into_inner()).await?,
        ))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        Ok(Response::new(scan::run(self, request.into_inner()).await?))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        Ok(Response::new(
            verify::run(self, request.into_inner()).await?,
        ))
    }

    type WatchStream = WatchOut;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<WatchOut>, Status> {
        Ok(Response::new(watch::start(
            self.node.clone(),
            request.into_inner(),
        )?))
    }
}
