//! The agents on the nodes' machines: their exit reports are taken, and they are asked to restart what stays silent.
//!
//! A report ends the waits for exactly one process. What a leader asks an agent for is a wish and decides nothing: the
//! process that is restarted registers as any other does. How often a node failed is soft, as all that a leader knows.

use super::controller::Action;
use super::leader::{Leader, Turn};
use super::message::{ExitReport, RestartRequest};
use crate::mutant::Mutant;
use crate::tables::{Command, NodeEntry, NodeState, Tables};
use crate::time::Instant;
use std::collections::BTreeMap;
use understudy_proto::ids::{Incarnation, NodeId};

/// What became of a node's processes lately.
#[derive(Debug)]
pub(super) struct Failing {
    /// Processes that ended: by the report of an exit, or because the one that was to be restarted has a successor.
    times: u32,
    last: Instant,
    /// Up to this one they are counted: a report is repeated until it is in the tables, and counts once.
    counted: Incarnation,
    /// The process that the agent was asked about, when last, and how often. That it was asked counts for nothing: the
    /// machine may be starting anew, or a person may have stopped the process.
    asked: Option<(Incarnation, Instant, u32)>,
}

impl Failing {
    fn new(now: Instant) -> Failing {
        Failing {
            times: 0,
            last: now,
            counted: Incarnation::ZERO,
            asked: None,
        }
    }

    fn count(&mut self, incarnation: Incarnation, now: Instant) {
        if incarnation > self.counted {
            self.counted = incarnation;
            self.times += 1;
            self.last = now;
        }
    }
}

impl Leader {
    pub(super) fn on_exit_report(&mut self, turn: &mut Turn, report: ExitReport) {
        let Some(node) = reported(turn.tables, &report) else {
            return;
        };
        if node.ended >= node.incarnation {
            return;
        }
        let (process, launch) = (node.process(), report.launch);
        let failing = self.failing.entry(node.id);
        let failing = failing.or_insert_with(|| Failing::new(turn.now));
        failing.count(process.incarnation, turn.now);
        // The failovers begin in the same breath; their waits fall away when the report is in the tables.
        turn.propose(Command::ReportExit {
            node: process.node,
            incarnation: process.incarnation,
            launch,
        });
        self.begin_for(turn, process);
    }

    /// Since when the node is down, or its store takes no writes.
    pub(super) fn away_since(&self, node: NodeId) -> Option<Instant> {
        let failed = self.heard.get(&node).and_then(|heard| heard.store_failed);
        let down = self.down_since.get(&node).copied();
        down.into_iter().chain(failed).min()
    }

    /// Whether a node that is away is not waited for any longer.
    pub(super) fn is_given_up(&self, turn: &Turn, node: NodeId) -> bool {
        let Some(since) = self.away_since(node) else {
            return false;
        };
        let failing = self.failing.get(&node);
        let often = failing.is_some_and(|f| f.times >= turn.settings.restarts_max);
        often || turn.now.since(since) >= turn.tables.settings().replace_after
    }

    /// Asks the agents to start anew what is silent or cannot write: first after a while, then ever more rarely.
    pub(super) fn ask_agents(&mut self, turn: &mut Turn) {
        let settings = turn.settings;
        let forgets = settings.restart_forgets;
        for (id, failing) in &mut self.failing {
            let newest = turn.tables.node(*id).map(|node| node.incarnation);
            if let Some((asked, ..)) = failing.asked.filter(|(asked, ..)| newest > Some(*asked)) {
                failing.count(asked, turn.now);
                failing.asked = None;
            }
        }
        let nodes = turn.tables.nodes();
        let away = nodes.filter_map(|node| Some((node, self.away_since(node.id)?)));
        let away: BTreeMap<NodeId, (&NodeEntry, Instant)> =
            away.map(|(node, since)| (node.id, (node, since))).collect();
        self.failing
            .retain(|node, f| away.contains_key(node) || turn.now.since(f.last) < forgets);
        for (id, (node, since)) in away {
            if node.agent.is_empty() || node.state == NodeState::Removed {
                continue;
            }
            let failing = self.failing.entry(id);
            let failing = failing.or_insert_with(|| Failing::new(turn.now));
            let (from, times) = match failing.asked {
                Some((_, at, times)) if at >= since => (at, times),
                _ => (since, 0),
            };
            let wait = settings.restart_after.scale(1 << times.min(5), 1);
            if turn.now.since(from) < wait {
                continue;
            }
            failing.asked = Some((node.incarnation, turn.now, times + 1));
            turn.out.push(Action::Restart(RestartRequest {
                process: node.process(),
                launch: node.launch.clone(),
                agent: node.agent.clone(),
            }));
        }
    }
}

/// The process that the report is about, if it is the newest one of its node.
fn reported<'t>(tables: &'t Tables, report: &ExitReport) -> Option<&'t NodeEntry> {
    let launched = tables.launched(&report.launch);
    let Some((node, incarnation)) = report.process else {
        return launched;
    };
    if Mutant::ExitReportOfAnotherIncarnation.on() {
        return tables.node(node);
    }
    launched.filter(|n| n.id == node && n.incarnation == incarnation)
}
