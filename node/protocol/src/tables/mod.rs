//! The manager's replicated tables: membership, naming, sessions, user bindings and cluster settings.
//!
//! They change in one way only: [`Tables::apply`] of an [`Envelope`] at its index of the managers' log. Apply is pure
//! and deterministic, so that every manager that applied the same log holds equal tables. Reading is by `&Tables`.
//! The controllers in [`crate::control`] look at the tables and propose commands; they never change them.

mod answers;
mod apply;
pub mod bindings;
pub mod command;
pub mod entry;
pub mod forced;
mod in_sync;
pub mod invariants;
pub mod membership;
pub mod naming;
pub mod sessions;
pub mod settings;
pub mod snapshot;
mod state;
pub mod watch;
mod witness;

#[cfg(test)]
mod forced_tests;
#[cfg(test)]
mod in_sync_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod witness_tests;

pub use apply::Applied;
pub use bindings::Binding;
pub use command::{Answer, Command, EntryChange, EntryOp, Envelope, Refusal};
pub use entry::{Begun, OpenCut, ShardEntry};
pub use forced::Forced;
pub use membership::{Address, BootId, LaunchId, NodeEntry, NodeState, Registration};
pub use naming::{ConflictPolicy, Forward, Namespace, NamespaceSettings, Policy};
pub use sessions::{Session, SessionState};
pub use settings::{ClusterSettings, SettingsChange};
pub use snapshot::SnapshotError;
pub use state::Tables;
pub use watch::{Change, Changed, Compacted};
