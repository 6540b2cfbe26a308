//! I12: a copy's position goes back only by the undo of section 6 or by the switch of a staged copy.
//!
//! A copy that the managers let go is deleted whole; that is no going back.

use super::shadow::Touched;
use super::{Checked, Violation};
use understudy_proto::{CopyId, Pair, ShardId};

pub(super) fn went_back_only_by_undo(
    copy: CopyId,
    shard: ShardId,
    before: Pair,
    after: Pair,
    touched: &Touched,
) -> Checked {
    let allowed = !touched.undone.is_empty() || touched.switched || touched.dropped;
    if after >= before || allowed {
        return Ok(());
    }
    let what = format!("shard {shard} at {copy}: the position goes back from {before} to {after}");
    Err(Violation::new("I12", what))
}

pub(super) fn opened_where_the_disk_stands(
    copy: CopyId,
    shard: ShardId,
    disk: Pair,
    opened: Pair,
) -> Checked {
    if disk == opened {
        return Ok(());
    }
    let what = format!("shard {shard} at {copy}: opened at {opened}, its disk stands at {disk}");
    Err(Violation::new("I12", what))
}
