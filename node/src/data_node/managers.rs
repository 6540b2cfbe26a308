//! A node's calls to the managers: register, beat, ask, follow the tables.
//!
//! Any manager takes a registration or a request and passes it on; only the leader answers heartbeats. Nothing here
//! repeats a call by itself but the registration at the start.

use crate::channels::Channels;
use crate::rpc::control::{
    FollowItem, FollowRequest, NodeRequest, NodeResponse, RegisterRequest, RegisterResponse,
};
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tonic::{Status, Streaming};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::heartbeat_client::HeartbeatClient;
use understudy_proto::v1::{ControlRequest, ControlResponse};
use understudy_proto::{ClusterId, NodeId, Revision};
use understudy_protocol::control::message::{self, HeartbeatAnswer, HeartbeatRequest};
use understudy_protocol::tables::{Change, Tables};

type Client = HeartbeatClient<tonic::transport::Channel>;

/// The managers that the node knows.
pub struct Managers {
    channels: Channels,
    cluster: RwLock<Option<ClusterId>>,
    /// Ids with internal addresses; an id of 0 stands for an address from the config that is not known yet.
    known: RwLock<Vec<(u64, String)>>,
}

/// What the stream of the tables brings.
pub enum Followed {
    Tables(Box<Tables>),
    Changes(Revision, Vec<Change>),
}

/// The stream of the tables from one manager.
pub struct TableStream {
    stream: Streaming<ControlResponse>,
    parts: BytesMut,
}

impl Managers {
    pub fn new(channels: Channels, addresses: &[String]) -> Managers {
        let known = addresses
            .iter()
            .map(|address| (0, address.clone()))
            .collect();
        Managers {
            channels,
            cluster: RwLock::new(None),
            known: RwLock::new(known),
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.known
            .read()
            .iter()
            .map(|(_, address)| address.clone())
            .collect()
    }

    fn client(&self, address: &str) -> Result<Client, Failure> {
        let channel = self
            .channels
            .get(address)
            .map_err(|why| Failure::field("managers", why))?;
        Ok(HeartbeatClient::new(channel)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX))
    }

    fn request(&self, payload: Vec<u8>) -> ControlRequest {
        let cluster = self.cluster.read().map(ClusterId::to_bytes);
        ControlRequest {
            cluster_id: cluster
                .map(|id| Bytes::copy_from_slice(&id))
                .unwrap_or_default(),
            payload: payload.into(),
        }
    }

    /// Asks one manager after the other; the first answer holds. `cluster`: what the data folder says.
    pub async fn register(
        &self,
        cluster: Option<ClusterId>,
        request: &RegisterRequest,
        limit: Duration,
    ) -> Result<RegisterResponse, Failure> {
        *self.cluster.write() = cluster;
        let mut last = Failure::no(Reason::NoManager, "no manager is configured");
        for address in self.addresses() {
            let mut client = self.client(&address)?;
            let call = client.register(self.request(message::encode(request)));
            match timed(limit, call).await {
                Ok(response) => {
                    let response: RegisterResponse = decode(&response.into_inner())?;
                    *self.cluster.write() = Some(response.cluster);
                    if !response.managers.is_empty() {
                        *self.known.write() = response.managers.clone();
                    }
                    return Ok(response);
                }
                Err(failure) if failure.reason == Reason::NotAllowed => return Err(failure),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    pub async fn beat(
        &self,
        to: NodeId,
        request: &HeartbeatRequest,
        limit: Duration,
    ) -> Result<HeartbeatAnswer, Failure> {
        let address = self
            .known
            .read()
            .iter()
            .find(|(id, _)| *id == to.0)
            .map(|(_, address)| address.clone());
        let address =
            address.ok_or_else(|| Failure::no(Reason::NoManager, "that manager is not known"))?;
        let mut client = self.client(&address)?;
        let response = timed(limit, client.beat(self.request(message::encode(request)))).await?;
        decode(&response.into_inner())
    }

    /// Asks one manager after the other.
    pub async fn ask(
        &self,
        request: &NodeRequest,
        limit: Duration,
    ) -> Result<NodeResponse, Failure> {
        let mut last = Failure::no(Reason::NoManager, "no manager is configured");
        for address in self.addresses() {
            let mut client = self.client(&address)?;
            match timed(
                limit,
                client.request(self.request(message::encode(request))),
            )
            .await
            {
                Ok(response) => return decode(&response.into_inner()),
                Err(failure) => {
                    let tell = !matches!(
                        failure.reason,
                        Reason::NoManager
                            | Reason::PeerUnreachable
                            | Reason::NotLeader
                            | Reason::Starting
                            | Reason::Stopping
                    );
                    if tell {
                        return Err(failure);
                    }
                    last = failure;
                }
            }
        }
        Err(last)
    }

    /// Begins to follow the tables at the manager with this number (modulo their count).
    pub async fn follow(
        &self,
        which: usize,
        after: Option<Revision>,
        limit: Duration,
    ) -> Result<TableStream, Failure> {
        let addresses = self.addresses();
        let address = addresses
            .get(which % addresses.len().max(1))
            .ok_or_else(|| Failure::no(Reason::NoManager, "no manager is configured"))?;
        let mut client = self.client(address)?;
        let request = self.request(message::encode(&FollowRequest { after }));
        let stream = timed(limit, client.follow(request)).await?.into_inner();
        Ok(TableStream {
            stream,
            parts: BytesMut::new(),
        })
    }
}

impl TableStream {
    /// What comes next; `None`: the manager ended the stream.
    pub async fn next(&mut self) -> Result<Option<Followed>, Failure> {
        loop {
            let Some(response) = self
                .stream
                .message()
                .await
                .map_err(|status| failure_of(&status))?
            else {
                return Ok(None);
            };
            match decode(&response)? {
                FollowItem::Changes { revision, changes } => {
                    return Ok(Some(Followed::Changes(revision, changes)));
                }
                FollowItem::Snapshot { part, last } => {
                    self.parts.extend_from_slice(&part);
                    if last {
                        let bytes = std::mem::take(&mut self.parts);
                        let tables = Tables::decode(&bytes).map_err(|why| {
                            Failure::no(
                                Reason::Internal,
                                format!("the tables do not decode: {why}"),
                            )
                        })?;
                        return Ok(Some(Followed::Tables(Box::new(tables))));
                    }
                }
            }
        }
    }
}

async fn timed<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(failure_of(&status)),
        Err(_) => Err(Failure::unknown(
            Reason::NoManager,
            "the manager did not answer in time",
        )),
    }
}

/// A status without our details says only that the manager could not be asked.
fn failure_of(status: &Status) -> Failure {
    Failure::from_status(status).unwrap_or_else(|| {
        Failure::unknown(
            Reason::NoManager,
            format!("the manager is not reached: {}", status.message()),
        )
    })
}

fn decode<T: Serialize + DeserializeOwned>(response: &ControlResponse) -> Result<T, Failure> {
    message::decode(&response.payload).map_err(|why| {
        Failure::unknown(
            Reason::Internal,
            format!("a manager's answer does not decode: {why}"),
        )
    })
}
