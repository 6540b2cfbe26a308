//! I3: along a log versions rise by one and epochs never fall; a pair is never used for two attempts.
//!
//! Also that each epoch begins with its epoch-start record and that the copy's list of epoch starts is that of its log:
//! cuts are computed from the list.

use super::{Branches, Checked, CopyShadow, Violation};
use crate::record::{EncodedRecord, Record};
use crate::store::Stored;
use understudy_proto::{CopyId, Epoch, Pair, ProcessId, ShardId};

fn broken(what: String) -> Checked {
    Err(Violation::new("I3", what))
}

/// Judged when the batch is formed: an attempt that a crash destroyed has used its pair up as well.
pub(super) fn pair_is_used_once(
    branches: &mut Branches,
    shard: ShardId,
    copy: CopyId,
    record: &EncodedRecord,
) -> Checked {
    if branches.learn(shard, record)? {
        return Ok(());
    }
    let pair = record.pair;
    broken(format!(
        "shard {shard} at {copy}: {pair} is used for a second attempt"
    ))
}

pub(super) fn follows(copy: CopyId, shard: ShardId, last: Pair, record: &Record) -> Checked {
    let pair = record.pair;
    let at = format!("shard {shard} at {copy}");
    if record.previous != last {
        let previous = record.previous;
        return broken(format!(
            "{at}: {pair} follows {previous}, the log ends with {last}"
        ));
    }
    if pair.version != last.version.next() || pair.epoch < last.epoch {
        return broken(format!("{at}: {pair} after {last}"));
    }
    if record.is_epoch_start() != (pair.epoch > last.epoch) {
        return broken(format!(
            "{at}: {pair} after {last}, and an epoch begins with its start"
        ));
    }
    Ok(())
}

pub(super) fn meta_fits(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    branches: &Branches,
) -> Checked {
    let Some(meta) = &shadow.meta else {
        return Ok(());
    };
    let mut expected = Vec::new();
    let mut epoch = Epoch::ZERO;
    for pair in &shadow.path {
        if pair.epoch > epoch {
            epoch = pair.epoch;
            expected.push(*pair);
        }
    }
    debug_assert!(expected.iter().all(|p| branches.get(shard, *p).is_some()));
    if meta.live.epoch_starts != expected {
        let have = &meta.live.epoch_starts;
        return broken(format!(
            "shard {shard} at {copy}: epoch starts {have:?} are kept, the log has {expected:?}"
        ));
    }
    Ok(())
}

/// An epoch that answers anything has a durable record: else (epoch, version) would not order the branches.
pub(super) fn answering_epoch_has_a_record(
    process: ProcessId,
    shard: ShardId,
    serving: Option<Epoch>,
    position: Pair,
) -> Checked {
    match serving {
        Some(epoch) if position.epoch != epoch => broken(format!(
            "shard {shard}: {process} answers in epoch {epoch}, its log ends with {position}"
        )),
        _ => Ok(()),
    }
}

/// The log on disk is the end of the path, without a hole.
pub(super) fn whole_log(
    copy: CopyId,
    shard: ShardId,
    shadow: &CopyShadow,
    stored: &dyn Stored,
) -> Checked {
    let base = shadow
        .meta
        .as_ref()
        .map_or(Pair::ZERO, |meta| meta.live.base);
    let records = stored
        .records(shard, shadow.generation(), base.version.next(), usize::MAX)
        .map_err(|error| Violation::new("I3", format!("shard {shard} at {copy}: {error}")))?;
    let expected = &shadow.path[(base.version.0 as usize).min(shadow.path.len())..];
    if !records.iter().map(|r| r.pair).eq(expected.iter().copied()) {
        let (have, wanted) = (records.len(), expected.len());
        return broken(format!(
            "shard {shard} at {copy}: {have} records after {base} are on disk, {wanted} should be"
        ));
    }
    Ok(())
}
