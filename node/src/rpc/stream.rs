//! `ExecuteStream`: many requests and reads at once, without a task for each.
//!
//! One task reads items and hands them to the shard threads; their answers gather in a sink, and one task sends what has
//! gathered as one message. An item for another node is passed on by a task of its own.

use super::objects::ObjectsServer;
use crate::shard::responder::{StreamReplyKind, StreamSlot};
use crate::shard::{ReadResponder, Responder, StreamReply, StreamSink};
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use understudy_proto::failure::Failure;
use understudy_proto::limits::{STREAM_BATCH_MAX, STREAM_IN_FLIGHT_MAX};
use understudy_proto::v1::stream_answer::Kind as AnswerKind;
use understudy_proto::v1::stream_item::Kind as ItemKind;
use understudy_proto::{ClientId, ShardId, v1};

pub type StreamOut =
    Pin<Box<dyn futures::Stream<Item = Result<v1::StreamResponse, Status>> + Send>>;

/// One open stream.
struct Session {
    server: ObjectsServer,
    sink: Arc<StreamSink>,
    /// One permit for each item that is not answered.
    room: Arc<Semaphore>,
    /// Clients that were admitted on this stream.
    admitted: HashSet<ClientId>,
}

pub(super) fn start(server: ObjectsServer, incoming: Streaming<v1::StreamRequest>) -> StreamOut {
    let sink = Arc::new(StreamSink::default());
    let room = Arc::new(Semaphore::new(STREAM_IN_FLIGHT_MAX));
    let (answers, outgoing) = mpsc::channel(4);
    tokio::spawn(send(server.clone(), sink.clone(), room.clone(), answers));
    let session = Session {
        server,
        sink,
        room,
        admitted: HashSet::new(),
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

impl Session {
    async fn receive(mut self, mut incoming: Streaming<v1::StreamRequest>) {
        while let Ok(Some(batch)) = incoming.message().await {
            if batch.items.len() > STREAM_BATCH_MAX {
                let limit = STREAM_BATCH_MAX;
                for item in batch.items {
                    let failure = Failure::too_large("items", limit + 1, limit);
                    self.reply(item.tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
                }
                continue;
            }
            for item in batch.items {
                // Closed never: the sender ends only with the stream, and then the read above ends too.
                if let Ok(permit) = self.room.acquire().await {
                    permit.forget();
                }
                self.item(item).await;
            }
        }
    }

    async fn item(&mut self, item: v1::StreamItem) {
        let tag = item.tag;
        match item.kind {
            Some(ItemKind::Execute(asked)) => self.execute(tag, asked).await,
            Some(ItemKind::Read(asked)) => self.read(tag, asked),
            None => {
                let failure = Failure::field("items.kind", "an item has a kind");
                self.reply(tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
            }
        }
    }

    async fn execute(&mut self, tag: u64, asked: v1::ExecuteRequest) {
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
        if !self.admitted.contains(&client) {
            if let Err(failure) = self.server.node.sessions.admit(client).await {
                return self.reply(tag, write.shard, StreamReplyKind::Failed(failure));
            }
            self.server.node.sessions.active(client);
            self.admitted.insert(client);
        }
        let slot = StreamSlot {
            sink: self.sink.clone(),
            tag,
            shard: write.shard,
            keys: write.keys,
        };
        let responder = Responder::Stream(slot);
        self.server.node.host.write(
            write.shard,
            write.request,
            write.copies,
            write.deadline,
            responder,
        );
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
            sink.push(StreamReply {
                tag,
                shard: ShardId::ZERO,
                keys: Vec::new(),
                kind,
            });
        });
    }

    fn read(&self, tag: u64, asked: v1::ReadRequest) {
        let read = match self.server.check_read(&asked) {
            Ok(read) => read,
            Err(failure) => {
                return self.reply(tag, ShardId::ZERO, StreamReplyKind::Failed(failure));
            }
        };
        let primary_only = read.level == understudy_protocol::shard::ReadLevel::Primary;
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
                sink.push(StreamReply {
                    tag,
                    shard: ShardId::ZERO,
                    keys: Vec::new(),
                    kind,
                });
            });
            return;
        }
        let slot = StreamSlot {
            sink: self.sink.clone(),
            tag,
            shard: read.shard,
            keys: read.keys.clone(),
        };
        self.server.node.host.read(
            read.shard,
            read.keys,
            read.level,
            ReadResponder::Stream(slot),
        );
    }

    fn reply(&self, tag: u64, shard: ShardId, kind: StreamReplyKind) {
        self.sink.push(StreamReply {
            tag,
            shard,
            keys: Vec::new(),
            kind,
        });
    }
}
