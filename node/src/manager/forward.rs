//! What a manager that does not lead passes to the one that does: commands, read indexes, changes of the managers, what
//! only the leader knows of the nodes.
//!
//! Passed on once only: a manager that turns out not to lead refuses, and the first one looks for the leader again.

use super::codec;
use super::group::Group;
use super::network::Lane;
use super::types::{LogId, ManagerNode};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::ForwardRequest;
use understudy_proto::v1::forward_request::Kind;
use understudy_proto::{CopyId, NodeId, ShardId};
use understudy_protocol::control::FailoverProgress;
use understudy_protocol::control::message::ExitReport;
use understudy_protocol::tables::{Answer, Envelope, Refusal};

/// A change of the managers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ManagerChange {
    Add { id: u64, node: ManagerNode },
    Remove { id: u64 },
}

/// What only the leader knows of the nodes, or does with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DutyQuestion {
    /// A person wants that copy to be primary.
    Transfer { shard: ShardId, target: CopyId },
    /// How many orphan records each node told of.
    Orphans,
    /// An agent saw a process end.
    Exit(ExitReport),
    /// What the shard's failover waits for.
    Failover { shard: ShardId },
    /// From which sites the updates of the namespace's shards come; of all namespaces, when its name is empty.
    Writers { namespace: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DutyAnswer {
    Taken,
    Orphans(BTreeMap<NodeId, u64>),
    /// `None`: none is under way.
    Failover(Option<FailoverProgress>),
    /// By shard and site, in thousandths.
    Writers(BTreeMap<ShardId, BTreeMap<String, u32>>),
}

/// A question with the time that is left for it.
#[derive(Serialize, Deserialize)]
struct Timed<T> {
    limit_ms: u64,
    question: T,
}

/// Both ends of the `Forward` call.
pub(crate) struct Forwarded;

impl Forwarded {
    pub(crate) async fn command(
        group: &Group,
        leader: &ManagerNode,
        envelope: &Envelope,
        limit: Duration,
    ) -> Result<Result<Answer, Refusal>, Failure> {
        ask(group, leader, Kind::Command, envelope, limit).await
    }

    pub(crate) async fn read_index(
        group: &Group,
        leader: &ManagerNode,
        limit: Duration,
    ) -> Result<LogId, Failure> {
        ask(group, leader, Kind::ReadIndex, &(), limit).await
    }

    pub(crate) async fn change_managers(
        group: &Group,
        leader: &ManagerNode,
        change: &ManagerChange,
        limit: Duration,
    ) -> Result<(), Failure> {
        ask(group, leader, Kind::Membership, change, limit).await
    }

    pub(crate) async fn duty(
        group: &Group,
        leader: &ManagerNode,
        question: &DutyQuestion,
        limit: Duration,
    ) -> Result<DutyAnswer, Failure> {
        ask(group, leader, Kind::Duty, question, limit).await
    }

    /// At the leader.
    pub(crate) async fn answer(group: &Group, request: ForwardRequest) -> Result<Bytes, Status> {
        let payload = &request.payload;
        match request.kind() {
            Kind::Command => {
                let asked: Timed<Envelope> = decode(payload)?;
                encode(
                    &group
                        .propose_here(asked.question, limit(asked.limit_ms))
                        .await?,
                )
            }
            Kind::ReadIndex => {
                let asked: Timed<()> = decode(payload)?;
                encode(&group.read_index_here(limit(asked.limit_ms)).await?)
            }
            Kind::Membership => {
                let asked: Timed<ManagerChange> = decode(payload)?;
                encode(
                    &group
                        .change_managers_here(asked.question, limit(asked.limit_ms))
                        .await?,
                )
            }
            Kind::Duty => {
                let asked: Timed<DutyQuestion> = decode(payload)?;
                encode(&group.duty_here(asked.question).await?)
            }
            Kind::Unspecified => {
                Err(Failure::field("kind", "kind is not known to this version").into())
            }
        }
    }
}

async fn ask<Q: Serialize, A: DeserializeOwned>(
    group: &Group,
    leader: &ManagerNode,
    kind: Kind,
    question: &Q,
    limit: Duration,
) -> Result<A, Failure> {
    let asked = Timed {
        limit_ms: limit.as_millis() as u64,
        question,
    };
    let request = ForwardRequest {
        cluster_id: group.identity().to_wire().into(),
        kind: kind.into(),
        payload: codec::encode_bytes(&asked).map_err(internal)?,
    };
    let mut client = group
        .links()
        .client(&leader.internal_address, Lane::Calls)
        .map_err(|why| Failure::no(Reason::PeerUnreachable, why))?;
    match tokio::time::timeout(limit, client.forward(request)).await {
        Ok(Ok(response)) => codec::decode(&response.into_inner().payload).map_err(internal),
        Ok(Err(status)) => Err(Failure::from_status(&status).unwrap_or_else(|| {
            Failure::unknown(Reason::PeerUnreachable, lost(leader, status.message()))
        })),
        Err(_) => Err(Failure::unknown(
            Reason::DeadlinePassed,
            lost(leader, "no answer in time"),
        )),
    }
}

fn lost(leader: &ManagerNode, why: &str) -> String {
    format!("the leading manager at {}: {why}", leader.internal_address)
}

fn limit(ms: u64) -> Duration {
    Duration::from_millis(ms.min(understudy_proto::limits::DEADLINE_MS_MAX))
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Status> {
    codec::decode(payload).map_err(|error| Failure::field("payload", error.to_string()).into())
}

fn encode<T: Serialize>(answer: &T) -> Result<Bytes, Status> {
    codec::encode_bytes(answer).map_err(|error| internal(error).into())
}

fn internal(error: std::io::Error) -> Failure {
    Failure::unknown(Reason::Internal, error.to_string())
}
