//! Between the wire and the protocol: the only place that knows both forms.
//!
//! What comes in is checked against the limits here, so that nothing malformed or oversized reaches a shard. The answers
//! name the field as the `.proto` files do.

use bytes::Bytes;
use understudy_proto::failure::Failure;
use understudy_proto::limits::{
    COMPONENT_NAME_BYTES_MAX, DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX, KEY_BYTES_MAX,
    OPS_PER_REQUEST_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX,
};
use understudy_proto::shard_of_key::shard_index;
use understudy_proto::{ClientId, Epoch, Pair, RequestId, Sequence, Version, v1};
use understudy_protocol::conflict::{Shown, is_reserved};
use understudy_protocol::object::{Object, Value};
use understudy_protocol::request::{FailedOp, Op, OpResult, Outcome, Precondition};

pub fn pair(pair: Pair) -> v1::Pair {
    v1::Pair {
        epoch: pair.epoch.0,
        version: pair.version.0,
    }
}

/// An unset pair is (0, 0).
pub fn to_pair(pair: Option<v1::Pair>) -> Pair {
    pair.map_or(Pair::ZERO, |pair| Pair {
        epoch: Epoch(pair.epoch),
        version: Version(pair.version),
    })
}

pub fn request_id(id: RequestId) -> v1::RequestId {
    v1::RequestId {
        client_id: Bytes::copy_from_slice(&id.client.to_bytes()),
        sequence: id.sequence.0,
    }
}

pub fn to_request_id(id: Option<v1::RequestId>) -> Result<RequestId, Failure> {
    let id = id.ok_or_else(|| Failure::field("request_id", "a request needs its id"))?;
    let client = ClientId::from_slice(&id.client_id)
        .ok_or_else(|| Failure::field("request_id.client_id", "a client id has 16 bytes"))?;
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

/// The deadline that a caller asked for, within the limits.
pub fn deadline_ms(asked: u32) -> u64 {
    match asked {
        0 => DEADLINE_MS_DEFAULT,
        asked => u64::from(asked).min(DEADLINE_MS_MAX),
    }
}

pub fn check_key(field: &str, key: &[u8]) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::field(field, "a key has at least one byte"));
    }
    if is_reserved(key) {
        return Err(Failure::field(
            field,
            "keys that begin with two bytes ff are reserved",
        ));
    }
    check_size(field, key.len(), KEY_BYTES_MAX)
}

fn check_size(field: &str, size: usize, limit: usize) -> Result<(), Failure> {
    if size > limit {
        Err(Failure::too_large(field, size, limit))
    } else {
        Ok(())
    }
}

/// Operations and preconditions of a request, checked, with the index of the shard that they are all in.
pub struct Content {
    pub ops: Vec<Op>,
    pub preconditions: Vec<Precondition>,
    pub shard_index: u32,
}

/// Checks and converts what a request asks.
pub fn to_content(
    ops: Vec<v1::Op>,
    preconditions: Vec<v1::Precondition>,
    asked_shard: Option<u32>,
    shards: u32,
) -> Result<Content, Failure> {
    if ops.is_empty() {
        return Err(Failure::field(
            "ops",
            "a request has at least one operation",
        ));
    }
    let (ops, preconditions) = to_lists(ops, preconditions, OPS_PER_REQUEST_MAX)?;
    let keys = ops
        .iter()
        .map(Op::key)
        .chain(preconditions.iter().map(Precondition::key));
    let shard_index = one_shard(keys, asked_shard, shards)?;
    Ok(Content {
        ops,
        preconditions,
        shard_index,
    })
}

/// A prefix longer than any key finds nothing.
pub fn check_prefix(field: &str, prefix: &[u8]) -> Result<(), Failure> {
    check_size(field, prefix.len(), KEY_BYTES_MAX)
}

/// What the resolution of a conflict asks: it may have no operations, and names its shard.
pub fn to_resolution(
    ops: Vec<v1::Op>,
    preconditions: Vec<v1::Precondition>,
    asked_shard: Option<u32>,
    shards: u32,
) -> Result<Content, Failure> {
    let wrong = || Failure::field("shard", "a resolution names the shard of its conflict");
    let shard_index = asked_shard.filter(|index| *index < shards);
    let shard_index = shard_index.ok_or_else(wrong)?;
    // As many as the request that was cut off could have, and a condition for each of its objects.
    let (ops, preconditions) = to_lists(ops, preconditions, 2 * OPS_PER_REQUEST_MAX)?;
    let keys = ops
        .iter()
        .map(Op::key)
        .chain(preconditions.iter().map(Precondition::key));
    let mut keys = keys.peekable();
    if keys.peek().is_some() {
        one_shard(keys, asked_shard, shards)?;
    }
    Ok(Content {
        ops,
        preconditions,
        shard_index,
    })
}

/// Which conflict is resolved.
pub fn to_shown(resolution: v1::Resolution) -> Result<Shown, Failure> {
    let conflict = resolution.conflict;
    let (request, cut_off) = to_conflict_id("resolves.conflict", conflict)?;
    Ok(Shown {
        request,
        cut_off,
        pair: to_pair(resolution.shown),
    })
}

pub fn to_conflict_id(
    field: &str,
    id: Option<v1::ConflictId>,
) -> Result<(RequestId, Pair), Failure> {
    let id = id.ok_or_else(|| Failure::field(field, format!("{field} is missing")))?;
    Ok((to_request_id(id.request_id)?, to_pair(id.cut_off)))
}

pub fn conflict_id((request, cut_off): (RequestId, Pair)) -> v1::ConflictId {
    v1::ConflictId {
        request_id: Some(request_id(request)),
        cut_off: Some(pair(cut_off)),
    }
}

fn to_lists(
    ops: Vec<v1::Op>,
    preconditions: Vec<v1::Precondition>,
    count_max: usize,
) -> Result<(Vec<Op>, Vec<Precondition>), Failure> {
    let count = ops.len() + preconditions.len();
    check_size("ops", count, count_max)?;
    let ops = ops.into_iter().map(to_op).collect::<Result<Vec<_>, _>>()?;
    let preconditions = preconditions
        .into_iter()
        .map(to_precondition)
        .collect::<Result<Vec<_>, _>>()?;
    check_size("ops", ops.iter().map(Op::size).sum(), REQUEST_BYTES_MAX)?;
    Ok((ops, preconditions))
}

/// The one shard that all keys are in.
pub fn one_shard<'a>(
    keys: impl Iterator<Item = &'a Bytes>,
    asked: Option<u32>,
    shards: u32,
) -> Result<u32, Failure> {
    let mut found = None;
    for key in keys {
        let index = shard_index(key, shards);
        if found.is_some_and(|other| other != index) {
            let message = "the keys of one request are in one shard; give them a common {tag}";
            return Err(Failure::no(
                understudy_proto::failure::Reason::CrossShard,
                message,
            ));
        }
        found = Some(index);
    }
    let found = found.ok_or_else(|| Failure::field("keys", "at least one key is needed"))?;
    match asked {
        Some(asked) if asked != found => {
            let message = format!("the keys are in shard {found}, not {asked}; leave it out");
            Err(Failure::field("shard", message))
        }
        _ => Ok(found),
    }
}

/// The key of an operation as it came, before any check.
pub fn key_of(op: &v1::Op) -> Option<&Bytes> {
    use v1::op::Kind;
    Some(match op.kind.as_ref()? {
        Kind::Put(op) => &op.key,
        Kind::Delete(op) => &op.key,
        Kind::SetComponent(op) => &op.key,
        Kind::RemoveComponent(op) => &op.key,
        Kind::Add(op) => &op.key,
        Kind::Append(op) => &op.key,
        Kind::Get(op) => &op.key,
    })
}

fn to_op(op: v1::Op) -> Result<Op, Failure> {
    use v1::op::Kind;
    let kind = op
        .kind
        .ok_or_else(|| Failure::field("ops.kind", "an operation has a kind"))?;
    let op = match kind {
        Kind::Put(op) => Op::Put {
            key: op.key,
            value: op.value,
        },
        Kind::Delete(op) => Op::Delete { key: op.key },
        Kind::SetComponent(op) => Op::SetComponent {
            key: op.key,
            name: op.name,
            value: op.value,
        },
        Kind::RemoveComponent(op) => Op::RemoveComponent {
            key: op.key,
            name: op.name,
        },
        Kind::Add(op) => Op::Add {
            key: op.key,
            name: op.name,
            delta: op.delta,
        },
        Kind::Append(op) => Op::Append {
            key: op.key,
            name: op.name,
            data: op.data,
        },
        Kind::Get(op) => Op::Get { key: op.key },
    };
    check_key("ops.key", op.key())?;
    match &op {
        Op::Put { value, .. } => check_size("ops.value", value.len(), VALUE_BYTES_MAX)?,
        Op::SetComponent { name, value, .. } => {
            check_size("ops.name", name.len(), COMPONENT_NAME_BYTES_MAX)?;
            check_size("ops.value", value.len(), VALUE_BYTES_MAX)?;
        }
        Op::Append { name, data, .. } => {
            check_size("ops.name", name.len(), COMPONENT_NAME_BYTES_MAX)?;
            check_size("ops.data", data.len(), VALUE_BYTES_MAX)?;
        }
        Op::RemoveComponent { name, .. } | Op::Add { name, .. } => {
            check_size("ops.name", name.len(), COMPONENT_NAME_BYTES_MAX)?;
        }
        Op::Delete { .. } | Op::Get { .. } => {}
    }
    Ok(op)
}

fn to_precondition(precondition: v1::Precondition) -> Result<Precondition, Failure> {
    use v1::precondition::Kind;
    let key = precondition.key;
    check_key("preconditions.key", &key)?;
    let kind = precondition
        .kind
        .ok_or_else(|| Failure::field("preconditions.kind", "a precondition has a kind"))?;
    Ok(match kind {
        Kind::Pair(pair) => Precondition::LastPair {
            key,
            pair: to_pair(Some(pair)),
        },
        Kind::Absent(absent) => Precondition::Absent { key, absent },
        Kind::Component(component) => {
            check_size(
                "preconditions.name",
                component.name.len(),
                COMPONENT_NAME_BYTES_MAX,
            )?;
            let value = component
                .value
                .and_then(to_value)
                .ok_or_else(|| Failure::field("preconditions.value", "a value has a kind"))?;
            check_size("preconditions.value", value.size(), VALUE_BYTES_MAX)?;
            Precondition::ComponentValue {
                key,
                name: component.name,
                value,
            }
        }
    })
}

fn to_value(value: v1::Value) -> Option<Value> {
    Some(match value.kind? {
        v1::value::Kind::Data(data) => Value::Data(data),
        v1::value::Kind::Counter(counter) => Value::Counter(counter),
    })
}

pub fn value(value: &Value) -> v1::Value {
    v1::Value {
        kind: Some(match value {
            Value::Data(data) => v1::value::Kind::Data(data.clone()),
            Value::Counter(counter) => v1::value::Kind::Counter(*counter),
        }),
    }
}

pub fn object(key: &Bytes, object: Object) -> v1::Object {
    let component = |component: understudy_protocol::object::Component| v1::Component {
        value: Some(value(&component.value)),
        name: component.name,
        pair: Some(pair(component.pair)),
    };
    v1::Object {
        key: key.clone(),
        pair: Some(pair(object.last.pair)),
        components: object.components.into_iter().map(component).collect(),
    }
}

pub fn object_or_absent(key: &Bytes, found: Option<Object>) -> v1::ObjectOrAbsent {
    v1::ObjectOrAbsent {
        object: found.map(|found| object(key, found)),
    }
}

/// `ops`: of the request, for the keys of what it read.
pub fn outcome(outcome: Outcome, ops: &[Bytes]) -> v1::Outcome {
    use v1::outcome::{FailedOp as Why, Status};
    let mut out = v1::Outcome::default();
    match outcome {
        Outcome::Applied(results) => {
            out.set_status(Status::Applied);
            out.results = results
                .into_iter()
                .enumerate()
                .map(|(at, result)| op_result(result, ops.get(at)))
                .collect();
        }
        Outcome::ConditionFailed(index) => {
            out.set_status(Status::ConditionFailed);
            out.failed_index = index;
        }
        Outcome::Failed(index, why) => {
            out.set_status(Status::Failed);
            out.failed_index = index;
            out.set_failed(match why {
                FailedOp::WrongKind => Why::WrongKind,
                FailedOp::Overflow => Why::Overflow,
                FailedOp::TooLarge => Why::TooLarge,
            });
        }
    }
    out
}

fn op_result(result: OpResult, key: Option<&Bytes>) -> v1::OpResult {
    use v1::op_result::Kind;
    let kind = match result {
        OpResult::Existed(existed) => Kind::Existed(existed),
        OpResult::Counter(counter) => Kind::Counter(counter),
        OpResult::Length(length) => Kind::Length(length),
        OpResult::Object(found) => {
            Kind::Object(object_or_absent(key.unwrap_or(&Bytes::new()), found))
        }
    };
    v1::OpResult { kind: Some(kind) }
}
