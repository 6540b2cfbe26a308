//! I6: in_sync: an acknowledged write is in the log of every later primary; histories are linearizable.
//!
//! What primaries say is committed has to be one growing log per shard: durable with every member of the set that the managers
//! know, and with whoever they hold for eligible; formed in, or committed together with a record of, the committing epoch. A
//! read at a primary sees exactly the fold of that log, a read elsewhere only what lies on it; nothing of it is ever undone.
//! A forced promotion cuts it off where the promoted copy's log parts from it: what was beyond is judged as in a lazy shard
//! (I7), and may still be read where it is.

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
    /// What it was before each forced promotion that cut it off.
    former: Vec<Vec<Pair>>,
    /// The epoch of the newest one.
    forced: Epoch,
}

impl Log {
    fn end(&self) -> Pair {
        self.path.last().copied().unwrap_or(Pair::ZERO)
    }

    fn holds(&self, pair: Pair) -> bool {
        let at = pair.version.0.wrapping_sub(1) as usize;
        pair == Pair::ZERO || self.path.get(at) == Some(&pair)
    }

    /// Whether both, the first not after the second, lie on this log or on one that it was.
    fn held(&self, first: Pair, then: Pair) -> bool {
        let at = |path: &Vec<Pair>, pair: Pair| match pair {
            Pair::ZERO => Some(0),
            pair => path.iter().position(|p| *p == pair).map(|at| at + 1),
        };
        let paths = std::iter::once(&self.path).chain(&self.former);
        paths.into_iter().any(|path| {
            at(path, then)
                .is_some_and(|then| at(path, first) <= Some(then) && at(path, first).is_some())
        })
    }

    fn fold(&mut self, shard: ShardId, at: Pair, branches: &Branches) {
        let record = &branches.get(shard, at).expect("on the path").record;
        let Some(request) = record.request_id() else {
            return;
        };
        for change in record.changes().iter().filter(|c| c.is_write()) {
            let old = self.objects.remove(&change.key);
            if let Some(new) = fold(old.as_ref(), change, at, request) {
                self.objects.insert(change.key.clone(), new);
            }
        }
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
    let forced = row.forced == Some(row.epoch);
    if forced || set.members.contains(&copy) || old.eligible.contains(&copy) {
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
        let forced = self.logs.get(&shard).map_or(Epoch::ZERO, |log| log.forced);
        if epoch < forced {
            // A primary that a forced promotion passed over commits what it has, without a lease: it answers nobody.
            return Ok(());
        }
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
            log.fold(shard, at, branches);
            log.path.push(at);
        }
        Ok(())
    }

    /// A forced promotion: of the committed log only what the promoted copy has goes on.
    pub(super) fn passed_over(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        last: Pair,
        branches: &Branches,
    ) -> Checked {
        let Some(log) = self.logs.get_mut(&shard) else {
            return Ok(());
        };
        let kept = branches.path(shard, last);
        let kept = kept.map_err(|at| broken(shard, format!("{at} was never formed")))?;
        let both = log.path.iter().zip(&kept).take_while(|(a, b)| a == b);
        let common = both.count();
        log.forced = epoch;
        if common < log.path.len() {
            log.former.push(log.path.clone());
            log.path.truncate(common);
            log.objects.clear();
            for at in log.path.clone() {
                log.fold(shard, at, branches);
            }
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
        if !log.held(Pair::ZERO, token) || (newest && token != end) {
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
            if !log.held(last, token) {
                let what = format!("{process} reads {key:?} of {last} at {token}");
                return Err(broken(shard, what));
            }
        }
        Ok(())
    }
}
