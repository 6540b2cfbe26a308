//! What came of one seed.

use crate::history::History;
use understudy_protocol::invariants::Violation;

/// How it ended; the numbers are the exit codes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Clean,
    /// An invariant is broken.
    Wrong {
        invariant: String,
        what: String,
    },
    /// The code under test panicked.
    Crashed {
        what: String,
    },
    /// Faults stopped and it did not converge.
    Stuck {
        what: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    pub events: u64,
    /// Carried out; what was planned and could not be done is not counted.
    pub faults: u64,
    pub acknowledged: u64,
    /// Left in orphan logs at the end.
    pub orphans: u64,
    /// Recorded again after a failover had cut it off.
    pub recorded_again: u64,
    pub conflicts: u64,
    /// Conflicts that a client resolved.
    pub decided: u64,
    /// Dedup entries that expired, and conflicts because of that.
    pub forgotten: u64,
    pub may_have_run: u64,
    /// Acknowledged when no manager had led for longer than a lease.
    pub without_managers: u64,
    /// Writes and reads refused for want of a lease.
    pub no_lease: u64,
    /// Coalesced deltas that were switched in.
    pub deltas: u64,
    /// Records that were sent as operations, and with the objects that they left.
    pub operations: u64,
    pub with_objects: u64,
    /// Promotions that a person forced.
    pub forced: u64,
    /// Copies that were found the same as their primary, each page counted.
    pub compared: u64,
    pub broken: u64,
    pub virtual_us: u64,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub hash: u64,
    pub statistics: Statistics,
    /// The newest lines of the trace.
    pub last: Vec<String>,
    pub history: History,
}

impl Verdict {
    pub fn exit_code(&self) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Wrong { .. } => 1,
            Verdict::Crashed { .. } => 3,
            Verdict::Stuck { .. } => 4,
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Verdict::Clean => "clean".to_string(),
            Verdict::Wrong { invariant, what } => format!("{invariant} is broken: {what}"),
            Verdict::Crashed { what } => format!("the code under test panicked: {what}"),
            Verdict::Stuck { what } => format!("I13, no convergence: {what}"),
        }
    }

    /// What caught it, in a word.
    pub fn caught_by(&self) -> &str {
        match self {
            Verdict::Clean => "nothing",
            Verdict::Wrong { invariant, .. } => invariant,
            Verdict::Crashed { .. } => "an assertion",
            Verdict::Stuck { .. } => "I13",
        }
    }
}

impl Outcome {
    pub fn clean(hash: u64, statistics: Statistics, history: History) -> Outcome {
        Outcome {
            verdict: Verdict::Clean,
            hash,
            statistics,
            last: Vec::new(),
            history,
        }
    }

    pub fn wrong(
        violation: Violation,
        hash: u64,
        statistics: Statistics,
        last: Vec<String>,
        history: History,
    ) -> Outcome {
        let invariant = violation.invariant.to_string();
        let verdict = Verdict::Wrong {
            invariant,
            what: violation.what,
        };
        Outcome {
            verdict,
            hash,
            statistics,
            last,
            history,
        }
    }

    pub fn stuck(
        what: String,
        hash: u64,
        statistics: Statistics,
        last: Vec<String>,
        history: History,
    ) -> Outcome {
        Outcome {
            verdict: Verdict::Stuck { what },
            hash,
            statistics,
            last,
            history,
        }
    }
}
