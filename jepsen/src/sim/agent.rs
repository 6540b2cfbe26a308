//! The agents on the machines: a process of their own beside the node's, with connections of its own.
//!
//! What an agent saw it tells a manager again and again, so that reports come twice, late, and when the next process of
//! the node has long taken over. It kills and starts the process that a leader names by its launch, and no other.

use super::event::{Event, Parcel};
use super::network::Place;
use super::world::World;
use understudy_protocol::control::message::ExitReport;

/// A report is told at most so many times more after the first.
const MORE_MAX: u64 = 5;
const START_US_MAX: u64 = 300_000;
/// How often, in a thousand, a process stands still just when its predecessor's end is told once more.
const LATE_AT_A_STANDSTILL: u32 = 700;

impl World {
    /// The process of that machine ended, and its agent saw it.
    pub(super) fn agent_saw_exit(&mut self, node: usize) {
        let Some(mut report) = self.hosts[node].exit_report() else {
            return;
        };
        if self.agents.permille(500) {
            report.process = None;
        }
        let delay = self.agents.between(100, 20_000);
        let more = self.agents.below(MORE_MAX + 1) as u32;
        self.env
            .after(delay, Event::AgentReports { node, report, more });
    }

    /// The report of the process before comes again at the worst time: its successor runs no code or gets nothing to its
    /// disk, so that it cannot be sealed while it still has a lease.
    pub(super) fn agent_repeats_itself(&mut self, node: usize, certainly: bool) {
        let late = certainly || self.agents.permille(LATE_AT_A_STANDSTILL);
        let delay = self.agents.between(100, 50_000);
        if let Some(report) = self.hosts[node].exit_report().filter(|_| late) {
            let more = 1;
            self.env
                .after(delay, Event::AgentReports { node, report, more });
        }
    }

    pub(super) fn agent_reports(&mut self, node: usize, report: ExitReport, more: u32) {
        let any = self.agents.index(self.managers.count());
        let leader = self.managers.leader().filter(|_| self.agents.permille(700));
        let to = self.managers.place_of(leader.unwrap_or(any));
        let parcel = Parcel::Exit(report.clone());
        self.env.send(Place::Node(node), to, parcel);
        if more > 0 {
            let soon = self.agents.permille(700);
            let delay = self
                .agents
                .between(1_000, if soon { 200_000 } else { 4_000_000 });
            let more = more - 1;
            self.env
                .after(delay, Event::AgentReports { node, report, more });
        }
    }

    /// What a leader wishes: only the process of that launch is killed; it is started when nothing holds it down.
    pub(super) fn agent_restarts(&mut self, node: usize, parcel: Parcel) {
        let Parcel::Restart(launch) = parcel else {
            return;
        };
        let host = &mut self.hosts[node];
        let running = host.process.as_ref();
        if running.is_some_and(|process| *process.launch() != launch) {
            return;
        }
        if host.kill_even_if_paused(&mut self.env) {
            self.agent_saw_exit(node);
        }
        let delay = self.agents.between(1_000, START_US_MAX);
        self.env.after(delay, Event::StartNode { node });
    }
}
