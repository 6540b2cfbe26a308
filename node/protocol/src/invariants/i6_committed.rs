//! I6: in_sync: an acknowledged write is in the log of every later primary; histories are linearizable.
//!
//! What primaries say is committed has to be one growing log per shard: durable with every member of the set that the managers
//! know, and with whoever they hold for eligible; formed in, or committed together with a record of, the committing epoch. A
//! read at a primary sees exactly the fold of that log, a read elsewhere only what lies on it; nothing of it is ever undone.

use super::i5_fold::fold;
use super::{Branches, Checked, CopyShadow, Row, Violation};
use crate::effect::InSyncSet;
use crate::object::Object;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::{CopyId, Epoch, Pair, ProcessId, ShardId};

/// A primary moved its commit point.
#[derive(Clone, Debug)]
pub struct Commit {
    pub copy: CopyId,
    pub epoch: Epoch,
    pub pair: Pair,
    /// As the primary knows it.
    pub set: InSyncSet,
}

/// The committed log of a shard, and what it folds to.
#[derive(Debug, Default)]
struct Log {
    path: Vec<Pair>,
    objects: BTreeMap<Bytes, Object>,
}

impl Log {
    fn end(&self) -> Pair {
        self.path.last().copied().unwrap_or(Pair::ZERO)
    }

    fn holds(&self, pair: Pair) -> bool {
        let at = pair.version.0.wrapping_sub(1) as usize;
        pair == Pair::ZERO || self.path.get(at) == Some(&pair)
    }
}

#[derive(Debug, Default)]
pub(super) struct Committed {
    logs: BTreeMap<ShardId, Log>,
}

fn broken(shard: ShardId, what: impl std::fmt::Display) -> Violation {
    Violation::new("I6", format!("shard {shard}: {what}"))
}

/// Only a member of the set, or who is eligible, is made primary.
pub(super) fn promoted_is_in_sync(shard: ShardId, old: Option<&Row>, row: &Row) -> Checked {
    let Some(old) = old.filter(|old| old.primary.is_some() && old.epoch < row.epoch) else {
        return Ok(());
    };
    let (Some(set), Some(promoted)) = (&old.in_sync, row.primary) else {
        return Ok(());
    };
    let copy = promoted.copy();
    if set.members.contains(&copy) || old.eligible.contains(&copy) {
        return Ok(());
    }
    let what = format!("{copy} is promoted and was neither in sync nor eligible");
    Err(broken(shard, what))
}

impl Committed {
    pub(super) fn add(
        &mut self,
        shard: ShardId,
        commit: &Commit,
        row: Option<&Row>,
        branches: &Branches,
        copies: &BTreeMap<(ShardId, CopyId), CopyShadow>,
    ) -> Checked {
        let Commit {
            copy, epoch, pair, ..
        } = *commit;
        if pair.epoch != epoch {
            let what = format!("{copy} commits {pair} in epoch {epoch}, without its epoch start");
            return Err(broken(shard, what));
        }
        if !commit.set.commits() {
            let (have, min) = (commit.set.members.len(), commit.set.min);
            let what = format!("{copy} commits {pair} with {have} in sync of {min}");
            return Err(broken(shard, what));
        }
        let known = row.filter(|row| row.epoch == epoch);
        let known = known.into_iter().flat_map(|row| {
            let members = row.in_sync.iter().flat_map(|set| &set.members);
            members.chain(&row.eligible)
        });
        // Not those of an older row that the primary still goes by: who left the set may have been deleted since.
        for member in known {
            let holds = copies
                .get(&(shard, *member))
                .is_some_and(|shadow| shadow.holds(pair));
            if !holds {
                let what = format!("{copy} commits {pair}, which {member} does not have");
                return Err(broken(shard, what));
            }
        }
        self.grow(shard, pair, branches)
    }

    fn grow(&mut self, shard: ShardId, pair: Pair, branches: &Branches) -> Checked {
        let log = self.logs.entry(shard).or_default();
        if log.holds(pair) {
            // A primary that was replaced learned late what its successor knows.
            return Ok(());
        }
        let path = branches.path(shard, pair);
        let path = path.map_err(|at| broken(shard, format!("{at} was never formed")))?;
        let end = log.end();
        if path.get(..log.path.len()) != Some(&log.path[..]) {
            let what = format!("{pair} is committed on a branch without the committed {end}");
            return Err(broken(shard, what));
        }
        for at in path.into_iter().skip(log.path.len()) {
            let record = &branches.get(shard, at).expect("on the path").record;
            if let Some(request) = record.request_id() {
                for change in record.changes().iter().filter(|c| c.is_write()) {
                    let old = log.objects.remove(&change.key);
                    if let Some(new) = fold(old.as_ref(), change, at, request) {
                        log.objects.insert(change.key.clone(), new);
                    }
                }
            }
            log.path.push(at);
        }
        Ok(())
    }

    /// What was answered is committed.
    pub(super) fn answered(&self, shard: ShardId, pair: Pair) -> Checked {
        if self.logs.get(&shard).is_some_and(|log| log.holds(pair)) {
            return Ok(());
        }
        Err(broken(
            shard,
            format!("{pair} is acknowledged and not committed"),
        ))
    }

    pub(super) fn not_undone(&self, copy: CopyId, shard: ShardId, pair: Pair) -> Checked {
        if self.logs.get(&shard).is_some_and(|log| log.holds(pair)) {
            let what = format!("{copy} undoes {pair}, which is committed");
            return Err(broken(shard, what));
        }
        Ok(())
    }

    /// A read at the primary is the newest committed state; elsewhere an earlier one.
    pub(super) fn read(
        &self,
        process: ProcessId,
        shard: ShardId,
        newest: bool,
        token: Pair,
        objects: &[(Bytes, Option<Object>)],
    ) -> Checked {
        let nothing = Log::default();
        let log = self.logs.get(&shard).unwrap_or(&nothing);
        let end = log.end();
        if !log.holds(token) || (newest && token != end) {
            let what = format!("{process} reads at {token}, committed is {end}");
            return Err(broken(shard, what));
        }
        for (key, object) in objects {
            if newest && log.objects.get(key) != object.as_ref() {
                let wanted = log.objects.get(key);
                let what = format!("{process} reads {key:?} as {object:?}, not {wanted:?}");
                return Err(broken(shard, what));
            }
            let last = object
                .as_ref()
                .map_or(Pair::ZERO, |object| object.last.pair);
            if !log.holds(last) || last > token {
                let what = format!("{process} reads {key:?} of {last} at {token}");
                return Err(broken(shard, what));
            }
        }
        Ok(())
    }
}
