//! Objects, outcomes, records and changes as JSON, and the short texts that tables show of them.
//!
//! The JSON is a contract (docs/cli.md, pinned by tests): names stay, and what is added has a new name.

use super::bytes::{to_json, to_text};
use super::output::Rows;
use serde_json::{Map, Value, json};
use understudy_client::object::{pair, wire_pair};
use understudy_client::{
    ClientId, Component, FailedOp, Level, Object, OpResult, Outcome, Pair, RequestId, Sequence,
    Value as Held, Written, v1,
};

pub fn pair_json(pair: Pair) -> Value {
    json!({ "epoch": pair.epoch.0, "version": pair.version.0 })
}

pub fn held_json(value: &Held) -> Value {
    match value {
        Held::Data(data) => to_json(data),
        Held::Counter(counter) => json!({ "counter": counter }),
    }
}

pub fn held_text(value: &Held) -> String {
    match value {
        Held::Data(data) => to_text(data),
        Held::Counter(counter) => counter.to_string(),
    }
}

/// `value` when the object is one plain value, else `components`.
pub fn object_json(object: &Object) -> Value {
    let mut map = Map::new();
    map.insert("key".to_string(), to_json(&object.key));
    map.insert("pair".to_string(), pair_json(object.pair));
    match object.components.as_slice() {
        [] => {}
        [plain] if plain.name.is_empty() => {
            map.insert("value".to_string(), held_json(&plain.value));
        }
        components => {
            let components = components.iter().map(component_json).collect();
            map.insert("components".to_string(), Value::Array(components));
        }
    }
    Value::Object(map)
}

fn component_json(component: &Component) -> Value {
    json!({
        "name": to_json(&component.name),
        "value": held_json(&component.value),
        "pair": pair_json(component.pair),
    })
}

/// All components in one line.
pub fn object_text(object: &Object) -> String {
    match object.components.as_slice() {
        [plain] if plain.name.is_empty() => held_text(&plain.value),
        components => {
            let shown = components.iter().map(|component| {
                format!(
                    "{}={}",
                    to_text(&component.name),
                    held_text(&component.value)
                )
            });
            shown.collect::<Vec<_>>().join(" ")
        }
    }
}

pub fn level_text(level: Level) -> &'static str {
    match level {
        Level::Primary => "primary",
        Level::Copies => "copies",
        Level::InSync => "in_sync",
    }
}

pub fn failed_text(why: FailedOp) -> &'static str {
    match why {
        FailedOp::WrongKind => "wrong_kind",
        FailedOp::Overflow => "overflow",
        FailedOp::TooLarge => "too_large",
        FailedOp::Other => "other",
    }
}

pub fn outcome_text(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Applied(_) => "applied",
        Outcome::ConditionFailed { .. } => "condition_failed",
        Outcome::Failed { .. } => "failed",
    }
}

/// `outcome`, and `results` or `failed_index` and `failed`.
pub fn outcome_fields(outcome: &Outcome) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("outcome".to_string(), json!(outcome_text(outcome)));
    match outcome {
        Outcome::Applied(results) => {
            let results = results.iter().map(result_json).collect();
            map.insert("results".to_string(), Value::Array(results));
        }
        Outcome::ConditionFailed { index } => {
            map.insert("failed_index".to_string(), json!(index));
        }
        Outcome::Failed { index, why } => {
            map.insert("failed_index".to_string(), json!(index));
            map.insert("failed".to_string(), json!(failed_text(*why)));
        }
    }
    map
}

fn result_json(result: &OpResult) -> Value {
    match result {
        OpResult::Existed(existed) => json!({ "existed": existed }),
        OpResult::Counter(counter) => json!({ "counter": counter }),
        OpResult::Length(length) => json!({ "length": length }),
        OpResult::Object(object) => json!({ "object": object.as_ref().map(object_json) }),
    }
}

pub fn result_text(result: &OpResult) -> String {
    match result {
        OpResult::Existed(true) => "existed".to_string(),
        OpResult::Existed(false) => "new".to_string(),
        OpResult::Counter(counter) => counter.to_string(),
        OpResult::Length(length) => format!("{length} bytes"),
        OpResult::Object(Some(object)) => object_text(object),
        OpResult::Object(None) => "absent".to_string(),
    }
}

pub fn written_json(written: &Written) -> Value {
    let mut map = outcome_fields(&written.outcome);
    map.extend([
        (
            "request_id".to_string(),
            json!(written.request_id.to_string()),
        ),
        ("pair".to_string(), pair_json(written.pair)),
        ("shard_id".to_string(), json!(written.shard.0)),
        ("duplicate".to_string(), json!(written.duplicate)),
        ("conflict".to_string(), json!(written.conflict)),
        ("level".to_string(), json!(level_text(written.level))),
        ("copies_durable".to_string(), json!(written.copies_durable)),
        ("primary".to_string(), json!(written.primary.0)),
    ]);
    Value::Object(map)
}

pub fn written_rows(written: &Written) -> Rows {
    let mut rows = Rows::new([
        "OUTCOME",
        "PAIR",
        "LEVEL",
        "COPIES",
        "DUPLICATE",
        "REQUEST ID",
    ]);
    rows.row([
        outcome_text(&written.outcome).to_string(),
        written.pair.to_string(),
        level_text(written.level).to_string(),
        written.copies_durable.to_string(),
        yes(written.duplicate),
        written.request_id.to_string(),
    ]);
    rows
}

pub fn yes(it: bool) -> String {
    if it { "yes" } else { "no" }.to_string()
}

/// An absent thing in a table.
pub fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() {
        "-".to_string()
    } else {
        text
    }
}

pub fn request_id(wire: &v1::RequestId) -> Option<RequestId> {
    Some(RequestId {
        client: ClientId::from_slice(&wire.client_id)?,
        sequence: Sequence(wire.sequence),
    })
}

pub fn request_id_json(wire: Option<&v1::RequestId>) -> Value {
    json!(wire.and_then(request_id).map(|id| id.to_string()))
}

fn wire_held_json(value: Option<&v1::Value>) -> Value {
    match value.and_then(|value| value.kind.as_ref()) {
        Some(v1::value::Kind::Data(data)) => to_json(data),
        Some(v1::value::Kind::Counter(counter)) => json!({ "counter": counter }),
        None => Value::Null,
    }
}

fn wire_held_text(value: Option<&v1::Value>) -> String {
    match value.and_then(|value| value.kind.as_ref()) {
        Some(v1::value::Kind::Data(data)) => to_text(data),
        Some(v1::value::Kind::Counter(counter)) => counter.to_string(),
        None => "absent".to_string(),
    }
}

/// What a record did to one object: old and new values.
pub fn change_json(change: &v1::ObjectChange) -> Value {
    let components = change.components.iter().map(|component| {
        json!({
            "name": to_json(&component.name),
            "old": wire_held_json(component.old.as_ref()),
            "new": wire_held_json(component.new.as_ref()),
        })
    });
    json!({
        "key": to_json(&change.key),
        "before": change.before.map(|before| pair_json(pair(Some(before)))),
        "components": components.collect::<Vec<_>>(),
    })
}

/// `key.name: old -> new`, one for each component that changed.
pub fn change_text(change: &v1::ObjectChange) -> String {
    let shown = change.components.iter().map(|component| {
        let name = match component.name.is_empty() {
            true => to_text(&change.key),
            false => format!("{}.{}", to_text(&change.key), to_text(&component.name)),
        };
        let (old, new) = (component.old.as_ref(), component.new.as_ref());
        format!("{name}: {} -> {}", wire_held_text(old), wire_held_text(new))
    });
    shown.collect::<Vec<_>>().join(", ")
}

pub fn op_json(op: &v1::Op) -> Value {
    use v1::op::Kind;
    match &op.kind {
        Some(Kind::Put(op)) => {
            json!({ "op": "put", "key": to_json(&op.key), "value": to_json(&op.value) })
        }
        Some(Kind::Delete(op)) => json!({ "op": "delete", "key": to_json(&op.key) }),
        Some(Kind::SetComponent(op)) => json!({
            "op": "set", "key": to_json(&op.key), "name": to_json(&op.name), "value": to_json(&op.value)
        }),
        Some(Kind::RemoveComponent(op)) => json!({
            "op": "remove", "key": to_json(&op.key), "name": to_json(&op.name)
        }),
        Some(Kind::Add(op)) => json!({
            "op": "add", "key": to_json(&op.key), "name": to_json(&op.name), "delta": op.delta
        }),
        Some(Kind::Append(op)) => json!({
            "op": "append", "key": to_json(&op.key), "name": to_json(&op.name), "value": to_json(&op.data)
        }),
        Some(Kind::Get(op)) => json!({ "op": "get", "key": to_json(&op.key) }),
        None => Value::Null,
    }
}

fn condition_json(condition: &v1::Precondition) -> Value {
    use v1::precondition::Kind;
    let key = to_json(&condition.key);
    match &condition.kind {
        Some(Kind::Absent(true)) => json!({ "if": "absent", "key": key }),
        Some(Kind::Absent(false)) => json!({ "if": "present", "key": key }),
        Some(Kind::Pair(wire)) => {
            json!({ "if": "pair", "key": key, "pair": pair_json(pair(Some(*wire))) })
        }
        Some(Kind::Component(held)) => json!({
            "if": "value", "key": key, "name": to_json(&held.name), "value": wire_held_json(held.value.as_ref())
        }),
        None => Value::Null,
    }
}

pub fn kind_text(kind: v1::log_record::Kind) -> &'static str {
    use v1::log_record::Kind;
    match kind {
        Kind::Unspecified => "unspecified",
        Kind::Request => "request",
        Kind::EpochStart => "epoch_start",
        Kind::Expiry => "expiry",
        Kind::Conflict => "conflict",
        Kind::RecordedAgain => "recorded_again",
        Kind::Discarded => "discarded",
    }
}

pub fn record_json(record: &v1::LogRecord) -> Value {
    let outcome = record
        .outcome
        .clone()
        .and_then(|outcome| Outcome::try_from(outcome).ok());
    json!({
        "shard_id": record.shard,
        "pair": pair_json(pair(record.pair)),
        "previous_epoch_start": record.previous_epoch_start.map(|start| pair_json(pair(Some(start)))),
        "kind": kind_text(record.kind()),
        "request_id": request_id_json(record.request_id.as_ref()),
        "primary_time_ms": record.primary_time_ms,
        "ops": record.ops.iter().map(op_json).collect::<Vec<_>>(),
        "conditions": record.preconditions.iter().map(condition_json).collect::<Vec<_>>(),
        "outcome": outcome.as_ref().map(|outcome| Value::Object(outcome_fields(outcome))),
        "changes": record.changes.iter().map(change_json).collect::<Vec<_>>(),
        "checksum": format!("{:016x}", record.checksum),
        "resolves": record.resolves.as_ref().and_then(resolved),
    })
}

/// The conflict that a request resolves, without its shard: that of the record.
fn resolved(wire: &v1::ConflictId) -> Option<Value> {
    let id = wire.request_id.as_ref().and_then(request_id)?;
    Some(json!({ "request_id": id.to_string(), "cut_off": pair_json(pair(wire.cut_off)) }))
}

/// One line: position, kind, request, what changed.
pub fn record_text(record: &v1::LogRecord) -> String {
    let id = record.request_id.as_ref().and_then(request_id);
    let outcome = record
        .outcome
        .clone()
        .and_then(|outcome| Outcome::try_from(outcome).ok());
    let outcome = outcome.as_ref().map_or("", outcome_text);
    let changes: Vec<String> = record
        .changes
        .iter()
        .map(change_text)
        .filter(|text| !text.is_empty())
        .collect();
    let parts = [
        pair(record.pair).to_string(),
        kind_text(record.kind()).to_string(),
        id.map(|id| id.to_string()).unwrap_or_default(),
        outcome.to_string(),
        changes.join(", "),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("  ")
}

/// `3.14`, or `{"epoch": 3, "version": 14}`.
pub fn pair_from_json(value: &Value) -> Result<v1::Pair, String> {
    let wrong =
        || format!("{value} has to be \"EPOCH.VERSION\" or {{\"epoch\": E, \"version\": V}}");
    match value {
        Value::String(text) => text.parse().map(wire_pair).map_err(|_| wrong()),
        Value::Object(map) if map.len() == 2 => {
            let number = |name: &str| map.get(name).and_then(Value::as_u64).ok_or_else(wrong);
            Ok(v1::Pair {
                epoch: number("epoch")?,
                version: number("version")?,
            })
        }
        _ => Err(wrong()),
    }
}
