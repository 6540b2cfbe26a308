//! The network between all places: what is sent arrives late, twice, in another order, or not at all.
//!
//! Cuts are counted for each direction of each pair, so that faults may overlap and heal one by one.

use crate::dice::{Dice, Purpose};
use std::collections::BTreeMap;
use std::fmt;

/// Who sends and receives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    Node(usize),
    Manager(usize),
    Client(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Node(number) => write!(f, "n{}", number + 1),
            Place::Manager(number) => write!(f, "m{}", number + 1),
            Place::Client(number) => write!(f, "c{}", number + 1),
        }
    }
}

/// How bad the whole network is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noise {
    pub loss_permille: u32,
    pub repeat_permille: u32,
    pub delay_max_us: u64,
}

#[derive(Debug)]
pub struct Network {
    dice: Dice,
    cuts: BTreeMap<(Place, Place), u32>,
    /// Links that lose much by themselves, in thousandths.
    flaky: BTreeMap<(Place, Place), u32>,
    noises: Vec<Noise>,
    delay_min_us: u64,
    delay_max_us: u64,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        let mut dice = Dice::new(seed, Purpose::Network, 0);
        let delay_min_us = dice.between(50, 500);
        let delay_max_us = delay_min_us + dice.between(100, 5_000);
        Network {
            dice,
            cuts: BTreeMap::new(),
            flaky: BTreeMap::new(),
            noises: Vec::new(),
            delay_min_us,
            delay_max_us,
        }
    }

    /// The delays after which the message arrives: none when it is lost, two when it is repeated.
    pub fn send(&mut self, from: Place, to: Place) -> [Option<u64>; 2] {
        // Always the same number of draws, so that a cut does not shift what follows.
        let (loss, repeat) = (self.dice.below(1_000), self.dice.below(1_000));
        let first = self.dice.between(self.delay_min_us, self.delay_max_us);
        let (extra, second) = (self.dice.word(), self.dice.word());
        let noise = self.noises.last().copied();
        let slow = |word: u64| noise.map_or(0, |noise| word % (noise.delay_max_us + 1));
        let flaky = self.flaky.get(&(from, to)).copied().unwrap_or(0);
        if loss < u64::from(flaky) {
            return [None, None];
        }
        if !self.reaches(from, to) || noise.is_some_and(|n| loss < u64::from(n.loss_permille)) {
            return [None, None];
        }
        let again = noise.is_some_and(|n| repeat < u64::from(n.repeat_permille));
        [
            Some(first + slow(extra)),
            again.then(|| first + slow(second)),
        ]
    }

    pub fn reaches(&self, from: Place, to: Place) -> bool {
        !self.cuts.contains_key(&(from, to))
    }

    pub fn cut(&mut self, from: Place, to: Place) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: Place, to: Place) {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    /// From now on the link loses so much; `None`: nothing by itself.
    pub fn set_flaky(&mut self, from: Place, to: Place, loss_permille: Option<u32>) {
        match loss_permille {
            Some(loss) => self.flaky.insert((from, to), loss),
            None => self.flaky.remove(&(from, to)),
        };
    }

    pub fn add_noise(&mut self, noise: Noise) {
        self.noises.push(noise);
    }

    pub fn take_noise(&mut self, noise: Noise) {
        if let Some(at) = self.noises.iter().position(|n| *n == noise) {
            self.noises.remove(at);
        }
    }

    /// Everything works from now on.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.flaky.clear();
        self.noises.clear();
    }
}
