//! I13: after faults stop, every copy reaches its primary's version and checksum, every shard has a primary and its full
//! set of copies, every begun failover is finished, within a bounded time.
//!
//! The driver asks again and again until nothing is missing or the time is up.

use crate::effect::Report;
use understudy_proto::{CopyId, Epoch, ShardId};

/// How a shard stands: its row, and what the copies that it names say of themselves.
#[derive(Clone, Debug)]
pub struct Standing {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// Copies that it should have, the primary included.
    pub wanted: usize,
    pub begun: bool,
    pub primary: Option<(CopyId, Option<Report>)>,
    pub secondaries: Vec<(CopyId, Option<Report>)>,
    /// Also those that only follow to give their orphans; `leaving` tells which.
    pub joining: Vec<(CopyId, Option<Report>)>,
    pub leaving: Vec<CopyId>,
    /// The members of an in_sync shard's set.
    pub in_sync: Option<usize>,
    /// Copies in the witness set.
    pub witnesses: usize,
}

/// What is missing, one sentence; `None`: the shard converged.
pub fn unconverged(standing: &Standing) -> Option<String> {
    let shard = standing.shard;
    let say = |what: String| Some(format!("shard {shard}: {what}"));
    if standing.begun {
        return say("a begun failover is not finished".to_string());
    }
    let Some((copy, Some(primary))) = &standing.primary else {
        return say(format!("there is no primary in epoch {}", standing.epoch));
    };
    if primary.serving != Some(standing.epoch) {
        return say(format!("{copy} does not serve in epoch {}", standing.epoch));
    }
    let full = 1 + standing.secondaries.len();
    if full < standing.wanted {
        return say(format!("{full} copies of {}", standing.wanted));
    }
    let joins = |c: &&(CopyId, Option<Report>)| !standing.leaving.contains(&c.0);
    if let Some((copy, _)) = standing.joining.iter().find(joins) {
        return say(format!("{copy} still joins"));
    }
    if let Some(members) = standing.in_sync.filter(|members| *members < full) {
        return say(format!("{members} of {full} copies are in sync"));
    }
    let (witnesses, others) = (standing.witnesses, standing.secondaries.len());
    if witnesses != others {
        return say(format!("{witnesses} of {others} secondaries are witnesses"));
    }
    for (copy, report) in standing.secondaries.iter().chain(&standing.joining) {
        let Some(report) = report else {
            return say(format!("{copy} is not there"));
        };
        if report.applied != primary.applied {
            let (have, wanted) = (report.applied, primary.applied);
            return say(format!("{copy} shows {have}, its primary {wanted}"));
        }
        if (report.durable, report.checksum) != (primary.durable, primary.checksum) {
            let (have, wanted) = (report.durable, primary.durable);
            return say(format!("{copy} is at {have}, its primary at {wanted}"));
        }
    }
    None
}
