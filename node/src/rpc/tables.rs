//! What the services over the tables share: request ids, limits of time, reads, and how rows look on the wire.

use crate::clock;
use crate::manager::{Group, View};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Request;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::{ClientId, CopyId, NodeId, Pair, RequestId, Sequence, StoreId, limits, v1};
use understudy_protocol::tables::{
    Answer, Binding, Command, ConflictPolicy, Envelope, Forward, Namespace, NodeState, Policy,
    Refusal, ShardEntry, Tables,
};

/// The tables as a service sees them; clones share it.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) group: Group,
    /// For commands whose caller gave no request id.
    client: ClientId,
    sequence: AtomicU64,
}

impl Desk {
    pub(super) fn new(group: Group) -> Desk {
        Desk {
            group,
            client: ClientId::from_parts(clock::unix_ms(), rand::random()),
            sequence: AtomicU64::new(1),
        }
    }

    pub(super) async fn view(&self, stale: bool, limit: Duration) -> Result<View, Failure> {
        if stale {
            self.group.stale()
        } else {
            self.group.read(limit).await
        }
    }

    /// Runs a command under the caller's request id, or one of this server's.
    pub(super) async fn run(
        &self,
        id: Option<v1::RequestId>,
        command: Command,
        limit: Duration,
    ) -> Result<Result<Answer, Refusal>, Failure> {
        let id = match id {
            Some(id) => request_id(&id)?,
            None => RequestId {
                client: self.client,
                sequence: Sequence(self.sequence.fetch_add(1, Ordering::Relaxed)),
            },
        };
        self.group.propose(Envelope { id, command }, limit).await
    }

    /// The same, for commands that answer the revision.
    pub(super) async fn done(
        &self,
        id: Option<v1::RequestId>,
        command: Command,
        limit: Duration,
    ) -> Result<u64, Failure> {
        match self.run(id, command, limit).await?? {
            Answer::Done { revision } => Ok(revision.0),
            Answer::Session(session) => Ok(session.revision.0),
            other => Err(super::control::unexpected(&other)),
        }
    }
}

pub(super) fn request_id(id: &v1::RequestId) -> Result<RequestId, Failure> {
    let client = ClientId::from_slice(&id.client_id);
    let client =
        client.ok_or_else(|| Failure::field("request_id.client_id", "client_id has 16 bytes"))?;
    if id.sequence == 0 {
        return Err(Failure::field(
            "request_id.sequence",
            "sequence numbers begin at 1",
        ));
    }
    Ok(RequestId {
        client,
        sequence: Sequence(id.sequence),
    })
}

pub(super) fn client_id(bytes: &[u8]) -> Result<ClientId, Failure> {
    ClientId::from_slice(bytes).ok_or_else(|| Failure::field("client_id", "client_id has 16 bytes"))
}

pub(super) fn store_id(bytes: &[u8]) -> Result<StoreId, Failure> {
    StoreId::from_slice(bytes).ok_or_else(|| Failure::field("store_id", "store_id has 16 bytes"))
}

/// The caller's deadline, within bounds.
pub(super) fn limit<T>(request: &Request<T>) -> Duration {
    let header = request.metadata().get("grpc-timeout");
    let asked = header.and_then(|value| timeout(value.to_str().ok()?));
    let default = Duration::from_millis(limits::DEADLINE_MS_DEFAULT);
    asked
        .unwrap_or(default)
        .min(Duration::from_millis(limits::DEADLINE_MS_MAX))
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

pub(super) fn unknown_namespace(name: &str) -> Failure {
    Failure::no(
        Reason::NamespaceUnknown,
        format!("there is no namespace {name}"),
    )
}

pub(super) fn binding(name: &str, binding: &Binding) -> v1::Binding {
    v1::Binding {
        name: name.to_string(),
        endpoints: binding.endpoints.clone(),
        lease_ms: binding.lease_ms.unwrap_or(0),
        revision: binding.revision.0,
    }
}

pub(super) fn namespace(namespace: &Namespace) -> v1::NamespaceInfo {
    let settings = &namespace.settings;
    let mode = match settings.policy {
        Policy::Lazy => v1::namespace_policy::Mode::Lazy,
        Policy::InSync => v1::namespace_policy::Mode::InSync,
    };
    let cut_off = match settings.conflicts {
        ConflictPolicy::ReapplyIfUnchanged => v1::namespace_policy::CutOff::ReapplyIfUnchanged,
        ConflictPolicy::Discard => v1::namespace_policy::CutOff::Discard,
        ConflictPolicy::HoldForAPerson => v1::namespace_policy::CutOff::Hold,
    };
    let forward = match settings.forward {
        Forward::Components => v1::namespace_policy::Forward::Components,
        Forward::Operation => v1::namespace_policy::Forward::Operation,
        Forward::Object => v1::namespace_policy::Forward::Object,
    };
    v1::NamespaceInfo {
        id: namespace.id.0,
        name: namespace.name.clone(),
        policy: Some(v1::NamespacePolicy {
            mode: mode.into(),
            copies: settings.copies,
            shards: namespace.shards,
            sites: settings.sites.clone(),
            dedup_entries: settings.dedup_entries_per_client,
            dedup_age_ms: settings.dedup_age_ms,
            min_in_sync: settings.min_in_sync,
            cut_off: cut_off.into(),
            primary_near_writers: Some(settings.primary_near_writers),
            forward: forward.into(),
            ..v1::NamespacePolicy::default()
        }),
        revision: namespace.revision.0,
    }
}

pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    }
}

pub(super) fn nodes<'a>(copies: impl IntoIterator<Item = &'a CopyId>) -> Vec<u64> {
    copies.into_iter().map(|copy| copy.node.0).collect()
}

pub(super) fn primary(entry: &ShardEntry) -> u64 {
    entry.primary.map_or(0, |process| process.node.0)
}

pub(super) fn pair(pair: Pair) -> v1::Pair {
    v1::Pair {
        epoch: pair.epoch.0,
        version: pair.version.0,
    }
}

/// The addresses of nodes for a caller of that site.
pub(super) fn addresses(
    tables: &Tables,
    nodes: &BTreeSet<NodeId>,
    site: &str,
) -> Vec<v1::NodeAddress> {
    let known = nodes.iter().filter_map(|node| tables.node(*node));
    known
        .map(|node| v1::NodeAddress {
            node: node.id.0,
            name: node.name.clone(),
            site: node.site.clone(),
            address: node.public.seen_from(site, &node.site).to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_from_the_call() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout("123456789S"), None);
        assert_eq!(timeout("S"), None);
        assert_eq!(timeout(""), None);
        let request = Request::new(());
        assert_eq!(
            limit(&request),
            Duration::from_millis(limits::DEADLINE_MS_DEFAULT)
        );
    }
}
