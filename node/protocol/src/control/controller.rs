//! The entry to the leader's controllers: one input at a time, at a given time, over the tables as applied here.
//!
//! A manager has one from its start. It does nothing but refuse heartbeats until it is elected, and forgets everything
//! when it steps down. Inputs may come late, twice and in any order.

use super::leader::{Leader, Turn};
use super::message::{
    ExitReport, FailoverProgress, HandOverAnswer, HandOverRequest, HeartbeatAnswer,
    HeartbeatOutcome, HeartbeatRefusal, HeartbeatRequest, RestartRequest, SealAnswer, SealRequest,
};
use crate::tables::{Command, Tables};
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use understudy_proto::ids::{CopyId, NodeId, ProcessId, ShardId};

/// How eager a leader is; nothing here touches safety.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// This manager's own maximum; waits use the longer one of this and the tables'. Grants use the shorter.
    pub election_timeout_max: Duration,
    /// After so long without effect a proposal is made again.
    pub propose_again: Duration,
    /// After so long without an answer a seal or hand-over is asked again.
    pub ask_again: Duration,
    /// How long a primary may hold requests for a hand-over.
    pub hand_over_limit: Duration,
    /// Shards that one process hands over at a time.
    pub hand_overs_max: usize,
    /// Copies that join at one node at a time, apart from first placements.
    pub joins_max: usize,
    /// How long a first placement waits for more nodes when there are too few.
    pub placement_patience: Duration,
    /// How often the tables' clock is raised.
    pub clock_interval: Duration,
    /// How far a new leader's wall clock may be from the median of the nodes' for a step.
    pub clock_skew_limit: Duration,
    /// How often session activity is written.
    pub renewal_interval: Duration,
    /// Shards that are planned in one step; the others wait for the next.
    pub plans_per_step: usize,
    /// After so long down, or with a store that takes no writes, the agent is asked to restart a process; again after twice that, four times, and so on.
    pub restart_after: Duration,
    /// So many exits and restarts, and a node that is down is not waited for any more: its copies go elsewhere.
    pub restarts_max: u32,
    /// After so long without another one, exits and restarts are forgotten.
    pub restart_forgets: Duration,
    /// After so long with every node up and every shard whole, copies and primaries are moved to where there are fewer; zero: never.
    pub balance_after: Duration,
    /// Between two such moves at least.
    pub balance_pause: Duration,
    /// Where the primary follows its writers: a site leads with so many per cent of the updates at least,
    pub near_writers_share: u32,
    /// and so many per cent of all more than the primary's site has.
    pub near_writers_margin: u32,
    /// When it has led for so long, the primary goes there.
    pub near_writers_after: Duration,
    /// Not before so long after the shard's last change of primary, whatever made it.
    pub near_writers_calm: Duration,
}

impl Default for ControlSettings {
    fn default() -> ControlSettings {
        let ms = Duration::from_millis;
        ControlSettings {
            election_timeout_max: ms(300),
            propose_again: ms(500),
            ask_again: ms(200),
            hand_over_limit: ms(1_000),
            hand_overs_max: 256,
            joins_max: 16,
            placement_patience: ms(1_000),
            clock_interval: ms(1_000),
            clock_skew_limit: ms(60_000),
            renewal_interval: ms(5_000),
            plans_per_step: 4_096,
            restart_after: ms(2_000),
            restarts_max: 5,
            restart_forgets: ms(60_000),
            balance_after: ms(60_000),
            balance_pause: ms(1_000),
            near_writers_share: 50,
            near_writers_margin: 20,
            near_writers_after: ms(60_000),
            near_writers_calm: ms(300_000),
        }
    }
}

/// What happens to a manager, as far as the controllers care.
#[derive(Clone, Debug)]
pub enum Input {
    /// It leads in that term. The waits for its predecessors' leases start here.
    Elected {
        term: u64,
    },
    /// The first entry of that own term is applied to the tables given.
    OwnTermApplied {
        term: u64,
    },
    /// A quorum acknowledged an append that this leader sent then. A single voter says `now`.
    QuorumAcked {
        sent: Instant,
    },
    /// Before leadership is transferred: nothing is answered any more until it is elected again.
    TransferringLeadership,
    /// It does not lead any more; who does, when known.
    SteppedDown {
        leader: Option<NodeId>,
    },
    Heartbeat(HeartbeatRequest),
    SealAnswer(SealAnswer),
    HandOverAnswer(HandOverAnswer),
    ExitReport(ExitReport),
    /// A person wants that copy to be primary.
    TransferWanted {
        shard: ShardId,
        target: CopyId,
    },
    /// The tables changed.
    TablesChanged,
    /// Several times in a heartbeat interval; with this machine's wall clock.
    Tick {
        wall_ms: u64,
    },
}

/// What the driver is to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Under a request id of the driver's. It may fail or get lost: what still matters is proposed again.
    Propose(Command),
    /// To the heartbeat of that process and sequence.
    AnswerHeartbeat(HeartbeatAnswer),
    Seal(SealRequest),
    HandOver(HandOverRequest),
    Warn(Warning),
    /// To the agent named in it. Asked again later if it had no effect.
    Restart(RestartRequest),
}

/// What people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// This leader's wall clock is too far from the nodes': the tables' clock is not stepped.
    ClockFar { wall_ms: u64, median_ms: u64 },
    /// The store of that process takes no writes any more: it needs a restart, or its machine another disk.
    StoreFailed { process: ProcessId },
}

/// The controllers of one manager.
#[derive(Debug)]
pub struct Controller {
    settings: ControlSettings,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Following { leader: Option<NodeId> },
    Leading(Box<Leader>),
}

impl Controller {
    pub fn new(settings: ControlSettings) -> Controller {
        Controller {
            settings,
            role: Role::Following { leader: None },
        }
    }

    /// Whether this manager leads and decides; until then wishes are not taken.
    pub fn acts(&self) -> bool {
        matches!(&self.role, Role::Leading(leader) if leader.acts())
    }

    /// How many orphan records each node told of. `None`: this manager does not lead.
    pub fn orphans(&self) -> Option<BTreeMap<NodeId, u64>> {
        match &self.role {
            Role::Following { .. } => None,
            Role::Leading(leader) => Some(leader.orphans()),
        }
    }

    /// Where the updates come from, of each of these shards whose primary follows its writers and told of them lately, by site
    /// in thousandths. `None`: this manager does not lead.
    pub fn writers(
        &self,
        shards: impl Iterator<Item = ShardId>,
    ) -> Option<BTreeMap<ShardId, BTreeMap<String, u32>>> {
        let Role::Leading(leader) = &self.role else {
            return None;
        };
        let told = shards.filter_map(|shard| leader.near_writers.shares(shard));
        Some(told.map(|told| (told.shard, told.sites.clone())).collect())
    }

    /// `tables` are those of this manager, at least as new as in the last call.
    pub fn step(&mut self, now: Instant, tables: &Tables, input: Input, out: &mut Vec<Action>) {
        match &input {
            Input::Elected { term } => self.on_elected(now, *term),
            Input::SteppedDown { leader } => self.role = Role::Following { leader: *leader },
            _ => {}
        }
        match &mut self.role {
            Role::Following { leader } => refuse(input, *leader, out),
            Role::Leading(leader) => {
                let mut turn = Turn::new(now, tables, &self.settings, out);
                leader.step(&mut turn, input);
                turn.finish(leader.term());
            }
        }
    }

    fn on_elected(&mut self, now: Instant, term: u64) {
        let new = match &self.role {
            Role::Leading(leader) => leader.term() < term,
            Role::Following { .. } => true,
        };
        if new {
            self.role = Role::Leading(Box::new(Leader::new(term, now)));
        }
    }

    /// Whether it leads and may grant leases at that time.
    pub fn may_grant(&self, now: Instant, tables: &Tables) -> bool {
        match &self.role {
            Role::Leading(leader) => leader.may_grant(now, tables, &self.settings),
            Role::Following { .. } => false,
        }
    }

    /// What a copy last said of itself to this leader; `None` when nothing is known.
    pub fn report(&self, shard: ShardId, copy: CopyId) -> Option<&super::message::CopyReport> {
        match &self.role {
            Role::Leading(leader) => leader.report(shard, copy),
            Role::Following { .. } => None,
        }
    }

    /// What the shard's failover waits for. `None`: none is under way, or this manager does not lead.
    pub fn failover(
        &self,
        now: Instant,
        tables: &Tables,
        shard: ShardId,
    ) -> Option<FailoverProgress> {
        match &self.role {
            Role::Following { .. } => None,
            Role::Leading(leader) => {
                let mut nothing = Vec::new();
                let turn = Turn::new(now, tables, &self.settings, &mut nothing);
                leader.progress(&turn, shard)
            }
        }
    }

    /// The shards whose failover this leader knows to be under way: none of them gets a lease.
    pub fn latched(&self) -> Vec<ShardId> {
        match &self.role {
            Role::Leading(leader) => leader.failovers.keys().copied().collect(),
            Role::Following { .. } => Vec::new(),
        }
    }
}

fn refuse(input: Input, leader: Option<NodeId>, out: &mut Vec<Action>) {
    if let Input::Heartbeat(request) = input {
        out.push(Action::AnswerHeartbeat(HeartbeatAnswer {
            process: request.process,
            sequence: request.sequence,
            outcome: HeartbeatOutcome::Refused(HeartbeatRefusal::NotLeading { leader }),
        }));
    }
}
