//! What a manager group is started with: who is in it, its Raft timing, when its log is cut.

use super::types::ManagerNode;
use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;

/// Everything that [`super::Group::start`] needs.
#[derive(Clone)]
pub struct GroupConfig {
    /// This manager's id: never that of another manager, also not of a removed one.
    pub id: u64,
    /// The data folder; the log is in `raft/` inside it, snapshots in `snapshot/`.
    pub folder: PathBuf,
    /// The managers that form the group at its first start, the same list in each one's config. Ignored once the
    /// folder holds a log. Empty: this manager waits until it is added.
    pub initial_managers: BTreeMap<u64, ManagerNode>,
    pub raft: RaftSettings,
    pub dial: Dial,
}

/// How a connection to a host:port is described (TLS is put in here).
pub type Dial = Arc<dyn Fn(&str) -> Result<Endpoint, String> + Send + Sync>;

/// Plain text.
pub fn dial_plain() -> Dial {
    Arc::new(|address| {
        Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())
    })
}

/// Raft's timing and the length of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    pub heartbeat: Duration,
    pub election_timeout_min: Duration,
    /// "The election timeout" of the protocol is always this one.
    pub election_timeout_max: Duration,
    /// Entries after which a snapshot is made and the log before it can go.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for members that are only a little behind.
    pub log_kept: u64,
}

impl Default for RaftSettings {
    fn default() -> RaftSettings {
        RaftSettings {
            heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            snapshot_every: 10_000,
            log_kept: 2_000,
        }
    }
}

impl RaftSettings {
    pub(super) fn openraft(&self) -> Result<Arc<Config>, String> {
        let config = Config {
            cluster_name: "understudy".to_string(),
            heartbeat_interval: self.heartbeat.as_millis() as u64,
            election_timeout_min: self.election_timeout_min.as_millis() as u64,
            election_timeout_max: self.election_timeout_max.as_millis() as u64,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_kept,
            // A member further behind than the log reaches gets a snapshot anyway; never one that is nearer.
            replication_lag_threshold: u64::MAX / 2,
            // One message holds at most so many entries; the largest command stays far below the message limit.
            max_payload_entries: 64,
            install_snapshot_timeout: 60_000,
            backoff: "20ms 40ms ...200ms".to_string(),
            enable_pre_vote: Some(true),
            // Unset means true: a restarted leader would lead on without a new term.
            enable_leader_restore: Some(false),
            // A leader that is removed hands over first, see `Group::remove_manager`.
            removed_leader_step_down: StepDownPolicy::Never,
            ..Config::default()
        };
        let config = config.validate().map_err(|error| error.to_string())?;
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for GroupConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupConfig")
            .field("id", &self.id)
            .field("folder", &self.folder)
            .field("initial_managers", &self.initial_managers)
            .field("raft", &self.raft)
            .finish_non_exhaustive()
    }
}
