//! Running seeds: one, many in threads, each twice. A panic in the code under test ends its seed, not the run.

use crate::sim::{Keep, Outcome, Statistics, Verdict, World};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

thread_local! {
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are told with their seed instead of being printed when they happen.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICKED.with(|told| *told.borrow_mut() = Some(info.to_string()));
    }));
}

/// One seed.
pub fn seed(seed: u64, keep: Keep) -> Outcome {
    let run = catch_unwind(AssertUnwindSafe(|| World::new(seed, keep).run()));
    run.unwrap_or_else(|_| {
        let what = PANICKED.with(|told| told.borrow_mut().take());
        Outcome {
            verdict: Verdict::Crashed {
                what: what.unwrap_or_default(),
            },
            hash: 0,
            statistics: Statistics::default(),
            last: Vec::new(),
            history: crate::history::History::default(),
        }
    })
}

/// Fewer seeds may have no delta by chance.
const DELTA_SEEDS_MIN: u64 = 100;
/// A delta is expected at least once in so many seeds; there are two or three times as many.
const SEEDS_PER_DELTA: u64 = 4;

/// Which seeds, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub start: u64,
    /// No end: until the time is up.
    pub count: Option<u64>,
    pub time: Option<Duration>,
    pub threads: usize,
    pub twice: bool,
    pub keep_going: bool,
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub statistics: Statistics,
    /// The fewest events, and the fewest faults, that a clean seed had.
    pub least: Option<(u64, u64)>,
    /// Seeds that did not end clean, in the order of their numbers.
    pub failed: Vec<(u64, Verdict)>,
    pub took: Duration,
}

impl Summary {
    pub fn exit_code(&self) -> u8 {
        self.failed
            .first()
            .map_or(0, |(_, verdict)| verdict.exit_code())
    }

    /// Many clean seeds in which hardly a copy caught up by a delta tell nothing about deltas.
    pub fn too_few_deltas(&self) -> Option<String> {
        let (seeds, deltas) = (self.seeds, self.statistics.deltas);
        let few = seeds >= DELTA_SEEDS_MIN && deltas < seeds / SEEDS_PER_DELTA;
        few.then(|| format!("only {deltas} deltas in {seeds} seeds: the worlds lead to too few"))
    }

    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        let (sum, one) = (&mut self.statistics, outcome.statistics);
        sum.events += one.events;
        sum.faults += one.faults;
        sum.acknowledged += one.acknowledged;
        sum.orphans += one.orphans;
        sum.recorded_again += one.recorded_again;
        sum.conflicts += one.conflicts;
        sum.decided += one.decided;
        sum.forgotten += one.forgotten;
        sum.may_have_run += one.may_have_run;
        sum.without_managers += one.without_managers;
        sum.no_lease += one.no_lease;
        sum.deltas += one.deltas;
        sum.operations += one.operations;
        sum.with_objects += one.with_objects;
        sum.forced += one.forced;
        sum.compared += one.compared;
        sum.broken += one.broken;
        sum.virtual_us += one.virtual_us;
        if outcome.verdict != Verdict::Clean {
            self.failed.push((seed, outcome.verdict.clone()));
            return;
        }
        let (events, faults) = self.least.unwrap_or((u64::MAX, u64::MAX));
        self.least = Some((events.min(one.events), faults.min(one.faults)));
    }
}

/// Runs the seeds of the plan; stops at the first that is not clean, unless it is to keep going.
pub fn many(plan: Plan) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(plan.start);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let done = plan.count.is_some_and(|count| number >= plan.start + count);
            if done || plan.time.is_some_and(|time| began.elapsed() >= time) {
                return;
            }
            let outcome = one(number, plan.twice);
            let clean = outcome.verdict == Verdict::Clean;
            summary
                .lock()
                .expect("no thread panics with it")
                .add(number, &outcome);
            if !clean && !plan.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner().expect("no thread panics with it");
    summary.failed.sort_by_key(|(seed, _)| *seed);
    summary.took = began.elapsed();
    summary
}

fn one(number: u64, twice: bool) -> Outcome {
    let mut outcome = seed(number, Keep::Nothing);
    if twice && outcome.verdict == Verdict::Clean {
        let again = seed(number, Keep::Nothing);
        if again.hash != outcome.hash {
            let invariant = "determinism".to_string();
            let what = format!(
                "the traces are {:016x} and {:016x}",
                outcome.hash, again.hash
            );
            outcome.verdict = Verdict::Wrong { invariant, what };
        }
    }
    outcome
}
