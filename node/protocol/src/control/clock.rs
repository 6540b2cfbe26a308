//! The tables' clock, and the session activity that nodes report.
//!
//! A leader raises the clock by what its suspend-proof clock measured, never more. Once, when new, it may step it to its
//! wall clock, if that is near the median of the nodes' clocks: no single machine's wrong clock ends sessions. It ends those
//! that were silent for the horizon, once every node that is not down has told it of all activity.

use super::controller::{Action, Warning};
use super::leader::{Leader, Turn};
use super::message::CLIENTS_PER_HEARTBEAT_MAX;
use crate::tables::command::RENEWALS_MAX;
use crate::tables::{Command, NodeState};
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;
use understudy_proto::ids::{ClientId, ProcessId};

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The tables' clock and when this leader first saw it at that.
    base: Option<(u64, Instant)>,
    stepped: bool,
    /// Where a step was proposed to; done when the tables' clock has reached it.
    step_to: Option<u64>,
    warned: bool,
    proposed: Option<Instant>,
    /// Clients that were active since the last renewal.
    pub(super) active: BTreeSet<ClientId>,
    renewed: Option<Instant>,
    /// Processes that told this leader of all the activity that they knew of.
    told_all: BTreeSet<ProcessId>,
    expired: Option<Instant>,
}

/// Between two looks for sessions that are silent.
const EXPIRE_EVERY: Duration = Duration::from_millis(60_000);

impl Clock {
    /// What a node's heartbeat tells of its clients.
    /// `knows`: it knows that this leader leads, and tells also what it had told another one.
    pub(super) fn told(&mut self, process: ProcessId, active: &[ClientId], knows: bool) {
        self.active.extend(active);
        match knows && active.len() < CLIENTS_PER_HEARTBEAT_MAX {
            true => self.told_all.insert(process),
            false => self.told_all.remove(&process),
        };
    }
}

impl Leader {
    pub(super) fn keep_clock(&mut self, turn: &mut Turn, wall_ms: u64) {
        self.renew_sessions(turn);
        self.expire_sessions(turn);
        let clock = turn.tables.clock_ms();
        let base = self.clock.base.filter(|(ms, _)| *ms == clock);
        let (_, since) = *self.clock.base.insert(base.unwrap_or((clock, turn.now)));
        let interval = turn.settings.clock_interval;
        let proposed = self.clock.proposed;
        if proposed.is_some_and(|at| turn.now.since(at) < interval) {
            return;
        }
        self.clock.stepped |= self.clock.step_to.is_some_and(|to| clock >= to);
        if !self.clock.stepped {
            self.step_clock(turn, clock, wall_ms);
        } else if clock > 0 && turn.now.since(since) >= interval {
            let to_ms = clock + turn.now.since(since).as_millis();
            self.raise(turn, clock, to_ms, false);
        }
    }

    fn raise(&mut self, turn: &mut Turn, from_ms: u64, to_ms: u64, step: bool) {
        self.clock.proposed = Some(turn.now);
        turn.propose(Command::RaiseClock {
            from_ms,
            to_ms,
            step,
        });
    }

    fn step_clock(&mut self, turn: &mut Turn, clock: u64, wall_ms: u64) {
        let Some(median_ms) = self.median_wall(turn) else {
            return;
        };
        let limit = turn.settings.clock_skew_limit.as_millis();
        if wall_ms.abs_diff(median_ms) > limit {
            if !self.clock.warned {
                self.clock.warned = true;
                let far = Warning::ClockFar { wall_ms, median_ms };
                turn.out.push(Action::Warn(far));
            }
            return;
        }
        self.clock.step_to = Some(wall_ms);
        if wall_ms > clock {
            self.raise(turn, clock, wall_ms, true);
        }
    }

    /// Of the nodes' wall clocks, once every node that is not down was heard, or would be down by now.
    fn median_wall(&self, turn: &Turn) -> Option<u64> {
        let silent = |n: &crate::tables::NodeEntry| {
            !matches!(n.state, NodeState::Down | NodeState::Removed)
                && !self.heard.contains_key(&n.id)
        };
        let waited = turn.now.since(self.elected_at) >= turn.tables.settings().down_after();
        if !waited && turn.tables.nodes().any(silent) {
            return None;
        }
        let wall = |h: &super::leader::Heard| h.wall_ms + turn.now.since(h.at).as_millis();
        let mut walls: Vec<u64> = self.heard.values().map(wall).collect();
        walls.sort_unstable();
        walls.get(walls.len() / 2).copied()
    }

    fn expire_sessions(&mut self, turn: &mut Turn) {
        let waits = self
            .clock
            .expired
            .is_some_and(|at| turn.now.since(at) < EXPIRE_EVERY);
        let untold = |n: &crate::tables::NodeEntry| {
            !matches!(n.state, NodeState::Down | NodeState::Removed)
                && !self.clock.told_all.contains(&n.process())
        };
        if waits || turn.tables.nodes().any(untold) {
            return;
        }
        self.clock.expired = Some(turn.now);
        let mut clients = turn.tables.silent_clients(RENEWALS_MAX);
        clients.retain(|client| !self.clock.active.contains(client));
        if !clients.is_empty() {
            turn.propose(Command::ExpireSessions { clients });
        }
    }

    fn renew_sessions(&mut self, turn: &mut Turn) {
        let interval = turn.settings.renewal_interval;
        let last = self.clock.renewed;
        let wait = last.is_some_and(|at| turn.now.since(at) < interval);
        if self.clock.active.is_empty() || wait {
            return;
        }
        self.clock.renewed = Some(turn.now);
        let active = std::mem::take(&mut self.clock.active);
        let active: Vec<ClientId> = active.into_iter().collect();
        for chunk in active.chunks(RENEWALS_MAX) {
            let clients = chunk.to_vec();
            turn.propose(Command::RenewSessions { clients });
        }
    }
}
