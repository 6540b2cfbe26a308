//! The demo's result: one line for each figure, or the same as one JSON document.
//!
//! What went wrong is listed, never summed away.

use super::args::Args;
use super::audit::notes::{CutOff, NotesAudit, Waiting};
use super::audit::{Audit, Missing, TwoOwners};
use super::ledger::Ledger;
use super::timeline::Series;
use crate::cli::faults::{LeaderLoss, PrimaryLoss};
use serde::Serialize;
use std::fmt::Write;

/// Of the notes that came back, so many are listed; the page and the JSON have all.
const BROUGHT_BACK_SHOWN: usize = 3;

/// What was done to the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Faults {
    pub primary: PrimaryLoss,
    /// From the killed process's start until every copy was complete.
    pub repaired_ms: u64,
    pub leader: LeaderLoss,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every acknowledged request is accounted for, none ran twice, and the manager leader's end failed no write.
    pub passed: bool,
    pub repeat: String,
    pub seed: u64,
    pub airports: u64,
    pub flights: u32,
    pub seats_per_flight: u32,
    pub clients: u32,
    pub load_ms: u64,
    pub requests: u64,
    pub acknowledged: u64,
    /// Of the requests, those in the `in_sync` namespace; the others are notes.
    pub reservations: u64,
    /// Of the acknowledged, those that sold a seat.
    pub sold: u64,
    pub duplicates_answered: u64,
    /// Requests that no client ever got an answer to.
    pub outcome_unknown: u64,
    /// Requests that certainly did not run.
    pub not_run: u64,
    pub faults: Faults,
    pub acknowledged_but_missing: u64,
    pub seats_sold_twice: u64,
    pub seats_acknowledged_to_two_clients: u64,
    pub audit: Audit,
    pub timeline: Series,
}

impl Report {
    pub fn new(
        args: &Args,
        airports: u64,
        ledger: &Ledger,
        faults: Faults,
        audit: Audit,
        timeline: Series,
    ) -> Report {
        let acknowledged = ledger.acknowledged().count() as u64;
        let sold = ledger
            .acknowledged()
            .filter(|request| request.told_sold().is_some());
        Report {
            passed: audit.passed()
                && faults.primary.not_back.is_empty()
                && faults.leader.failed_writes == 0,
            repeat: args.repeat(),
            seed: args.seed.unwrap_or_default(),
            airports,
            flights: args.flights,
            seats_per_flight: args.seats,
            clients: args.clients,
            load_ms: timeline.load_ms,
            requests: ledger.requests.len() as u64,
            reservations: ledger.requests.len() as u64 - audit.notes.requests,
            acknowledged,
            sold: sold.count() as u64,
            duplicates_answered: ledger.duplicates(),
            outcome_unknown: ledger.unknown(),
            not_run: ledger.not_run(),
            acknowledged_but_missing: audit.missing.len() as u64,
            seats_sold_twice: audit.seats_sold_twice.len() as u64,
            seats_acknowledged_to_two_clients: audit.seats_of_two_clients.len() as u64,
            timeline,
            faults,
            audit,
        }
    }

    /// For people: one line for each figure, and what it lists below it.
    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        lines.figure("seed", self.seed);
        lines.figure("airports imported and read back", self.airports_line());
        lines.figure("requests", thousands(self.requests));
        lines.figure("acknowledged", thousands(self.acknowledged));
        lines.figure("duplicates answered", thousands(self.duplicates_answered));
        lines.figure("failover gap, primary killed", self.primary_line());
        lines.figure("failover gap, manager leader killed", self.leader_line());
        let notes = &self.audit.notes;
        lines.figure("reservations, in_sync", self.reservations_line());
        lines.figure("passengers' notes, lazy", self.notes_line());
        lines.figure("  cut off by the failover", cut_off_line(notes));
        lines.figure("  of these brought back", notes.brought_back.len());
        let few = notes.brought_back.len().min(BROUGHT_BACK_SHOWN);
        lines.list(&notes.brought_back[..few], brought_back_line);
        if few < notes.brought_back.len() {
            lines.list(&[notes.brought_back.len() - few], |more| {
                format!("and {more} more")
            });
        }
        lines.figure("  conflicts, for a person", notes.conflicts.len());
        lines.list(&notes.conflicts, conflict_line);
        if !notes.waiting.is_empty() {
            lines.figure("  still waiting", notes.waiting.len());
            lines.list(&notes.waiting, waiting_line);
        }
        lines.figure("acknowledged but missing", self.acknowledged_but_missing);
        lines.list(&self.audit.missing, missing_line);
        lines.figure("seats sold twice", self.seats_sold_twice);
        lines.list(&self.audit.seats_sold_twice, Clone::clone);
        lines.figure(
            "seats acknowledged to two clients",
            self.seats_acknowledged_to_two_clients,
        );
        lines.list(&self.audit.seats_of_two_clients, two_owners_line);
        lines.figure("ran twice", self.audit.ran_twice.len());
        lines.list(&self.audit.ran_twice, Clone::clone);
        if !self.audit.ran_though_told_not.is_empty() {
            let ran = &self.audit.ran_though_told_not;
            lines.figure("ran though the client was told not", ran.len());
            lines.list(ran, Clone::clone);
        }
        if self.outcome_unknown + self.not_run > 0 {
            lines.figure("never answered, outcome unknown", self.outcome_unknown);
            lines.figure("told that it did not run", self.not_run);
        }
        lines.figure("verdict", self.verdict());
        lines.figure("repeat with", &self.repeat);
        lines.0
    }

    pub fn airports_line(&self) -> String {
        let back = thousands(self.audit.airports_read_back);
        match self.audit.airports_wrong {
            0 => back,
            wrong => format!("{back}, {wrong} of them wrong"),
        }
    }

    pub fn reservations_line(&self) -> String {
        let acknowledged = self.acknowledged - self.audit.notes.acknowledged;
        let (all, acknowledged) = (thousands(self.reservations), thousands(acknowledged));
        format!("{all}, {acknowledged} acknowledged")
    }

    pub fn notes_line(&self) -> String {
        let notes = &self.audit.notes;
        let (all, acknowledged) = (thousands(notes.requests), thousands(notes.acknowledged));
        format!("{all}, {acknowledged} acknowledged")
    }

    pub fn primary_line(&self) -> String {
        let fault = &self.faults.primary;
        let shards = fault.shards.len();
        if fault.not_back.is_empty() {
            return format!(
                "{:.0} ms ({} killed; its {shards} shards, the first after {:.0} ms)",
                fault.gap_ms, fault.server, fault.first_gap_ms
            );
        }
        let late = fault.not_back.len();
        format!(
            "more than {:.0} ms ({} killed; {late} of {shards} shards never came back)",
            fault.gap_ms, fault.server
        )
    }

    pub fn leader_line(&self) -> String {
        let fault = &self.faults.leader;
        let leader = match fault.new_leader_ms {
            Some(elapsed) => format!("another leader after {elapsed:.0} ms"),
            None => "no other leader while it was watched".to_string(),
        };
        format!(
            "{:.0} ms without an acknowledgement ({} killed; {leader}; {} failed writes)",
            fault.gap_ms, fault.server, fault.failed_writes
        )
    }

    pub fn verdict(&self) -> &'static str {
        if self.passed {
            "every acknowledged request is accounted for, and none ran twice"
        } else {
            "FAILED"
        }
    }
}

pub fn missing_line(missing: &Missing) -> String {
    format!(
        "{} ({} {}, told \"{}\"): LOST",
        missing.request_id, missing.flight, missing.what, missing.told
    )
}

pub fn cut_off_line(notes: &NotesAudit) -> String {
    match notes.cut_off() {
        0 => "nothing this time".to_string(),
        some => thousands(some as u64),
    }
}

pub fn brought_back_line(back: &CutOff) -> String {
    format!(
        "{} ({} page {}): stood at {}, stands at {}",
        back.request_id, back.flight, back.page, back.stood_at, back.stands_at
    )
}

pub fn conflict_line(conflict: &CutOff) -> String {
    format!(
        "{} ({} page {}): {}",
        conflict.request_id,
        conflict.flight,
        conflict.page,
        conflict.conflict.as_deref().unwrap_or_default()
    )
}

pub fn waiting_line(waiting: &Waiting) -> String {
    format!(
        "{}: in the orphan log of {}",
        waiting.request_id, waiting.orphan_log_of
    )
}

pub fn two_owners_line(two: &TwoOwners) -> String {
    let clients: Vec<String> = two.clients.iter().map(u32::to_string).collect();
    let now = two.now_held_by.as_deref().unwrap_or("nobody");
    format!(
        "{} seat {}: clients {}, in that order; now held by {now}",
        two.flight,
        two.seat,
        clients.join(" and ")
    )
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn figure(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{name:<36} {value}");
    }

    fn list<T>(&mut self, entries: &[T], line: impl Fn(&T) -> String) {
        for entry in entries {
            let _ = writeln!(self.0, "    {}", line(entry));
        }
    }
}

/// 12,345
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(28_298_123), "28,298,123");
    }
}
