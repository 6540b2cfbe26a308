//! The internal services of a data node: messages from other copies, and seals from the managers' leader.
//!
//! A call of another cluster or for another node is refused; a message that does not decode ends its stream, and the
//! sender begins a new one.

use super::peer_wire;
use crate::clock;
use crate::data_node::Node;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::replica_server::Replica;
use understudy_proto::v1::replication_server::Replication;
use understudy_proto::v1::{ControlRequest, ControlResponse, DeliverEnd, PeerBatch};
use understudy_proto::{ClusterId, CopyId, NodeId, StoreId};
use understudy_protocol::control::describe::{
    DescribeAnswer, DescribeRequest, DescribedCopy, LogEnd, beyond,
};
use understudy_protocol::control::message::{
    self, HandOverAnswer, HandOverOutcome, HandOverRequest, SealAnswer, SealOutcome, SealRequest,
};
use understudy_protocol::shard::ReadLevel;
use understudy_protocol::store::Stored;

/// The service that other nodes deliver to.
#[derive(Debug)]
pub struct ReplicationServer {
    node: Arc<Node>,
}

/// The service that the managers' leader calls.
#[derive(Debug)]
pub struct ReplicaServer {
    node: Arc<Node>,
}

impl ReplicationServer {
    pub fn new(node: Arc<Node>) -> ReplicationServer {
        ReplicationServer { node }
    }

    fn take(&self, batch: PeerBatch) -> Result<(), Status> {
        let malformed = |why: &str| Status::from(Failure::field("messages", why));
        check_cluster(&self.node, &batch.cluster_id)?;
        if batch.to_node != self.node.me.node.0 {
            return Err(
                Failure::no(Reason::NotAllowed, "the messages are for another node").into(),
            );
        }
        let store = StoreId::from_slice(&batch.from_store)
            .ok_or_else(|| malformed("a store id has 16 bytes"))?;
        let from = CopyId {
            node: NodeId(batch.from_node),
            store,
        };
        for sent in batch.messages {
            let (shard, message) = peer_wire::decode(from, sent).map_err(|why| malformed(why.0))?;
            self.node.host.deliver(shard, from.node, message);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Replication for ReplicationServer {
    async fn deliver(
        &self,
        request: Request<Streaming<PeerBatch>>,
    ) -> Result<Response<DeliverEnd>, Status> {
        let mut stream = request.into_inner();
        while let Some(batch) = stream.message().await? {
            self.take(batch)?;
        }
        Ok(Response::new(DeliverEnd {}))
    }
}

impl ReplicaServer {
    pub fn new(node: Arc<Node>) -> ReplicaServer {
        ReplicaServer { node }
    }
}

#[tonic::async_trait]
impl Replica for ReplicaServer {
    async fn seal(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        check_cluster(&self.node, &request.cluster_id)?;
        let asked: SealRequest = decode(&request)?;
        check_process(&self.node, asked.to)?;
        let sealing = asked.seals.into_iter().map(|seal| async move {
            let (claim, grace) = (seal.claim(), seal.grace(asked.longest));
            let sealed = self.node.host.seal(claim, grace).await;
            (claim, SealOutcome::of(sealed))
        });
        let seals = futures::future::join_all(sealing).await;
        respond(message::encode(&SealAnswer {
            from: self.node.me,
            seals,
        }))
    }

    async fn hand_over(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        check_cluster(&self.node, &request.cluster_id)?;
        let asked: HandOverRequest = decode(&request)?;
        check_process(&self.node, asked.to)?;
        let give_up_at = clock::now() + asked.limit;
        let handing = asked.hand_overs.into_iter().map(|wanted| async move {
            let sealed = self.node.host.hand_over(wanted, give_up_at).await?;
            Some((wanted, HandOverOutcome::of(sealed)))
        });
        let answered = futures::future::join_all(handing).await;
        let hand_overs = answered.into_iter().flatten().collect();
        respond(message::encode(&HandOverAnswer {
            from: self.node.me,
            hand_overs,
        }))
    }

    async fn describe(
        &self,
        request: Request<ControlRequest>,
    ) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        check_cluster(&self.node, &request.cluster_id)?;
        let asked: DescribeRequest = decode(&request)?;
        check_process(&self.node, asked.to)?;
        respond(message::encode(&DescribeAnswer {
            from: self.node.me,
            copy: describe(&self.node, asked).await?,
        }))
    }
}

/// `None`: there is no copy that can be read.
async fn describe(node: &Node, asked: DescribeRequest) -> Result<Option<DescribedCopy>, Status> {
    let Ok(view) = node.host.view(asked.shard, ReadLevel::Any).await else {
        return Ok(None);
    };
    let (log, report) = (view.log, view.report);
    let mine = LogEnd {
        last: report.durable,
        epoch_starts: log.epoch_starts,
    };
    let (database, own) = (node.database.clone(), mine.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let stored: &dyn Stored = &*database;
        beyond(stored, asked.shard, log.generation, log.base, &own, &asked)
    });
    let read = reading
        .await
        .map_err(|_| Failure::no(Reason::Stopping, "this node is stopping"))?;
    let beyond = read.map_err(|error| Failure::no(Reason::StorageFailed, error.to_string()))?;
    Ok(Some(DescribedCopy {
        log: mine,
        promise: report.promise,
        complete: report.complete,
        orphans: report.orphans,
        beyond,
    }))
}

fn check_cluster(node: &Node, bytes: &[u8]) -> Result<(), Status> {
    match ClusterId::from_slice(bytes) {
        Some(cluster) if cluster == node.cluster => Ok(()),
        Some(_) => Err(Failure::no(Reason::NotAllowed, "the call is of another cluster").into()),
        None => Err(Failure::field("cluster_id", "cluster_id has 16 bytes").into()),
    }
}

fn check_process(node: &Node, to: understudy_proto::ProcessId) -> Result<(), Status> {
    if to == node.me {
        return Ok(());
    }
    Err(Failure::no(
        Reason::NotAllowed,
        format!("the call is for {to}, here is {}", node.me),
    )
    .into())
}

fn decode<T: serde::de::DeserializeOwned>(request: &ControlRequest) -> Result<T, Status> {
    message::decode(&request.payload).map_err(|why| Failure::field("payload", why).into())
}

fn respond(payload: Vec<u8>) -> Result<Response<ControlResponse>, Status> {
    Ok(Response::new(ControlResponse {
        payload: payload.into(),
    }))
}
