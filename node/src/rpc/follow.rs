//! A shard's request log as it is followed: the reader of its durable records, what a follower wants of them, and the stream.
//!
//! Records come in order and without a gap; of a filtered log each message also says how far it was looked through, so that a
//! follower's position moves over what it does not want. What is no longer kept is `COMPACTED` with the first version that
//! is, a position on a branch that was cut off `FORKED` with the cut.

use super::log_wire::log_record;
use super::request_log::{MESSAGE_BYTES, storage};
use super::wire;
use crate::data_node::Node;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::follow_request::View;
use understudy_proto::{ClientId, Pair, ShardId, Version, v1};
use understudy_protocol::record::EncodedRecord;
use understudy_protocol::shard::{LogView, ReadLevel, branch};
use understudy_protocol::store::Stored;

/// Reads the log of a shard whose primary is here, and goes on as it grows.
pub(super) struct LogReader {
    node: Arc<Node>,
    shard: ShardId,
    /// The last version that was given.
    at: Version,
    /// Its pair, once it is known: it must stay on this branch, also when the primary was another one meanwhile.
    last: Option<Pair>,
    views: tokio::sync::watch::Receiver<LogView>,
}

impl LogReader {
    /// `after`: a position to go on from; it must be on this branch and its successor must still be kept.
    pub async fn open(
        node: Arc<Node>,
        shard: ShardId,
        after: Option<Pair>,
        from: Version,
    ) -> Result<LogReader, Failure> {
        let view = node.host.view(shard, ReadLevel::Primary).await?.log;
        let at = match after {
            Some(pair) if !branch::holds(&view.epoch_starts, view.durable, pair) => {
                return Err(forked(&view, pair));
            }
            Some(pair) => pair.version,
            None if from.0 == 0 => view.base.version,
            None => Version(from.0 - 1),
        };
        check_kept(&view, at)?;
        let views = node.host.follow(shard).await?;
        Ok(LogReader {
            node,
            shard,
            at,
            last: after,
            views,
        })
    }

    pub fn end(&self) -> Pair {
        self.views.borrow().durable
    }

    pub fn first(&self) -> Version {
        self.views.borrow().base.version.next()
    }

    /// The next durable records, perhaps none at the moment.
    pub async fn next(&mut self) -> Result<Vec<EncodedRecord>, Failure> {
        let mut view = self.look().await?;
        while self.at < view.durable.version {
            if let Some(records) = self.read(&view).await? {
                return Ok(records);
            }
            // The log was trimmed, or another copy of it moved in, between the look and the read.
            let again = self.look().await?;
            if (again.base, again.generation) == (view.base, view.generation) {
                let what = format!("the record after version {} is missing", self.at);
                return Err(Failure::no(Reason::StorageCorrupt, what));
            }
            view = again;
        }
        Ok(Vec::new())
    }

    /// The log as it is now; an error when what was given last is not on it, or what follows is not kept.
    async fn look(&self) -> Result<LogView, Failure> {
        let view = self.node.host.view(self.shard, ReadLevel::Primary).await?;
        let view = view.log;
        match self.last {
            Some(last) if !branch::holds(&view.epoch_starts, view.durable, last) => {
                return Err(forked(&view, last));
            }
            _ => check_kept(&view, self.at)?,
        }
        Ok(view)
    }

    /// The durable records that follow; `None`: they are not there.
    async fn read(&mut self, view: &LogView) -> Result<Option<Vec<EncodedRecord>>, Failure> {
        let generation = view.generation;
        let (database, shard, from) = (self.node.database.clone(), self.shard, self.at.next());
        let reading = tokio::task::spawn_blocking(move || {
            database.records(shard, generation, from, MESSAGE_BYTES)
        });
        let records = reading
            .await
            .map_err(|_| Failure::no(Reason::Stopping, "this node is stopping"))?;
        let mut records = records.map_err(|error| storage(&error))?;
        records.retain(|record| record.pair <= view.durable);
        if records.first().map(|first| first.pair.version) != Some(from) {
            return Ok(None);
        }
        if let Some(last) = records.last() {
            self.at = last.pair.version;
            self.last = Some(last.pair);
        }
        Ok(Some(records))
    }

    /// Waits until the log moved, or a second.
    pub async fn moved(&mut self) -> Result<(), Failure> {
        match tokio::time::timeout(Duration::from_secs(1), self.views.changed()).await {
            Ok(Err(_)) => Err(Failure::no(Reason::Stopping, "this node is stopping")),
            _ => Ok(()),
        }
    }
}

/// Whether the record after that version is still in the log.
fn check_kept(view: &LogView, at: Version) -> Result<(), Failure> {
    if at >= view.base.version {
        return Ok(());
    }
    let first = view.base.version.next();
    let message =
        format!("the log begins at version {first}; begin there, or read the objects anew");
    Err(Failure::no(Reason::Compacted, message).with("first", first.to_string()))
}

fn forked(view: &LogView, pair: Pair) -> Failure {
    let cut = branch::end_before(&view.epoch_starts, view.durable, pair);
    let message = format!(
        "record {pair} was cut off by a failover; read the objects anew and begin at the log's end"
    );
    Failure::no(Reason::Forked, message).with("cut", cut.to_string())
}

/// Which records a follower wants, and which side of them.
#[derive(Debug)]
pub(super) struct Filter {
    prefix: Bytes,
    client: Option<ClientId>,
    view: View,
}

impl Filter {
    pub fn new(asked: &v1::FollowRequest) -> Result<Filter, Failure> {
        let prefix = asked.key_prefix.clone();
        wire::check_prefix("key_prefix", &prefix)?;
        let client = match asked.client_id.is_empty() {
            true => None,
            false => Some(ClientId::from_slice(&asked.client_id).ok_or_else(|| {
                Failure::field(
                    "client_id",
                    "a client id has 16 bytes, or none for all clients",
                )
            })?),
        };
        let view = View::try_from(asked.view)
            .map_err(|_| Failure::field("view", format!("there is no view {}", asked.view)))?;
        Ok(Filter {
            prefix,
            client,
            view,
        })
    }

    /// The record as the follower wants it; `None`: not at all.
    fn apply(&self, mut record: v1::LogRecord) -> Option<v1::LogRecord> {
        if let Some(client) = self.client {
            let client = client.to_bytes();
            let theirs = |id: &v1::RequestId| id.client_id == client[..];
            record.removed.retain(theirs);
            if !record.request_id.as_ref().is_some_and(theirs) && record.removed.is_empty() {
                return None;
            }
        }
        if !self.prefix.is_empty() && !self.touches(&record) {
            return None;
        }
        match self.view {
            View::Unspecified => {}
            View::Requests => record.changes.clear(),
            View::Changes => {
                record.ops.clear();
                record.preconditions.clear();
            }
        }
        Some(record)
    }

    /// Whether the request named or changed an object with such a key.
    fn touches(&self, record: &v1::LogRecord) -> bool {
        let wanted = |key: &Bytes| key.starts_with(&self.prefix);
        record.ops.iter().filter_map(wire::key_of).any(wanted)
            || record.preconditions.iter().any(|p| wanted(&p.key))
            || record.changes.iter().any(|change| wanted(&change.key))
    }
}

/// Streams what is wanted until the end, the limit or the caller's going.
pub(super) async fn follow(
    mut reader: LogReader,
    filter: Filter,
    asked: v1::FollowRequest,
    out: mpsc::Sender<Result<v1::FollowResponse, Status>>,
) -> Result<(), Failure> {
    let mut left = match asked.limit {
        0 => u64::MAX,
        limit => limit,
    };
    let mut first = true;
    loop {
        let stored = reader.next().await?;
        let empty = stored.is_empty();
        let mut response = v1::FollowResponse {
            end: Some(wire::pair(reader.end())),
            first_version: reader.first().0,
            ..v1::FollowResponse::default()
        };
        for encoded in &stored {
            if left == 0 {
                break;
            }
            let record = log_record(encoded).map_err(|error| storage(&error))?;
            response.through = record.pair;
            if let Some(record) = filter.apply(record) {
                response.records.push(record);
                left -= 1;
            }
        }
        if (!empty || first) && out.send(Ok(response)).await.is_err() {
            return Ok(());
        }
        first = false;
        if left == 0 || (empty && !asked.follow) {
            return Ok(());
        }
        if empty {
            tokio::select! {
                moved = reader.moved() => moved?,
                () = out.closed() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::limits::KEY_BYTES_MAX;

    fn id(client: u8, sequence: u64) -> v1::RequestId {
        v1::RequestId {
            client_id: vec![client; 16].into(),
            sequence,
        }
    }

    /// A put by that client, which found and left a value.
    fn put(client: u8, key: &'static str) -> v1::LogRecord {
        let key = Bytes::from_static(key.as_bytes());
        let put = v1::op::Put {
            key: key.clone(),
            value: "v".into(),
        };
        v1::LogRecord {
            request_id: Some(id(client, 1)),
            ops: vec![v1::Op {
                kind: Some(v1::op::Kind::Put(put)),
            }],
            changes: vec![v1::ObjectChange {
                key,
                ..v1::ObjectChange::default()
            }],
            ..v1::LogRecord::default()
        }
    }

    fn filter(asked: v1::FollowRequest) -> Filter {
        Filter::new(&asked).unwrap()
    }

    fn of_client(client: u8) -> Filter {
        filter(v1::FollowRequest {
            client_id: vec![client; 16].into(),
            ..v1::FollowRequest::default()
        })
    }

    fn with_prefix(prefix: &'static str) -> Filter {
        filter(v1::FollowRequest {
            key_prefix: prefix.into(),
            ..v1::FollowRequest::default()
        })
    }

    #[test]
    fn a_client_sees_its_requests_and_what_is_forgotten_of_them() {
        let mine = of_client(1);
        assert_eq!(mine.apply(put(1, "a")), Some(put(1, "a")));
        assert_eq!(mine.apply(put(2, "a")), None);
        let expiry = v1::LogRecord {
            removed: vec![id(2, 7), id(1, 8)],
            ..v1::LogRecord::default()
        };
        assert_eq!(mine.apply(expiry.clone()).unwrap().removed, [id(1, 8)]);
        assert_eq!(of_client(3).apply(expiry), None);
    }

    #[test]
    fn a_prefix_finds_what_was_named_tested_or_changed() {
        assert!(with_prefix("or").apply(put(1, "order")).is_some());
        assert_eq!(with_prefix("orders").apply(put(1, "order")), None);
        let mut tested = put(1, "order");
        tested.preconditions.push(v1::Precondition {
            key: "stock/1".into(),
            ..v1::Precondition::default()
        });
        assert!(with_prefix("stock/").apply(tested).is_some());
        let mut only_changed = put(1, "order");
        only_changed.ops.clear();
        assert!(with_prefix("order").apply(only_changed).is_some());
        let epoch_start = v1::LogRecord::default();
        assert_eq!(with_prefix("o").apply(epoch_start.clone()), None);
        assert!(with_prefix("").apply(epoch_start).is_some());
    }

    // capabilities A14, A15
    #[test]
    fn a_view_leaves_the_other_side_out() {
        let seen = |view: View| {
            let asked = v1::FollowRequest {
                view: view.into(),
                ..v1::FollowRequest::default()
            };
            let record = filter(asked).apply(put(1, "a")).unwrap();
            (record.ops.len(), record.changes.len())
        };
        assert_eq!(seen(View::Unspecified), (1, 1));
        assert_eq!(seen(View::Requests), (1, 0));
        assert_eq!(seen(View::Changes), (0, 1));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_field() {
        let refused = |asked: v1::FollowRequest| Filter::new(&asked).unwrap_err();
        let short = refused(v1::FollowRequest {
            client_id: vec![1; 15].into(),
            ..v1::FollowRequest::default()
        });
        assert_eq!(short.reason, Reason::FieldInvalid);
        let long = refused(v1::FollowRequest {
            key_prefix: vec![1; KEY_BYTES_MAX + 1].into(),
            ..v1::FollowRequest::default()
        });
        assert_eq!(long.reason, Reason::TooLarge);
        let view = refused(v1::FollowRequest {
            view: 9,
            ..v1::FollowRequest::default()
        });
        assert!(view.message.contains("no view 9"), "{view}");
    }
}
