//! The manager group as the rest of the node sees it: propose a command, read the tables, change the managers, stop.
//!
//! Any manager takes any call: one that does not lead passes it to the leader. Commands bear request ids and run once,
//! so looking for the leader again after a lost answer is safe. Linearizable reads ask the leader for its read index and
//! wait until this manager has applied it.

use super::duty::WeakDuty;
use super::forward::{DutyAnswer, DutyQuestion, Forwarded, ManagerChange};
use super::identity::Identity;
use super::log::Log;
use super::machine::{Machine, View};
use super::network::Links;
use super::server::CallCounts;
use super::settings::GroupConfig;
use super::snapshot::Snapshots;
use super::types::{LogId, ManagerNode, Proposal, Raft, TypeConfig};
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::{Linearizer, ReadLogId};
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_protocol::tables::{Answer, Envelope, Refusal};

/// How long to wait before the leader is looked for again when nothing else tells.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// This manager's membership in the group; clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    view: View,
    links: Links,
    identity: Arc<Identity>,
    calls: CallCounts,
    config: GroupConfig,
    recovered: watch::Sender<bool>,
    /// In this term and before it no heartbeat is answered: leadership is, or was, being handed over.
    closed_term: AtomicU64,
    /// How long the machine had been suspended when a quorum last confirmed this leader after that, in microseconds.
    suspended_seen: AtomicU64,
    log_closed: Mutex<Option<oneshot::Receiver<()>>>,
    /// What this manager does for the nodes while it leads; set once, when that begins.
    duty: OnceLock<WeakDuty>,
}

/// Why a manager does not start.
#[derive(Debug)]
pub enum StartError {
    /// The process ends with status 3; nothing was changed in the folder.
    FolderUnusable(String),
    Config(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::FolderUnusable(why) => write!(f, "the data folder is unusable: {why}"),
            StartError::Config(why) => write!(f, "the manager's configuration: {why}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Group {
    /// Opens the folder, rebuilds the tables, and joins or forms the group. The `Raft` service has to be served from
    /// now on; nothing is answered from the tables before [`Group::recovered`].
    pub async fn start(config: GroupConfig) -> Result<Group, StartError> {
        let initial = &config.initial_managers;
        if !initial.is_empty() && !initial.contains_key(&config.id) {
            let id = config.id;
            return Err(StartError::Config(format!(
                "initial_managers does not name manager {id}"
            )));
        }
        let raft_config = config.raft.openraft().map_err(StartError::Config)?;
        let unusable = |what: &'static str| {
            move |error: std::io::Error| StartError::FolderUnusable(format!("{what}: {error}"))
        };
        let (log, log_closed) =
            Log::open(&config.folder.join("raft")).map_err(unusable("the managers' log"))?;
        let snapshots = Snapshots::open(&config.folder.join("snapshot"))
            .map_err(unusable("the tables' snapshot"))?;
        let identity = Identity::open(log.clone(), config.id, initial)
            .map_err(unusable("the managers' log"))?;
        let identity = Arc::new(identity);
        let limit = config.raft.election_timeout_min;
        let links = Links::new(identity.clone(), config.dial.clone(), limit);
        let tail = log.last_index();
        let machine = Machine::new(snapshots);
        let view = machine.view();
        let raft = Raft::new(config.id, raft_config, links.clone(), log, machine)
            .await
            .map_err(|error| StartError::FolderUnusable(error.to_string()))?;
        let group = Group {
            inner: Arc::new(Inner {
                raft,
                view,
                links,
                identity,
                calls: CallCounts::default(),
                config,
                recovered: watch::Sender::new(false),
                closed_term: AtomicU64::new(0),
                suspended_seen: AtomicU64::new(crate::clock::suspended().0),
                log_closed: Mutex::new(Some(log_closed)),
                duty: OnceLock::new(),
            }),
        };
        group.form().await?;
        tokio::spawn(group.clone().recover(tail));
        tokio::spawn(group.clone().learn_cluster());
        Ok(group)
    }

    /// The first start of an initial manager. Each does it with the same list, which is safe.
    async fn form(&self) -> Result<(), StartError> {
        let initial = self.inner.config.initial_managers.clone();
        if initial.is_empty() {
            return Ok(());
        }
        match self.inner.raft.initialize(initial).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::FolderUnusable(error.to_string())),
        }
    }

    /// Waits until what this log held at the start is known to be committed or replaced, and is applied.
    async fn recover(self, tail: Option<u64>) {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let done = {
                let now = metrics.borrow_and_update();
                let committed = now.cluster_committed.map(|id| id.index);
                let applied = now.last_applied.map(|id| id.index);
                // The tail may have been replaced by a shorter one.
                committed.is_some()
                    && committed >= tail.min(now.last_log_index)
                    && applied >= committed
            };
            if done {
                self.inner.recovered.send_replace(true);
                return;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the cluster's id when the tables name it.
    async fn learn_cluster(self) {
        let mut revisions = self.inner.view.revisions();
        loop {
            if let Some(cluster) = self.inner.view.look(|tables| tables.cluster()) {
                if let Err(error) = self.inner.identity.founded(cluster) {
                    tracing::error!(%error, "the cluster's id was not kept");
                }
                return;
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    pub fn id(&self) -> u64 {
        self.inner.config.id
    }

    /// Wakes, and says true, once the tables are what they were before the restart.
    pub fn recovered(&self) -> watch::Receiver<bool> {
        self.inner.recovered.subscribe()
    }

    /// Calls of other managers so far.
    pub fn calls(&self) -> &CallCounts {
        &self.inner.calls
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(super) fn links(&self) -> &Links {
        &self.inner.links
    }

    pub(super) fn config(&self) -> &GroupConfig {
        &self.inner.config
    }

    pub(super) fn closed_term(&self) -> &AtomicU64 {
        &self.inner.closed_term
    }

    pub(super) fn suspended_seen(&self) -> &AtomicU64 {
        &self.inner.suspended_seen
    }

    pub(super) fn log_closed(&self) -> Option<oneshot::Receiver<()>> {
        self.inner.log_closed.lock().take()
    }

    /// The tables as this manager has them, to look at without any promise how old they are.
    pub(super) fn view(&self) -> &View {
        &self.inner.view
    }
}

/// What a command came to, when it certainly ran.
pub type Answered = Result<Answer, Refusal>;

/// Commands and reads.
impl Group {
    /// Runs the command once, wherever the leader is.
    ///
    /// A failure says whether it may have run; asking again under the same request id is safe in any case.
    pub async fn propose(&self, envelope: Envelope, limit: Duration) -> Result<Answered, Failure> {
        self.at_the_leader(limit, |leader, left| {
            let envelope = envelope.clone();
            async move {
                match leader {
                    Leader::Here => self.propose_here(envelope, left).await,
                    Leader::At(node) => Forwarded::command(self, &node, &envelope, left).await,
                }
            }
        })
        .await
    }

    /// The tables with everything that was acknowledged, by any manager, before this call.
    pub async fn read(&self, limit: Duration) -> Result<View, Failure> {
        let end = Instant::now() + limit;
        let index = self
            .at_the_leader(limit, |leader, left| async move {
                match leader {
                    Leader::Here => self.read_index_here(left).await,
                    Leader::At(node) => Forwarded::read_index(self, &node, left).await,
                }
            })
            .await
            // A read changes nothing.
            .map_err(|failure| Failure {
                applied: Applied::No,
                ..failure
            })?;
        let left = end.saturating_duration_since(Instant::now());
        let wait = Linearizer::new(self.id(), ReadLogId::from_log_id(index), None);
        match wait.try_await_ready(self.raft(), Some(left)).await {
            Ok(Ok(_)) => Ok(self.inner.view.clone()),
            Ok(Err(_)) => Err(Failure::no(
                Reason::DeadlinePassed,
                "this manager is behind the leader",
            )),
            Err(error) => Err(stopped(&error)),
        }
    }

    /// The tables as this manager has them, which may be old.
    pub fn stale(&self) -> Result<View, Failure> {
        if !*self.inner.recovered.borrow() {
            return Err(Failure::no(
                Reason::Starting,
                "this manager has not recovered its tables yet",
            ));
        }
        Ok(self.inner.view.clone())
    }

    /// Calls `ask` with the leader until it gives an answer that is not about who leads, or time is over.
    async fn at_the_leader<T, Asked>(
        &self,
        limit: Duration,
        ask: impl Fn(Leader, Duration) -> Asked,
    ) -> Result<T, Failure>
    where
        Asked: Future<Output = Result<T, Failure>>,
    {
        let end = Instant::now() + limit;
        let mut applied = Applied::No;
        loop {
            let leader = self
                .find_leader(end)
                .await
                .map_err(|failure| Failure { applied, ..failure })?;
            let left = end.saturating_duration_since(Instant::now());
            let failure = match ask(leader, left).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if failure.applied == Applied::Unknown {
                applied = Applied::Unknown;
            }
            let elsewhere = matches!(
                failure.reason,
                Reason::NotLeader | Reason::NoManager | Reason::PeerUnreachable | Reason::Stopping
            );
            let late = Instant::now() + LOOK_AGAIN >= end;
            if late && failure.reason == Reason::NotLeader {
                return Err(Failure::new(
                    Reason::NoManager,
                    applied,
                    "the managers agreed on no leader in time",
                ));
            }
            if late || !elsewhere || self.has_stopped() {
                return Err(Failure { applied, ..failure });
            }
            self.news_within(LOOK_AGAIN).await;
        }
    }

    async fn find_leader(&self, end: Instant) -> Result<Leader, Failure> {
        loop {
            if let Some(leader) = self.known_leader() {
                return Ok(leader);
            }
            if self.has_stopped() {
                return Err(Failure::no(Reason::Stopping, "this manager is stopping"));
            }
            if Instant::now() >= end {
                return Err(Failure::no(
                    Reason::NoManager,
                    "the managers have no leader at the moment",
                ));
            }
            self.news_within(end - Instant::now()).await;
        }
    }

    fn known_leader(&self) -> Option<Leader> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        if id == self.id() {
            return Some(Leader::Here);
        }
        metrics
            .membership_config
            .membership()
            .get_node(&id)
            .cloned()
            .map(Leader::At)
    }

    fn has_stopped(&self) -> bool {
        self.raft()
            .metrics()
            .borrow_watched()
            .running_state
            .is_err()
    }

    /// Waits for news of Raft, a short time at most: news may have come just before.
    pub(super) async fn news_within(&self, limit: Duration) {
        let mut metrics = self.raft().metrics();
        metrics.borrow_and_update();
        let _ = tokio::time::timeout(limit.min(LOOK_AGAIN), metrics.changed()).await;
    }
}

/// Where the leader is.
enum Leader {
    Here,
    At(ManagerNode),
}

/// What only the leader can do.
impl Group {
    pub(super) async fn propose_here(
        &self,
        envelope: Envelope,
        limit: Duration,
    ) -> Result<Answered, Failure> {
        let writing = self.raft().client_write(Proposal(envelope));
        let written = match tokio::time::timeout(limit, writing).await {
            Ok(written) => written,
            Err(_) => {
                let why = "the managers did not agree in time";
                return Err(Failure::unknown(Reason::DeadlinePassed, why));
            }
        };
        match written {
            Ok(response) => response.data.0.ok_or_else(|| {
                Failure::unknown(
                    Reason::Internal,
                    "a command was answered as if it were none",
                )
            }),
            Err(RaftError::Fatal(error)) => Err(stopped(&error)),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Err(
                Failure::unknown(Reason::NotLeader, "leadership changed under the command"),
            ),
            Err(RaftError::APIError(error)) => Err(not_leader(&error)),
        }
    }

    pub(super) async fn read_index_here(&self, limit: Duration) -> Result<LogId, Failure> {
        let asked = tokio::time::timeout(
            limit,
            self.raft().get_read_linearizer(ReadPolicy::ReadIndex),
        );
        match asked.await {
            Ok(Ok(linearizer)) => Ok(*linearizer.read_log_id().log_id()),
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(&error)),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)))) => {
                Err(Failure::no(Reason::NoManager, error.to_string()))
            }
            Ok(Err(RaftError::APIError(error))) => Err(not_leader(&error)),
            Err(_) => Err(Failure::no(
                Reason::NoManager,
                "no quorum of managers answered in time",
            )),
        }
    }

    /// Asks the leader's duty, wherever the leader is.
    pub async fn duty(
        &self,
        question: DutyQuestion,
        limit: Duration,
    ) -> Result<DutyAnswer, Failure> {
        self.at_the_leader(limit, |leader, left| {
            let question = question.clone();
            async move {
                match leader {
                    Leader::Here => self.duty_here(question).await,
                    Leader::At(node) => Forwarded::duty(self, &node, &question, left).await,
                }
            }
        })
        .await
    }

    /// Asks this manager's duty; refused unless it leads.
    pub(super) async fn duty_here(&self, question: DutyQuestion) -> Result<DutyAnswer, Failure> {
        if !self.leader().here {
            return Err(not_leader(&"another one does, or none"));
        }
        let duty = self.inner.duty.get().and_then(WeakDuty::upgrade);
        let duty = duty.ok_or_else(|| Failure::no(Reason::Stopping, "this manager is stopping"))?;
        duty.answer(question).await
    }

    pub(super) fn set_duty(&self, duty: WeakDuty) {
        if self.inner.duty.set(duty).is_err() {
            unreachable!("a group has one duty");
        }
    }

    /// Changes the managers, wherever the leader is.
    pub(super) async fn change_managers(
        &self,
        change: ManagerChange,
        limit: Duration,
    ) -> Result<(), Failure> {
        self.at_the_leader(limit, |leader, left| {
            let change = change.clone();
            async move {
                match leader {
                    Leader::Here => self.change_managers_here(change, left).await,
                    Leader::At(node) => {
                        Forwarded::change_managers(self, &node, &change, left).await
                    }
                }
            }
        })
        .await
    }
}

pub(super) fn not_leader(error: &impl fmt::Display) -> Failure {
    Failure::no(
        Reason::NotLeader,
        format!("this manager does not lead: {error}"),
    )
}

pub(super) fn stopped(error: &openraft::errors::Fatal<TypeConfig>) -> Failure {
    let reason = match error {
        openraft::errors::Fatal::StorageError(_) => Reason::StorageFailed,
        _ => Reason::Stopping,
    };
    Failure::unknown(reason, format!("this manager's group has stopped: {error}"))
}

impl Group {
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.inner.identity
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
