//! `ExecuteStream`: many requests and reads at once, without a task for each.
//!
//! One task reads items and hands them to the shard threads; their answers gather in a sink, and one task sends what has
//! gathered as one message. An item for another node is passed on by a task of its own.

use super::objects::{CheckedWrite, ObjectsServer};
use crate::shard::responder::{StreamReplyKind, StreamSlot};
use crate::shard::{ReadResponder, Responder, StreamReply, StreamSink, Wanted};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use understudy_proto::failure::Failure;
use understudy_proto::limits::{STREAM_BATCH_MAX, STREAM_IN_FLIGHT_MAX};
use understudy_proto::v1::stream_answer::Kind as AnswerKind;
use understudy_proto::v1::stream_item::Kind as ItemKind;
use understudy_proto::{ClientId, ShardId, v1};
use understudy_protocol::shard::ReadLevel;

pub type StreamOut =
    Pin<Box<dyn futures::Stream<Item = Result<v1::StreamResponse, Status>> + Send>>;

/// How often a client's activity is noted, however much it writes.
const ACTIVITY_EVERY: Duration = Duration::from_secs(1);

/// One open stream.
struct Session {
    server: ObjectsServer,
    sink: Arc<StreamSink>,
    /// One permit for each item that is not answered.
    room: Arc<Semaphore>,
    /// Clients that wrote on this stream, and when their activity was last told.
    active: HashMap<ClientId, Instant>,
}

pub(super) fn start(server: ObjectsServer, incoming: Streaming<v1::StreamRequest>) -> StreamOut {
    let sink = Arc::new(StreamSink::default());
    let room = Arc::new(Semaphore::new(STREAM_IN_FLIGHT_MAX));
    let (answers, outgoing) = mpsc::channel(4);
    let sending = send(server.clone(), sink.clone(), room.clone(), answers);
    let full = room.clone();
    tokio::spawn(async move {
        sending.await;
        // Nobody gives places back any more: whoever waits for one ends.
        full.close();
    });
    let session = Session {
        server,
        sink,
        room,
        active: HashMap::new(),
    };
    tokio::spawn(session.receive(incoming));
    Box::pin(ReceiverStream::new(outgoing))
}

/// Sends what gathers until the client goes away.
async fn send(
    server: ObjectsServer,
    sink: Arc<StreamSink>,
    room: Arc<Semaphore>,
    answers: mpsc::Sender<Result<v1::StreamResponse, Status>>,
) {
    loop {
        let replies = tokio::select! {
            replies = sink.take() => replies,
            () = answers.closed() => return,
        };
        room.add_permits(replies.len());
        let response = v1::StreamResponse {
            answers: replies
                .into_iter()
                .map(|reply| answer(&server, reply))
                .collect(),
        };
        if answers.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

fn answer(server: &ObjectsServer, reply: StreamReply) -> v1::StreamAnswer {
    let kind = match reply.kind {
        StreamReplyKind::Executed(answer) => {
            AnswerKind::Executed(server.executed(reply.shard, answer, &reply.keys))
        }
        StreamReplyKind::Read(answer) => {
            AnswerKind::Read(server.was_read(reply.shard, &reply.keys, answer))
        }
        StreamReplyKind::Failed(failure) => failed(server.node.with_primary(reply.shard, failure)),
        StreamReplyKind::Forwarded(kind) => *kind,
    };
    v1::StreamAnswer {
        tag: reply.tag,
        kind: Some(kind),
    }
}

fn failed(failure: Failure) -> AnswerKind {
    let mut metadata: std::collections::HashMap<_, _> = failure.metadata.into_iter().collect();
    metadata.insert("applied".to_string(), failure.applied.as_str().to_string());
    AnswerKind::Failure(v1::StreamFailure {
        code: failure.reason.code() as u32,
        reason: failure.reason.as_str().to_string(),
        message: failure.message,
        metadata,
    })
}

fn hand_on(server: &ObjectsServer, sink: &Arc<StreamSink>, tag: u64, write: CheckedWrite) {
    let slot = StreamSlot {
        sink: sink.clone(),
        tag,
        shard: write.shard,
        copies: write.copies,
        keys: write.keys,
    };
    server.node.host.write(
        write.shard,
        write.request,
        write.copies,
        write.deadline,
        Responder::Stream(slot),
        write.site,
    );
}

impl Session {
    async fn receive(mut self, mut incoming: Streaming<v1::StreamRequest>) {
        while let Ok(Some(batch)) = incoming.message().await {
            if batch.items.len() > STREAM_BATCH_MAX {
                let limit = STREAM_BATCH_MAX;
                for item in batch.items {
                    if !self.take_room().await {
                        return;
                    }
                    let failure = Failure::too_large("items", limit + 1, limit);
                    self.reply(item.tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
                }
                continue;
            }
            for item in batch.items {
                if !self.take_room().await {
                    return;
                }
                self.item(item);
            }
        }
    }

    /// Waits until fewer than the limit are on the way; the answer gives the place back. False: the client is gone.
    async fn take_room(&self) -> bool {
        match self.room.acquire().await {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    fn item(&mut self, item: v1::StreamItem) {
        let tag = item.tag;
        match item.kind {
            Some(ItemKind::Execute(asked)) => self.execute(tag, asked),
            Some(ItemKind::Read(asked)) => self.read(tag, asked),
            None => {
                let failure = Failure::field("items.kind", "an item has a kind");
                self.reply(tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
            }
        }
    }

    fn execute(&mut self, tag: u64, asked: v1::ExecuteRequest) {
        // An empty id or namespace is answered by the check, like everything malformed.
        let elsewhere = !asked.refuse_forwarding && self.is_elsewhere(&asked);
        if elsewhere {
            return self.forward(tag, asked);
        }
        let write = match self.server.check_write(asked) {
            Ok(write) => write,
            Err(failure) => {
                return self.reply(tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
            }
        };
        let client = write.request.id.client;
        match self.server.node.sessions.known(client) {
            Some(Ok(())) => {
                self.note_activity(client);
                hand_on(&self.server, &self.sink, tag, write);
            }
            Some(Err(failure)) => self.reply(tag, write.shard, StreamReplyKind::Failed(failure)),
            // The managers have to be asked: whoever is known does not wait for that.
            None => {
                let (server, sink) = (self.server.clone(), self.sink.clone());
                tokio::spawn(async move {
                    match server.node.sessions.admit(client).await {
                        Ok(()) => {
                            server.node.sessions.active(client);
                            hand_on(&server, &sink, tag, write);
                        }
                        Err(failure) => {
                            let kind = StreamReplyKind::Failed(failure);
                            sink.push(StreamReply::of(tag, write.shard, kind));
                        }
                    }
                });
            }
        }
    }

    fn note_activity(&mut self, client: ClientId) {
        let now = Instant::now();
        let told = self.active.get(&client);
        if told.is_none_or(|at| now.duration_since(*at) >= ACTIVITY_EVERY) {
            self.active.insert(client, now);
            self.server.node.sessions.active(client);
        }
    }

    /// Whether the shard's primary is certainly another node.
    fn is_elsewhere(&self, asked: &v1::ExecuteRequest) -> bool {
        let Ok(namespace) = self.server.namespace(&asked.namespace) else {
            return false;
        };
        let key = asked.ops.iter().find_map(super::wire::key_of);
        let shard = key.and_then(|key| {
            namespace.shard(understudy_proto::shard_of_key::shard_index(
                key,
                namespace.shards,
            ))
        });
        shard.is_some_and(|shard| self.server.node.other_primary(shard).is_some())
    }

    fn forward(&self, tag: u64, asked: v1::ExecuteRequest) {
        let (server, sink) = (self.server.clone(), self.sink.clone());
        tokio::spawn(async move {
            let kind = match server.execute_anywhere(asked).await {
                Ok(response) => {
                    StreamReplyKind::Forwarded(Box::new(AnswerKind::Executed(response)))
                }
                Err(failure) => StreamReplyKind::Failed(failure),
            };
            sink.push(StreamReply::of(tag, ShardId::ZERO, kind));
        });
    }

    fn read(&self, tag: u64, asked: v1::ReadRequest) {
        let read = match self.server.check_read(&asked) {
            Ok(read) => read,
            Err(failure) => {
                return self.reply(tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
            }
        };
        let primary_only = matches!(read.wanted, Wanted::Now(ReadLevel::Primary));
        if primary_only
            && !asked.refuse_forwarding
            && self.server.node.other_primary(read.shard).is_some()
        {
            let (server, sink) = (self.server.clone(), self.sink.clone());
            tokio::spawn(async move {
                let kind = match server.read_anywhere(asked).await {
                    Ok(response) => {
                        StreamReplyKind::Forwarded(Box::new(AnswerKind::Read(response)))
                    }
                    Err(failure) => StreamReplyKind::Failed(failure),
                };
                sink.push(StreamReply::of(tag, ShardId::ZERO, kind));
            });
            return;
        }
        let slot = StreamSlot {
            sink: self.sink.clone(),
            tag,
            shard: read.shard,
            copies: 0,
            keys: read.keys.clone(),
        };
        self.server.node.host.read(
            read.shard,
            read.keys,
            read.wanted,
            ReadResponder::Stream(slot),
        );
    }

    fn reply(&self, tag: u64, shard: ShardId, kind: StreamReplyKind) {
        self.sink.push(StreamReply::of(tag, shard, kind));
    }
}
