//! The clients of a run: each does one operation after the other and writes down what it asked and what it was told.

use super::recorder::Recorder;
use super::system::{Client, Done, Op, System};
use super::workload::{Generator, Workload};
use crate::dice::{Dice, Purpose};
use crate::history::event::Type;
use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// A client's own deadlines are shorter; this one is for a client that hangs.
const OPERATION_LIMIT: Duration = Duration::from_secs(60);
/// How long the setup, and the last operations, may take altogether.
const ALONE_LIMIT: Duration = Duration::from_secs(120);
/// How long a write may take when all is whole.
pub const LAST_WRITE_LIMIT: Duration = Duration::from_secs(30);
const MICROSECONDS_MAX: u64 = 120_000_000;

/// What came of the operations of one function.
#[derive(Clone, Debug)]
pub struct Counted {
    pub ok: u64,
    pub fail: u64,
    pub info: u64,
    /// Of those that were ok, in microseconds.
    pub took: Histogram<u64>,
}

#[derive(Clone, Default, Debug)]
pub struct Counts(pub BTreeMap<&'static str, Counted>);

impl Counts {
    fn add(&mut self, f: &'static str, kind: Type, took: Duration) {
        let counted = self.0.entry(f).or_insert_with(|| Counted {
            ok: 0,
            fail: 0,
            info: 0,
            took: Histogram::new_with_max(MICROSECONDS_MAX, 2)
                .expect("two digits and such a range are allowed"),
        });
        match kind {
            Type::Ok => {
                counted.ok += 1;
                counted.took.saturating_record(took.as_micros() as u64);
            }
            Type::Fail => counted.fail += 1,
            Type::Info | Type::Invoke => counted.info += 1,
        }
    }

    fn merge(&mut self, other: Counts) {
        for (f, of) in other.0 {
            match self.0.get_mut(f) {
                None => drop(self.0.insert(f, of)),
                Some(counted) => {
                    counted.ok += of.ok;
                    counted.fail += of.fail;
                    counted.info += of.info;
                    counted.took += of.took;
                }
            }
        }
    }

    /// ok, fail, info of all functions together.
    pub fn sums(&self) -> (u64, u64, u64) {
        self.0
            .values()
            .fold((0, 0, 0), |(ok, fail, info), counted| {
                (ok + counted.ok, fail + counted.fail, info + counted.info)
            })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub workers: usize,
    /// Operations a second, of all together.
    pub rate: f64,
    pub time: Duration,
    pub seed: u64,
}

/// All of them, until their time is over.
pub struct Workers {
    tasks: JoinSet<anyhow::Result<Counts>>,
}

struct Worker {
    number: usize,
    load: Load,
    client: Box<dyn Client>,
    generator: Box<dyn Generator>,
    recorder: Recorder,
    counts: Counts,
    /// The process of the history that it is: after an operation of unknown outcome it is another one.
    process: i64,
}

impl Workers {
    pub async fn start(
        load: Load,
        system: &dyn System,
        workload: &dyn Workload,
        recorder: &Recorder,
    ) -> anyhow::Result<Workers> {
        let mut ready = Vec::new();
        for number in 0..load.workers {
            ready.push(Worker {
                number,
                load,
                client: system.client(number).await?,
                generator: workload.generator(number, load.workers),
                recorder: recorder.clone(),
                counts: Counts::default(),
                process: number as i64,
            });
        }
        let mut tasks = JoinSet::new();
        for worker in ready {
            tasks.spawn(worker.work());
        }
        Ok(Workers { tasks })
    }

    pub async fn end(mut self) -> anyhow::Result<Counts> {
        let mut counts = Counts::default();
        while let Some(of_one) = self.tasks.join_next().await {
            counts.merge(of_one.context("a worker panicked")??);
        }
        Ok(counts)
    }
}

impl Worker {
    async fn work(mut self) -> anyhow::Result<Counts> {
        let mut dice = Dice::new(self.load.seed, Purpose::LiveWorkers, self.number as u64);
        let began = Instant::now();
        let every = Duration::from_secs_f64(self.load.workers as f64 / self.load.rate);
        let mut next = began + every.mul_f64(dice.below(1_000) as f64 / 1_000.0);
        loop {
            sleep_until(next).await;
            if began.elapsed() >= self.load.time {
                return Ok(self.counts);
            }
            let op = self.generator.next(&mut dice);
            let done = self.invoke(&op).await?;
            self.generator.learn(&op, &done);
            // Jitter, so that workers do not march in step; and what was missed while a fault held is not made up for.
            let pause = every.mul_f64(0.5 + dice.below(1_000) as f64 / 1_000.0);
            next = (next + pause).max(Instant::now());
        }
    }

    async fn invoke(&mut self, op: &Op) -> anyhow::Result<Done> {
        self.recorder.invoked(self.process, op)?;
        let began = Instant::now();
        let answer = timeout(OPERATION_LIMIT, self.client.invoke(op)).await;
        let took = began.elapsed();
        let done = answer.unwrap_or_else(|_| Done::info(op, "the client hangs"));
        self.recorder.ended(self.process, op, &done)?;
        self.counts.add(op.f, done.kind, took);
        if done.kind == Type::Info {
            // The number of the last reader, `workers`, stays free.
            self.process += self.load.workers as i64 + 1;
        }
        Ok(done)
    }
}

/// Done before the history begins.
pub async fn set_up(
    system: &dyn System,
    workload: &dyn Workload,
    workers: usize,
) -> anyhow::Result<()> {
    let mut client = system.client(workers).await?;
    let until = Instant::now() + ALONE_LIMIT;
    for op in workload.setup() {
        let done = timeout_at(until, client.invoke(&op)).await;
        let done = done.with_context(|| format!("{} takes too long", op.f))?;
        if done.kind != Type::Ok {
            bail!("the workload cannot be set up: {}: {}", op.f, done.note);
        }
    }
    Ok(())
}

/// Done when the faults are over: a write, or what is whole might serve reads only, and the last reads. Each is tried until it
/// succeeds; tells the first that does not.
pub async fn do_last(
    system: &dyn System,
    workload: &dyn Workload,
    workers: usize,
    recorder: &Recorder,
    write_limit: Duration,
) -> anyhow::Result<Result<u64, String>> {
    let mut last = Last {
        client: system.last_client(workers).await?,
        process: workers as i64,
        step: workers as i64 + 1,
        recorder,
    };
    let write = last.insist(write_limit, |attempt| workload.write(attempt));
    if let Err(why) = write.await? {
        return Ok(Err(why));
    }
    let began = Instant::now();
    let mut count = 0;
    for op in workload.last() {
        let left = ALONE_LIMIT.saturating_sub(began.elapsed());
        if let Err(why) = last.insist(left, |_| op.clone()).await? {
            return Ok(Err(why));
        }
        count += 1;
    }
    Ok(Ok(count))
}

struct Last<'a> {
    client: Box<dyn Client>,
    process: i64,
    /// From a process to the next one.
    step: i64,
    recorder: &'a Recorder,
}

impl Last<'_> {
    async fn insist(
        &mut self,
        limit: Duration,
        op_of: impl Fn(i64) -> Op,
    ) -> anyhow::Result<Result<(), String>> {
        let until = Instant::now() + limit;
        let mut attempt = 0;
        loop {
            let op = op_of(attempt);
            attempt += 1;
            self.recorder.invoked(self.process, &op)?;
            let answer = timeout(OPERATION_LIMIT, self.client.invoke(&op)).await;
            let done = answer.unwrap_or_else(|_| Done::info(&op, "the client hangs"));
            self.recorder.ended(self.process, &op, &done)?;
            match done.kind {
                Type::Ok => return Ok(Ok(())),
                Type::Info => self.process += self.step,
                Type::Fail | Type::Invoke => {}
            }
            if Instant::now() >= until {
                let (f, why) = (op.f, done.note);
                return Ok(Err(format!("the last {f} does not succeed: {why}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
