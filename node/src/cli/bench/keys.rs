//! Which keys a load touches: uniform, or zipfian as in YCSB. Seeded.
//!
//! Zipfian ranks are scattered over the key space, so that hot keys are spread over the shards as a hash would spread them.

use super::args::{Distribution, PlanArgs};
use bytes::Bytes;
use rand::{Rng, RngExt};

#[derive(Clone, Debug)]
pub struct Keys {
    count: u64,
    zipf: Option<Zipf>,
}

impl Keys {
    pub fn new(plan: &PlanArgs) -> Keys {
        let zipf = match plan.distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian => Some(Zipf::new(plan.keys, plan.theta)),
        };
        Keys {
            count: plan.keys,
            zipf,
        }
    }

    pub fn draw(&self, rng: &mut impl Rng) -> Bytes {
        let rank = match &self.zipf {
            None => rng.random_range(0..self.count),
            Some(zipf) => zipf.draw(rng),
        };
        key(rank)
    }
}

/// The key of a rank: all different, since the scattering is a permutation of the 64-bit numbers.
pub fn key(rank: u64) -> Bytes {
    format!("key-{:016x}", scatter(rank)).into()
}

/// The finaliser of splitmix64.
fn scatter(mut number: u64) -> u64 {
    number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A value of this size that does not compress to nothing.
pub fn value(rng: &mut impl Rng, bytes: u32) -> Bytes {
    let mut value = vec![0; bytes as usize];
    rng.fill_bytes(&mut value);
    value.into()
}

/// Gray and others, "Quickly generating billion-record synthetic databases", as YCSB uses it.
#[derive(Clone, Debug)]
struct Zipf {
    count: u64,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// theta strictly between 0 and 1; at 1 the formulas divide by zero.
    fn new(count: u64, theta: f64) -> Zipf {
        let theta = theta.clamp(0.01, 0.999);
        let zeta = |count: u64| -> f64 { (1..=count).map(|i| (i as f64).powf(-theta)).sum() };
        let all = zeta(count);
        Zipf {
            count,
            theta,
            alpha: 1.0 / (1.0 - theta),
            zeta: all,
            eta: (1.0 - (2.0 / count as f64).powf(1.0 - theta)) / (1.0 - zeta(2.min(count)) / all),
        }
    }

    fn draw(&self, rng: &mut impl Rng) -> u64 {
        let uniform: f64 = rng.random_range(0.0..1.0);
        let at = uniform * self.zeta;
        if at < 1.0 || self.count < 3 {
            return 0;
        }
        if at < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn zipfian_ranks_fall_off_as_they_should() {
        let zipf = Zipf::new(1_000, 0.99);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut hits = vec![0_u32; 1_000];
        for _ in 0..200_000 {
            hits[zipf.draw(&mut rng) as usize] += 1;
        }
        // The first has 1/zeta(1000, 0.99) = 12.9 % of the draws and the second 2^-0.99 of that.
        assert!((25_000..26_700).contains(&hits[0]), "{}", hits[0]);
        assert!((12_400..13_700).contains(&hits[1]), "{}", hits[1]);
        assert!(hits[900] > 0 && hits[900] < 200, "{}", hits[900]);
    }
}
