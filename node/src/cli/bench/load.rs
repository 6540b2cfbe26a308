//! The load generator: closed loop, or open loop without coordinated omission.
//!
//! In the open loop each worker has a timetable, and a request's time counts from when it was due: a server that stalls
//! is charged for the requests that could not be started meanwhile. More workers than the rate needs keep the timetable.

use super::args::PlanArgs;
use super::cpu;
use super::keys::{Keys, key, value};
use super::measured::{Latency, Measured, histogram, micros};
use crate::cli::bulk;
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use understudy_client::{Client, Error, Namespace, Settings};
use understudy_proto::failure::Applied;

/// A write keeps its request this long; a load does not wait longer for its last ones.
const DEADLINE: Duration = Duration::from_secs(20);
/// Values are drawn before, so that drawing is not measured.
const VALUES: usize = 64;

/// What the workers of one client saw.
struct Seen {
    puts: Histogram<u64>,
    gets: Histogram<u64>,
    /// Answered inside the measurement.
    operations: u64,
    failed: u64,
    unknown: u64,
}

struct Worker {
    namespace: Namespace,
    plan: PlanArgs,
    keys: Arc<Keys>,
    values: Arc<Vec<bytes::Bytes>>,
    rng: ChaCha8Rng,
    /// Of the measurement.
    from: Instant,
    to: Instant,
    /// Open loop: when the first request is due, and the time to the next one.
    timetable: Option<(Instant, Duration)>,
    seen: Arc<Mutex<Seen>>,
}

/// Runs the plan. `pids`: the server processes whose CPU time is counted.
pub async fn run(endpoints: &[String], pids: &[u32], plan: &PlanArgs) -> anyhow::Result<Measured> {
    if plan.puts < 1.0 {
        fill(endpoints, plan).await?;
    }
    let keys = Arc::new(Keys::new(plan));
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let values = Arc::new(
        (0..VALUES)
            .map(|_| value(&mut rng, plan.value_size))
            .collect(),
    );
    let begin = Instant::now() + Duration::from_millis(50);
    let (from, to) = (
        begin + plan.warm_up(),
        begin + plan.warm_up() + plan.duration(),
    );
    let mut workers = JoinSet::new();
    let mut seen = Vec::new();
    for client in 0..plan.clients {
        let settings = Settings {
            transport: plan.transport(),
            ..Settings::default()
        };
        let connected = Client::connect_with(endpoints, settings).await?;
        let of_client = Arc::new(Mutex::new(Seen::new()));
        for worker in 0..plan.in_flight {
            let number = client * plan.in_flight + worker;
            let worker = Worker {
                namespace: connected.namespace(&plan.namespace),
                plan: plan.clone(),
                keys: keys.clone(),
                values: Arc::clone(&values),
                rng: ChaCha8Rng::seed_from_u64(plan.seed.wrapping_add(1 + u64::from(number))),
                from,
                to,
                timetable: timetable(plan, begin, number),
                seen: of_client.clone(),
            };
            workers.spawn(worker.run());
        }
        seen.push(of_client);
    }
    sleep_until(from).await;
    let before = cpu::used(pids)?;
    sleep_until(to).await;
    let used = cpu::used(pids)?.saturating_sub(before);
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    Ok(sum_up(plan, &seen, Some(used).filter(|_| !pids.is_empty())))
}

/// Loads every key, for the gets.
async fn fill(endpoints: &[String], plan: &PlanArgs) -> anyhow::Result<()> {
    let namespace = Client::connect(endpoints).await?.namespace(&plan.namespace);
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let rows = (0..plan.keys).map(|rank| (key(rank), value(&mut rng, plan.value_size)));
    bulk::load(&namespace, rows).await?;
    Ok(())
}

/// The workers take turns.
fn timetable(plan: &PlanArgs, begin: Instant, number: u32) -> Option<(Instant, Duration)> {
    let rate = plan.rate.filter(|rate| *rate > 0.0)?;
    let step = Duration::from_secs_f64(1.0 / rate);
    Some((begin + step * number, step * plan.workers()))
}

impl Worker {
    async fn run(mut self) {
        let mut due = self.timetable.map_or(self.from, |(first, _)| first);
        loop {
            let started = match self.timetable {
                None => Instant::now(),
                Some((_, step)) => {
                    sleep_until(due).await;
                    let this = due;
                    due += step;
                    this
                }
            };
            if started >= self.to {
                return;
            }
            self.one(started).await;
        }
    }

    async fn one(&mut self, started: Instant) {
        let key = self.keys.draw(&mut self.rng);
        let put = self.plan.puts >= 1.0 || self.rng.random_bool(self.plan.puts.clamp(0.0, 1.0));
        let answer = if put {
            let value = self.values[self.rng.random_range(0..VALUES)].clone();
            let write = self.namespace.put(key, value).copies(self.plan.copies);
            write.deadline(DEADLINE).await.map(|_| ())
        } else {
            let read = self.namespace.get(key).deadline(DEADLINE);
            read.send().await.map(|_| ())
        };
        let ended = Instant::now();
        let mut seen = lock(&self.seen);
        if ended >= self.from && ended < self.to {
            seen.count(&answer);
        }
        if started >= self.from && answer.is_ok() {
            seen.time(put, ended - started);
        }
    }
}

impl Seen {
    fn new() -> Seen {
        Seen {
            puts: histogram(),
            gets: histogram(),
            operations: 0,
            failed: 0,
            unknown: 0,
        }
    }

    fn count(&mut self, answer: &Result<(), Error>) {
        match answer {
            Ok(()) => self.operations += 1,
            Err(error) if error.applied() == Applied::Unknown => self.unknown += 1,
            Err(_) => self.failed += 1,
        }
    }

    fn time(&mut self, put: bool, elapsed: Duration) {
        let histogram = if put { &mut self.puts } else { &mut self.gets };
        histogram.saturating_record(micros(elapsed));
    }
}

fn sum_up(plan: &PlanArgs, seen: &[Arc<Mutex<Seen>>], used: Option<Duration>) -> Measured {
    let mut all = Seen::new();
    for of_client in seen {
        let of_client = lock(of_client);
        all.operations += of_client.operations;
        all.failed += of_client.failed;
        all.unknown += of_client.unknown;
        // Both grow by themselves, so adding cannot fail.
        let _ = all.puts.add(&of_client.puts);
        let _ = all.gets.add(&of_client.gets);
    }
    let mut both = all.puts.clone();
    let _ = both.add(&all.gets);
    let mixed = !all.puts.is_empty() && !all.gets.is_empty();
    let seconds = plan.duration().as_secs_f64();
    let per_operation = |used: Duration| used.as_secs_f64() * 1e6 / all.operations.max(1) as f64;
    Measured {
        name: format!("understudy {:?}", plan.transport).to_lowercase(),
        clients: plan.clients,
        in_flight: plan.in_flight,
        rate: plan.rate,
        seconds,
        operations: all.operations,
        per_second: all.operations as f64 / seconds,
        latency: Latency::of(&both),
        puts: mixed.then(|| Latency::of(&all.puts)),
        gets: mixed.then(|| Latency::of(&all.gets)),
        failed: all.failed,
        unknown: all.unknown,
        server_cpu_us_per_operation: used.map(per_operation),
    }
}

/// The value is whole between any two calls, so a panic elsewhere does not spoil it.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
