//! I9: session reads never go backwards and see the session's own writes, or say FORKED; and a bounded read misses
//! nothing that was acknowledged longer ago than its bound. Both show the objects as the log up to their token makes them.
//!
//! What a session saw is what its client kept, and when a write was acknowledged is told by the driver's one clock: no
//! arithmetic of the copies is believed.

use super::i5_fold::fold;
use super::{Branches, Checked, Violation};
use crate::object::Object;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::{Pair, ProcessId, ShardId};

/// For each moment of an acknowledgement the highest pair acknowledged by then, in microseconds of the driver's clock.
/// (epoch, version) orders all branches: whoever has a higher pair has the lower ones, or a failover cut them off.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements(BTreeMap<ShardId, BTreeMap<u64, Pair>>);

impl Acknowledgements {
    pub(super) fn add(&mut self, shard: ShardId, pair: Pair, at_us: u64) {
        let highest = self.upto(shard, at_us).max(pair);
        self.0.entry(shard).or_default().insert(at_us, highest);
    }

    fn upto(&self, shard: ShardId, at_us: u64) -> Pair {
        let known = self.0.get(&shard).into_iter();
        let mut earlier = known.flat_map(|known| known.range(..=at_us).next_back());
        earlier.next().map_or(Pair::ZERO, |(_, pair)| *pair)
    }

    pub(super) fn all_are_reached(
        &self,
        process: ProcessId,
        shard: ShardId,
        token: Pair,
        upto_us: u64,
    ) -> Checked {
        let highest = self.upto(shard, upto_us);
        if token >= highest {
            return Ok(());
        }
        let what = format!(
            "shard {shard}: {process} answers a bounded read at {token}, and {highest} was acknowledged earlier than its \
             bound allows to miss"
        );
        Err(Violation::new("bounded staleness", what))
    }
}

/// Everything that the session saw lies in the log that the answer was read from.
pub(super) fn sees_what_the_session_saw(
    branches: &Branches,
    shard: ShardId,
    saw: &[Pair],
    token: Pair,
) -> Checked {
    let path = path(branches, shard, token)?;
    match saw
        .iter()
        .find(|pair| **pair != Pair::ZERO && !path.contains(pair))
    {
        None => Ok(()),
        Some(missing) => {
            let what = format!(
                "shard {shard}: a session that saw {missing} is answered at {token}, whose log lacks it"
            );
            Err(Violation::new("I9", what))
        }
    }
}

/// The objects are those of the log up to the token.
pub(super) fn shows_the_log(
    branches: &Branches,
    shard: ShardId,
    token: Pair,
    keys: &[Bytes],
    objects: &[Option<Object>],
) -> Checked {
    let path = path(branches, shard, token)?;
    let mut wanted: BTreeMap<&Bytes, Option<Object>> = keys.iter().map(|key| (key, None)).collect();
    for pair in path {
        let Some(known) = branches.get(shard, pair) else {
            continue;
        };
        let Some(request) = known.record.request_id() else {
            continue;
        };
        for change in known.record.changes().iter().filter(|c| c.is_write()) {
            if let Some(object) = wanted.get_mut(&change.key) {
                *object = fold(object.as_ref(), change, pair, request);
            }
        }
    }
    for (key, have) in keys.iter().zip(objects) {
        let wanted = wanted.get(key).and_then(Option::as_ref);
        if have.as_ref() != wanted {
            let what = format!(
                "shard {shard}: a read at {token} shows {key:?} as {have:?}, the log says {wanted:?}"
            );
            return Err(Violation::new("I5", what));
        }
    }
    Ok(())
}

fn path(branches: &Branches, shard: ShardId, token: Pair) -> Result<Vec<Pair>, Violation> {
    branches.path(shard, token).map_err(|hole| {
        let what = format!("shard {shard}: a read is answered at {token}, and {hole} is unknown");
        Violation::new("I9", what)
    })
}
