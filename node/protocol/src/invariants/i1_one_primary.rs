//! I1: at most one primary per (shard, epoch); epochs only rise.
//!
//! Looks at the rows of the naming table and at what the processes themselves say they serve as.

use super::{Checked, Row, Violation};
use std::collections::BTreeMap;
use understudy_proto::{Epoch, ProcessId, ShardId};

#[derive(Debug, Default)]
pub(super) struct Primaries {
    known: BTreeMap<(ShardId, Epoch), ProcessId>,
}

impl Primaries {
    pub(super) fn row_changed(&mut self, shard: ShardId, old: Option<&Row>, new: &Row) -> Checked {
        let before = old.map(|row| row.epoch).unwrap_or_default();
        if new.epoch < before {
            let what = format!(
                "shard {shard}: the epoch falls from {before} to {}",
                new.epoch
            );
            return Err(Violation::new("I1", what));
        }
        match new.primary {
            Some(primary) => self.serves(primary, shard, new.epoch),
            None => Ok(()),
        }
    }

    pub(super) fn serves(&mut self, process: ProcessId, shard: ShardId, epoch: Epoch) -> Checked {
        let known = *self.known.entry((shard, epoch)).or_insert(process);
        if known == process {
            return Ok(());
        }
        let what = format!("shard {shard} epoch {epoch}: {known} and {process} are primaries");
        Err(Violation::new("I1", what))
    }
}
