//! I8: a request id takes effect at most once, across retries, failovers and reconciliation; its outcome never changes,
//! or a conflict says so.
//!
//! Along each log an id stands once; the dedup entries on disk are those of the log; an answer is the record's.

use super::shadow::Touched;
use super::{Branches, Checked, CopyShadow, Violation};
use crate::effect::Answer;
use crate::record::{Body, Record};
use crate::request::Request;
use crate::store::Stored;
use std::collections::BTreeMap;
use understudy_proto::{CopyId, ShardId};

fn broken(copy: CopyId, shard: ShardId, what: impl std::fmt::Display) -> Violation {
    Violation::new("I8", format!("shard {shard} at {copy}: {what}"))
}

pub(super) fn not_in_the_log_yet(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    record: &Record,
) -> Checked {
    match record.request_id().and_then(|id| shadow.dedup.get(&id)) {
        None => Ok(()),
        Some(first) => {
            let (id, first, second) = (record.request_id(), first.pair, record.pair);
            let what = format!("{id:?} took effect with {first} and with {second}");
            Err(broken(copy, shard, what))
        }
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
    let body = branches.get(shard, pair).map(|known| &known.record.body);
    let Some(Body::Request(body)) = body else {
        return Err(broken(
            copy,
            shard,
            format!("{id} is answered with {pair}, no request"),
        ));
    };
    if body.id != id || body.fingerprint != request.fingerprint {
        let what = format!(
            "{id} is answered with {pair}, which is {} or other content",
            body.id
        );
        return Err(broken(copy, shard, what));
    }
    if body.outcome != answer.outcome {
        let (said, was) = (&answer.outcome, &body.outcome);
        return Err(broken(
            copy,
            shard,
            format!("{id} came to {was:?} and is told {said:?}"),
        ));
    }
    Ok(())
}
