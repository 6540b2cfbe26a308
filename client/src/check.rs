//! The limits of a request, checked before it is sent.
//!
//! The servers check the same and are the authority. Here it saves a round trip, and keeps one oversized request from
//! breaking the message, and with it the stream, that it would share with others. Names are those of the `.proto` files.

use bytes::Bytes;
use understudy_proto::failure::Failure;
use understudy_proto::limits;
use understudy_proto::v1::{self, op::Kind as OpKind, precondition::Kind as ConditionKind};

/// The key of an operation; `None` when the operation is of no kind.
pub fn op_key(op: &v1::Op) -> Option<&Bytes> {
    Some(match op.kind.as_ref()? {
        OpKind::Put(op) => &op.key,
        OpKind::Delete(op) => &op.key,
        OpKind::SetComponent(op) => &op.key,
        OpKind::RemoveComponent(op) => &op.key,
        OpKind::Add(op) => &op.key,
        OpKind::Append(op) => &op.key,
        OpKind::Get(op) => &op.key,
    })
}

/// Checks a request; gives the bytes of its keys, names and values.
pub fn request(ops: &[v1::Op], preconditions: &[v1::Precondition]) -> Result<usize, Failure> {
    if ops.is_empty() {
        return Err(Failure::field(
            "ops",
            "a request has at least one operation",
        ));
    }
    check(ops, preconditions, limits::OPS_PER_REQUEST_MAX)
}

/// Checks the resolution of a conflict, which may have no operations.
pub fn resolution(ops: &[v1::Op], preconditions: &[v1::Precondition]) -> Result<usize, Failure> {
    check(ops, preconditions, 2 * limits::OPS_PER_REQUEST_MAX)
}

fn check(
    ops: &[v1::Op],
    preconditions: &[v1::Precondition],
    count_max: usize,
) -> Result<usize, Failure> {
    let count = ops.len() + preconditions.len();
    at_most("ops", count, count_max)?;
    let mut bytes = 0;
    for each in ops {
        bytes += op(each)?;
    }
    for each in preconditions {
        bytes += precondition(each)?;
    }
    at_most("ops", bytes, limits::REQUEST_BYTES_MAX)?;
    Ok(bytes)
}

/// Checks the keys of a read; gives their bytes.
pub fn keys(keys: &[Bytes]) -> Result<usize, Failure> {
    at_most("keys", keys.len(), limits::KEYS_PER_READ_MAX)?;
    let mut bytes = 0;
    for each in keys {
        key("keys", each)?;
        bytes += each.len();
    }
    Ok(bytes)
}

/// A name of a namespace, site, node or binding.
pub fn name(field: &str, text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Err(Failure::field(field, format!("{field} is empty")));
    }
    if text.chars().any(char::is_control) {
        return Err(Failure::field(
            field,
            format!("{field} holds a control character"),
        ));
    }
    at_most(field, text.len(), limits::NAME_BYTES_MAX)
}

fn op(op: &v1::Op) -> Result<usize, Failure> {
    let Some(kind) = op.kind.as_ref() else {
        return Err(Failure::field("ops.kind", "an operation is of no kind"));
    };
    let none = Bytes::new();
    let (of, component, value) = match kind {
        OpKind::Put(op) => (&op.key, &none, &op.value),
        OpKind::Delete(op) => (&op.key, &none, &none),
        OpKind::SetComponent(op) => (&op.key, &op.name, &op.value),
        OpKind::RemoveComponent(op) => (&op.key, &op.name, &none),
        OpKind::Add(op) => (&op.key, &op.name, &none),
        OpKind::Append(op) => (&op.key, &op.name, &op.data),
        OpKind::Get(op) => (&op.key, &none, &none),
    };
    key("ops.key", of)?;
    at_most(
        "ops.name",
        component.len(),
        limits::COMPONENT_NAME_BYTES_MAX,
    )?;
    at_most("ops.value", value.len(), limits::VALUE_BYTES_MAX)?;
    Ok(of.len() + component.len() + value.len())
}

fn precondition(precondition: &v1::Precondition) -> Result<usize, Failure> {
    key("preconditions.key", &precondition.key)?;
    let extra = match &precondition.kind {
        None => {
            return Err(Failure::field(
                "preconditions.kind",
                "a precondition is of no kind",
            ));
        }
        Some(ConditionKind::Component(component)) => {
            let name = component.name.len();
            at_most("preconditions.name", name, limits::COMPONENT_NAME_BYTES_MAX)?;
            let data = match component
                .value
                .as_ref()
                .and_then(|value| value.kind.as_ref())
            {
                Some(v1::value::Kind::Data(data)) => data.len(),
                Some(v1::value::Kind::Counter(_)) | None => 0,
            };
            at_most("preconditions.value", data, limits::VALUE_BYTES_MAX)?;
            name + data
        }
        Some(ConditionKind::Pair(_) | ConditionKind::Absent(_)) => 0,
    };
    Ok(precondition.key.len() + extra)
}

fn key(field: &str, key: &Bytes) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::field(field, "a key is empty"));
    }
    at_most(field, key.len(), limits::KEY_BYTES_MAX)
}

fn at_most(field: &str, size: usize, limit: usize) -> Result<(), Failure> {
    if size > limit {
        return Err(Failure::too_large(field, size, limit));
    }
    Ok(())
}
