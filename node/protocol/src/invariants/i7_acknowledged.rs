//! I7 (lazy): an acknowledged write is in the primary's log, an orphan log, a conflict, or on a listed store of an open cut.
//!
//! Nothing is submitted again yet, so there are no conflicts. A store that is lost stays in the shadow: it counts as a
//! place only while an open cut lists it. An acknowledged write of an in_sync shard has one place, the primary's log (I6).

use super::{Branches, Checked, CopyShadow, Row, Violation};
use std::collections::BTreeMap;
use understudy_proto::{CopyId, NodeId, Pair, ProcessId, RequestId, ShardId, StoreId};

#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    writes: BTreeMap<ShardId, BTreeMap<Pair, RequestId>>,
}

/// The lowest and the highest copy id, for ranges over one shard.
const FIRST: CopyId = CopyId {
    node: NodeId(0),
    store: StoreId(0),
};
const LAST: CopyId = CopyId {
    node: NodeId(u64::MAX),
    store: StoreId(u128::MAX),
};

type Copies = BTreeMap<(ShardId, CopyId), CopyShadow>;

impl Acknowledged {
    pub(super) fn add(&mut self, shard: ShardId, pair: Pair, id: RequestId) {
        self.writes.entry(shard).or_default().insert(pair, id);
    }

    pub(super) fn count(&self) -> usize {
        self.writes.values().map(BTreeMap::len).sum()
    }

    pub(super) fn all_are_kept(&self, shard: ShardId, row: &Row, copies: &Copies) -> Checked {
        let pairs = self.writes.get(&shard).into_iter().flatten();
        for (pair, _) in pairs {
            self.one_is_kept(shard, *pair, row, copies)?;
        }
        Ok(())
    }

    pub(super) fn one_is_kept(
        &self,
        shard: ShardId,
        pair: Pair,
        row: &Row,
        copies: &Copies,
    ) -> Checked {
        let holds = |copy: CopyId| copies.get(&(shard, copy)).is_some_and(|c| c.holds(pair));
        let primary = row.primary.map(ProcessId::copy);
        if primary.is_some_and(holds) || row.listed.iter().any(|copy| holds(*copy)) {
            return Ok(());
        }
        if row.in_sync.is_some() {
            let id = self.writes[&shard][&pair];
            let what = format!(
                "shard {shard}: the acknowledged {pair} ({id}) is not in the log of the primary {primary:?}"
            );
            return Err(Violation::new("I6", what));
        }
        let of_shard = copies.range((shard, FIRST)..=(shard, LAST));
        if of_shard
            .clone()
            .any(|(_, copy)| copy.orphans.contains(&pair))
        {
            return Ok(());
        }
        let elsewhere: Vec<String> = of_shard
            .filter(|(_, copy)| copy.holds(pair))
            .map(|((_, copy), _)| copy.to_string())
            .collect();
        let id = self.writes[&shard][&pair];
        Err(Violation::new(
            "I7",
            format!(
                "shard {shard}: the acknowledged {pair} ({id}) is neither with the primary {primary:?} nor an orphan nor \
                 on a listed store {:?}; only with {elsewhere:?}",
                row.listed
            ),
        ))
    }
}

/// A record of a request leaves a log only into the orphan log; an undone epoch start is nobody's write.
pub(super) fn only_epoch_starts_go(
    copy: CopyId,
    shard: ShardId,
    pair: Pair,
    branches: &Branches,
) -> Checked {
    let known = branches.get(shard, pair);
    if known.is_none_or(|known| known.record.is_epoch_start()) {
        return Ok(());
    }
    let what = format!("shard {shard} at {copy}: {pair} is removed and not kept as an orphan");
    Err(Violation::new("I7", what))
}
