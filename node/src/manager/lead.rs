//! Leadership: who leads, whether this leader may still grant, and handing it over.
//!
//! A leader may grant leases only while [`Group::acknowledged`] says so: a quorum acknowledged an append that was sent
//! within the election timeout, the first entry of this term is applied, leadership is not being handed over, and the
//! machine did not sleep unnoticed by the clock that openraft counts on.

use super::group::Group;
use super::types::LogId;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use understudy_proto::failure::{Failure, Reason};

/// `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC` are read one after the other, so their difference trembles; a sleep shorter
/// than this passes unseen and is far below the drift allowance.
const SLEEP_UNSEEN_US: u64 = 1_000;

/// What is known here about the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderView {
    pub term: u64,
    /// `None`: none known.
    pub leader: Option<u64>,
    /// This manager leads, as far as it knows; not to be granted upon.
    pub here: bool,
}

/// What the duty has to know of this manager's own leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leadership {
    pub(super) term: u64,
    /// The first entry of the term is applied to this manager's tables.
    pub(super) own_term_applied: bool,
    /// Leadership is being handed over.
    pub(super) closing: bool,
}

impl Group {
    pub(super) fn leadership(&self) -> Option<Leadership> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state.is_leader() && metrics.running_state.is_ok();
        leads.then(|| Leadership {
            term: metrics.current_term,
            own_term_applied: metrics
                .last_applied
                .is_some_and(|id| id.leader_id == *metrics.vote.leader_id()),
            closing: metrics.current_term <= self.closed_term().load(Ordering::SeqCst),
        })
    }

    /// What is known here about the leader. Old news on a manager that is cut off.
    pub fn leader(&self) -> LeaderView {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        LeaderView {
            term: metrics.current_term,
            leader: metrics.current_leader,
            here: metrics.state.is_leader() && metrics.current_leader == Some(self.id()),
        }
    }

    /// Wakes whenever what is known about the leader changes. Ends when the group stops.
    pub fn leader_changes(&self) -> watch::Receiver<LeaderView> {
        let (sender, receiver) = watch::channel(self.leader());
        let group = self.clone();
        let mut metrics = self.raft().metrics();
        tokio::spawn(async move {
            while metrics.changed().await.is_ok() && !sender.is_closed() {
                let now = group.leader();
                sender.send_if_modified(|known| std::mem::replace(known, now) != now);
            }
        });
        receiver
    }

    /// The term in which this manager leads and may grant, judged at this moment. Asked after a request has arrived,
    /// for every request.
    pub async fn acknowledged(&self) -> Option<u64> {
        let term = self.confirm(ReadPolicy::LeaseRead).await?;
        let suspended = crate::clock::suspended().0;
        let seen = self.suspended_seen().load(Ordering::SeqCst);
        if suspended <= seen + SLEEP_UNSEEN_US {
            return Some(term);
        }
        // openraft counts on a clock that stood still meanwhile: only a round with a quorum tells.
        let confirmed = self.confirm(ReadPolicy::ReadIndex).await?;
        self.suspended_seen().fetch_max(suspended, Ordering::SeqCst);
        Some(confirmed)
    }

    async fn confirm(&self, policy: ReadPolicy) -> Option<u64> {
        let linearizer = self.raft().get_read_linearizer(policy).await.ok()?;
        let of_term = *linearizer.read_log_id().committed_leader_id();
        let own_entry_applied = linearizer
            .applied()
            .is_some_and(|id: &LogId| id.leader_id == of_term);
        let open = of_term.term > self.closed_term().load(Ordering::SeqCst);
        (own_entry_applied && open).then_some(of_term.term)
    }

    /// Hands leadership to the voter that is furthest; done when another manager leads. Heartbeats are not answered
    /// from now on, until this manager is elected again.
    ///
    /// A leader that was asked to hand over sends no more heartbeats, so if the target does not take over the others
    /// elect somebody. That may be this manager again: then it is asked again.
    pub async fn transfer_leadership(&self, limit: Duration) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        let mut asked = None;
        loop {
            let now = self.leader();
            if now.here && asked != Some(now.term) {
                self.ask_to_lead(now.term).await?;
                asked = Some(now.term);
            } else if !now.here && now.leader.is_some_and(|leader| leader != self.id()) {
                return Ok(());
            }
            if Instant::now() >= end {
                let why = "no other manager took over leadership in time";
                return Err(Failure::no(Reason::DeadlinePassed, why));
            }
            self.news_within(end - Instant::now()).await;
        }
    }

    async fn ask_to_lead(&self, term: u64) -> Result<(), Failure> {
        let Some(target) = self.furthest_voter() else {
            let why = "there is no other manager to lead";
            return Err(Failure::no(Reason::NotAllowed, why));
        };
        self.closed_term().fetch_max(term, Ordering::SeqCst);
        let asked = self.raft().trigger().transfer_leader(target).await;
        asked.map_err(|error| super::group::stopped(&error))
    }

    fn furthest_voter(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?;
        let voters = metrics
            .membership_config
            .voter_ids()
            .filter(|id| *id != self.id());
        voters.max_by_key(|id| {
            matched
                .get(id)
                .and_then(|matched| matched.map(|id| id.index))
        })
    }

    /// A clean stop: hands over if this manager leads, then stops.
    pub async fn transfer_and_stop(&self, limit: Duration) {
        let end = Instant::now() + limit;
        // Half of the time for the hand-over: without one the others elect by themselves.
        if let Err(failure) = self.transfer_leadership(limit / 2).await {
            tracing::info!(%failure, "stopping without handing leadership over");
        }
        self.stop(end.saturating_duration_since(Instant::now()))
            .await;
    }

    /// Stops at once. When it returns the folder can be opened again, unless the limit passed.
    pub async fn stop(&self, limit: Duration) {
        // What was acknowledged is durable; what was not is allowed to be lost.
        let _ = tokio::time::timeout(limit, self.raft().shutdown()).await;
        self.identity().close();
        if let Some(closed) = self.log_closed() {
            let _ = tokio::time::timeout(limit, closed).await;
        }
    }
}
