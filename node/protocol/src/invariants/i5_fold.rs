//! I5: the objects of any copy at a version equal the fold of the log up to it.
//!
//! The fold is written here once more, without the protocol's own arithmetic.

use super::shadow::Touched;
use super::{Branches, Checked, CopyShadow, Violation};
use crate::change::{Change, ObjectChange};
use crate::object::{Component, LastWrite, Object, Value};
use crate::store::Stored;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::{CopyId, Pair, ProcessId, RequestId, ShardId};

fn broken(copy: CopyId, shard: ShardId, what: impl std::fmt::Display) -> Violation {
    Violation::new("I5", format!("shard {shard} at {copy}: {what}"))
}

/// The object after the change.
pub(super) fn fold(
    old: Option<&Object>,
    change: &ObjectChange,
    pair: Pair,
    request: RequestId,
) -> Option<Object> {
    let mut components: BTreeMap<Bytes, Component> = old
        .iter()
        .flat_map(|object| &object.components)
        .map(|component| (component.name.clone(), component.clone()))
        .collect();
    for part in &change.components {
        let before = components.remove(&part.name).map(|c| c.value);
        if let Some(value) = fold_value(before, &part.change) {
            let name = part.name.clone();
            components.insert(part.name.clone(), Component { name, value, pair });
        }
    }
    let last = LastWrite { pair, request };
    let components: Vec<Component> = components.into_values().collect();
    (!components.is_empty()).then_some(Object { last, components })
}

fn fold_value(before: Option<Value>, change: &Change) -> Option<Value> {
    match (change, before) {
        (Change::Set { new, .. }, _) => new.clone(),
        (Change::Add { delta, .. }, Some(Value::Counter(counter))) => {
            Some(Value::Counter(counter.wrapping_add(*delta)))
        }
        (Change::Add { delta, .. }, _) => Some(Value::Counter(*delta)),
        (Change::Append { data, .. }, Some(Value::Data(bytes))) => {
            Some(Value::Data([bytes, data.clone()].concat().into()))
        }
        (Change::Append { data, .. }, _) => Some(Value::Data(data.clone())),
    }
}

pub(super) fn touched_objects(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    touched: &Touched,
    stored: &dyn Stored,
) -> Checked {
    for key in &touched.keys {
        let have = stored
            .object(shard, shadow.generation(), key)
            .map_err(|error| broken(copy, shard, error))?;
        let wanted = shadow.objects.get(key);
        if have.as_ref() != wanted {
            let position = shadow.position();
            let what = format!("at {position} {key:?} is {have:?}, the log says {wanted:?}");
            return Err(broken(copy, shard, what));
        }
    }
    Ok(())
}

/// The disk against the shadow.
pub(super) fn stored_objects(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    stored: &dyn Stored,
) -> Checked {
    let page = stored
        .objects_after(shard, shadow.generation(), None, usize::MAX)
        .map_err(|error| broken(copy, shard, error))?;
    let have: BTreeMap<Bytes, Object> = page.items.into_iter().collect();
    if have != shadow.objects {
        let (have, wanted) = (have.len(), shadow.objects.len());
        let what = format!("{have} objects differ from the {wanted} of the log");
        return Err(broken(copy, shard, what));
    }
    Ok(())
}

/// The disk against the shadow, and the shadow against a fold from the first record on.
pub(super) fn all_objects(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    branches: &Branches,
    stored: &dyn Stored,
) -> Checked {
    stored_objects(copy, shard, shadow, stored)?;
    let mut again = CopyShadow {
        meta: shadow.meta.clone(),
        ..CopyShadow::default()
    };
    for pair in &shadow.path {
        let known = branches.get(shard, *pair);
        let known = known.ok_or_else(|| broken(copy, shard, format!("{pair} is unknown")))?;
        again.push(&known.record);
    }
    if shadow.is_in_sync() {
        let held = shadow.path[..shadow.held()].last().copied();
        again.hold_upto(shard, held.unwrap_or(Pair::ZERO), branches)?;
    }
    if again.objects != shadow.objects || again.dedup != shadow.dedup {
        return Err(broken(
            copy,
            shard,
            "the undo did not restore what was before",
        ));
    }
    Ok(())
}

/// The token of a read lies in the log of the copy that was read.
pub(super) fn token_is_reached(
    process: ProcessId,
    shard: ShardId,
    shadow: Option<&CopyShadow>,
    token: Pair,
) -> Checked {
    if token == Pair::ZERO || shadow.is_some_and(|shadow| shadow.holds(token)) {
        return Ok(());
    }
    let what = format!("a read is answered with {token}, which is not durable there");
    Err(broken(process.copy(), shard, what))
}
