//! The start-up check: the log's last records against the objects and dedup entries of a copy.
//!
//! With one atomic write they cannot differ; after damage they can. An object is set to its value after the LAST record
//! that touched it, never to that of an older one, which would undo later writes. The rule, where that value comes from:
//! 1. a record that found the object absent, or put or deleted it whole, tells the whole object; later changes are applied
//!    to it in order, each only onto the object that it names as found;
//! 2. else the stored object, when it names one of the records as its last writer, or the one before them: what each later
//!    record did is applied to it, and what the last set is compared;
//! 3. else the log does not reach back to a whole value: nothing is guessed, the copy must be rebuilt.
//!
//! A dedup entry that differs from its record is set to it. A missing one may have expired and is left alone.

use crate::change::{Change, ComponentChange, ObjectChange};
use crate::codec::Malformed;
use crate::object::{Component, LastWrite, Object, Value};
use crate::record::{Body, EncodedRecord, Record};
use crate::request::Op;
use crate::store::{Generation, Saved, StoreChange, StoreError, Stored};
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::limits::{START_CHECK_BYTES_MAX, START_CHECK_RECORDS_MAX};
use understudy_proto::{Pair, RequestId, ShardId, Version};

/// What the check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StartupFindings {
    /// How many records were compared.
    pub examined: u64,
    /// To be written in one batch before the copy serves.
    pub repairs: Vec<StoreChange>,
    pub mismatches: Vec<ObjectMismatch>,
    /// Dedup entries that differed from their record.
    pub dedup_repaired: u64,
}

/// An object that is not what the log says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectMismatch {
    pub key: Bytes,
    /// The last record that touched it.
    pub last: Pair,
    /// Whether a repair sets it right.
    pub repaired: bool,
}

impl StartupFindings {
    /// Something is wrong that the log's last records cannot mend.
    pub fn must_rebuild(&self) -> bool {
        self.mismatches.iter().any(|mismatch| !mismatch.repaired)
    }
}

/// How much of the end of a log is compared: it ends at the first of the two, with the newest record in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub records_max: usize,
    pub bytes_max: usize,
}

impl Window {
    /// The share of one copy, so that a start takes about as long with many copies as with some.
    pub fn of_one(copies: usize) -> Window {
        let share =
            |total: usize, least: usize, most: usize| (total / copies.max(1)).clamp(least, most);
        Window {
            records_max: share(START_CHECK_RECORDS_MAX, RECORDS_LEAST, RECORDS_MOST),
            bytes_max: share(START_CHECK_BYTES_MAX, BYTES_LEAST, BYTES_MOST),
        }
    }
}

/// What a power cut or a torn write damages is at the end: a thousand records reach far behind it, sixteen still over it.
const RECORDS_MOST: usize = 1_000;
const RECORDS_LEAST: usize = 16;
const BYTES_MOST: usize = 8 * 1024 * 1024;
const BYTES_LEAST: usize = 64 * 1024;

/// Compares the last records of the live log with what is stored. An error: the log itself is damaged, or the disk failed.
pub fn check(
    shard: ShardId,
    saved: &Saved,
    stored: &dyn Stored,
    window: Window,
) -> Result<StartupFindings, StoreError> {
    let generation = saved.meta.live.generation;
    let records = last_records(shard, saved, stored, window)?;
    let mut findings = StartupFindings {
        examined: records.len() as u64,
        ..StartupFindings::default()
    };
    for record in &records {
        check_dedup(shard, generation, record, stored, &mut findings)?;
    }
    // in_sync: the objects hold what is committed, and nothing after it.
    let applied = saved.meta.live.applied;
    let held = |record: &&Record| applied.is_none_or(|applied| record.pair <= applied);
    for (key, touches) in touches(records.iter().filter(held)) {
        check_object(shard, generation, key, &touches, stored, &mut findings)?;
    }
    Ok(findings)
}

/// The last records in their order, each linked to the one before by pair and checksum, down to the log's base.
fn last_records(
    shard: ShardId,
    saved: &Saved,
    stored: &dyn Stored,
    window: Window,
) -> Result<Vec<Record>, StoreError> {
    let contents = &saved.meta.live;
    let mut records: Vec<Record> = Vec::new();
    let mut next = saved.last.clone();
    let mut bytes = 0;
    while let Some(encoded) = next.take() {
        bytes += encoded.bytes.len();
        let record = decode(shard, &encoded)?;
        match records.last() {
            None => check_newest(shard, &record, contents.epoch_starts.last().copied())?,
            Some(newer) => check_link(shard, newer, encoded.pair, encoded.checksum)?,
        }
        let version = encoded.pair.version;
        let first = version.0 == contents.base.version.0 + 1;
        if first {
            check_link(shard, &record, contents.base, contents.base_checksum)?;
        }
        records.push(record);
        if first || records.len() >= window.records_max || bytes >= window.bytes_max {
            break;
        }
        next = Some(record_before(shard, contents.generation, version, stored)?);
    }
    records.reverse();
    Ok(records)
}

fn record_before(
    shard: ShardId,
    generation: Generation,
    version: Version,
    stored: &dyn Stored,
) -> Result<EncodedRecord, StoreError> {
    let before = version.0.checked_sub(1).map(Version);
    let found = match before {
        Some(before) => stored.record(shard, generation, before)?,
        None => None,
    };
    found.ok_or_else(|| corrupt(shard, version, "the record before it is missing"))
}

fn decode(shard: ShardId, encoded: &EncodedRecord) -> Result<Record, StoreError> {
    match Record::decode(&encoded.bytes) {
        Ok((record, _)) => Ok(record),
        Err(Malformed(what)) => Err(corrupt(shard, encoded.pair.version, what)),
    }
}

fn check_newest(shard: ShardId, record: &Record, start: Option<Pair>) -> Result<(), StoreError> {
    let newest = match record.body {
        Body::EpochStart => record.pair,
        Body::Request(_) | Body::Conflict(_) | Body::Expiry(_) => record.previous_epoch_start,
    };
    if start == Some(newest) {
        return Ok(());
    }
    let what = format!("its epoch began at {newest}, the copy knows {start:?}");
    Err(corrupt(shard, record.pair.version, &what))
}

fn check_link(
    shard: ShardId,
    record: &Record,
    before: Pair,
    checksum: u64,
) -> Result<(), StoreError> {
    if (record.previous, record.previous_checksum) == (before, checksum) {
        return Ok(());
    }
    let what = format!("it follows {}, the log has {before}", record.previous);
    Err(corrupt(shard, record.pair.version, &what))
}

fn corrupt(shard: ShardId, version: Version, what: &str) -> StoreError {
    StoreError::Corrupt(format!("shard {shard}, record {version}: {what}"))
}

fn check_dedup(
    shard: ShardId,
    generation: Generation,
    record: &Record,
    stored: &dyn Stored,
    findings: &mut StartupFindings,
) -> Result<(), StoreError> {
    let Some((id, expected)) = record.dedup() else {
        return Ok(());
    };
    let right = match stored.dedup(shard, generation, id) {
        Ok(None) => true,
        Ok(Some(entry)) => entry.pair != expected.pair || entry == expected,
        Err(StoreError::Corrupt(_)) => false,
        Err(error) => return Err(error),
    };
    if !right {
        findings.dedup_repaired += 1;
        findings.repairs.push(StoreChange::PutDedup {
            generation,
            id,
            entry: Some(expected),
        });
    }
    Ok(())
}

/// What one record did to an object.
struct Touch<'a> {
    pair: Pair,
    id: RequestId,
    change: &'a ObjectChange,
    /// It put or deleted the object: what was there before is gone, whatever it was.
    whole: bool,
}

/// By key, the writes of the records in their order.
fn touches<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<&'a Bytes, Vec<Touch<'a>>> {
    let mut touches: BTreeMap<&Bytes, Vec<Touch<'a>>> = BTreeMap::new();
    for record in records {
        let (id, ops) = match &record.body {
            Body::Request(body) => (body.id, &body.ops[..]),
            // It puts one plain value, whatever was there.
            Body::Conflict(body) => (body.id, &[][..]),
            Body::EpochStart | Body::Expiry(_) => continue,
        };
        let is_conflict = matches!(record.body, Body::Conflict(_));
        for change in record.changes().iter().filter(|change| change.is_write()) {
            let replaces = |op: &Op| {
                matches!(op, Op::Put { .. } | Op::Delete { .. }) && *op.key() == change.key
            };
            touches.entry(&change.key).or_default().push(Touch {
                pair: record.pair,
                id,
                change,
                whole: is_conflict || ops.iter().any(replaces),
            });
        }
    }
    touches
}

fn check_object(
    shard: ShardId,
    generation: Generation,
    key: &Bytes,
    touches: &[Touch<'_>],
    stored: &dyn Stored,
    findings: &mut StartupFindings,
) -> Result<(), StoreError> {
    let found = match stored.object(shard, generation, key) {
        Ok(object) => Found::Object(object),
        Err(StoreError::Corrupt(_)) => Found::Unreadable,
        Err(error) => return Err(error),
    };
    let derived = match from_log(touches) {
        Some(object) => Some(object),
        None => from_stored(&found, touches),
    };
    if let (Found::Object(object), Some(derived)) = (&found, &derived)
        && object == derived
    {
        return Ok(());
    }
    findings.mismatches.push(ObjectMismatch {
        key: key.clone(),
        last: touches.last().expect("a touched key").pair,
        repaired: derived.is_some(),
    });
    if let Some(object) = derived {
        findings.repairs.push(StoreChange::PutObject {
            generation,
            key: key.clone(),
            object,
        });
    }
    Ok(())
}

enum Found {
    Object(Option<Object>),
    Unreadable,
}

/// The object after the last touch, when the records tell the whole of it (rule 1).
fn from_log(touches: &[Touch<'_>]) -> Option<Option<Object>> {
    let start = touches
        .iter()
        .rposition(|touch| touch.whole || touch.change.before.is_none())?;
    let first = &touches[start];
    let object = if first.change.before.is_none() {
        apply(first, None)?
    } else {
        only_new(first)?
    };
    replay(object, &touches[start + 1..])
}

/// The object after the last touch, from the stored one (rule 2).
fn from_stored(found: &Found, touches: &[Touch<'_>]) -> Option<Option<Object>> {
    let Found::Object(found) = found else {
        return None;
    };
    let last = touches.last().expect("a touched key");
    let Some(object) = found else {
        // Removing the last component makes an object absent; then nothing of the record may be left to see.
        return left_nothing(last.change).then_some(None);
    };
    let writer = |touch: &Touch<'_>| {
        object.last
            == LastWrite {
                pair: touch.pair,
                request: touch.id,
            }
    };
    match touches.iter().rposition(writer) {
        Some(at) => {
            let object = as_set(object, &touches[at])?;
            replay(Some(object), &touches[at + 1..])
        }
        None if Some(object.last) == touches[0].change.before => {
            replay(Some(object.clone()), touches)
        }
        None => None,
    }
}

fn replay(start: Option<Object>, touches: &[Touch<'_>]) -> Option<Option<Object>> {
    touches
        .iter()
        .try_fold(start, |object, touch| apply(touch, object))
}

fn apply(touch: &Touch<'_>, object: Option<Object>) -> Option<Option<Object>> {
    touch.change.apply(object, touch.pair, touch.id).ok()
}

/// The object that a record leaves when nothing of the one before is left.
fn only_new(touch: &Touch<'_>) -> Option<Option<Object>> {
    let mut components = Vec::new();
    for change in &touch.change.components {
        let value = match &change.change {
            Change::Set { new: None, .. } => continue,
            Change::Set {
                new: Some(value), ..
            } => value.clone(),
            Change::Add {
                old_pair: None,
                delta,
            } => Value::Counter(*delta),
            Change::Append {
                old_pair: None,
                data,
                ..
            } => Value::Data(data.clone()),
            Change::Add { .. } | Change::Append { .. } => return None,
        };
        components.push(Component {
            name: change.name.clone(),
            value,
            pair: touch.pair,
        });
    }
    let last = LastWrite {
        pair: touch.pair,
        request: touch.id,
    };
    Some((!components.is_empty()).then_some(Object { last, components }))
}

fn left_nothing(change: &ObjectChange) -> bool {
    let removed =
        |component: &ComponentChange| matches!(component.change, Change::Set { new: None, .. });
    change.components.iter().all(removed)
}

/// The stored object with what its last writer set, where that is told; `None` when what is not told cannot be right.
fn as_set(object: &Object, touch: &Touch<'_>) -> Option<Object> {
    let mut object = object.clone();
    for ComponentChange { name, change } in &touch.change.components {
        let at = object.find(name);
        match (change, at) {
            (Change::Set { new: None, .. }, Ok(at)) => {
                object.components.remove(at);
            }
            (Change::Set { new: None, .. }, Err(_)) => {}
            (
                Change::Set {
                    new: Some(value), ..
                },
                at,
            ) => {
                let component = Component {
                    name: name.clone(),
                    value: value.clone(),
                    pair: touch.pair,
                };
                match at {
                    Ok(at) => object.components[at] = component,
                    Err(at) => object.components.insert(at, component),
                }
            }
            (Change::Add { .. } | Change::Append { .. }, Err(_)) => return None,
            (relative, Ok(at)) => {
                let component = &object.components[at];
                if component.pair != touch.pair || !could_be(relative, &component.value) {
                    return None;
                }
            }
        }
    }
    (!object.components.is_empty()).then_some(object)
}

/// Whether a value may be what an addition or an append left.
fn could_be(change: &Change, value: &Value) -> bool {
    match (change, value) {
        (Change::Add { old_pair, delta }, Value::Counter(counter)) => {
            old_pair.is_some() || counter == delta
        }
        (
            Change::Append {
                old_length, data, ..
            },
            Value::Data(bytes),
        ) => bytes.len() as u64 == old_length + data.len() as u64 && bytes.ends_with(data),
        _ => false,
    }
}
