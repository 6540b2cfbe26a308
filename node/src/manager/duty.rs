//! The leader's duty over the nodes: drives the protocol's [`Controller`] and carries out what it decides.
//!
//! One task takes heartbeats, answers of nodes, ticks and changes of the tables in turn. Before it gives heartbeats to
//! the controller it asks the group whether this manager may grant at this moment; when not, they stay unanswered, so
//! that nodes ask another manager. A manager that does not lead refuses them and says who does.

use super::errand::Errands;
use super::forward::{DutyAnswer, DutyQuestion};
use super::group::{Group, not_leader};
use super::lead::Leadership;
use crate::clock;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::{ClusterId, CopyId, NodeId, ProcessId, ShardId};
use understudy_protocol::control::message::{HeartbeatAnswer, HeartbeatRequest};
use understudy_protocol::control::{Action, ControlSettings, Controller, FailoverProgress, Input};
use understudy_protocol::tables::{Command, SettingsChange, Tables};

/// What waits for the task; beyond it callers are told `OVERLOADED`.
const EVENTS_MAX: usize = 16_384;
/// Taken at once: they share one question to the group.
const EVENTS_PER_TURN: usize = 1_024;
/// Several times in the shortest heartbeat interval.
const TICK: Duration = Duration::from_millis(20);

/// How this manager does its duty.
#[derive(Clone, Debug, Default)]
pub struct DutySettings {
    pub control: ControlSettings,
    /// This manager's site: nodes of the same are reached by their inside address.
    pub site: String,
    /// What the leader that founds the cluster writes into the tables.
    pub founding: SettingsChange,
}

/// Where heartbeats and reports go; clones share the task, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Duty {
    events: mpsc::Sender<Event>,
}

/// A duty that ends when nobody else needs it.
#[derive(Debug)]
pub(super) struct WeakDuty(mpsc::WeakSender<Event>);

impl WeakDuty {
    pub(super) fn upgrade(&self) -> Option<Duty> {
        let events = self.0.upgrade()?;
        Some(Duty { events })
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Beat {
        request: Box<HeartbeatRequest>,
        answer: oneshot::Sender<HeartbeatAnswer>,
    },
    Tell(Input),
    /// Answered with whether the leader took it.
    Transfer {
        shard: ShardId,
        target: CopyId,
        answer: oneshot::Sender<bool>,
    },
    Orphans(oneshot::Sender<Option<BTreeMap<NodeId, u64>>>),
    Failover {
        shard: ShardId,
        answer: oneshot::Sender<Option<FailoverProgress>>,
    },
    Writers {
        namespace: String,
        answer: oneshot::Sender<Option<Sites>>,
    },
}

/// By shard and site, in thousandths.
type Sites = BTreeMap<ShardId, BTreeMap<String, u32>>;

impl Duty {
    pub fn start(group: Group, settings: DutySettings) -> Duty {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        group.set_duty(WeakDuty(events.downgrade()));
        let errands = Errands::new(group.clone(), settings.site, events.downgrade());
        let control = ControlSettings {
            election_timeout_max: in_micros(group.config().raft.election_timeout_max),
            ..settings.control
        };
        let worker = Worker {
            group,
            controller: Controller::new(control),
            known: Known::default(),
            errands,
            waiting: BTreeMap::new(),
            founding: settings.founding,
        };
        tokio::spawn(worker.run(inbox));
        Duty { events }
    }

    /// The answer to a node's heartbeat. No answer: this manager leads and may not grant.
    pub async fn beat(&self, request: HeartbeatRequest) -> Result<HeartbeatAnswer, Failure> {
        let (answer, answered) = oneshot::channel();
        let request = Box::new(request);
        self.send(Event::Beat { request, answer })?;
        answered.await.map_err(|_| {
            let why = "this manager leads and no quorum acknowledges it at the moment";
            Failure::no(Reason::NoManager, why)
        })
    }

    /// Has an effect at the leader only.
    pub(super) async fn answer(&self, question: DutyQuestion) -> Result<DutyAnswer, Failure> {
        match question {
            DutyQuestion::Transfer { shard, target } => {
                let (answer, answered) = oneshot::channel();
                self.send(Event::Transfer {
                    shard,
                    target,
                    answer,
                })?;
                match answered.await {
                    Ok(true) => Ok(DutyAnswer::Taken),
                    _ => Err(not_leader(&"it takes over, or steps down")),
                }
            }
            DutyQuestion::Orphans => {
                let (answer, answered) = oneshot::channel();
                self.send(Event::Orphans(answer))?;
                let orphans = answered.await.ok().flatten();
                let orphans = orphans.ok_or_else(|| not_leader(&"it stepped down"))?;
                Ok(DutyAnswer::Orphans(orphans))
            }
            DutyQuestion::Exit(report) => {
                self.send(Event::Tell(Input::ExitReport(report)))?;
                Ok(DutyAnswer::Taken)
            }
            DutyQuestion::Failover { shard } => {
                let (answer, answered) = oneshot::channel();
                self.send(Event::Failover { shard, answer })?;
                let progress = answered.await.map_err(|_| not_leader(&"it stops"))?;
                Ok(DutyAnswer::Failover(progress))
            }
            DutyQuestion::Writers { namespace } => {
                let (answer, answered) = oneshot::channel();
                self.send(Event::Writers { namespace, answer })?;
                let writers = answered.await.ok().flatten();
                let writers = writers.ok_or_else(|| not_leader(&"it stepped down"))?;
                Ok(DutyAnswer::Writers(writers))
            }
        }
    }

    fn send(&self, event: Event) -> Result<(), Failure> {
        self.events.try_send(event).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Failure::no(Reason::Overloaded, "too many heartbeats and reports wait")
            }
            mpsc::error::TrySendError::Closed(_) => {
                Failure::no(Reason::Stopping, "this manager is stopping")
            }
        })
    }
}

fn in_micros(length: Duration) -> understudy_protocol::time::Duration {
    understudy_protocol::time::Duration(length.as_micros() as u64)
}

/// What the controller was told of who leads.
#[derive(Default, PartialEq)]
struct Known {
    leading: Option<Leadership>,
    leader: Option<u64>,
}

struct Worker {
    group: Group,
    controller: Controller,
    known: Known,
    errands: Errands,
    /// Heartbeats of this turn, by process and sequence.
    waiting: BTreeMap<(ProcessId, u64), oneshot::Sender<HeartbeatAnswer>>,
    founding: SettingsChange,
}

impl Worker {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut revisions = self.group.view().revisions();
        let mut events = Vec::new();
        loop {
            tokio::select! {
                count = inbox.recv_many(&mut events, EVENTS_PER_TURN) => {
                    if count == 0 {
                        return;
                    }
                    self.on_events(std::mem::take(&mut events)).await;
                }
                _ = tick.tick() => self.step(vec![Input::Tick { wall_ms: clock::unix_ms() }]),
                _ = revisions.changed() => self.step(vec![Input::TablesChanged]),
            }
        }
    }

    async fn on_events(&mut self, events: Vec<Event>) {
        let mut inputs = Vec::new();
        let mut beats = Vec::new();
        let mut transfers = Vec::new();
        for event in events {
            match event {
                Event::Tell(input) => inputs.push(input),
                Event::Transfer {
                    shard,
                    target,
                    answer,
                } => {
                    inputs.push(Input::TransferWanted { shard, target });
                    transfers.push(answer);
                }
                Event::Orphans(answer) => {
                    // Who asked may have given up meanwhile.
                    let _ = answer.send(self.controller.orphans());
                }
                Event::Failover { shard, answer } => {
                    let controller = &self.controller;
                    let look = |tables: &Tables| controller.failover(clock::now(), tables, shard);
                    let _ = answer.send(self.group.view().look(look));
                }
                Event::Writers { namespace, answer } => {
                    let look = |tables: &Tables| {
                        let rows = tables.namespaces();
                        let rows = rows.filter(|row| namespace.is_empty() || row.name == namespace);
                        self.controller
                            .writers(rows.flat_map(|row| row.shard_ids()))
                    };
                    let _ = answer.send(self.group.view().look(look));
                }
                Event::Beat { request, answer } => {
                    self.waiting
                        .insert((request.process, request.sequence), answer);
                    beats.push(Input::Heartbeat(*request));
                }
            }
        }
        if !beats.is_empty() && self.may_answer(&mut inputs).await {
            inputs.extend(beats);
        }
        self.step(inputs);
        for answer in transfers {
            // Who asked may have given up meanwhile.
            let _ = answer.send(self.controller.acts());
        }
        // Who was not answered is told so at once, by the dropped sender.
        self.waiting.clear();
    }

    /// Whether heartbeats go to the controller: always on a follower, which refuses them; on a leader only while a
    /// quorum acknowledges it, asked after they arrived.
    async fn may_answer(&mut self, inputs: &mut Vec<Input>) -> bool {
        let before = clock::now();
        let Some(leading) = self.group.leadership() else {
            return true;
        };
        let acknowledged = self.group.acknowledged().await == Some(leading.term);
        if acknowledged {
            inputs.push(Input::QuorumAcked { sent: before });
        }
        acknowledged
    }

    /// Tells the controller who leads, then the inputs, and carries out what comes of it.
    fn step(&mut self, inputs: Vec<Input>) {
        let news = self.leadership_news();
        let mut actions = Vec::new();
        let controller = &mut self.controller;
        self.group.view().look(|tables| {
            for input in news.into_iter().chain(inputs) {
                controller.step(clock::now(), tables, input, &mut actions);
            }
        });
        for action in actions {
            self.carry_out(action);
        }
    }

    fn leadership_news(&mut self) -> Vec<Input> {
        let now = Known {
            leading: self.group.leadership(),
            leader: self.group.leader().leader,
        };
        let before = std::mem::replace(&mut self.known, now);
        if before == self.known {
            return Vec::new();
        }
        let Some(leading) = self.known.leading else {
            let leader = self.known.leader.map(NodeId);
            return vec![Input::SteppedDown { leader }];
        };
        let same_term = |old: &Leadership| old.term == leading.term;
        let old = before.leading.filter(same_term);
        let mut news = Vec::new();
        let term = leading.term;
        if old.is_none() {
            tracing::info!(term, manager = self.group.id(), "this manager leads");
            news.push(Input::Elected { term });
        }
        if leading.own_term_applied && !old.is_some_and(|old| old.own_term_applied) {
            news.push(Input::OwnTermApplied { term });
            self.found_and_settle();
        }
        if leading.closing && !old.is_some_and(|old| old.closing) {
            news.push(Input::TransferringLeadership);
        }
        news
    }

    /// What the first leader of a cluster, and one with a longer election timeout, writes into the tables.
    fn found_and_settle(&mut self) {
        let own = in_micros(self.group.config().raft.election_timeout_max);
        let (founded, timeout) = self.group.view().look(|tables| {
            (
                tables.cluster().is_some(),
                tables.settings().election_timeout_max,
            )
        });
        if !founded {
            let cluster = ClusterId(rand::random());
            self.errands.propose(Command::Found { cluster });
            if self.founding != SettingsChange::default() {
                let founding = self.founding.clone();
                self.errands.propose(Command::SetSettings(founding));
            }
        }
        if timeout < own {
            self.errands.propose(Command::SetSettings(SettingsChange {
                election_timeout_max: Some(own),
                ..SettingsChange::default()
            }));
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::AnswerHeartbeat(answer) => {
                if let Some(waiting) = self.waiting.remove(&(answer.process, answer.sequence)) {
                    // The node may have given up meanwhile.
                    let _ = waiting.send(answer);
                }
            }
            Action::Propose(command) => self.errands.propose(command),
            Action::Seal(request) => self.errands.seal(request),
            Action::HandOver(request) => self.errands.hand_over(request),
            Action::Warn(warning) => tracing::warn!(?warning, "the leading manager"),
            Action::Restart(request) => self.errands.restart(request),
        }
    }
}
