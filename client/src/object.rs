//! Objects, outcomes and answers as a caller sees them, made from the wire's messages.
//!
//! Bytes are shared with the message that they came in, never copied. What the wire leaves unset and the product never
//! does (an outcome without a status) is a failure of class `Lost`, not a guess.

use bytes::Bytes;
use std::time::Duration;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::{NodeId, Pair, RequestId, ShardId, v1};

/// The value of one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Data(Bytes),
    Counter(i64),
}

/// One component of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Empty: the object's plain value.
    pub name: Bytes,
    pub value: Value,
    /// The record that wrote it last.
    pub pair: Pair,
}

/// An object as one copy has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: Bytes,
    /// The record that wrote the object last: a precondition can name it.
    pub pair: Pair,
    /// In the order of their names.
    pub components: Vec<Component>,
}

impl Object {
    /// The plain value, when it is bytes.
    pub fn value(&self) -> Option<&Bytes> {
        self.data("")
    }

    /// The bytes of a component.
    pub fn data(&self, name: impl AsRef<[u8]>) -> Option<&Bytes> {
        match self.component(name)? {
            Value::Data(data) => Some(data),
            Value::Counter(_) => None,
        }
    }

    /// The number of a counter.
    pub fn counter(&self, name: impl AsRef<[u8]>) -> Option<i64> {
        match self.component(name)? {
            Value::Counter(counter) => Some(*counter),
            Value::Data(_) => None,
        }
    }

    pub fn component(&self, name: impl AsRef<[u8]>) -> Option<&Value> {
        let name = name.as_ref();
        let found = self
            .components
            .iter()
            .find(|component| component.name == name);
        found.map(|component| &component.value)
    }
}

/// What one operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// put, delete, set and remove: whether the object or component existed before.
    Existed(bool),
    /// add: the counter afterwards.
    Counter(i64),
    /// append: the length afterwards.
    Length(u64),
    /// get: the object.
    Object(Option<Object>),
}

/// Why an operation could not run on the state that it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedOp {
    /// Add on bytes, or append on a counter.
    WrongKind,
    /// The counter would leave the range of a signed 64-bit number.
    Overflow,
    /// A value, the object or the record would cross its limit.
    TooLarge,
    /// A reason that this build does not know.
    Other,
}

/// What a request came to. Logged; every retry gets the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The operations ran; one result for each.
    Applied(Vec<OpResult>),
    /// The precondition of this index did not hold; nothing ran.
    ConditionFailed { index: u32 },
    /// The operation of this index could not run; nothing ran.
    Failed { index: u32, why: FailedOp },
}

/// What the acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Durable on the primary.
    Primary,
    /// Durable on the primary and on as many secondaries as were asked for.
    Copies,
    /// Durable on every copy of the in-sync set.
    InSync,
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub outcome: Outcome,
    /// Where the request stands in the shard's log.
    pub pair: Pair,
    pub shard: ShardId,
    /// The request had run before; this is its first outcome.
    pub duplicate: bool,
    /// A failover cut the outcome off, and it waits for a decision.
    pub conflict: bool,
    /// Secondaries that had it durable when this was answered.
    pub copies_durable: u32,
    pub level: Level,
    pub request_id: RequestId,
    /// The node that answered as primary.
    pub primary: NodeId,
}

impl Written {
    /// Whether the operations ran.
    pub fn applied(&self) -> bool {
        matches!(self.outcome, Outcome::Applied(_))
    }

    /// The results of the operations; empty when they did not run.
    pub fn results(&self) -> &[OpResult] {
        match &self.outcome {
            Outcome::Applied(results) => results,
            Outcome::ConditionFailed { .. } | Outcome::Failed { .. } => &[],
        }
    }

    /// The counter after the first add.
    pub fn counter(&self) -> Option<i64> {
        self.results().iter().find_map(|result| match result {
            OpResult::Counter(counter) => Some(*counter),
            _ => None,
        })
    }
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// One for each key, in the order of the keys; `None`: absent.
    pub objects: Vec<Option<Object>>,
    /// What the answering copy had reached: the token for later reads.
    pub token: Pair,
    pub shard: ShardId,
    /// The node that answered.
    pub node: NodeId,
    /// How old the answer was at most, when it was given: everything acknowledged so long before is in it. `None`: the copy
    /// does not know.
    pub age: Option<Duration>,
}

pub fn pair(wire: Option<v1::Pair>) -> Pair {
    wire.map_or(Pair::ZERO, |pair| Pair::new(pair.epoch, pair.version))
}

pub fn wire_pair(pair: Pair) -> v1::Pair {
    v1::Pair {
        epoch: pair.epoch.0,
        version: pair.version.0,
    }
}

pub fn wire_value(value: Value) -> v1::Value {
    let kind = match value {
        Value::Data(data) => v1::value::Kind::Data(data),
        Value::Counter(counter) => v1::value::Kind::Counter(counter),
    };
    v1::Value { kind: Some(kind) }
}

/// The request id on the wire.
pub fn wire_request_id(id: RequestId) -> v1::RequestId {
    v1::RequestId {
        client_id: Bytes::copy_from_slice(&id.client.to_bytes()),
        sequence: id.sequence.0,
    }
}

impl From<v1::Object> for Object {
    fn from(wire: v1::Object) -> Object {
        let component = |wire: v1::Component| Component {
            name: wire.name,
            pair: pair(wire.pair),
            value: match wire.value.and_then(|value| value.kind) {
                Some(v1::value::Kind::Counter(counter)) => Value::Counter(counter),
                Some(v1::value::Kind::Data(data)) => Value::Data(data),
                None => Value::Data(Bytes::new()),
            },
        };
        Object {
            key: wire.key,
            pair: pair(wire.pair),
            components: wire.components.into_iter().map(component).collect(),
        }
    }
}

fn result(wire: v1::OpResult) -> Result<OpResult, Failure> {
    use v1::op_result::Kind;
    Ok(match wire.kind {
        Some(Kind::Existed(existed)) => OpResult::Existed(existed),
        Some(Kind::Counter(counter)) => OpResult::Counter(counter),
        Some(Kind::Length(length)) => OpResult::Length(length),
        Some(Kind::Object(found)) => OpResult::Object(found.object.map(Object::from)),
        None => return Err(unreadable("an operation has no result")),
    })
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Failure;

    fn try_from(wire: v1::Outcome) -> Result<Outcome, Failure> {
        use v1::outcome::{FailedOp as WireFailed, Status};
        let index = wire.failed_index;
        match wire.status() {
            Status::Applied => {
                let results: Result<Vec<_>, _> = wire.results.into_iter().map(result).collect();
                Ok(Outcome::Applied(results?))
            }
            Status::ConditionFailed => Ok(Outcome::ConditionFailed { index }),
            Status::Failed => {
                let why = match wire.failed() {
                    WireFailed::WrongKind => FailedOp::WrongKind,
                    WireFailed::Overflow => FailedOp::Overflow,
                    WireFailed::TooLarge => FailedOp::TooLarge,
                    WireFailed::Unspecified => FailedOp::Other,
                };
                Ok(Outcome::Failed { index, why })
            }
            Status::Unspecified => Err(unreadable("an outcome has no status")),
        }
    }
}

impl Written {
    /// Reads an answer; one that cannot be read leaves the outcome unknown.
    pub fn from_wire(wire: v1::ExecuteResponse, request_id: RequestId) -> Result<Written, Failure> {
        let level = match wire.level() {
            v1::Level::Unspecified | v1::Level::Primary => Level::Primary,
            v1::Level::Copies => Level::Copies,
            v1::Level::InSync => Level::InSync,
        };
        let outcome = wire
            .outcome
            .ok_or_else(|| unreadable("an answer has no outcome"))?;
        Ok(Written {
            outcome: Outcome::try_from(outcome)?,
            pair: pair(wire.pair),
            shard: ShardId(wire.shard),
            duplicate: wire.duplicate,
            conflict: wire.conflict,
            copies_durable: wire.copies_durable,
            level,
            request_id,
            primary: NodeId(wire.primary_node),
        })
    }
}

impl Found {
    pub fn from_wire(wire: v1::ReadResponse) -> Found {
        let objects = wire.objects.into_iter();
        Found {
            objects: objects
                .map(|found| found.object.map(Object::from))
                .collect(),
            token: pair(wire.token),
            shard: ShardId(wire.shard),
            node: NodeId(wire.node),
            age: wire.age_ms.map(Duration::from_millis),
        }
    }
}

fn unreadable(what: &str) -> Failure {
    Failure::unknown(
        Reason::Internal,
        format!("an answer cannot be read: {what}"),
    )
}
