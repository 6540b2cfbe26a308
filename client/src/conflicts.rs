//! What failovers cut off and a person has to decide: listed page by page, and shown with both sides.
//!
//! A conflict is decided by [`crate::Write::resolve`], a write like any other.

use crate::anywhere::{self, Call, Idempotent};
use crate::error::Error;
use crate::namespace::Namespace;
use crate::object::{Object, pair, wire_pair, wire_request_id};
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use tonic::transport::Channel;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::PUBLIC_MESSAGE_BYTES_MAX;
use understudy_proto::v1::{self, request_log_client::RequestLogClient};
use understudy_proto::{ClientId, Pair, RequestId, Sequence};

/// A conflict of a namespace. As text `SHARD/CLIENT:SEQ@EPOCH.VERSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConflictId {
    /// The shard's index inside the namespace.
    pub shard: u32,
    /// The request that was cut off.
    pub request_id: RequestId,
    /// Its record, on the branch that was cut off.
    pub cut_off: Pair,
}

impl ConflictId {
    pub(crate) fn wire(self) -> v1::ConflictId {
        v1::ConflictId {
            request_id: Some(wire_request_id(self.request_id)),
            cut_off: Some(wire_pair(self.cut_off)),
        }
    }

    /// As an answer names it; `None`: that is no conflict's name.
    pub fn from_wire(shard: u32, wire: &v1::ConflictId) -> Option<ConflictId> {
        let request = wire.request_id.as_ref()?;
        Some(ConflictId {
            shard,
            request_id: RequestId {
                client: ClientId::from_slice(&request.client_id)?,
                sequence: Sequence(request.sequence),
            },
            cut_off: pair(wire.cut_off),
        })
    }
}

impl fmt::Display for ConflictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.shard, self.request_id, self.cut_off)
    }
}

impl FromStr for ConflictId {
    type Err = String;

    fn from_str(text: &str) -> Result<ConflictId, String> {
        let wrong = || format!("'{text}' is no conflict: SHARD/CLIENT:SEQ@EPOCH.VERSION");
        let (shard, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (id, cut_off) = rest.split_once('@').ok_or_else(wrong)?;
        Ok(ConflictId {
            shard: shard.parse().map_err(|_| wrong())?,
            request_id: id.parse().map_err(|_| wrong())?,
            cut_off: cut_off.parse().map_err(|_| wrong())?,
        })
    }
}

/// A conflict in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ConflictSummary {
    pub id: ConflictId,
    /// The record that put it: what [`crate::Write::resolve`] is given.
    pub pair: Pair,
    /// `object-changed`, `outcome-conflict`, `may-have-run`, `cannot-be-told` or `by-policy`.
    pub reason: String,
    /// The first of the objects that the request read, tested or wrote.
    pub keys: Vec<Bytes>,
    /// How many they are.
    pub key_count: u32,
    /// When the request ran, on the clock of its primary, in milliseconds since 1970; for people.
    pub primary_time_ms: u64,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ConflictsPage {
    pub conflicts: Vec<ConflictSummary>,
    /// Where the next page begins; empty: this was the last one.
    pub token: Bytes,
    /// Shards that nobody served; what they have is unknown.
    pub unserved_shards: Vec<u32>,
}

/// A list of conflicts that is being put together.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until a page is asked for"]
pub struct Conflicts {
    namespace: Namespace,
    request: v1::ListConflictsRequest,
    done: bool,
}

impl Conflicts {
    pub(crate) fn new(namespace: Namespace) -> Conflicts {
        let request = v1::ListConflictsRequest {
            namespace: namespace.name().to_string(),
            ..Default::default()
        };
        Conflicts {
            namespace,
            request,
            done: false,
        }
    }

    /// Conflicts of one page: at most 1,000; 0: 100.
    pub fn page_size(mut self, conflicts: u32) -> Conflicts {
        self.request.limit = conflicts;
        self
    }

    /// Go on after an earlier page.
    pub fn page_token(mut self, token: impl Into<Bytes>) -> Conflicts {
        self.request.page_token = token.into();
        self
    }

    /// Only this shard of the namespace (index).
    pub fn shard(mut self, index: u32) -> Conflicts {
        self.request.shard = Some(index);
        self
    }

    /// The next page; `None` after the last one. After an error the same page is asked for again.
    pub async fn next_page(&mut self) -> Result<Option<ConflictsPage>, Error> {
        if self.done {
            return Ok(None);
        }
        let request = self.request.clone();
        let answer = ask(&self.namespace, move |channel| {
            let request = request.clone();
            async move { stub(channel).list_conflicts(request).await }
        })
        .await?;
        self.request.page_token.clone_from(&answer.page_token);
        self.done = answer.page_token.is_empty();
        let conflicts = answer.conflicts.into_iter().map(summary);
        Ok(Some(ConflictsPage {
            conflicts: conflicts.collect::<Result<_, _>>()?,
            token: answer.page_token,
            unserved_shards: answer.unserved_shards,
        }))
    }
}

fn summary(wire: v1::list_conflicts_response::Conflict) -> Result<ConflictSummary, Error> {
    let id = wire.id.as_ref();
    let id = id.and_then(|id| ConflictId::from_wire(wire.shard, id));
    Ok(ConflictSummary {
        id: id.ok_or_else(|| unreadable("a conflict has no id"))?,
        pair: pair(wire.pair),
        reason: wire.reason,
        keys: wire.keys,
        key_count: wire.key_count,
        primary_time_ms: wire.primary_time_ms,
    })
}

/// Both sides of a conflict.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub id: ConflictId,
    /// The record that put it: what [`crate::Write::resolve`] is given.
    pub pair: Pair,
    pub reason: String,
    /// The request as it was recorded first: operations, outcome, old and new values.
    pub cut_off: Box<v1::LogRecord>,
    /// The objects that it read, tested or wrote, in the order of its changes.
    pub here: Vec<Standing>,
}

/// An object of a conflict as it is here.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub key: Bytes,
    /// Its last writer when it became a conflict; `None`: it was absent.
    pub stood: Option<Pair>,
    /// `None`: it is absent now.
    pub object: Option<Object>,
    /// Its components were left out, for all objects together are too large.
    pub left_out: bool,
}

impl Conflict {
    pub(crate) async fn get(namespace: &Namespace, id: ConflictId) -> Result<Conflict, Error> {
        let request = v1::GetConflictRequest {
            namespace: namespace.name().to_string(),
            shard: id.shard,
            id: Some(id.wire()),
            refuse_forwarding: false,
        };
        let answer = ask(namespace, move |channel| {
            let request = request.clone();
            async move { stub(channel).get_conflict(request).await }
        })
        .await?;
        let here = answer.here.into_iter().map(|here| Standing {
            key: here.key,
            stood: here.stood.map(|stood| pair(Some(stood))),
            object: here.object.map(Object::from),
            left_out: here.left_out,
        });
        let cut_off = answer.cut_off;
        Ok(Conflict {
            id,
            pair: pair(answer.pair),
            reason: answer.reason,
            cut_off: Box::new(cut_off.ok_or_else(|| unreadable("a conflict has no record"))?),
            here: here.collect(),
        })
    }
}

async fn ask<T, F, R>(namespace: &Namespace, ask: F) -> Result<T, Error>
where
    F: Fn(Channel) -> R,
    R: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let shared = namespace.shared();
    let deadline = shared.deadline(None);
    let route = namespace.cache().get(shared, deadline).await?;
    let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
    anywhere::call(shared, call, ask).await
}

/// A conflict holds a whole record, with old and new values.
fn stub(channel: Channel) -> RequestLogClient<Channel> {
    RequestLogClient::new(channel).max_decoding_message_size(4 * PUBLIC_MESSAGE_BYTES_MAX)
}

fn unreadable(what: &str) -> Error {
    let what = format!("an answer cannot be read: {what}");
    Error::Refused(Failure::no(Reason::Internal, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_has_a_name() {
        let id = ConflictId {
            shard: 3,
            request_id: RequestId {
                client: ClientId::from_parts(1_000, 5),
                sequence: Sequence(17),
            },
            cut_off: Pair::new(2, 40),
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ConflictId::from_wire(3, &id.wire()), Some(id));
        for wrong in ["", "3", "3/1:2", "x/1:2@1.2", "3/1@1.2"] {
            let error = wrong.parse::<ConflictId>().unwrap_err();
            assert!(error.contains("SHARD/CLIENT:SEQ@EPOCH.VERSION"), "{error}");
        }
    }
}
