//! What the leader's duty sends out: proposals to its own group, seals and hand-overs to nodes.
//!
//! Each errand is a task with a limit. None is repeated here: the controller asks again for what still matters. Answers
//! come back as inputs.

use super::duty::Event;
use super::group::Group;
use super::network::Lane;
use crate::clock;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::agent_client::AgentClient;
use understudy_proto::v1::replica_client::ReplicaClient;
use understudy_proto::v1::{ControlRequest, ProcessRequest};
use understudy_proto::{ClientId, ProcessId, RequestId, Sequence};
use understudy_protocol::control::Input;
use understudy_protocol::control::message::{self, HandOverRequest, RestartRequest, SealRequest};
use understudy_protocol::tables::{Command, Envelope};

/// Proposals under way; beyond it a further one is dropped, and made again later.
const PROPOSALS_MAX: usize = 256;
const PROPOSAL_LIMIT: Duration = Duration::from_secs(5);
/// Calls to nodes under way; beyond it a further one is dropped, and made again later.
const CALLS_MAX: usize = 1_024;
const SEAL_LIMIT: Duration = Duration::from_secs(2);
/// A process that is silent for long is not waited for when it has to stop.
const RESTART_GRACE: Duration = Duration::from_secs(1);
/// That, the kill, and some time for the answer.
const RESTART_LIMIT: Duration = Duration::from_secs(8);

pub(super) struct Errands {
    group: Group,
    site: String,
    /// Weak: the task that owns these errands ends when all others have gone.
    answers: mpsc::WeakSender<Event>,
    client: ClientId,
    sequence: Sequence,
    proposals: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

#[derive(Clone, Copy)]
enum Call {
    Seal,
    HandOver,
}

impl Errands {
    pub(super) fn new(group: Group, site: String, answers: mpsc::WeakSender<Event>) -> Errands {
        Errands {
            group,
            site,
            answers,
            client: ClientId::from_parts(clock::unix_ms(), rand::random()),
            sequence: Sequence::ZERO,
            proposals: Arc::new(Semaphore::new(PROPOSALS_MAX)),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    pub(super) fn propose(&mut self, command: Command) {
        let Ok(permit) = self.proposals.clone().try_acquire_owned() else {
            return;
        };
        self.sequence = self.sequence.next();
        let id = RequestId {
            client: self.client,
            sequence: self.sequence,
        };
        let group = self.group.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // Here or not at all: another leader has its own controller.
            match group
                .propose_here(Envelope { id, command }, PROPOSAL_LIMIT)
                .await
            {
                Ok(Ok(_)) => {}
                Ok(Err(refusal)) => tracing::debug!(%id, %refusal, "the tables refused a proposal"),
                Err(failure) => tracing::debug!(%id, %failure, "a proposal failed"),
            }
        });
    }

    pub(super) fn seal(&self, request: SealRequest) {
        let payload = message::encode(&request);
        let (to, answers) = (request.to, self.answers.clone());
        self.call(Call::Seal, to, payload, SEAL_LIMIT, move |answer| {
            give(&answers, message::decode(answer).map(Input::SealAnswer), to);
        });
    }

    pub(super) fn hand_over(&self, request: HandOverRequest) {
        let payload = message::encode(&request);
        let (to, answers) = (request.to, self.answers.clone());
        let limit = Duration::from_micros(request.limit.0) + SEAL_LIMIT;
        self.call(Call::HandOver, to, payload, limit, move |answer| {
            give(
                &answers,
                message::decode(answer).map(Input::HandOverAnswer),
                to,
            );
        });
    }

    /// Asks the agent of a silent process to start it anew. Its answer changes nothing here: the process registers, or is
    /// asked about again.
    pub(super) fn restart(&self, request: RestartRequest) {
        let (node, agent) = (request.process.node, request.agent);
        tracing::warn!(%node, agent, "asks the agent to restart a process that is down or cannot write");
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            return;
        };
        let channel = match self.group.links().channel(&agent, Lane::Calls) {
            Ok(channel) => channel,
            Err(why) => return tracing::warn!(%node, agent, why, "that is no address of an agent"),
        };
        tokio::spawn(async move {
            let _permit = permit;
            let wish = ProcessRequest {
                launch_id: request.launch.0,
                grace_ms: RESTART_GRACE.as_millis() as u64,
                ..ProcessRequest::default()
            };
            let mut client = AgentClient::new(channel);
            match tokio::time::timeout(RESTART_LIMIT, client.restart(wish)).await {
                Ok(Ok(_)) => tracing::info!(%node, agent, "the agent restarted the process"),
                Ok(Err(status)) => {
                    let why = status.message();
                    tracing::warn!(%node, agent, why, "the agent did not restart the process");
                }
                Err(_) => tracing::warn!(%node, agent, "the agent did not answer in time"),
            }
        });
    }

    fn call(
        &self,
        call: Call,
        to: ProcessId,
        payload: Vec<u8>,
        limit: Duration,
        answered: impl FnOnce(&[u8]) + Send + 'static,
    ) {
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            return;
        };
        let Some((address, request)) = self.prepare(to, payload) else {
            return;
        };
        let channel = match self.group.links().channel(&address, Lane::Calls) {
            Ok(channel) => channel,
            Err(why) => {
                return tracing::warn!(%to, %address, %why, "a node's address cannot be used");
            }
        };
        tokio::spawn(async move {
            let _permit = permit;
            let mut client = ReplicaClient::new(channel)
                .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
            let asking = async {
                match call {
                    Call::Seal => client.seal(request).await,
                    Call::HandOver => client.hand_over(request).await,
                }
            };
            match tokio::time::timeout(limit, asking).await {
                Ok(Ok(response)) => answered(&response.into_inner().payload),
                Ok(Err(status)) => {
                    tracing::debug!(%to, %status, "a node did not answer the leader")
                }
                Err(_) => tracing::debug!(%to, "a node did not answer the leader in time"),
            }
        });
    }

    /// Where that process is reached, and the request for it. `None`: it is not the node's newest process.
    fn prepare(&self, to: ProcessId, payload: Vec<u8>) -> Option<(String, ControlRequest)> {
        self.group.view().look(|tables| {
            let node = tables.node(to.node).filter(|node| node.process() == to)?;
            let request = ControlRequest {
                cluster_id: Bytes::copy_from_slice(&tables.cluster()?.to_bytes()),
                payload: payload.into(),
            };
            let address = node.internal.seen_from(&self.site, &node.site).to_string();
            Some((address, request))
        })
    }
}

fn give(answers: &mpsc::WeakSender<Event>, answer: Result<Input, String>, from: ProcessId) {
    match answer {
        Ok(input) => {
            if let Some(answers) = answers.upgrade() {
                // A full inbox drops it; the controller asks again.
                let _ = answers.try_send(Event::Tell(input));
            }
        }
        Err(why) => tracing::warn!(%from, %why, "a node's answer does not decode"),
    }
}
