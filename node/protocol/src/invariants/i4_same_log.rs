//! I4: two copies with the same (shard, epoch, version) have the same record, and the same log before it.
//!
//! A record bears the checksum of the one before: equal bytes mean equal logs up to there.

use super::{Branches, Checked, Violation};
use crate::record::EncodedRecord;
use understudy_proto::{CopyId, ShardId};

pub(super) fn same_record(
    branches: &mut Branches,
    copy: CopyId,
    shard: ShardId,
    record: &EncodedRecord,
) -> Checked {
    if branches.learn(shard, record)? {
        return Ok(());
    }
    let pair = record.pair;
    let what = format!("shard {shard} at {copy}: {pair} is another record than elsewhere");
    Err(Violation::new("I4", what))
}
