//! Every record that was ever formed, over all copies: a tree for each shard, since a record names the one before it.
//!
//! Nothing is forgotten when a copy trims, undoes or loses it: what a copy should hold can be told from the tree alone.

use super::Violation;
use crate::conflict::{ConflictReason, is_conflict_key};
use crate::record::{Body, EncodedRecord, Record};
use crate::request::Outcome;
use crate::tables::ConflictPolicy;
use std::collections::BTreeMap;
use understudy_proto::{Pair, ShardId};

/// A record and its stored form.
#[derive(Debug)]
pub struct Known {
    pub record: Record,
    pub encoded: EncodedRecord,
}

#[derive(Debug, Default)]
pub struct Branches {
    records: BTreeMap<(ShardId, Pair), Known>,
    again: usize,
    forgotten: usize,
    may_have_run: usize,
    conflicts: usize,
    decided: usize,
    /// What the shards' namespaces want done with orphans, where it is not the default.
    policies: BTreeMap<ShardId, ConflictPolicy>,
}

impl Branches {
    pub fn get(&self, shard: ShardId, pair: Pair) -> Option<&Known> {
        self.records.get(&(shard, pair))
    }

    /// Takes the record in. False: another record is known under its pair.
    pub fn learn(&mut self, shard: ShardId, encoded: &EncodedRecord) -> Result<bool, Violation> {
        let key = (shard, encoded.pair);
        if let Some(known) = self.records.get(&key) {
            return Ok(known.encoded == *encoded);
        }
        let (record, again) = Record::decode(&encoded.bytes).map_err(|error| {
            Violation::new("I4", format!("shard {shard} {}: {error:?}", encoded.pair))
        })?;
        if again != *encoded || record.shard != shard || record.pair != encoded.pair {
            let what = format!("shard {shard} {}: the record is another's", encoded.pair);
            return Err(Violation::new("I4", what));
        }
        match &record.body {
            Body::Request(body) => {
                self.again += usize::from(!body.earlier.is_empty());
                let decides = body.ops.iter().any(|op| is_conflict_key(op.key()));
                let applied = matches!(body.outcome, Outcome::Applied(_));
                self.decided += usize::from(decides && applied);
            }
            Body::Conflict(body) => {
                self.conflicts += 1;
                self.may_have_run +=
                    usize::from(body.conflict.reason == ConflictReason::MayHaveRun);
            }
            Body::Expiry(body) => self.forgotten += body.removed(),
            _ => {}
        }
        let encoded = encoded.clone();
        self.records.insert(key, Known { record, encoded });
        Ok(true)
    }

    /// Entries that expiry records removed, and conflicts because of them.
    pub fn forgotten(&self) -> (usize, usize) {
        (self.forgotten, self.may_have_run)
    }

    /// Records that were recorded again, and conflicts.
    pub fn reconciled(&self) -> (usize, usize) {
        (self.again, self.conflicts)
    }

    /// Conflicts that were resolved.
    pub fn decided(&self) -> usize {
        self.decided
    }

    pub fn set_policy(&mut self, shard: ShardId, policy: ConflictPolicy) {
        self.policies.insert(shard, policy);
    }

    pub fn policy(&self, shard: ShardId) -> ConflictPolicy {
        self.policies.get(&shard).copied().unwrap_or_default()
    }

    /// All pairs from the first record to `end`, or the pair at which the tree has a hole.
    pub fn path(&self, shard: ShardId, end: Pair) -> Result<Vec<Pair>, Pair> {
        let mut path = Vec::with_capacity(end.version.0 as usize);
        let mut at = end;
        while at != Pair::ZERO {
            path.push(at);
            at = self.get(shard, at).ok_or(at)?.record.previous;
        }
        path.reverse();
        Ok(path)
    }
}
