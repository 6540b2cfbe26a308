//! The `Raft` service: what other managers call here.
//!
//! Every call is checked to be of this cluster and for this manager before openraft sees it. Work goes on in a task of
//! its own: a caller that gives up does not undo what is half done.

use super::codec;
use super::forward::Forwarded;
use super::group::Group;
use super::network::SnapshotHeader;
use super::snapshot;
use super::types::Snapshot;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::{Request, Response, Status, Streaming};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::raft_request::Kind;
use understudy_proto::v1::raft_server::Raft as RaftService;
use understudy_proto::v1::{
    ForwardRequest, ForwardResponse, RaftRequest, RaftResponse, SnapshotChunk,
};

/// Largest snapshot that is taken; beyond it the sender is refused.
const SNAPSHOT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Calls that arrived, for metrics and for the tests that watch that none is forgotten.
#[derive(Debug, Default)]
pub struct CallCounts {
    pub append: AtomicU64,
    pub vote: AtomicU64,
    pub pre_vote: AtomicU64,
    pub transfer_leader: AtomicU64,
    pub snapshot: AtomicU64,
    pub forward: AtomicU64,
}

/// The service on the internal port.
#[derive(Clone, Debug)]
pub struct RaftServer {
    group: Group,
}

impl RaftServer {
    pub fn new(group: Group) -> RaftServer {
        RaftServer { group }
    }
}

#[tonic::async_trait]
impl RaftService for RaftServer {
    async fn call(&self, request: Request<RaftRequest>) -> Result<Response<RaftResponse>, Status> {
        let request = request.into_inner();
        let identity = self.group.identity();
        identity.check(&request.cluster_id, Some(request.target))?;
        let group = self.group.clone();
        let payload = apart(async move { dispatch(&group, request).await }).await??;
        Ok(Response::new(RaftResponse { payload }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftResponse>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks
            .message()
            .await?
            .ok_or_else(|| bad("header", "the header is missing"))?;
        let header: SnapshotHeader =
            codec::decode(&first.header).map_err(|error| bad("header", &error.to_string()))?;
        self.group
            .identity()
            .check(&first.cluster_id, Some(header.target))?;
        self.group.calls().snapshot.fetch_add(1, Ordering::Relaxed);
        let snapshot = collect(&mut chunks, header.bytes).await?;
        let meta = snapshot::decode_header(&snapshot)
            .map_err(|error| bad("data", &error.to_string()))?
            .meta;
        let raft = self.group.raft().clone();
        let install = async move {
            raft.install_full_snapshot(header.vote, Snapshot { meta, snapshot })
                .await
        };
        let answer = apart(install).await?.map_err(|error| stopped(&error))?;
        Ok(Response::new(RaftResponse {
            payload: encode(&answer)?,
        }))
    }

    async fn forward(
        &self,
        request: Request<ForwardRequest>,
    ) -> Result<Response<ForwardResponse>, Status> {
        let request = request.into_inner();
        self.group.identity().check(&request.cluster_id, None)?;
        self.group.calls().forward.fetch_add(1, Ordering::Relaxed);
        let group = self.group.clone();
        let payload = apart(async move { Forwarded::answer(&group, request).await }).await??;
        Ok(Response::new(ForwardResponse { payload }))
    }
}

async fn dispatch(group: &Group, request: RaftRequest) -> Result<Bytes, Status> {
    let (raft, calls, payload) = (group.raft(), group.calls(), &request.payload);
    match request.kind() {
        Kind::Append => {
            calls.append.fetch_add(1, Ordering::Relaxed);
            encode(
                &raft
                    .append_entries(decode(payload)?)
                    .await
                    .map_err(|e| stopped(&e))?,
            )
        }
        Kind::Vote => {
            calls.vote.fetch_add(1, Ordering::Relaxed);
            encode(&raft.vote(decode(payload)?).await.map_err(|e| stopped(&e))?)
        }
        Kind::PreVote => {
            calls.pre_vote.fetch_add(1, Ordering::Relaxed);
            encode(
                &raft
                    .pre_vote(decode(payload)?)
                    .await
                    .map_err(|e| stopped(&e))?,
            )
        }
        Kind::TransferLeader => {
            calls.transfer_leader.fetch_add(1, Ordering::Relaxed);
            encode(
                &raft
                    .handle_transfer_leader(decode(payload)?)
                    .await
                    .map_err(|e| stopped(&e))?,
            )
        }
        Kind::Unspecified => Err(bad("kind", "kind is not known to this version")),
    }
}

async fn collect(chunks: &mut Streaming<SnapshotChunk>, bytes: u64) -> Result<Bytes, Status> {
    if bytes > SNAPSHOT_BYTES_MAX {
        return Err(bad("header", "the snapshot is too large"));
    }
    // Memory grows with what arrives, not with what is announced.
    let mut snapshot = BytesMut::new();
    while let Some(chunk) = chunks.message().await? {
        snapshot.extend_from_slice(&chunk.data);
        if snapshot.len() as u64 > bytes {
            break;
        }
    }
    if snapshot.len() as u64 != bytes {
        return Err(bad(
            "data",
            "the snapshot has another length than announced",
        ));
    }
    Ok(snapshot.freeze())
}

/// Runs in a task of its own, to its end.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(work)
        .await
        .map_err(|error| Failure::unknown(Reason::Internal, error.to_string()).into())
}

fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Status> {
    codec::decode(payload).map_err(|error| bad("payload", &error.to_string()))
}

fn encode<T: Serialize>(answer: &T) -> Result<Bytes, Status> {
    codec::encode_bytes(answer)
        .map_err(|error| Failure::unknown(Reason::Internal, error.to_string()).into())
}

fn bad(field: &str, why: &str) -> Status {
    Failure::field(field, why).into()
}

/// openraft answers an error here only when it has stopped.
fn stopped(error: &impl std::fmt::Display) -> Status {
    Failure::unknown(
        Reason::Stopping,
        format!("this manager's group has stopped: {error}"),
    )
    .into()
}
