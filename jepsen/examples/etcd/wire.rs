//! The few messages of etcd's gRPC interface (API version 3) that the test needs, written out so that nothing is generated.

use prost::{Enumeration, Message, Oneof};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// A set is read in one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const HASH: &str = "/etcdserverpb.Maintenance/HashKV";
pub const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";

/// Sends one question, once.
pub async fn ask<Q, A>(channel: &Channel, path: &'static str, question: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::from_static(path);
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = grpc.unary(Request::new(question), path, codec).await?;
    Ok(answer.into_inner())
}

#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(uint64, tag = "2")]
    pub member: u64,
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The first key that is not meant any more; empty: only `key`.
    #[prost(bytes = "vec", tag = "2")]
    pub end: Vec<u8>,
    /// From what this member has, without asking the others.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ranged {
    #[prost(message, repeated, tag = "2")]
    pub found: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Step {
    #[prost(oneof = "Asked", tags = "1, 2")]
    pub asked: Option<Asked>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Asked {
    #[prost(message, tag = "1")]
    Range(Range),
    #[prost(message, tag = "2")]
    Put(Put),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
#[repr(i32)]
pub enum Target {
    Version = 0,
    CreateRevision = 1,
    ModRevision = 2,
    Value = 3,
}

/// Equality, which is the result that has the number 0.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    #[prost(enumeration = "Target", tag = "2")]
    pub target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    #[prost(oneof = "Expected", tags = "6, 7")]
    pub expected: Option<Expected>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Expected {
    /// 0: there is no such key.
    #[prost(int64, tag = "6")]
    ModRevision(i64),
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// What is done if all comparisons hold.
    #[prost(message, repeated, tag = "2")]
    pub steps: Vec<Step>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TxnDone {
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub answers: Vec<Answer>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// Of a put: nothing.
    #[prost(message, optional, tag = "1")]
    pub ranged: Option<Ranged>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub struct MemberStatus {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    #[prost(string, tag = "2")]
    pub version: String,
    /// 0: it knows none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    #[prost(uint64, tag = "6")]
    pub term: u64,
    #[prost(uint64, tag = "7")]
    pub applied: u64,
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HashAt {
    #[prost(int64, tag = "1")]
    pub revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Hashed {
    #[prost(uint32, tag = "2")]
    pub hash: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct MoveLeader {
    #[prost(uint64, tag = "1")]
    pub to: u64,
}
