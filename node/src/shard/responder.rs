//! Who waits for the answer of a write or a read: one call, or one item of a stream.
//!
//! A stream's answers gather in its sink until the stream's task takes them all; nothing is made per answer.

use bytes::Bytes;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{Notify, oneshot};
use understudy_proto::ShardId;
use understudy_proto::failure::Failure;
use understudy_protocol::effect::Answer;
use understudy_protocol::shard::ReadAnswer;

/// Who waits for a write.
#[derive(Debug)]
pub enum Responder {
    Call(oneshot::Sender<Result<Answer, Failure>>),
    Stream(StreamSlot),
}

/// Who waits for a read.
#[derive(Debug)]
pub enum ReadResponder {
    Call(oneshot::Sender<Result<ReadAnswer, Failure>>),
    Stream(StreamSlot),
}

/// One item of a stream.
#[derive(Debug)]
pub struct StreamSlot {
    pub sink: std::sync::Arc<StreamSink>,
    pub tag: u64,
    pub shard: ShardId,
    /// How many copies a write asked for.
    pub copies: u32,
    /// The keys of the operations or of the read, for those whose answers name them.
    pub keys: Vec<Bytes>,
}

/// An answer on its way into a stream.
#[derive(Debug)]
pub struct StreamReply {
    pub tag: u64,
    pub shard: ShardId,
    pub copies: u32,
    pub keys: Vec<Bytes>,
    pub kind: StreamReplyKind,
}

impl StreamReply {
    /// That says all by itself.
    pub fn of(tag: u64, shard: ShardId, kind: StreamReplyKind) -> StreamReply {
        StreamReply {
            tag,
            shard,
            copies: 0,
            keys: Vec::new(),
            kind,
        }
    }
}

#[derive(Debug)]
pub enum StreamReplyKind {
    Executed(Answer),
    Read(ReadAnswer),
    Failed(Failure),
    /// Answered by another node.
    Forwarded(Box<understudy_proto::v1::stream_answer::Kind>),
}

/// Where the answers of one stream gather.
#[derive(Debug, Default)]
pub struct StreamSink {
    waiting: Mutex<Vec<StreamReply>>,
    arrived: Notify,
}

impl StreamSink {
    pub fn push(&self, reply: StreamReply) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(reply);
        if waiting.len() == 1 {
            self.arrived.notify_one();
        }
    }

    /// All answers that gathered; waits for the first.
    pub async fn take(&self) -> Vec<StreamReply> {
        loop {
            let arrived = self.arrived.notified();
            let taken =
                std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }
}

impl StreamSlot {
    pub fn reply(self, kind: StreamReplyKind) {
        let reply = StreamReply {
            tag: self.tag,
            shard: self.shard,
            copies: self.copies,
            keys: self.keys,
            kind,
        };
        self.sink.push(reply);
    }
}

impl Responder {
    /// A call that nobody waits for any more is no error: the write is finished all the same.
    pub fn send(self, answer: Result<Answer, Failure>) {
        match self {
            Responder::Call(call) => drop(call.send(answer)),
            Responder::Stream(slot) => slot.reply(match answer {
                Ok(answer) => StreamReplyKind::Executed(answer),
                Err(failure) => StreamReplyKind::Failed(failure),
            }),
        }
    }
}

impl ReadResponder {
    pub fn send(self, answer: Result<ReadAnswer, Failure>) {
        match self {
            ReadResponder::Call(call) => drop(call.send(answer)),
            ReadResponder::Stream(slot) => slot.reply(match answer {
                Ok(answer) => StreamReplyKind::Read(answer),
                Err(failure) => StreamReplyKind::Failed(failure),
            }),
        }
    }
}
