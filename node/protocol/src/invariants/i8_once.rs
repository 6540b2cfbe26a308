//! I8: a request id takes effect at most once, across retries, failovers and reconciliation; its outcome never changes,
//! or a conflict says so.
//!
//! Along each log an id takes effect once; what is recorded again is as it was; the dedup entries on disk are those of the log; an answer is the record's.

use super::shadow::Touched;
use super::{Branches, Checked, CopyShadow, Violation};
use crate::change::{Change, ObjectChange};
use crate::conflict::is_conflict_key;
use crate::effect::Answer;
use crate::object::Value;
use crate::record::{Body, Record, RequestBody};
use crate::request::{Outcome, Request};
use crate::store::Stored;
use crate::tables::ConflictPolicy;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::{CopyId, Pair, ShardId};

fn broken(copy: CopyId, shard: ShardId, what: impl std::fmt::Display) -> Violation {
    Violation::new("I8", format!("shard {shard} at {copy}: {what}"))
}

/// A request's record is the first under its id; a conflict changes nothing that another record under the id did, and says
/// which entry it takes the place of.
pub(super) fn takes_effect_once(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    record: &Record,
) -> Checked {
    let Some(id) = record.request_id() else {
        return Ok(());
    };
    let first = shadow.dedup.get(&id);
    match (&record.body, first) {
        (Body::Conflict(body), first) if body.replaced.as_ref() == first => Ok(()),
        (Body::Conflict(body), first) => {
            let (pair, replaced) = (record.pair, &body.replaced);
            let what = format!(
                "the conflict {pair} about {id} takes the place of {replaced:?}, there is {first:?}"
            );
            Err(broken(copy, shard, what))
        }
        (_, None) => match shadow.expired.get(&id) {
            None => Ok(()),
            Some(first) => {
                let (first, second) = (first.pair, record.pair);
                let what = format!(
                    "{id} took effect with {first}, was forgotten, and again with {second}"
                );
                Err(broken(copy, shard, what))
            }
        },
        (_, Some(first)) => {
            let (first, second) = (first.pair, record.pair);
            let what = format!("{id} took effect with {first} and with {second}");
            Err(broken(copy, shard, what))
        }
    }
}

/// A request that is recorded again came to the same, does the same, and found every object as the first time: written last
/// by the same record, or by that record's effect recorded again.
pub(super) fn recorded_again_as_it_was(
    copy: CopyId,
    shard: ShardId,
    record: &Record,
    branches: &Branches,
) -> Checked {
    let Body::Request(again) = &record.body else {
        return Ok(());
    };
    let Some(first_pair) = again.earlier.last() else {
        return Ok(());
    };
    let wrong = |what: &str| {
        let (pair, id) = (record.pair, again.id);
        let what = format!("{pair} records {id} again, which was {first_pair}: {what}");
        Err(broken(copy, shard, what))
    };
    let first = branches
        .get(shard, *first_pair)
        .map(|known| &known.record.body);
    let Some(Body::Request(first)) = first else {
        return wrong("that was no request");
    };
    let content = |body: &RequestBody| {
        (
            body.id,
            body.fingerprint,
            body.ops.clone(),
            body.preconditions.clone(),
        )
    };
    if content(first) != content(again) || first.outcome != again.outcome {
        return wrong("it asked for something else or came to something else");
    }
    if first.earlier[..] != again.earlier[..again.earlier.len() - 1] {
        return wrong("its earlier pairs are others");
    }
    if !matches!(first.outcome, Outcome::Applied(_)) {
        let writes = again.changes.iter().any(ObjectChange::is_write);
        return match writes {
            true => wrong("it failed and changes something"),
            false => Ok(()),
        };
    }
    if branches.policy(shard) != ConflictPolicy::ReapplyIfUnchanged {
        return wrong("the policy does not want it applied");
    }
    if first.changes.len() != again.changes.len() {
        return wrong("it touches other objects");
    }
    for (first, again) in first.changes.iter().zip(&again.changes) {
        let lineage = match (first.before, again.before) {
            (found, here) if found == here => true,
            // Under a conflict's key stands whatever is about the same record.
            (Some(_), Some(_)) if is_conflict_key(&first.key) => true,
            (Some(found), Some(here)) if found.request == here.request => {
                let body = |pair: Pair| match branches.get(shard, pair).map(|k| &k.record.body) {
                    Some(Body::Request(body)) => Some(&**body),
                    _ => None,
                };
                // Recorded again, perhaps on two branches: then both go back to one first record.
                let first = |pair: Pair| Some(*body(pair)?.earlier.first().unwrap_or(&pair));
                body(here.pair).is_some_and(|here| here.earlier.contains(&found.pair))
                    || first(here.pair).is_some() && first(here.pair) == first(found.pair)
            }
            _ => false,
        };
        if !lineage {
            return wrong("an object has another last writer than it found");
        }
        let does = |change: &ObjectChange| -> Vec<_> {
            let components = change.components.iter();
            components
                .map(|c| (c.name.clone(), forward(&c.change)))
                .collect()
        };
        if first.key != again.key || does(first) != does(again) {
            return wrong("it does something else");
        }
    }
    Ok(())
}

/// What a change writes, without what was there before.
fn forward(change: &Change) -> (Option<Value>, Option<i64>, Option<Bytes>) {
    match change {
        Change::Set { new, .. } => (new.clone(), None, None),
        Change::Add { delta, .. } => (None, Some(*delta), None),
        Change::Append { data, .. } => (None, None, Some(data.clone())),
    }
}

pub(super) fn touched_entries(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    touched: &Touched,
    stored: &dyn Stored,
) -> Checked {
    for id in &touched.ids {
        let have = stored
            .dedup(shard, shadow.generation(), *id)
            .map_err(|error| broken(copy, shard, error))?;
        let wanted = shadow.dedup.get(id);
        if have.as_ref() != wanted {
            let what = format!("the dedup entry of {id} is {have:?}, the log says {wanted:?}");
            return Err(broken(copy, shard, what));
        }
    }
    Ok(())
}

pub(super) fn all_entries(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    stored: &dyn Stored,
) -> Checked {
    let page = stored
        .dedup_after(shard, shadow.generation(), None, usize::MAX)
        .map_err(|error| broken(copy, shard, error))?;
    let have: BTreeMap<_, _> = page.items.into_iter().collect();
    if have != shadow.dedup {
        let (have, wanted) = (have.len(), shadow.dedup.len());
        let what = format!("{have} dedup entries differ from the {wanted} of the log");
        return Err(broken(copy, shard, what));
    }
    Ok(())
}

/// What was answered is durable, was asked under this id with this content, and came out like this.
pub(super) fn answer_is_the_record(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    branches: &Branches,
    request: &Request,
    answer: &Answer,
) -> Checked {
    let (pair, id) = (answer.pair, request.id);
    if !shadow.holds(pair) {
        let what = format!("{id} is answered with {pair}, which is not durable there");
        return Err(Violation::new(
            "I7",
            format!("shard {shard} at {copy}: {what}"),
        ));
    }
    let record = branches.get(shard, pair).map(|known| &known.record);
    let Some((said_by, entry)) = record.and_then(Record::dedup) else {
        return Err(broken(
            copy,
            shard,
            format!("{id} is answered with {pair}, no request"),
        ));
    };
    if said_by != id || entry.fingerprint != request.fingerprint {
        let what = format!("{id} is answered with {pair}, which is {said_by} or other content");
        return Err(broken(copy, shard, what));
    }
    if entry.outcome != answer.outcome {
        let (said, was) = (&answer.outcome, &entry.outcome);
        return Err(broken(
            copy,
            shard,
            format!("{id} came to {was:?} and is told {said:?}"),
        ));
    }
    if answer.conflict && entry.conflicts.is_empty() {
        let what = format!("{id} is answered with {pair} as a conflict, and is none");
        return Err(broken(copy, shard, what));
    }
    Ok(())
}
