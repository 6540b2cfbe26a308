//! I7 (lazy): an acknowledged write is in the primary's log, an orphan log, a conflict, or on a listed store of an open cut.
//!
//! It need not stand under the pair with which it was answered: what counts is its request id with the outcome that was told,
//! or a conflict that has it. A store that is lost stays in the shadow: it counts as a place only while an open cut lists it.
//! An acknowledged write of an in_sync shard has one place, the primary's log (I6), but for what a forced promotion passed
//! over: that may be in all of these.

use super::{Branches, Checked, CopyShadow, Row, Violation};
use crate::record::{Body, Record};
use crate::request::{DedupEntry, Outcome};
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

pub(super) type Copies = BTreeMap<(ShardId, CopyId), CopyShadow>;

/// What a client was told of a request.
pub(super) struct Told<'a> {
    pub id: RequestId,
    pub fingerprint: u64,
    pub outcome: &'a Outcome,
}

impl<'a> Told<'a> {
    /// What the record says; of a conflict, the side that was cut off.
    pub fn by(record: &'a Record) -> Option<Told<'a>> {
        let body = match &record.body {
            Body::Request(body) => &**body,
            Body::Conflict(body) => body.conflict.request(),
            Body::EpochStart | Body::Expiry(_) => return None,
        };
        Some(Told {
            id: body.id,
            fingerprint: body.fingerprint,
            outcome: &body.outcome,
        })
    }

    fn is(&self, other: &Told<'_>) -> bool {
        self.id == other.id
            && self.fingerprint == other.fingerprint
            && self.outcome.is_same_as(other.outcome)
    }

    /// Whether a log whose dedup entry for the request is this one has it: as what took effect, or as a conflict.
    pub fn is_in(&self, entry: &DedupEntry, shard: ShardId, branches: &Branches) -> bool {
        let stands = Told {
            id: self.id,
            fingerprint: entry.fingerprint,
            outcome: &entry.outcome,
        };
        let cut_off = |pair: &Pair| {
            let record = branches.get(shard, *pair).map(|known| &known.record);
            record.and_then(Told::by).is_some_and(|told| told.is(self))
        };
        stands.is(self) || entry.conflicts.iter().any(cut_off)
    }

    /// Whether one of the copy's orphans has it.
    pub fn is_orphan_of(&self, copy: &CopyShadow, shard: ShardId, branches: &Branches) -> bool {
        copy.orphans.iter().any(|pair| {
            let record = branches.get(shard, *pair).map(|known| &known.record);
            // A conflict speaks also for what stood under its id when it was logged.
            let entry = record.and_then(Record::dedup);
            entry.is_some_and(|(id, entry)| id == self.id && self.is_in(&entry, shard, branches))
        })
    }
}

impl Acknowledged {
    pub(super) fn add(&mut self, shard: ShardId, pair: Pair, id: RequestId) {
        self.writes.entry(shard).or_default().insert(pair, id);
    }

    pub(super) fn count(&self) -> usize {
        self.writes.values().map(BTreeMap::len).sum()
    }

    pub(super) fn all_are_kept(
        &self,
        shard: ShardId,
        row: &Row,
        copies: &Copies,
        branches: &Branches,
    ) -> Checked {
        let pairs = self.writes.get(&shard).into_iter().flatten();
        for (pair, _) in pairs {
            self.one_is_kept(shard, *pair, row, copies, branches)?;
        }
        Ok(())
    }

    pub(super) fn one_is_kept(
        &self,
        shard: ShardId,
        pair: Pair,
        row: &Row,
        copies: &Copies,
        branches: &Branches,
    ) -> Checked {
        let id = self.writes[&shard][&pair];
        let primary = row.primary.map(ProcessId::copy);
        // Most writes stand where they were answered.
        let as_answered = |copy: CopyId| copies.get(&(shard, copy)).is_some_and(|c| c.holds(pair));
        if primary.is_some_and(as_answered) {
            return Ok(());
        }
        let record = branches.get(shard, pair).map(|known| &known.record);
        // What was told with a conflict's pair is what its entry says.
        let entry = record.and_then(Record::dedup).map(|(_, entry)| entry);
        let told = entry.as_ref().map(|entry| Told {
            id,
            fingerprint: entry.fingerprint,
            outcome: &entry.outcome,
        });
        let in_log = |shadow: &CopyShadow| {
            let entry = shadow.ever(id);
            shadow.holds(pair)
                || (told.as_ref().zip(entry))
                    .is_some_and(|(told, entry)| told.is_in(entry, shard, branches))
        };
        let holds = |copy: CopyId| copies.get(&(shard, copy)).is_some_and(in_log);
        if primary.is_some_and(holds) || row.listed.iter().any(|copy| holds(*copy)) {
            return Ok(());
        }
        if row.in_sync.is_some() && !row.may_be_passed_over(pair) {
            let id = self.writes[&shard][&pair];
            let what = format!(
                "shard {shard}: the acknowledged {pair} ({id}) is not in the log of the primary {primary:?}"
            );
            return Err(Violation::new("I6", what));
        }
        let of_shard = copies.range((shard, FIRST)..=(shard, LAST));
        let orphan = |copy: &CopyShadow| {
            copy.orphans.contains(&pair)
                || (told.as_ref()).is_some_and(|told| told.is_orphan_of(copy, shard, branches))
        };
        if of_shard.clone().any(|(_, copy)| orphan(copy)) {
            return Ok(());
        }
        let elsewhere: Vec<String> = of_shard
            .filter(|(_, copy)| in_log(copy))
            .map(|((_, copy), _)| copy.to_string())
            .collect();
        Err(Violation::new(
            "I7",
            format!(
                "shard {shard}: the acknowledged {pair} ({id}) is neither with the primary {primary:?} nor an orphan nor a \
                 conflict nor on a listed store {:?}; only with {elsewhere:?}",
                row.listed
            ),
        ))
    }
}

/// A record of a request leaves a log only into the orphan log; an undone epoch start or expiry is nobody's write.
pub(super) fn only_own_records_go(
    copy: CopyId,
    shard: ShardId,
    pair: Pair,
    branches: &Branches,
) -> Checked {
    let known = branches.get(shard, pair);
    if known.is_none_or(|known| known.record.is_own()) {
        return Ok(());
    }
    let what = format!("shard {shard} at {copy}: {pair} is removed and not kept as an orphan");
    Err(Violation::new("I7", what))
}
