//! Randomness from a seed: a named generator with one stream for each purpose, and the few draws that are made from it.
//!
//! A fault more or a message more must not shift the workload, so each purpose has a stream of its own. The draws are
//! our own arithmetic on the generator's words: a seed replays on every later version of the library.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is for.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    Setup = 1,
    Faults = 2,
    Network = 3,
    Disks = 4,
    Managers = 5,
    Hosts = 6,
    MoreFaults = 7,
    LeaseFaults = 8,
    /// The agents' own, and one for the world's use of them.
    Agents = 20,
    StoreFaults = 30,
    /// Promotions that a person forces, and what that person says of each.
    ForcedFaults = 50,
    /// Which policy the namespaces have for what failovers cut off.
    Policies = 60,
    /// When clients decide conflicts, and how.
    Decisions = 70,
    /// Whether there are sites, and who is where.
    Sites = 80,
    /// What the namespaces forward to the copies.
    Forward = 90,
    /// The first client; the next ones follow.
    Clients = 100,
    /// Of runs of real processes: which faults come when and to whom.
    LiveFaults = 1 << 32,
    /// What becomes of single packets.
    LivePackets = (1 << 32) + 10,
    /// The first worker; the next ones follow.
    LiveWorkers = 1 << 33,
}

#[derive(Debug, Clone)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64, purpose: Purpose, number: u64) -> Dice {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(purpose as u64 + number);
        Dice(rng)
    }

    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub fn wide(&mut self) -> u128 {
        u128::from(self.word()) << 64 | u128::from(self.word())
    }

    /// From 0 up to, without, `bound`; the bound is small, so the bias of the remainder does not matter.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        self.word() % bound
    }

    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// Both ends are possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, chance: u32) -> bool {
        self.below(1_000) < u64::from(chance)
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.index(list.len())]
    }

    /// An index, each as likely as its weight.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut at = self.below(sum.max(1));
        for (index, weight) in weights.iter().enumerate() {
            if at < u64::from(*weight) {
                return index;
            }
            at -= u64::from(*weight);
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_the_streams_are_apart() {
        let draw = |purpose, number| {
            let mut dice = Dice::new(7, purpose, number);
            [dice.word(), dice.between(5, 9), dice.below(3)]
        };
        assert_eq!(draw(Purpose::Faults, 0), draw(Purpose::Faults, 0));
        assert_ne!(draw(Purpose::Faults, 0), draw(Purpose::Network, 0));
        assert_ne!(draw(Purpose::Clients, 0), draw(Purpose::Clients, 1));
    }
}
