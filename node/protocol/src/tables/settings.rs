//! Settings of the whole cluster that the lease arithmetic and the controllers read, with their rules.
//!
//! Lengths that somebody waits out live here and not in a process's own file, so that the process that grants and the
//! one that waits agree. A longer lease counts at once; a shorter one is granted at once, while every wait still uses
//! `lease_longest` until the leader has seen the longer one pass and lowers it.

use super::command::{Refusal, invalid};
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use understudy_proto::ids::{ClusterId, Revision};

/// The longest lease that can be set.
pub const LEASE_MAX: Duration = Duration::from_millis(600_000);

/// What holds for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// `None` until the first manager founded the cluster.
    pub cluster: Option<ClusterId>,
    /// Of the last change of these settings.
    pub revision: Revision,
    /// Node to manager, primary to copy; not Raft's.
    pub heartbeat_interval: Duration,
    /// What somebody set; `None` derives it from the interval.
    pub lease_set: Option<Duration>,
    /// The longest lease that may still be in force. At least [`ClusterSettings::lease`].
    pub lease_longest: Duration,
    /// The longest lease that was ever set. A copy's process waits it out after its start before it lets itself be sealed: a
    /// primary that reaches no manager may ask its witnesses for an old length for as long as it likes. Never lowered.
    pub lease_ever: Duration,
    /// The maximum of the managers' Raft election timeout. Only ever raised.
    pub election_timeout_max: Duration,
    /// How long a lazy failover waits for slower candidates after the first one was sealed.
    pub slower_candidates_wait: Duration,
    /// How long a copy's node stays away before another node gets a copy in its place.
    pub replace_after: Duration,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            cluster: None,
            revision: Revision::ZERO,
            heartbeat_interval: Duration::from_millis(100),
            lease_set: None,
            lease_longest: Duration::from_millis(1_000),
            lease_ever: Duration::from_millis(1_000),
            election_timeout_max: Duration::from_millis(300),
            slower_candidates_wait: Duration::from_millis(100),
            replace_after: Duration::from_millis(30_000),
        }
    }
}

impl ClusterSettings {
    /// The lease that is granted from now on.
    pub fn lease(&self) -> Duration {
        let derived = self
            .heartbeat_interval
            .scale(5, 2)
            .max(Duration::from_millis(1_000));
        self.lease_set.unwrap_or(derived)
    }

    /// Without a heartbeat for so long a node is down: its failovers begin. Never before a lease can be over.
    pub fn down_after(&self) -> Duration {
        self.lease().max(self.heartbeat_interval.scale(5, 2))
    }

    /// Without a heartbeat for so long a node is suspect, which is shown and nothing else.
    pub fn suspect_after(&self) -> Duration {
        self.down_after()
            .scale(1, 2)
            .max(self.heartbeat_interval.scale(3, 2))
    }

    /// What the holder takes off: 1 %, at least 5 ms.
    pub fn drift_allowance(lease: Duration) -> Duration {
        lease.scale(1, 100).max(Duration::from_millis(5))
    }

    /// The settings after `change`, or what is wrong with it.
    pub(super) fn changed(&self, change: &SettingsChange) -> Result<ClusterSettings, Refusal> {
        let mut new = self.clone();
        new.heartbeat_interval = change.heartbeat_interval.unwrap_or(new.heartbeat_interval);
        match change.lease {
            Some(Duration::ZERO) => new.lease_set = None,
            Some(lease) => new.lease_set = Some(lease),
            None => {}
        }
        new.election_timeout_max = change
            .election_timeout_max
            .unwrap_or(new.election_timeout_max);
        new.slower_candidates_wait = change
            .slower_candidates_wait
            .unwrap_or(new.slower_candidates_wait);
        new.replace_after = change.replace_after.unwrap_or(new.replace_after);
        new.lease_longest = new.lease_longest.max(new.lease());
        new.lease_ever = new.lease_ever.max(new.lease());
        new.check(self)?;
        Ok(new)
    }

    fn check(&self, old: &ClusterSettings) -> Result<(), Refusal> {
        let ms = Duration::from_millis;
        if self.heartbeat_interval < ms(50) || self.heartbeat_interval > ms(60_000) {
            return Err(invalid("heartbeat_interval", "has to be 50 ms to 60 s"));
        }
        if self.election_timeout_max < old.election_timeout_max {
            return Err(invalid("election_timeout_max", "can only be raised"));
        }
        if self.election_timeout_max > ms(60_000) {
            return Err(invalid("election_timeout_max", "has to be at most 60 s"));
        }
        let least = self.election_timeout_max.scale(2, 1) + self.heartbeat_interval.scale(2, 1);
        if self.lease() < least {
            let why = "has to be at least 2 x election timeout max + 2 x heartbeat interval";
            return Err(invalid("lease", why));
        }
        if self.lease() > LEASE_MAX {
            return Err(invalid("lease", "has to be at most 10 minutes"));
        }
        if self.slower_candidates_wait > ms(60_000) {
            return Err(invalid("slower_candidates_wait", "has to be at most 60 s"));
        }
        Ok(())
    }
}

/// What a person sets; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SettingsChange {
    pub heartbeat_interval: Option<Duration>,
    /// Zero takes the setting back: the lease is then derived from the interval.
    pub lease: Option<Duration>,
    pub election_timeout_max: Option<Duration>,
    pub slower_candidates_wait: Option<Duration>,
    pub replace_after: Option<Duration>,
}
