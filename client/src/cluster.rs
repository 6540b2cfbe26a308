//! Running the cluster: members, namespaces, sessions, managers, transfers.
//!
//! Thin: the messages are those of `cluster.proto`. Commands that bear a request id are retried under it; a transfer,
//! which bears none and would move the shard again, is told as *outcome unknown* when its answer is lost.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::client::Shared;
use crate::error::Error;
use crate::naming::settle;
use crate::object::wire_request_id;
use crate::session::Session;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use tonic::transport::Channel;
use tonic::{Response, Status};
use understudy_proto::v1::{self, cluster_client::ClusterClient};
use understudy_proto::{ClientId, StoreId};

type Stub = ClusterClient<Channel>;

/// The cluster's management.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    session: Session,
    stale: bool,
}

macro_rules! ask {
    ($self:ident, $kind:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $self.call($kind, move |mut stub: Stub| {
            let request = request.clone();
            async move { stub.$method(request).await }
        })
    }};
}

impl Cluster {
    pub(crate) fn new(shared: Arc<Shared>, session: Session) -> Cluster {
        Cluster {
            shared,
            session,
            stale: false,
        }
    }

    /// Reads answered from the asked manager's own copy, which may be old: also without a leader.
    pub fn stale(mut self) -> Cluster {
        self.stale = true;
        self
    }

    pub async fn status(&self) -> Result<v1::StatusResponse, Error> {
        let stale = self.stale;
        ask!(self, Idempotent::Read, status, v1::StatusRequest { stale }).await
    }

    pub async fn nodes(&self) -> Result<v1::ListNodesResponse, Error> {
        let stale = self.stale;
        let request = v1::ListNodesRequest { stale };
        ask!(self, Idempotent::Read, list_nodes, request).await
    }

    /// The shards of one namespace; `None`: of all.
    pub async fn shards(&self, namespace: Option<&str>) -> Result<v1::ListShardsResponse, Error> {
        let request = v1::ListShardsRequest {
            namespace: namespace.unwrap_or_default().to_string(),
            stale: self.stale,
        };
        ask!(self, Idempotent::Read, list_shards, request).await
    }

    pub async fn namespaces(&self) -> Result<v1::ListNamespacesResponse, Error> {
        let stale = self.stale;
        let request = v1::ListNamespacesRequest { stale };
        ask!(self, Idempotent::Read, list_namespaces, request).await
    }

    /// `if_not_exists`: one of the same name and policy is no error.
    pub async fn create_namespace(
        &self,
        name: &str,
        policy: v1::NamespacePolicy,
        if_not_exists: bool,
    ) -> Result<v1::NamespaceInfo, Error> {
        check::name("name", name).map_err(Error::Invalid)?;
        let id = self.session.next_request_id();
        let request = v1::CreateNamespaceRequest {
            request_id: Some(wire_request_id(id)),
            name: name.to_string(),
            policy: Some(policy),
            if_not_exists,
        };
        let answer = ask!(self, Idempotent::WithId(id), create_namespace, request).await;
        settle(&self.session, id, &answer);
        answer
    }

    /// Fields that are 0 or empty stay as they are.
    pub async fn alter_namespace(
        &self,
        name: &str,
        policy: v1::NamespacePolicy,
    ) -> Result<v1::NamespaceInfo, Error> {
        check::name("name", name).map_err(Error::Invalid)?;
        let id = self.session.next_request_id();
        let request = v1::AlterNamespaceRequest {
            request_id: Some(wire_request_id(id)),
            name: name.to_string(),
            policy: Some(policy),
        };
        let answer = ask!(self, Idempotent::WithId(id), alter_namespace, request).await;
        settle(&self.session, id, &answer);
        answer
    }

    pub async fn delete_namespace(&self, name: &str) -> Result<v1::DeleteNamespaceResponse, Error> {
        check::name("name", name).map_err(Error::Invalid)?;
        let id = self.session.next_request_id();
        let request = v1::DeleteNamespaceRequest {
            request_id: Some(wire_request_id(id)),
            name: name.to_string(),
        };
        let answer = ask!(self, Idempotent::WithId(id), delete_namespace, request).await;
        settle(&self.session, id, &answer);
        answer
    }

    /// At most 10,000; 0: 1,000.
    pub async fn sessions(&self, limit: u32) -> Result<v1::ListSessionsResponse, Error> {
        let stale = self.stale;
        let request = v1::ListSessionsRequest { limit, stale };
        ask!(self, Idempotent::Read, list_sessions, request).await
    }

    /// Ends a client id for ever.
    pub async fn close_session(&self, client: ClientId) -> Result<v1::CloseSessionResponse, Error> {
        let client_id = Bytes::copy_from_slice(&client.to_bytes());
        let request = v1::CloseSessionRequest { client_id };
        ask!(self, Idempotent::Repeatable, close_session, request).await
    }

    pub async fn managers(&self) -> Result<v1::ManagersResponse, Error> {
        let request = v1::ListManagersRequest {};
        ask!(self, Idempotent::Read, list_managers, request).await
    }

    /// Makes a further manager join, as a learner first. Addresses are host:port.
    pub async fn add_manager(
        &self,
        id: u64,
        internal_address: &str,
        public_address: &str,
    ) -> Result<v1::ManagersResponse, Error> {
        let request = v1::AddManagerRequest {
            id,
            internal_address: internal_address.to_string(),
            public_address: public_address.to_string(),
        };
        ask!(self, Idempotent::Repeatable, add_manager, request).await
    }

    pub async fn remove_manager(&self, id: u64) -> Result<v1::ManagersResponse, Error> {
        let request = v1::RemoveManagerRequest { id };
        ask!(self, Idempotent::Repeatable, remove_manager, request).await
    }

    /// Moves the primary of a shard; without a target the tables choose.
    pub async fn transfer(
        &self,
        namespace: &str,
        shard: u32,
        target: Option<u64>,
    ) -> Result<v1::TransferShardResponse, Error> {
        check::name("namespace", namespace).map_err(Error::Invalid)?;
        let request = v1::TransferShardRequest {
            namespace: namespace.to_string(),
            shard,
            target_node: target.unwrap_or(0),
        };
        ask!(self, Idempotent::Once, transfer_shard, request).await
    }

    /// A person declares that a store will never come back; what it alone held is lost.
    pub async fn declare_store_lost(
        &self,
        node: u64,
        store: StoreId,
    ) -> Result<v1::DeclareStoreLostResponse, Error> {
        let store_id = Bytes::copy_from_slice(&store.to_bytes());
        let request = v1::DeclareStoreLostRequest { node, store_id };
        ask!(self, Idempotent::Repeatable, declare_store_lost, request).await
    }

    /// A person wants a node empty: its primaries move away, and where other nodes may take them its copies. `undo`: it is to
    /// be used again. What is left shows in [`Cluster::nodes`].
    pub async fn drain_node(&self, node: u64, undo: bool) -> Result<v1::DrainNodeResponse, Error> {
        let request = v1::DrainNodeRequest { node, undo };
        ask!(self, Idempotent::Repeatable, drain_node, request).await
    }

    /// A node that holds nothing any more leaves the cluster for good.
    pub async fn remove_node(&self, node: u64) -> Result<v1::RemoveNodeResponse, Error> {
        let request = v1::RemoveNodeRequest { node };
        ask!(self, Idempotent::Repeatable, remove_node, request).await
    }

    /// What a forced promotion would lose, as far as it can be known; requests after a pair, at most so many (0: 100).
    pub async fn show_promotion(
        &self,
        namespace: &str,
        shard: u32,
        target: u64,
        after: Option<v1::Pair>,
        limit: u32,
    ) -> Result<v1::ShowPromotionResponse, Error> {
        check::name("namespace", namespace).map_err(Error::Invalid)?;
        let request = v1::ShowPromotionRequest {
            namespace: namespace.to_string(),
            shard,
            target_node: target,
            after,
            limit,
        };
        ask!(self, Idempotent::Read, show_promotion, request).await
    }

    /// Makes a copy primary though others may have more. `state`: of what was shown. `stopped`: node and incarnation of the old
    /// primary's process, which the caller vouches for being stopped.
    pub async fn force_promotion(
        &self,
        namespace: &str,
        shard: u32,
        target: u64,
        state: &str,
        stopped: Option<(u64, u64)>,
    ) -> Result<v1::ForcePromotionResponse, Error> {
        check::name("namespace", namespace).map_err(Error::Invalid)?;
        let id = self.session.next_request_id();
        let (stopped_node, stopped_incarnation) = stopped.unwrap_or_default();
        let request = v1::ForcePromotionRequest {
            request_id: Some(wire_request_id(id)),
            namespace: namespace.to_string(),
            shard,
            target_node: target,
            state: state.to_string(),
            stopped_node,
            stopped_incarnation,
        };
        let answer = ask!(self, Idempotent::WithId(id), force_promotion, request).await;
        settle(&self.session, id, &answer);
        answer
    }

    async fn call<T, F, R>(&self, kind: Idempotent, ask: F) -> Result<T, Error>
    where
        F: Fn(Stub) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.shared.deadline(None);
        let servers = self.shared.find_managers(deadline).await;
        // A transfer waits for the shard's copies; its one attempt gets the whole time.
        let call = match kind {
            Idempotent::Once => Call::new(servers, deadline, kind).patient(),
            _ => Call::new(servers, deadline, kind),
        };
        anywhere::call(&self.shared, call, |channel| ask(stub(channel))).await
    }
}

fn stub(channel: Channel) -> Stub {
    let limit = understudy_proto::limits::PUBLIC_MESSAGE_BYTES_MAX;
    ClusterClient::new(channel).max_decoding_message_size(limit)
}
