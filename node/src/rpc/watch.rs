//! `Objects.Watch`: the changes of keys with a prefix, over all shards of a namespace, from a position of each.
//!
//! One task for each shard reads the log at its primary, here or through the primary's `RequestLog.Follow`; all send into
//! one stream. What is no longer kept is an explicit gap, after which the watch goes on.

use super::follow::LogReader;
use super::log_wire::log_record;
use super::wire;
use crate::data_node::Node;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::follow_request::View;
use understudy_proto::v1::request_log_client::RequestLogClient;
use understudy_proto::v1::watch_response::{Change, Gap, Kind, Progress};
use understudy_proto::{NodeId, Pair, ShardId, Version, v1};

pub type WatchOut = Pin<Box<dyn futures::Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;
type Out = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Before a shard without a primary is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a shard tells how far it was looked through.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

struct ShardWatch {
    node: Arc<Node>,
    namespace: String,
    index: u32,
    shard: ShardId,
    prefix: bytes::Bytes,
    /// After this the changes are wanted; `None`: what comes next.
    after: Option<Pair>,
    /// The watcher is to be told that changes are missing, together with the place where it goes on.
    gap: bool,
    /// When it was last told how far the shard was looked through.
    told: Instant,
    out: Out,
}

pub(super) fn start(node: Arc<Node>, asked: v1::WatchRequest) -> Result<WatchOut, Failure> {
    wire::check_prefix("prefix", &asked.prefix)?;
    let namespace = node.namespace(&asked.namespace)?;
    let (out, stream) = mpsc::channel(16);
    for index in 0..namespace.shards {
        let Some(shard) = namespace.shard(index) else {
            continue;
        };
        let watch = ShardWatch {
            node: node.clone(),
            namespace: asked.namespace.clone(),
            index,
            shard,
            prefix: asked.prefix.clone(),
            after: asked
                .after
                .get(&index)
                .map(|pair| wire::to_pair(Some(*pair))),
            gap: false,
            told: Instant::now(),
            out: out.clone(),
        };
        tokio::spawn(watch.run());
    }
    Ok(Box::pin(ReceiverStream::new(stream)))
}

impl ShardWatch {
    async fn run(mut self) {
        while !self.out.is_closed() {
            let ended = match self.node.other_primary(self.shard) {
                Some(primary) => self.there(primary).await,
                None => self.here().await,
            };
            let Err(failure) = ended else { return };
            match failure.reason {
                // It goes on at the log's end, once that is known: what is written before it is missing as well.
                Reason::Compacted | Reason::Forked => {
                    self.after = None;
                    self.gap = true;
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Begins at the log's end, unless there is a position; a hole is told with the place after it.
    async fn begin_at(&mut self, end: Pair) -> Option<Pair> {
        let after = *self.after.get_or_insert(end);
        if self.gap {
            self.send(Kind::Gap(Gap {
                shard: self.index,
                first: Some(wire::pair(after)),
            }))
            .await?;
            self.gap = false;
        }
        // The watcher learns at once where it stands in every shard.
        self.progress().await?;
        Some(after)
    }

    async fn here(&mut self) -> Result<(), Failure> {
        let end = self
            .node
            .host
            .view(self.shard, understudy_protocol::shard::ReadLevel::Primary)
            .await?
            .log
            .durable;
        let Some(after) = self.begin_at(end).await else {
            return Ok(());
        };
        let mut reader =
            LogReader::open(self.node.clone(), self.shard, Some(after), Version::ZERO).await?;
        loop {
            let records = reader.next().await?;
            let empty = records.is_empty();
            for encoded in records {
                let record = log_record(&encoded)
                    .map_err(|e| Failure::no(Reason::StorageCorrupt, e.to_string()))?;
                if self.give(record).await.is_none() {
                    return Ok(());
                }
            }
            if self.progress_when_due().await.is_none() {
                return Ok(());
            }
            if empty {
                reader.moved().await?;
            }
        }
    }

    async fn there(&mut self, primary: NodeId) -> Result<(), Failure> {
        let mut client = RequestLogClient::new(self.node.channel_to(primary)?)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        let broken = |status: Status| {
            Failure::from_status(&status)
                .unwrap_or_else(|| Failure::no(Reason::PeerUnreachable, status.message()))
        };
        let mut end = Pair::ZERO;
        if self.after.is_none() {
            // The end of the log is in the first answer.
            let ask = v1::FollowRequest {
                namespace: self.namespace.clone(),
                shard: self.index,
                from_version: u64::MAX,
                ..v1::FollowRequest::default()
            };
            let mut stream = client.follow(ask).await.map_err(broken)?.into_inner();
            let first = stream.message().await.map_err(broken)?;
            let first = first.ok_or_else(|| {
                Failure::no(Reason::PeerUnreachable, "the primary ended the stream")
            })?;
            end = wire::to_pair(first.end);
        }
        let Some(after) = self.begin_at(end).await else {
            return Ok(());
        };
        let ask = v1::FollowRequest {
            namespace: self.namespace.clone(),
            shard: self.index,
            after: Some(wire::pair(after)),
            follow: true,
            key_prefix: self.prefix.clone(),
            view: View::Changes.into(),
            ..v1::FollowRequest::default()
        };
        let mut stream = client.follow(ask).await.map_err(broken)?.into_inner();
        loop {
            let message = tokio::select! {
                message = stream.message() => message.map_err(broken)?,
                () = tokio::time::sleep_until(self.told + PROGRESS_EVERY) => {
                    if self.progress().await.is_none() {
                        return Ok(());
                    }
                    continue;
                }
                () = self.out.closed() => return Ok(()),
            };
            let Some(response) = message else {
                return Err(Failure::no(
                    Reason::PeerUnreachable,
                    "the primary ended the stream",
                ));
            };
            for record in response.records {
                if self.give(record).await.is_none() {
                    return Ok(());
                }
            }
            if response.through.is_some() {
                self.after = response.through.map(|pair| wire::to_pair(Some(pair)));
            }
        }
    }

    async fn give(&mut self, record: v1::LogRecord) -> Option<()> {
        self.after = Some(wire::to_pair(record.pair));
        let (pair, request_id, primary_time_ms) = (
            record.pair,
            record.request_id.clone(),
            record.primary_time_ms,
        );
        let changes = changes_of(record, &self.prefix);
        if changes.is_empty() {
            return Some(());
        }
        let change = Change {
            shard: self.index,
            pair,
            request_id,
            changes,
            primary_time_ms,
        };
        self.send(Kind::Change(change)).await
    }

    async fn progress_when_due(&mut self) -> Option<()> {
        match self.told.elapsed() >= PROGRESS_EVERY {
            true => self.progress().await,
            false => Some(()),
        }
    }

    async fn progress(&mut self) -> Option<()> {
        self.told = Instant::now();
        let positions = self.after.map(|after| (self.index, wire::pair(after)));
        let positions: HashMap<_, _> = positions.into_iter().collect();
        self.send(Kind::Progress(Progress { positions })).await
    }

    async fn send(&self, kind: Kind) -> Option<()> {
        self.out
            .send(Ok(v1::WatchResponse { kind: Some(kind) }))
            .await
            .ok()
    }
}

/// What the record changed in objects with such keys. What a failover cut off and was not applied again bears what it would
/// have changed, and changed nothing.
fn changes_of(record: v1::LogRecord, prefix: &[u8]) -> Vec<v1::ObjectChange> {
    use v1::log_record::Kind;
    if matches!(record.kind(), Kind::Conflict | Kind::Discarded) {
        return Vec::new();
    }
    let mut changes = record.changes;
    changes.retain(|change| !change.components.is_empty() && change.key.starts_with(prefix));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::log_record::Kind;

    #[test]
    fn a_conflict_is_no_change_and_what_was_only_read_is_none() {
        let change = |key: &'static str, components: usize| v1::ObjectChange {
            key: key.into(),
            components: vec![v1::ComponentChange::default(); components],
            ..v1::ObjectChange::default()
        };
        let told = |kind: Kind| {
            let record = v1::LogRecord {
                kind: kind.into(),
                changes: vec![change("a1", 1), change("a2", 0), change("b", 1)],
                ..v1::LogRecord::default()
            };
            let changes = changes_of(record, b"a").into_iter();
            changes.map(|change| change.key).collect::<Vec<_>>()
        };
        assert_eq!(told(Kind::Request), ["a1"]);
        assert_eq!(told(Kind::RecordedAgain), ["a1"]);
        assert!(told(Kind::Conflict).is_empty());
        assert!(told(Kind::Discarded).is_empty());
    }
}
