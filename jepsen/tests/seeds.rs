//! Every seed that once showed a mistake ends clean, and the same seed twice leaves the same trace.

use understudy_jepsen::run;
use understudy_jepsen::sim::{Keep, Verdict};

/// The seeds of the folder `seeds`: the first line of each file is `seed NUMBER`, the rest says what it showed.
fn seeds() -> Vec<u64> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
    let mut seeds: Vec<u64> = std::fs::read_dir(folder)
        .expect("the folder of seeds is there")
        .map(|entry| {
            let path = entry.expect("it can be listed").path();
            let text = std::fs::read_to_string(&path).expect("it can be read");
            let first = text
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("seed "));
            let number = first.and_then(|number| number.trim().parse().ok());
            number.unwrap_or_else(|| panic!("{} does not begin with a seed", path.display()))
        })
        .collect();
    seeds.sort_unstable();
    seeds
}

// capability P27: I1 and I2 are looked at in every world
#[test]
fn a_seed_that_showed_a_mistake_stays_clean() {
    for seed in seeds() {
        let outcome = run::seed(seed, Keep::Nothing);
        assert_eq!(outcome.verdict, Verdict::Clean, "seed {seed}");
    }
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in 1..4 {
        let hash = |_| run::seed(seed, Keep::Nothing).hash;
        assert_eq!(hash(0), hash(1), "seed {seed}");
        assert_ne!(run::seed(seed + 1, Keep::Nothing).hash, hash(0));
    }
}

// capability B13
/// Less would not reach the interesting orders of events.
#[test]
fn every_seed_has_enough_events_and_faults() {
    for seed in 1..=50 {
        let statistics = run::seed(seed, Keep::Nothing).statistics;
        assert!(
            statistics.events >= 2_000 && statistics.faults >= 5,
            "seed {seed}: {statistics:?}"
        );
    }
}
