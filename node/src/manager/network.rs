//! Calls to the other managers, over the `Raft` service of `internal.proto`.
//!
//! One connection a manager for the log, votes and heartbeats (HTTP/2 keeps them apart) and a further one for
//! snapshots. Connections are made when needed and made again when they break; how long to wait between attempts is
//! openraft's backoff. Every call has a limit here, and says for whom and of which cluster it is.

use super::codec;
use super::identity::Identity;
use super::settings::Dial;
use super::types::{ManagerNode, Snapshot, TypeConfig, Vote};
use bytes::Bytes;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::raft_client::RaftClient;
use understudy_proto::v1::raft_request::Kind;
use understudy_proto::v1::{RaftRequest, SnapshotChunk};

/// Bytes of a snapshot in one message.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;
/// A connection that says nothing for so long, asked, is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The longest time for one message of the log; heartbeats go beside it.
const APPEND_LIMIT: Duration = Duration::from_secs(1);

/// The connections of one manager to the others; clones share them.
#[derive(Clone)]
pub(crate) struct Links {
    identity: Arc<Identity>,
    dial: Dial,
    /// For one heartbeat of Raft: one that hangs must not hold the next one up for long.
    heartbeat_limit: Duration,
    channels: Arc<Mutex<BTreeMap<(String, Lane), Channel>>>,
}

/// What one connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lane {
    Calls,
    Snapshots,
}

impl Links {
    pub(crate) fn new(identity: Arc<Identity>, dial: Dial, heartbeat_limit: Duration) -> Links {
        Links {
            identity,
            dial,
            heartbeat_limit,
            channels: Arc::default(),
        }
    }

    pub(crate) fn client(&self, address: &str, lane: Lane) -> Result<RaftClient<Channel>, String> {
        let channel = self.channel(address, lane)?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX))
    }

    pub(super) fn channel(&self, address: &str, lane: Lane) -> Result<Channel, String> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.to_string(), lane)) {
            return Ok(channel.clone());
        }
        let channel = (self.dial)(address)?
            .connect_timeout(KEEP_ALIVE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_lazy();
        channels.insert((address.to_string(), lane), channel.clone());
        Ok(channel)
    }
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &ManagerNode) -> Peer {
        self.peer(target, node, APPEND_LIMIT)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &ManagerNode) -> Peer {
        self.peer(target, node, self.heartbeat_limit)
    }
}

impl Links {
    fn peer(&self, target: u64, node: &ManagerNode, append_limit: Duration) -> Peer {
        Peer {
            links: self.clone(),
            target,
            address: node.internal_address.clone(),
            append_limit,
        }
    }
}

/// One other manager, as openraft calls it.
pub(crate) struct Peer {
    links: Links,
    target: u64,
    address: String,
    append_limit: Duration,
}

impl Peer {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        question: &Q,
        limit: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let request = RaftRequest {
            cluster_id: self.links.identity.to_wire().into(),
            target: self.target,
            kind: kind.into(),
            payload: codec::encode_bytes(question).map_err(|error| broken(&error))?,
        };
        let mut client = self
            .links
            .client(&self.address, Lane::Calls)
            .map_err(|why| RPCError::Unreachable(Unreachable::from_string(why)))?;
        let answer = tokio::time::timeout(limit, client.call(request)).await;
        let answer = answer.map_err(|_| RPCError::Timeout(self.timeout(kind, limit)))?;
        let answer = answer.map_err(|status| failed(&status))?;
        codec::decode(&answer.into_inner().payload).map_err(|error| broken(&error))
    }

    fn timeout(&self, kind: Kind, timeout: Duration) -> Timeout<TypeConfig> {
        let action = match kind {
            Kind::Vote | Kind::PreVote => RPCTypes::Vote,
            Kind::TransferLeader => RPCTypes::TransferLeader,
            Kind::Append | Kind::Unspecified => RPCTypes::AppendEntries,
        };
        Timeout {
            action,
            id: self.links.identity.manager(),
            target: self.target,
            timeout,
        }
    }

    async fn send_snapshot(
        &self,
        header: Bytes,
        data: Bytes,
    ) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self
            .links
            .client(&self.address, Lane::Snapshots)
            .map_err(|why| RPCError::Unreachable(Unreachable::from_string(why)))?;
        let cluster_id = Bytes::from(self.links.identity.to_wire());
        let answer = client
            .install_snapshot(futures::stream::iter(chunks(cluster_id, header, data)))
            .await
            .map_err(|status| failed(&status))?;
        codec::decode(&answer.into_inner().payload).map_err(|error| broken(&error))
    }
}

fn chunks(
    cluster_id: Bytes,
    header: Bytes,
    mut data: Bytes,
) -> impl Iterator<Item = SnapshotChunk> {
    let first = SnapshotChunk {
        cluster_id,
        header,
        data: Bytes::new(),
    };
    let rest = std::iter::from_fn(move || {
        (!data.is_empty()).then(|| SnapshotChunk {
            cluster_id: Bytes::new(),
            header: Bytes::new(),
            data: data.split_to(data.len().min(CHUNK_BYTES)),
        })
    });
    std::iter::once(first).chain(rest)
}

/// What a status says to openraft: to wait before the next attempt, or not.
fn failed(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Cancelled | Code::Aborted => RPCError::Network(NetworkError::new(status)),
        _ => RPCError::Unreachable(Unreachable::new(status)),
    }
}

fn broken(error: &std::io::Error) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

/// What goes before the bytes of a snapshot.
#[derive(Serialize, serde::Deserialize)]
pub(super) struct SnapshotHeader {
    pub(super) target: u64,
    pub(super) vote: Vote,
    pub(super) bytes: u64,
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // openraft's own limit is one heartbeat, which a slow disk at the other end would cross for ever.
        self.call(Kind::Append, &rpc, self.append_limit).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Kind::Vote, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Kind::PreVote, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = SnapshotHeader {
            target: self.target,
            vote,
            bytes: snapshot.snapshot.len() as u64,
        };
        let header =
            codec::encode_bytes(&header).map_err(|error| StreamingError::from(broken(&error)))?;
        let sending = self.send_snapshot(header, snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = tokio::time::timeout(option.soft_ttl(), sending) => match sent {
                Ok(answer) => answer.map_err(StreamingError::from),
                Err(_) => Err(StreamingError::Timeout(self.timeout(Kind::Append, option.soft_ttl()))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Kind::TransferLeader, &req, option.soft_ttl())
            .await
    }
}
