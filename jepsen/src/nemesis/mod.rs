//! Faults as data: a plan drawn from the seed before there is a world, so that the same plan can be tried on another.
//!
//! A plan names nodes, managers and shards by number and knows nothing else. What cannot be done when its time comes
//! (the node is down already) is skipped by the world that carries it out.

mod plan;

pub use plan::{Plan, Scale};

use serde::{Deserialize, Serialize};

/// One fault: when, for how long, what.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub at_us: u64,
    pub lasts_us: u64,
    pub what: FaultKind,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process dies, with everything that was not synced, and starts again afterwards. `seen`: its agent reports it.
    CrashNode {
        node: usize,
        seen: bool,
    },
    /// Whichever node is the shard's primary at that time dies.
    CrashPrimary {
        shard: u32,
        seen: bool,
    },
    /// Several nodes at once.
    CrashNodes {
        nodes: Vec<usize>,
    },
    CrashManager {
        manager: usize,
    },
    /// Whichever manager leads at that time dies.
    CrashLeader,
    /// The leader gives its leadership away.
    TransferLeadership,
    /// The process does not run, its clock does; what is sent to it waits.
    PauseNode {
        node: usize,
    },
    PausePrimary {
        shard: u32,
    },
    PauseLeader,
    /// Nobody reaches the node and it reaches nobody.
    IsolateNode {
        node: usize,
    },
    IsolateManager {
        manager: usize,
    },
    IsolateLeader,
    /// The nodes of each list reach each other only; managers and clients stay with the first.
    Halves {
        first: Vec<usize>,
    },
    /// What `from` sends to `to` is lost; the other way works.
    OneWay {
        from: usize,
        to: usize,
    },
    /// The shard's primary reaches clients and managers, not the other nodes.
    PrimaryAlone {
        shard: u32,
    },
    /// These nodes and the managers do not reach each other.
    NodesFromManagers {
        nodes: Vec<usize>,
    },
    /// The leader and the shard's primary reach each other and the clients, nobody else. `returns`: the old leader is
    /// elected again when it is over, before it applied what it missed.
    LeaderWithPrimary {
        shard: u32,
        returns: bool,
    },
    /// Much of what these nodes and the managers send each other is lost.
    Flaky {
        nodes: Vec<usize>,
        loss_permille: u32,
    },
    /// No node reaches the managers, longer than a lease; then all do, but much is lost between the shard's primary and them:
    /// it comes back while its failover is under way.
    Flicker {
        shard: u32,
        loss_permille: u32,
    },
    /// A person wants the node empty, and changes his mind afterwards.
    Drain {
        node: usize,
    },
    /// The managers do not reach each other.
    ManagersApart,
    /// A bad network everywhere.
    Noise {
        loss_permille: u32,
        repeat_permille: u32,
        delay_max_us: u64,
    },
    /// Writes to the disk fail and the process ends.
    DiskFails {
        node: usize,
    },
    /// The disk takes nothing for a while.
    DiskHangs {
        node: usize,
    },
    /// A person moves the shard's primary elsewhere.
    Transfer {
        shard: u32,
    },
    /// The node's data folder is gone: it comes back with a new store.
    LoseStore {
        node: usize,
    },
    /// All managers die, or do not run, for longer than a lease.
    NoManagers {
        paused: bool,
    },
    /// The shard's primary reaches no manager, and one of its witnesses is dead: it has no lease, and the others hear it all
    /// the same.
    NeitherLease {
        shard: u32,
    },
    /// A primary whose predecessor on its node died stands still, just when that one's end is told once more.
    PauseSuccessor,
    /// The disk takes no writes any more, and the process on it lives on to say so; then it is restarted on a good one.
    StoreFails {
        node: usize,
    },
    /// One copy of the shard is cut off from the others and falls behind; when that is over the others die, for so long, and a
    /// person forces the promotion of the one that is left. `lose`: they come back with empty disks.
    LeftAlone {
        shard: u32,
        away_us: u64,
        lose: bool,
    },
    /// The shard's primary reaches no manager and serves on with its witnesses, and a person who thinks that it is gone forces
    /// another copy, without saying that it is stopped.
    ForcedBeside {
        shard: u32,
    },
}
