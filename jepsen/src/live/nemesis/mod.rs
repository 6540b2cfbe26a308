//! Faults as data: what there is, which of it is wanted, and what came of each application.
//!
//! `plan` draws from a seed what happens when; `apply` does it and takes it back. Whom a fault hits is found out when it
//! begins: who is primary then is nothing that a seed knows.

mod apply;
mod plan;
mod shapes;

pub use apply::Nemesis;
pub use plan::{Planned, TOO_SHORT_MS, plan};

use crate::live::system::Role;
use std::time::Duration;

/// Whom a kill or a pause hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Any one.
    One,
    /// A majority of one group.
    Majority,
    All,
    Holder(Role),
}

/// Which links of a partition are cut. Clients reach everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Any one from all others.
    One,
    /// Two halves of all members from each other.
    Halves,
    /// Each sees a majority of its group, and no two the same.
    Ring,
    /// Two halves that only one member sees both of.
    Bridge,
    /// One half does not hear the other, which hears it.
    OneWay,
    /// Somebody who serves, from all others.
    Primary,
    /// The groups from each other.
    Groups,
}

/// What is done to the packets between some members, and between them and the clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    Delay,
    Loss,
    Duplicate,
    Reorder,
    Rate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Partition(Cut),
    Harm(Harm),
    Kill(Target),
    Pause(Target),
    Transfer,
    Drain,
}

/// Every fault: its name, and what it does.
pub const KINDS: &[(Kind, &str, &str)] = &[
    (
        Kind::Partition(Cut::One),
        "partition-one",
        "one process is cut off from all others",
    ),
    (
        Kind::Partition(Cut::Halves),
        "partition-halves",
        "two halves of all processes are cut off from each other",
    ),
    (
        Kind::Partition(Cut::Ring),
        "partition-ring",
        "each process sees a majority of its group, and no two the same",
    ),
    (
        Kind::Partition(Cut::Bridge),
        "partition-bridge",
        "only one process sees both halves",
    ),
    (
        Kind::Partition(Cut::OneWay),
        "partition-one-way",
        "one half of the processes does not hear the other",
    ),
    (
        Kind::Partition(Cut::Primary),
        "partition-primary",
        "a primary sees only clients",
    ),
    (
        Kind::Partition(Cut::Groups),
        "partition-managers",
        "managers and nodes do not see each other",
    ),
    (
        Kind::Harm(Harm::Delay),
        "delay",
        "packets take 20 to 250 ms longer, more or less",
    ),
    (
        Kind::Harm(Harm::Loss),
        "loss",
        "2 to 15 % of the packets are lost",
    ),
    (
        Kind::Harm(Harm::Duplicate),
        "duplicate",
        "5 to 30 % of the packets come twice",
    ),
    (
        Kind::Harm(Harm::Reorder),
        "reorder",
        "5 to 30 % of the packets fall behind later ones",
    ),
    (
        Kind::Harm(Harm::Rate),
        "rate",
        "links carry 20 to 200 kB a second",
    ),
    (Kind::Kill(Target::One), "kill-one", "one process is killed"),
    (
        Kind::Kill(Target::Majority),
        "kill-majority",
        "a majority of the managers or of the nodes is killed",
    ),
    (
        Kind::Kill(Target::All),
        "kill-all",
        "all processes are killed",
    ),
    (
        Kind::Kill(Target::Holder(Role::Primary)),
        "kill-primary",
        "a primary is killed",
    ),
    (
        Kind::Kill(Target::Holder(Role::Leader)),
        "kill-leader",
        "the manager leader is killed",
    ),
    (
        Kind::Pause(Target::One),
        "pause-one",
        "one process stands still for longer than a lease",
    ),
    (
        Kind::Pause(Target::Majority),
        "pause-majority",
        "a majority of the managers or of the nodes stands still",
    ),
    (
        Kind::Pause(Target::All),
        "pause-all",
        "all processes stand still",
    ),
    (
        Kind::Pause(Target::Holder(Role::Primary)),
        "pause-primary",
        "a primary stands still",
    ),
    (
        Kind::Pause(Target::Holder(Role::Leader)),
        "pause-leader",
        "the manager leader stands still",
    ),
    (
        Kind::Transfer,
        "transfer",
        "a shard is handed over to another node, again and again",
    ),
    (
        Kind::Drain,
        "drain",
        "a node is emptied of what it serves, and used again",
    ),
];

impl Kind {
    pub fn name(self) -> &'static str {
        let known = KINDS.iter().find(|(kind, ..)| *kind == self);
        known.map_or("fault", |(_, name, _)| name)
    }

    pub fn needs_network(self) -> bool {
        matches!(self, Kind::Partition(_) | Kind::Harm(_))
    }

    /// It may last shorter than it was planned, never longer.
    pub fn at_most(self) -> Duration {
        match self {
            // While all are away nothing is learned.
            Kind::Kill(Target::All) | Kind::Pause(Target::All) => Duration::from_secs(3),
            _ => Duration::from_secs(12),
        }
    }
}

/// A name that somebody asked for: a fault, or a family of faults of which each time another one comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub name: String,
    pub kinds: Vec<Kind>,
}

/// `kill,partition-primary`, `all`, `none`.
pub fn parse(list: &str) -> Result<Vec<Wanted>, String> {
    let families = [
        "partition",
        "delay",
        "loss",
        "duplicate",
        "reorder",
        "rate",
        "kill",
        "pause",
        "transfer",
        "drain",
    ];
    let names: Vec<&str> = match list {
        "none" | "" => Vec::new(),
        "all" => families.to_vec(),
        list => list.split(',').map(str::trim).collect(),
    };
    let mut wanted: Vec<Wanted> = Vec::new();
    for name in names {
        let of_family = |known: &str| {
            known == name
                || known
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('-') && families.contains(&name))
        };
        let kinds: Vec<Kind> = KINDS
            .iter()
            .filter(|(_, known, _)| of_family(known))
            .map(|(kind, ..)| *kind)
            .collect();
        if kinds.is_empty() {
            return Err(format!("there is no nemesis '{name}'; --list names them"));
        }
        if wanted.iter().all(|other| other.name != name) {
            wanted.push(Wanted {
                name: name.to_string(),
                kinds,
            });
        }
    }
    Ok(wanted)
}

/// What came of the application of a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Installed,
    /// It certainly was not.
    Skipped(String),
    /// Perhaps, or in part, or nobody met it.
    Indeterminate(String),
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Installed => "installed",
            Outcome::Skipped(_) => "skipped",
            Outcome::Indeterminate(_) => "indeterminate",
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Outcome::Installed => "",
            Outcome::Skipped(why) | Outcome::Indeterminate(why) => why,
        }
    }
}

/// A fault that was applied, or was to be. Times are of the history.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The name that was asked for.
    pub wanted: String,
    pub kind: Kind,
    pub began_ns: i64,
    pub ended_ns: i64,
    /// Without finding out whom it hits and taking it back.
    pub held: Duration,
    /// Whom it hit and how, for people.
    pub what: String,
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_faults_or_families() {
        assert_eq!(parse("none"), Ok(Vec::new()));
        let wanted = parse("kill, partition-primary,kill").unwrap();
        let counts: Vec<(&str, usize)> = wanted
            .iter()
            .map(|wanted| (wanted.name.as_str(), wanted.kinds.len()))
            .collect();
        assert_eq!(counts, [("kill", 5), ("partition-primary", 1)]);
        assert!(parse("partition-").is_err() && parse("kil").is_err() && parse("kill,,").is_err());
        let all: usize = parse("all")
            .unwrap()
            .iter()
            .map(|wanted| wanted.kinds.len())
            .sum();
        assert_eq!(all, KINDS.len());
    }
}
