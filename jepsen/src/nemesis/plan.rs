//! Drawing a plan: which faults, when, how long. Each seed draws its own weights, so that some runs have one kind of
//! fault only and others all of them at once.

use super::{Fault, FaultKind};
use crate::dice::{Dice, Purpose};
use serde::{Deserialize, Serialize};

/// What there is to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scale {
    pub nodes: usize,
    pub managers: usize,
    pub shards: u32,
    /// Faults begin inside this time.
    pub phase_us: u64,
}

/// All faults of a run, by the time of their beginning.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub faults: Vec<Fault>,
}

const KINDS: usize = 26;
/// Fewer would not reach the interesting orders of events. Some of the planned cannot be done when their time comes, so
/// there are a few more.
const FAULTS_MIN: u64 = 5;
const FAULTS_PLANNED_MIN: usize = 8;
const FAULTS_MAX: u64 = 14;

/// In one seed of so many there is one fault only, so that what it must not do can be told from what others did.
const ALONE_EVERY: u64 = 64;

impl Plan {
    pub fn draw(seed: u64, scale: Scale) -> Plan {
        if let Some(plan) = Plan::alone(seed, scale) {
            return plan;
        }
        let mut dice = Dice::new(seed, Purpose::Faults, 0);
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            *weight = if dice.permille(400) {
                0
            } else {
                dice.between(1, 10) as u32
            };
        }
        weights[0] += 1;
        let count = dice.between(FAULTS_MIN, FAULTS_MAX);
        let mut faults: Vec<Fault> = (0..count)
            .map(|_| draw(&mut dice, scale, &weights))
            .collect();
        // From dice of their own: a plan with enough stays as it was.
        let mut more = Dice::new(seed, Purpose::MoreFaults, 0);
        while faults.len() < FAULTS_PLANNED_MIN {
            faults.push(draw(&mut more, scale, &weights));
        }
        let mut dice = Dice::new(seed, Purpose::LeaseFaults, 0);
        if dice.permille(300) {
            faults.push(no_managers(&mut dice, scale));
        }
        if dice.permille(200) {
            let shard = dice.below(u64::from(scale.shards)) as u32;
            faults.push(Fault {
                at_us: dice.below(scale.phase_us),
                lasts_us: dice.between(3_000_000, 9_000_000),
                what: FaultKind::NeitherLease { shard },
            });
        }
        faults.extend(pause_of_a_successor(seed, scale));
        let mut dice = Dice::new(seed, Purpose::StoreFaults, 0);
        if dice.permille(300) {
            faults.push(Fault {
                at_us: dice.below(scale.phase_us),
                lasts_us: dice.between(500_000, 6_000_000),
                what: FaultKind::StoreFails {
                    node: dice.index(scale.nodes),
                },
            });
        }
        let mut dice = Dice::new(seed, Purpose::ForcedFaults, 0);
        if dice.permille(250) {
            faults.push(left_alone(&mut dice, scale));
        }
        if dice.permille(100) {
            faults.push(forced_beside(&mut dice, scale));
        }
        faults.sort_by_key(|fault| fault.at_us);
        Plan { faults }
    }

    fn alone(seed: u64, scale: Scale) -> Option<Plan> {
        let mut dice = Dice::new(seed, Purpose::LeaseFaults, 1);
        let fault = match seed % ALONE_EVERY {
            57 => Fault {
                at_us: dice.between(500_000, 2_000_000),
                ..no_managers(&mut dice, scale)
            },
            58 => Fault {
                at_us: dice.below(500_000),
                lasts_us: scale.phase_us,
                what: FaultKind::NeitherLease {
                    shard: dice.below(u64::from(scale.shards)) as u32,
                },
            },
            59 | 60 => Fault {
                at_us: dice.below(500_000),
                ..left_alone(&mut dice, scale)
            },
            61 => Fault {
                at_us: dice.below(500_000),
                ..forced_beside(&mut dice, scale)
            },
            _ => return None,
        };
        let faults = vec![fault];
        Some(Plan { faults })
    }
}

fn no_managers(dice: &mut Dice, scale: Scale) -> Fault {
    Fault {
        at_us: dice.below(scale.phase_us),
        lasts_us: dice.between(1_500_000, 6_000_000),
        what: FaultKind::NoManagers {
            paused: dice.permille(500),
        },
    }
}

/// From dice of its own, like the agents. It takes a process that died and came back, so it comes late.
fn pause_of_a_successor(seed: u64, scale: Scale) -> Option<Fault> {
    let mut dice = Dice::new(seed, Purpose::Agents, 2);
    dice.permille(400).then(|| Fault {
        at_us: dice.between(scale.phase_us / 3, scale.phase_us),
        lasts_us: dice.between(20_000, 1_500_000),
        what: FaultKind::PauseSuccessor,
    })
}

/// The first half ends after that time; the second begins then.
fn left_alone(dice: &mut Dice, scale: Scale) -> Fault {
    Fault {
        at_us: dice.below(scale.phase_us / 2),
        lasts_us: dice.between(300_000, 2_500_000),
        what: FaultKind::LeftAlone {
            shard: dice.below(u64::from(scale.shards)) as u32,
            away_us: dice.between(3_500_000, 7_000_000),
            lose: dice.permille(300),
        },
    }
}

fn forced_beside(dice: &mut Dice, scale: Scale) -> Fault {
    Fault {
        at_us: dice.below(scale.phase_us),
        lasts_us: dice.between(3_000_000, 9_000_000),
        what: FaultKind::ForcedBeside {
            shard: dice.below(u64::from(scale.shards)) as u32,
        },
    }
}

fn draw(dice: &mut Dice, scale: Scale, weights: &[u32]) -> Fault {
    // Half of them short, so that several come together; the others longer than a lease.
    let lasts_us = match dice.below(4) {
        0 => dice.between(20_000, 300_000),
        1 => dice.between(300_000, 1_200_000),
        2 => dice.between(1_200_000, 4_000_000),
        _ => dice.between(1_500_000, 9_000_000),
    };
    let at_us = dice.below(scale.phase_us);
    let what = draw_kind(dice, scale, weights);
    Fault {
        at_us,
        lasts_us,
        what,
    }
}

fn draw_kind(dice: &mut Dice, scale: Scale, weights: &[u32]) -> FaultKind {
    let node = dice.index(scale.nodes);
    let other = (node + 1 + dice.index(scale.nodes - 1)) % scale.nodes;
    let manager = dice.index(scale.managers);
    let shard = dice.below(u64::from(scale.shards)) as u32;
    let seen = dice.permille(400);
    let mut some: Vec<usize> = (0..scale.nodes).filter(|_| dice.permille(500)).collect();
    if some.is_empty() {
        some.push(node);
    }
    match dice.weighted(weights) {
        0 => FaultKind::CrashNode { node, seen },
        1 => FaultKind::CrashPrimary { shard, seen },
        2 => FaultKind::CrashNodes { nodes: some },
        3 => FaultKind::CrashManager { manager },
        4 => FaultKind::CrashLeader,
        5 => FaultKind::TransferLeadership,
        6 => FaultKind::PauseNode { node },
        7 => FaultKind::PausePrimary { shard },
        8 => FaultKind::PauseLeader,
        9 => FaultKind::IsolateNode { node },
        10 => FaultKind::IsolateManager { manager },
        11 => FaultKind::IsolateLeader,
        12 => {
            // All of them on one side would be no fault.
            some.truncate(scale.nodes - 1);
            FaultKind::Halves { first: some }
        }
        13 => FaultKind::OneWay {
            from: node,
            to: other,
        },
        14 => FaultKind::PrimaryAlone { shard },
        15 => FaultKind::NodesFromManagers { nodes: some },
        16 => FaultKind::ManagersApart,
        17 => FaultKind::Noise {
            loss_permille: dice.between(0, 300) as u32,
            repeat_permille: dice.between(0, 300) as u32,
            delay_max_us: dice.between(1_000, 900_000),
        },
        18 => FaultKind::DiskFails { node },
        19 => FaultKind::DiskHangs { node },
        20 => FaultKind::LeaderWithPrimary {
            shard,
            returns: seen,
        },
        21 => FaultKind::Flaky {
            nodes: some,
            loss_permille: dice.between(300, 950) as u32,
        },
        22 => FaultKind::Drain { node },
        23 => FaultKind::LoseStore { node },
        24 => FaultKind::Flicker {
            shard,
            loss_permille: dice.between(400, 750) as u32,
        },
        _ => FaultKind::Transfer { shard },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // capability B13
    #[test]
    fn a_plan_replays_and_has_enough_faults() {
        let scale = Scale {
            nodes: 3,
            managers: 3,
            shards: 8,
            phase_us: 10_000_000,
        };
        for seed in 0..200 {
            let plan = Plan::draw(seed, scale);
            assert_eq!(plan, Plan::draw(seed, scale));
            let alone = matches!(seed % ALONE_EVERY, 57..=61);
            assert!(plan.faults.len() >= FAULTS_PLANNED_MIN || alone);
            assert!(plan.faults.is_sorted_by_key(|fault| fault.at_us));
            let empty = |fault: &Fault| match &fault.what {
                FaultKind::CrashNodes { nodes }
                | FaultKind::NodesFromManagers { nodes }
                | FaultKind::Flaky { nodes, .. } => nodes.is_empty(),
                FaultKind::Halves { first } => first.is_empty() || first.len() == scale.nodes,
                _ => false,
            };
            assert!(!plan.faults.iter().any(empty));
        }
    }
}
