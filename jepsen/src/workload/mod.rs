//! What clients do, drawn from a seed. A workload knows nothing of the world it runs in: no time, no servers, no faults.
//!
//! It gives one [`Step`] after the other and is told what it came to, so that later steps can build on what was seen.

mod mixed;

pub use mixed::Mixed;

use serde::{Deserialize, Serialize};

/// One operation of an update.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Put {
        key: String,
        value: String,
    },
    Delete {
        key: String,
    },
    Set {
        key: String,
        component: String,
        value: String,
    },
    Remove {
        key: String,
        component: String,
    },
    Add {
        key: String,
        component: String,
        delta: i64,
    },
    Append {
        key: String,
        component: String,
        data: String,
    },
    Get {
        key: String,
    },
}

/// What must hold for an update to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// (epoch, version) of the object's last write.
    Pair {
        key: String,
        epoch: u64,
        version: u64,
    },
    Value {
        key: String,
        component: String,
        value: String,
    },
    Absent {
        key: String,
        absent: bool,
    },
}

/// Which read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Primary,
    Any,
    /// What this client saw before, or FORKED.
    Session,
    Bounded {
        staleness_ms: u64,
    },
}

/// What a client does next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// An update under a new request id. All keys are of one shard.
    Update {
        operations: Vec<Operation>,
        conditions: Vec<Condition>,
        /// Wait until so many secondaries have it.
        copies: u32,
    },
    Read {
        keys: Vec<String>,
        level: Level,
    },
    /// The last update once more, under its own id.
    Again,
    /// Other content under the id of the last update: a mistake of the caller's.
    Misuse {
        operations: Vec<Operation>,
    },
}

/// What a step came to, as far as a workload builds on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub epoch: u64,
    pub version: u64,
}

impl Operation {
    pub fn key(&self) -> &str {
        match self {
            Operation::Put { key, .. }
            | Operation::Delete { key }
            | Operation::Set { key, .. }
            | Operation::Remove { key, .. }
            | Operation::Add { key, .. }
            | Operation::Append { key, .. }
            | Operation::Get { key } => key,
        }
    }
}

impl Step {
    /// A key that decides the shard; `None`: that of the update before.
    pub fn key(&self) -> Option<&str> {
        match self {
            Step::Update { operations, .. } | Step::Misuse { operations } => {
                operations.first().map(Operation::key)
            }
            Step::Read { keys, .. } => keys.first().map(String::as_str),
            Step::Again => None,
        }
    }
}
