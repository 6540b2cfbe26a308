//! The sites of a world in which primaries follow their writers: where each node is, and where each client is at the moment.
//!
//! Clients move from site to site, so that primaries have somewhere to go. Worlds without sites stay what they were.

use crate::dice::{Dice, Purpose};

/// How long a client stays at a site, at least and at most.
const STAY_US: (u64, u64) = (2_000_000, 5_000_000);
const SITES_PERMILLE: u32 = 300;

#[derive(Clone, Copy, Debug)]
pub struct Sites {
    count: u64,
    stay_us: u64,
}

impl Sites {
    /// In so many of a thousand worlds there are two or three sites.
    pub fn draw(seed: u64) -> Option<Sites> {
        let mut dice = Dice::new(seed, Purpose::Sites, 0);
        let some = dice.permille(SITES_PERMILLE);
        let count = dice.between(2, 3);
        let stay_us = dice.between(STAY_US.0, STAY_US.1);
        some.then_some(Sites { count, stay_us })
    }

    pub fn of_node(self, node: usize) -> String {
        self.name(node as u64)
    }

    /// Two of three clients are at the same site.
    pub fn of_client(self, client: usize, now_us: u64) -> String {
        let stays = now_us / self.stay_us;
        self.name(stays + u64::from(client % 3 == 2))
    }

    fn name(self, number: u64) -> String {
        format!("site-{}", number % self.count)
    }
}
