//! Records as followers of the request log see them: the request side and the processing side (old and new values).

use super::wire::{conflict_id, outcome, pair, request_id, value};
use bytes::Bytes;
use understudy_proto::v1;
use understudy_protocol::change::{Change, ComponentChange, ObjectChange};
use understudy_protocol::conflict::{is_reserved, parse_conflict_key};
use understudy_protocol::expiry::ClientExpiry;
use understudy_protocol::object::Value;
use understudy_protocol::record::{Body, EncodedRecord, Record, RequestBody};
use understudy_protocol::request::{Op, Precondition};
use understudy_protocol::store::StoreError;

/// Reads a stored record for a follower.
pub(super) fn log_record(encoded: &EncodedRecord) -> Result<v1::LogRecord, StoreError> {
    let (record, _) = Record::decode(&encoded.bytes).map_err(|malformed| {
        StoreError::Corrupt(format!("record {}: {malformed}", encoded.pair))
    })?;
    let mut out = v1::LogRecord {
        shard: record.shard.0,
        pair: Some(pair(record.pair)),
        previous_epoch_start: Some(pair(record.previous_epoch_start)),
        primary_time_ms: record.time_ms,
        checksum: encoded.checksum,
        ..v1::LogRecord::default()
    };
    match record.body {
        Body::Expiry(body) => {
            out.set_kind(v1::log_record::Kind::Expiry);
            out.removed = body
                .clients
                .iter()
                .flat_map(ClientExpiry::ids)
                .map(request_id)
                .collect();
        }
        Body::EpochStart => out.set_kind(v1::log_record::Kind::EpochStart),
        Body::Request(body) => {
            out.set_kind(match body.earlier.is_empty() {
                true => v1::log_record::Kind::Request,
                false => v1::log_record::Kind::RecordedAgain,
            });
            request(*body, &mut out);
        }
        Body::Conflict(body) => {
            out.set_kind(match body.change {
                Some(_) => v1::log_record::Kind::Conflict,
                None => v1::log_record::Kind::Discarded,
            });
            out.conflict_reason = body.conflict.reason.as_str().to_string();
            let cut_off = body.conflict.cut_off;
            if let Body::Request(body) = cut_off.body {
                request(*body, &mut out);
            }
            out.earlier.push(pair(cut_off.pair));
        }
    }
    Ok(out)
}

fn request(body: RequestBody, out: &mut v1::LogRecord) {
    let keys: Vec<Bytes> = body.ops.iter().map(|op| op.key().clone()).collect();
    out.resolves = keys
        .iter()
        .find_map(|key| parse_conflict_key(key))
        .map(conflict_id);
    out.request_id = Some(request_id(body.id));
    // What the protocol keeps among the objects is nobody's object.
    let mut changes = body.changes;
    changes.retain(|change| !is_reserved(&change.key));
    out.changes = changes.iter().map(object_change).collect();
    out.outcome = Some(outcome(body.outcome, &keys));
    let (mut ops, mut conditions) = (body.ops, body.preconditions);
    ops.retain(|op| !is_reserved(op.key()));
    conditions.retain(|condition| !is_reserved(condition.key()));
    out.ops = ops.into_iter().map(op).collect();
    out.preconditions = conditions.into_iter().map(precondition).collect();
    out.earlier = body.earlier.into_iter().map(pair).collect();
}

pub(super) fn object_change(change: &ObjectChange) -> v1::ObjectChange {
    v1::ObjectChange {
        key: change.key.clone(),
        before: change.before.map(|last| pair(last.pair)),
        before_request_id: change.before.map(|last| request_id(last.request)),
        components: change.components.iter().map(component_change).collect(),
    }
}

/// Add and append are told by what they added: their old and new values are not in the record.
fn component_change(change: &ComponentChange) -> v1::ComponentChange {
    let mut out = v1::ComponentChange {
        name: change.name.clone(),
        ..v1::ComponentChange::default()
    };
    match &change.change {
        Change::Set { old, new } => {
            out.old = old.as_ref().map(|(old, _)| value(old));
            out.old_pair = old.as_ref().map(|(_, at)| pair(*at));
            out.new = new.as_ref().map(value);
        }
        Change::Add { old_pair, delta } => {
            out.old_pair = old_pair.map(pair);
            out.added = Some(*delta);
        }
        Change::Append {
            old_pair,
            old_length,
            data,
        } => {
            out.old_pair = old_pair.map(pair);
            out.appended_at = Some(*old_length);
            out.new = Some(value(&Value::Data(data.clone())));
        }
    }
    out
}

fn op(op: Op) -> v1::Op {
    use v1::op::{self, Kind};
    let kind = match op {
        Op::Put { key, value } => Kind::Put(op::Put { key, value }),
        Op::Delete { key } => Kind::Delete(op::Delete { key }),
        Op::SetComponent { key, name, value } => {
            Kind::SetComponent(op::SetComponent { key, name, value })
        }
        Op::RemoveComponent { key, name } => {
            Kind::RemoveComponent(op::RemoveComponent { key, name })
        }
        Op::Add { key, name, delta } => Kind::Add(op::Add { key, name, delta }),
        Op::Append { key, name, data } => Kind::Append(op::Append { key, name, data }),
        Op::Get { key } => Kind::Get(op::Get { key }),
    };
    v1::Op { kind: Some(kind) }
}

fn precondition(precondition: Precondition) -> v1::Precondition {
    use v1::precondition::{ComponentValue, Kind};
    let (key, kind) = match precondition {
        Precondition::LastPair { key, pair: at } => (key, Kind::Pair(pair(at))),
        Precondition::Absent { key, absent } => (key, Kind::Absent(absent)),
        Precondition::ComponentValue {
            key,
            name,
            value: is,
        } => (
            key,
            Kind::Component(ComponentValue {
                name,
                value: Some(value(&is)),
            }),
        ),
    };
    v1::Precondition {
        key,
        kind: Some(kind),
    }
}
