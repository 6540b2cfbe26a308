//! The manager: one Raft group that keeps the tables, and the leader's duty over the nodes.
//!
//! The only folder that names openraft. [`Group`] is the group as the rest of the node sees it; how it is stored and
//! recovered is told in `docs/manager-raft.md`.

mod change;
mod codec;
mod describe;
mod duty;
mod errand;
mod flush;
mod forward;
mod group;
mod identity;
mod lead;
mod log;
mod machine;
mod network;
mod server;
mod settings;
mod snapshot;
mod types;

#[cfg(test)]
mod tests;

/// Below this name every manager binds its public address.
pub const MANAGER_BINDINGS: &str = "understudy/managers/";

pub use change::{Manager, parse_managers};
pub use duty::{Duty, DutySettings};
pub use forward::{DutyAnswer, DutyQuestion};
pub use group::{Answered, Group, StartError};
pub use lead::LeaderView;
pub use machine::View;
pub use server::{CallCounts, RaftServer};
pub use settings::{Dial, GroupConfig, RaftSettings, dial_plain};
pub use types::ManagerNode;
