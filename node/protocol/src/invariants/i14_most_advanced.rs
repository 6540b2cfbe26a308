//! I14: the copy that is promoted has the highest (epoch, version) of those sealed for that promotion.
//!
//! Judged by what each copy told when it was sealed, which has to be the end of its log.

use super::{Checked, Violation};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{CopyId, Epoch, Pair, ShardId};

#[derive(Debug, Default)]
pub(super) struct Seals {
    told: BTreeMap<(ShardId, Epoch), BTreeMap<CopyId, Pair>>,
}

impl Seals {
    pub(super) fn add(&mut self, copy: CopyId, shard: ShardId, epoch: Epoch, last: Pair) {
        let told = self.told.entry((shard, epoch)).or_default();
        told.insert(copy, last);
    }

    pub(super) fn most_advanced(
        &self,
        shard: ShardId,
        epoch: Epoch,
        promoted: CopyId,
        sealed: &BTreeSet<CopyId>,
        candidates: &BTreeSet<CopyId>,
    ) -> Checked {
        let told = self.told.get(&(shard, epoch));
        let last = |copy: &CopyId| told.and_then(|told| told.get(copy)).copied();
        let Some(own) = last(&promoted) else {
            let what =
                format!("shard {shard}: {promoted} is promoted for {epoch} and never promised it");
            return Err(Violation::new("I14", what));
        };
        for copy in sealed.intersection(candidates) {
            match last(copy) {
                Some(other) if other <= own => {}
                Some(other) => {
                    let what = format!(
                        "shard {shard} epoch {epoch}: {promoted} at {own} is promoted, {copy} was sealed at {other}"
                    );
                    return Err(Violation::new("I14", what));
                }
                None => {
                    let what = format!(
                        "shard {shard}: {copy} counts as sealed for {epoch} and never promised"
                    );
                    return Err(Violation::new("I14", what));
                }
            }
        }
        Ok(())
    }
}

/// Told before the copy followed anybody in the sealed epoch: until then nothing moves its log.
pub(super) fn seal_tells_the_end(
    copy: CopyId,
    shard: ShardId,
    epoch: Epoch,
    position: Pair,
    told: Pair,
) -> Checked {
    if told == position {
        return Ok(());
    }
    let what = format!(
        "shard {shard}: {copy} sealed for {epoch} tells {told}, its log ends with {position}"
    );
    Err(Violation::new("I14", what))
}
