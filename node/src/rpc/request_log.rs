//! The `RequestLog` service of a data node: a shard's log from a version on, outcomes by request id, and orphans.
//!
//! `Follow` ([`super::follow`]) works at the shard's primary; another node passes it on. Only durable records are shown.

use super::follow::{Filter, LogReader, follow};
use super::log_wire::log_record;
use super::objects::forwarded;
use super::{conflicts, wire};
use crate::data_node::Node;
use crate::shard::Known;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::get_outcome_response::{Found, found::Where};
use understudy_proto::v1::request_log_client::RequestLogClient;
use understudy_proto::v1::request_log_server::RequestLog;
use understudy_proto::{NodeId, RequestId, ShardId, Version, v1};
use understudy_protocol::record::Record;
use understudy_protocol::shard::{ReadLevel, branch};
use understudy_protocol::store::{Orphan, StoreError};
use understudy_protocol::tables::Namespace;

/// Bytes of records in one message to a follower.
pub(super) const MESSAGE_BYTES: usize = 256 * 1024;
/// Orphans of an answer when the caller does not say, and at most.
const ORPHANS_DEFAULT: usize = 1_000;
const ORPHANS_MAX: usize = 10_000;
/// How long other nodes may take to tell what they hold.
pub(super) const OTHERS_LIMIT: Duration = Duration::from_secs(2);

/// The service on a node's public port.
#[derive(Clone, Debug)]
pub struct RequestLogServer {
    pub(super) node: Arc<Node>,
}

type FollowOut = Pin<Box<dyn futures::Stream<Item = Result<v1::FollowResponse, Status>> + Send>>;

/// Whether that is the request itself, not that it may have been forgotten.
fn is_known(found: &Found) -> bool {
    found.r#where() != Where::Expired
}

impl RequestLogServer {
    pub fn new(node: Arc<Node>) -> RequestLogServer {
        RequestLogServer { node }
    }

    pub(super) fn client(
        &self,
        to: NodeId,
    ) -> Result<RequestLogClient<tonic::transport::Channel>, Failure> {
        Ok(RequestLogClient::new(self.node.channel_to(to)?)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX))
    }

    /// The other nodes that may hold copies or orphans.
    pub(super) fn others(&self) -> Vec<NodeId> {
        let directory = self.node.directory.read();
        let gone = understudy_protocol::tables::NodeState::Removed;
        directory
            .nodes()
            .filter(|n| n.id != self.node.me.node && n.state != gone)
            .map(|n| n.id)
            .collect()
    }

    /// Adds what this node knows of a request in one shard.
    async fn outcome_here(
        &self,
        namespace: &Namespace,
        index: u32,
        id: RequestId,
        response: &mut v1::GetOutcomeResponse,
    ) -> Result<(), Failure> {
        let shard = namespace
            .shard(index)
            .expect("the index is below the count");
        let found = &mut response.found;
        let primary = |node: &Arc<Node>| {
            let node = node.clone();
            async move { node.host.view(shard, ReadLevel::Primary).await.is_ok() }
        };
        let mut served = primary(&self.node).await;
        if served {
            let known = self.node.host.dedup(shard, id).await?;
            // As long as it is still the primary nobody else can have accepted the request meanwhile.
            served = primary(&self.node).await;
            let node = self.node.me.node.0;
            match known {
                Known::Entry(entry) => found.push(Found {
                    shard: index,
                    pair: Some(wire::pair(entry.pair)),
                    outcome: Some(wire::outcome(entry.outcome, &[])),
                    r#where: Where::Log as i32,
                    node,
                }),
                Known::Forgotten => found.push(Found {
                    shard: index,
                    r#where: Where::Expired as i32,
                    node,
                    ..Found::default()
                }),
                Known::Nothing => {}
            }
        }
        if !served {
            response.unserved_shards.push(index);
        }
        let orphans = orphans_of(&self.node, shard, usize::MAX, move |record| {
            record.request_id() == Some(id)
        })
        .await?;
        for orphan in orphans {
            let record = log_record(&orphan.record).map_err(|error| storage(&error))?;
            found.push(Found {
                shard: index,
                pair: record.pair,
                outcome: record.outcome,
                r#where: Where::Orphan as i32,
                node: self.node.me.node.0,
            });
        }
        Ok(())
    }

    async fn get_outcome_anywhere(
        &self,
        asked: v1::GetOutcomeRequest,
    ) -> Result<v1::GetOutcomeResponse, Failure> {
        let id = wire::to_request_id(asked.request_id.clone())?;
        let namespace = self.node.namespace(&asked.namespace)?;
        let indexes = match asked.shard {
            Some(index) if index >= namespace.shards => {
                return Err(Failure::field(
                    "shard",
                    format!("the namespace has {} shards", namespace.shards),
                ));
            }
            Some(index) => index..index + 1,
            None => 0..namespace.shards,
        };
        if asked.local_only {
            return self.outcome_at_this_node(&namespace, indexes, id).await;
        }
        let asking = || self.outcome_everywhere(&asked, &namespace, indexes.clone(), id);
        let mut response = asking().await?;
        if !response.found.iter().any(is_known) {
            // An orphan may have been given back meanwhile, to a log that was read before: then it is there now.
            response = asking().await?;
        }
        if response.found.iter().any(is_known) {
            // It is in one shard; what others forgot was not about it.
            response.found.retain(is_known);
        }
        Ok(response)
    }

    async fn outcome_at_this_node(
        &self,
        namespace: &Namespace,
        indexes: Range<u32>,
        id: RequestId,
    ) -> Result<v1::GetOutcomeResponse, Failure> {
        let mut response = v1::GetOutcomeResponse::default();
        for index in indexes {
            self.outcome_here(namespace, index, id, &mut response)
                .await?;
        }
        Ok(response)
    }

    async fn outcome_everywhere(
        &self,
        asked: &v1::GetOutcomeRequest,
        namespace: &Namespace,
        indexes: Range<u32>,
        id: RequestId,
    ) -> Result<v1::GetOutcomeResponse, Failure> {
        let mut response = self.outcome_at_this_node(namespace, indexes, id).await?;
        let ask = |node: NodeId| {
            let request = v1::GetOutcomeRequest {
                local_only: true,
                ..asked.clone()
            };
            async move {
                let mut client = self.client(node)?;
                forwarded(OTHERS_LIMIT, client.get_outcome(request)).await
            }
        };
        let others = self.others();
        let answers = futures::future::join_all(others.iter().map(|node| ask(*node))).await;
        for (node, answer) in others.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    response.found.extend(answer.found);
                    let unserved = &mut response.unserved_shards;
                    unserved.retain(|index| answer.unserved_shards.contains(index));
                }
                Err(_) => response.unreachable_nodes.push(node.0),
            }
        }
        Ok(response)
    }

    async fn list_orphans_anywhere(
        &self,
        asked: v1::ListOrphansRequest,
    ) -> Result<v1::ListOrphansResponse, Failure> {
        let limit = match asked.limit as usize {
            0 => ORPHANS_DEFAULT,
            limit => limit.min(ORPHANS_MAX),
        };
        let wanted = match asked.namespace.as_str() {
            "" => None,
            name => Some(self.node.namespace(name)?),
        };
        let mut response = self.orphans_here(wanted.as_deref(), limit).await?;
        if !asked.local_only {
            let others = self.others();
            let asking = others.iter().map(|node| {
                let request = v1::ListOrphansRequest {
                    local_only: true,
                    ..asked.clone()
                };
                async move {
                    let mut client = self.client(*node)?;
                    forwarded(OTHERS_LIMIT, client.list_orphans(request)).await
                }
            });
            let answers = futures::future::join_all(asking).await;
            for (node, answer) in others.iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        response.orphans.extend(answer.orphans);
                        response.more |= answer.more;
                    }
                    Err(_) => response.unreachable_nodes.push(node.0),
                }
            }
        }
        response.more |= response.orphans.len() > limit;
        response.orphans.truncate(limit);
        Ok(response)
    }

    async fn orphans_here(
        &self,
        wanted: Option<&Namespace>,
        limit: usize,
    ) -> Result<v1::ListOrphansResponse, Failure> {
        let shards: Vec<ShardId> = match wanted {
            Some(namespace) => namespace.shard_ids().collect(),
            None => self
                .node
                .database
                .shards()
                .map_err(|error| storage(&error))?,
        };
        let mut response = v1::ListOrphansResponse::default();
        for shard in shards {
            let room = limit + 1 - response.orphans.len();
            // A copy that has no contents at the moment cannot tell where the branches part.
            let log = self.node.host.view(shard, ReadLevel::Any).await;
            let log = log.ok().map(|view| view.log);
            for orphan in orphans_of(&self.node, shard, room, |_| true).await? {
                response.orphans.push(v1::list_orphans_response::Orphan {
                    node: self.node.me.node.0,
                    record: Some(log_record(&orphan.record).map_err(|error| storage(&error))?),
                    cut: log.as_ref().map(|log| {
                        let end = orphan.record.pair;
                        let starts = &orphan.epoch_starts;
                        wire::pair(branch::cut(&log.epoch_starts, log.durable, starts, end))
                    }),
                });
            }
            if response.orphans.len() > limit {
                response.orphans.truncate(limit);
                response.more = true;
                break;
            }
        }
        Ok(response)
    }
}

/// The orphans of a shard that fit, at most so many.
async fn orphans_of(
    node: &Arc<Node>,
    shard: ShardId,
    limit: usize,
    fits: impl Fn(&Record) -> bool + Send + 'static,
) -> Result<Vec<Orphan>, Failure> {
    let database = node.database.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = database.orphans(shard, after, MESSAGE_BYTES)?;
            after = page.items.last().map(|orphan| orphan.record.pair);
            for orphan in page.items {
                let (record, _) = Record::decode(&orphan.record.bytes)
                    .map_err(|malformed| StoreError::Corrupt(malformed.to_string()))?;
                if fits(&record) && found.len() < limit {
                    found.push(orphan);
                }
            }
            if page.done || after.is_none() || found.len() >= limit {
                return Ok::<_, StoreError>(found);
            }
        }
    });
    let found = reading
        .await
        .map_err(|_| Failure::no(Reason::Stopping, "this node is stopping"))?;
    found.map_err(|error| storage(&error))
}

pub(super) fn storage(error: &StoreError) -> Failure {
    let reason = match error {
        StoreError::Io(_) => Reason::StorageFailed,
        StoreError::Corrupt(_) => Reason::StorageCorrupt,
    };
    Failure::no(reason, error.to_string())
}

#[tonic::async_trait]
impl RequestLog for RequestLogServer {
    type FollowStream = FollowOut;

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<FollowOut>, Status> {
        let asked = request.into_inner();
        let namespace = self.node.namespace(&asked.namespace)?;
        let shard = namespace.shard(asked.shard).ok_or_else(|| {
            Failure::field(
                "shard",
                format!(
                    "the namespace has {} shards, numbered from 0",
                    namespace.shards
                ),
            )
        })?;
        let after = asked.after.map(|pair| wire::to_pair(Some(pair)));
        let filter = Filter::new(&asked)?;
        match LogReader::open(self.node.clone(), shard, after, Version(asked.from_version)).await {
            Ok(reader) => {
                let (out, stream) = mpsc::channel(4);
                tokio::spawn(async move {
                    let errors = out.clone();
                    if let Err(failure) = follow(reader, filter, asked, out).await {
                        let _ = errors.send(Err(failure.into())).await;
                    }
                });
                Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
            }
            Err(failure) if failure.reason == Reason::NotPrimary => {
                let Some(primary) = self.node.other_primary(shard) else {
                    return Err(self.node.with_primary(shard, failure).into());
                };
                let stream = self.client(primary)?.follow(asked).await?.into_inner();
                Ok(Response::new(Box::pin(stream)))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        Ok(Response::new(
            self.get_outcome_anywhere(request.into_inner()).await?,
        ))
    }

    async fn list_orphans(
        &self,
        request: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        Ok(Response::new(
            self.list_orphans_anywhere(request.into_inner()).await?,
        ))
    }

    async fn list_conflicts(
        &self,
        request: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        Ok(Response::new(
            conflicts::list(self, request.into_inner()).await?,
        ))
    }

    async fn get_conflict(
        &self,
        request: Request<v1::GetConflictRequest>,
    ) -> Result<Response<v1::GetConflictResponse>, Status> {
        Ok(Response::new(
            conflicts::get(self, request.into_inner()).await?,
        ))
    }
}
