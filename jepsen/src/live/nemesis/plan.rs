//! Which fault begins when and for how long, all from a seed.

use super::{Kind, Wanted};
use crate::dice::{Dice, Purpose};
use std::time::Duration;

/// Before the first fault, and often after the last one.
const CALM_MS: u64 = 1_000;
/// From one fault to the next.
const CYCLE_MS: u64 = 7_000;
/// A cycle shorter than this has no room for a lease to end in.
pub const TOO_SHORT_MS: u64 = 2_500;
/// Longer than a lease (1 s), so that a process that stood still wakes up without one.
pub const LENGTH_LEAST_MS: u64 = 1_600;
/// So many of a thousand faults last into the next one.
const OVERLAPPING_PERMILLE: u32 = 250;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Its place in the list of what is wanted.
    pub wanted: usize,
    pub kind: Kind,
    /// Since the beginning of the workload.
    pub at: Duration,
    pub length: Duration,
    /// What the fault draws its targets from.
    pub seed: u64,
}

/// Each wanted name comes once before one comes again. Empty when there is no time for each of them.
pub fn plan(wanted: &[Wanted], time: Duration, seed: u64) -> Vec<Planned> {
    let mut dice = Dice::new(seed, Purpose::LiveFaults, 0);
    let room_ms = (time.as_millis() as u64).saturating_sub(2 * CALM_MS);
    let least = wanted.len() as u64;
    if least == 0 || room_ms / least < TOO_SHORT_MS {
        return Vec::new();
    }
    let count = least.max(room_ms / CYCLE_MS);
    let cycle_ms = room_ms / count;
    let mut names: Vec<usize> = Vec::new();
    let mut kinds: Vec<Vec<Kind>> = vec![Vec::new(); wanted.len()];
    let mut planned = Vec::new();
    for number in 0..count {
        let name = draw(&mut names, || (0..wanted.len()).collect(), &mut dice);
        let kind = draw(&mut kinds[name], || wanted[name].kinds.clone(), &mut dice);
        let mut length_ms = (cycle_ms * dice.between(45, 70) / 100).max(LENGTH_LEAST_MS);
        if dice.permille(OVERLAPPING_PERMILLE) {
            length_ms = length_ms * 17 / 10;
        }
        let at_ms = CALM_MS + number * cycle_ms + dice.below(cycle_ms / 6 + 1);
        let end_ms = (at_ms + length_ms).min(CALM_MS + room_ms);
        planned.push(Planned {
            wanted: name,
            kind,
            at: Duration::from_millis(at_ms),
            length: Duration::from_millis(end_ms - at_ms).min(kind.at_most()),
            seed: dice.word(),
        });
    }
    // Else everything would always be whole again before anybody looks.
    if let Some(last) = planned.last_mut().filter(|_| dice.permille(600)) {
        last.length = time.saturating_sub(last.at).min(last.kind.at_most());
    }
    planned
}

/// Takes one out of the bag, which is filled again when it is empty.
fn draw<T>(bag: &mut Vec<T>, fill: impl FnOnce() -> Vec<T>, dice: &mut Dice) -> T {
    if bag.is_empty() {
        *bag = fill();
    }
    bag.swap_remove(dice.index(bag.len()))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn a_seed_gives_one_plan_and_everything_wanted_comes() {
        let wanted = parse("all").unwrap();
        let time = Duration::from_secs(60);
        let planned = plan(&wanted, time, 5);
        assert_eq!(planned, plan(&wanted, time, 5));
        assert_ne!(planned, plan(&wanted, time, 6));
        for index in 0..wanted.len() {
            assert!(planned.iter().any(|planned| planned.wanted == index));
        }
        let ends = planned.iter().map(|planned| planned.at + planned.length);
        assert!(ends.max().unwrap() <= time);
        assert!(plan(&wanted, Duration::from_secs(20), 5).is_empty());
        // A family sends another one of its faults each time.
        let wanted = parse("kill").unwrap();
        let planned = plan(&wanted, time, 1);
        let first: Vec<Kind> = planned.iter().take(5).map(|planned| planned.kind).collect();
        assert!(wanted[0].kinds.iter().all(|kind| first.contains(kind)));
    }
}
