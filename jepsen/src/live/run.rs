//! One run: start, prepare, work with the nemesis beside it, heal, wait, read what is there, judge.
//!
//! What goes wrong in the harness makes the run invalid, never good: nothing was shown then.

use super::machines::{Machines, OwnEnd};
use super::nemesis::{self, Applied, Nemesis, Outcome, Wanted};
use super::network::Traffic;
use super::recorder::{self, Recorder};
use super::system::System;
use super::worker::{Counts, LAST_WRITE_LIMIT, Load, Workers, do_last, set_up};
use super::workload::{Found, Promise, Workload};
use crate::checker::Verdict;
use crate::history::{Operations, read};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// Far more than a system needs to be whole again.
pub const HEAL_LIMIT: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So long it stays whole, and nothing is handed over, before that counts: more than a lease, its grace and an election, so that
/// no failover is still to come when the last reads are done.
const WHOLE_FOR: Duration = Duration::from_secs(3);
/// Until a process that ended by itself is started again, as a supervisor would.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Fewer operations that succeeded show nothing.
const OK_LEAST: u64 = 50;
const LOG_LINES: usize = 12;

pub struct Plan {
    pub system: Arc<dyn System>,
    pub workload: Arc<dyn Workload>,
    pub wanted: Vec<Wanted>,
    pub load: Load,
    /// Of the harness in the network; `None`: on loopback.
    pub own_end: Option<OwnEnd>,
    /// Where the processes' data and logs are.
    pub scratch: PathBuf,
    /// Where the history and the results go.
    pub store: PathBuf,
    /// After the faults the system has to be whole within this time (I13).
    pub heal_limit: Duration,
}

/// A process that ended without being told to.
#[derive(Clone, Debug)]
pub struct Crash {
    pub member: String,
    pub at_ns: i64,
    pub status: String,
    pub last_lines: Vec<String>,
}

/// What a run came to.
#[derive(Default, Debug)]
pub struct Ran {
    pub faults: Vec<Applied>,
    pub counts: Counts,
    pub crashes: Vec<Crash>,
    /// Of the workload's time.
    pub worked: Duration,
    /// From the end of the last fault until everything was seen to be whole; or what was not. Nobody looks before the clients
    /// are done, so it may have been earlier.
    pub healed: Option<Result<Duration, String>>,
    pub last: Option<Result<u64, String>>,
    pub inspected: Vec<String>,
    pub traffic: Option<Traffic>,
    pub found: Vec<Found>,
    pub judging: Duration,
    pub promise: Option<Promise>,
    /// Why nothing can be concluded.
    pub broken: Vec<String>,
}

/// What to tell the caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Conclusion {
    AsPromised,
    Violated(Vec<String>),
    Unknown(String),
    Invalid(Vec<String>),
}

impl Conclusion {
    pub fn exit_code(&self) -> u8 {
        match self {
            Conclusion::AsPromised => 0,
            Conclusion::Violated(_) => 1,
            Conclusion::Unknown(_) => 3,
            Conclusion::Invalid(_) => 4,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Conclusion::AsPromised => "as promised",
            Conclusion::Violated(_) => "violation",
            Conclusion::Unknown(_) => "unknown",
            Conclusion::Invalid(_) => "invalid run",
        }
    }

    pub fn reasons(&self) -> Vec<String> {
        match self {
            Conclusion::AsPromised => Vec::new(),
            Conclusion::Violated(reasons) | Conclusion::Invalid(reasons) => reasons.clone(),
            Conclusion::Unknown(why) => vec![why.clone()],
        }
    }
}

/// Runs it. Whatever breaks is in what comes back.
pub async fn run(plan: Plan) -> Ran {
    let mut ran = Ran {
        promise: Some(plan.workload.promise(plan.system.offers())),
        ..Ran::default()
    };
    if let Err(error) = live_through(plan, &mut ran).await {
        ran.broken.push(format!("{error:#}"));
    }
    ran
}

async fn live_through(plan: Plan, ran: &mut Ran) -> anyhow::Result<()> {
    let Plan {
        system,
        workload,
        wanted,
        load,
        own_end,
        scratch,
        store,
        heal_limit,
    } = plan;
    let machines = Machines::new(&*system, &scratch, own_end, load.seed);
    let machines = Arc::new(machines.context("making places for the processes")?);
    machines.start_all().await?;
    tokio::select! {
        prepared = system.clone().prepare(machines.hosts().to_vec()) => prepared?,
        ended = first_end(&machines) => bail!("the system does not start: {ended}"),
    }
    set_up(&*system, &*workload, load.workers).await?;
    let (recorder, written) = recorder::record(&store)?;
    let watch = Watch::start(machines.clone(), recorder.clone());

    let worked = work(
        &system, &*workload, &wanted, load, &machines, &recorder, ran,
    )
    .await;
    // Also after trouble: what was seen until then is worth a look.
    let after = match worked {
        Ok(()) => {
            let after = After {
                system: &*system,
                workload: &*workload,
                load,
                heal_limit,
            };
            after.finish(&machines, &recorder, ran).await
        }
        Err(error) => Err(error),
    };
    ran.crashes = watch.end().await;
    if let Some(network) = machines.network() {
        ran.traffic = Some(network.traffic());
        ran.broken.extend(network.broken());
    }
    machines.end().await;
    drop(recorder);
    // A history that ends early is judged too: what it shows was seen, and no error of the harness makes it unseen.
    let history = written.json_lines.clone();
    let trouble = [after.err(), written.finish().err()];
    let judged = judge(&history, &*system, &*workload, ran);
    let trouble = trouble.into_iter().flatten();
    ran.broken
        .extend(trouble.map(|trouble| format!("{trouble:#}")));
    judged
}

async fn work(
    system: &Arc<dyn System>,
    workload: &dyn Workload,
    wanted: &[Wanted],
    load: Load,
    machines: &Arc<Machines>,
    recorder: &Recorder,
    ran: &mut Ran,
) -> anyhow::Result<()> {
    let planned = nemesis::plan(wanted, load.time, load.seed);
    let workers = Workers::start(load, &**system, workload, recorder).await?;
    let began = Instant::now();
    let nemesis = Nemesis::start(
        planned,
        wanted,
        machines.clone(),
        system.clone(),
        recorder.clone(),
    );
    let counts = workers.end().await;
    ran.worked = began.elapsed();
    // First of all everything is taken back, whatever became of the workers.
    let (faults, troubles) = nemesis.end().await;
    ran.faults = faults;
    ran.broken
        .extend(troubles.iter().map(|trouble| format!("{trouble:#}")));
    ran.counts = counts?;
    Ok(())
}

/// What is left to do when the workload's time is over.
struct After<'a> {
    system: &'a dyn System,
    workload: &'a dyn Workload,
    load: Load,
    heal_limit: Duration,
}

impl After<'_> {
    async fn finish(
        &self,
        machines: &Machines,
        recorder: &Recorder,
        ran: &mut Ran,
    ) -> anyhow::Result<()> {
        machines.heal().await?;
        recorder.nemesis("healed", "everything runs and is joined")?;
        let last_ns = ran.faults.iter().map(|fault| fault.ended_ns).max();
        let healed = self.whole().await.map(|since| {
            let whole_ns = since.duration_since(recorder.began().into()).as_nanos() as i64;
            let since_ns = whole_ns - last_ns.unwrap_or(whole_ns);
            Duration::from_nanos(since_ns.max(0).unsigned_abs())
        });
        let waits = healed.as_ref().err().map_or("", String::as_str);
        recorder.nemesis("whole", waits)?;
        ran.healed = Some(healed);
        // A cluster that may not take long to get whole may not take longer for one write.
        let limit = self.heal_limit.min(LAST_WRITE_LIMIT);
        let last = do_last(
            self.system,
            self.workload,
            self.load.workers,
            recorder,
            limit,
        )
        .await;
        let inspected = self.system.inspect().await.context("the last look");
        // What one of them shows counts, whatever became of the other.
        ran.inspected = inspected.as_ref().map_or(Vec::new(), Vec::clone);
        ran.last = Some(last?);
        inspected.map(|_| ())
    }

    /// Since when it has been whole without a break.
    async fn whole(&self) -> Result<Instant, String> {
        let began = Instant::now();
        let mut whole: Option<(Instant, String)> = None;
        loop {
            let asked = Instant::now();
            let waits = match (self.system.healthy().await, &whole) {
                (Ok(state), Some((since, before))) if state == *before => {
                    if since.elapsed() >= WHOLE_FOR {
                        return Ok(*since);
                    }
                    String::new()
                }
                (Ok(state), before) => {
                    let waits = match before {
                        Some((_, before)) => format!("{before} became {state}"),
                        None => String::new(),
                    };
                    whole = Some((asked, state));
                    waits
                }
                (Err(waits), _) => {
                    whole = None;
                    waits
                }
            };
            if began.elapsed() >= self.heal_limit && !waits.is_empty() {
                let limit = self.heal_limit;
                return Err(format!("not whole {limit:?} after the last fault: {waits}"));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

fn judge(
    history: &std::path::Path,
    system: &dyn System,
    workload: &dyn Workload,
    ran: &mut Ran,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let (_, events) = read(history, Some(crate::history::Format::Jsonl))?;
    let operations = Operations::collect(events).context("the history that was written")?;
    ran.found = workload
        .judge(&operations, system.offers())
        .context("judging the history")?;
    ran.judging = began.elapsed();
    Ok(())
}

/// Notices processes that end by themselves, and starts them again.
struct Watch {
    task: JoinHandle<()>,
    machines: Arc<Machines>,
    recorder: Recorder,
    crashes: Arc<Mutex<Vec<Crash>>>,
}

impl Watch {
    fn start(machines: Arc<Machines>, recorder: Recorder) -> Watch {
        let crashes: Arc<Mutex<Vec<Crash>>> = Arc::default();
        let (at, told, seen) = (machines.clone(), recorder.clone(), crashes.clone());
        let task = tokio::spawn(async move {
            // They end with this.
            let mut restarts = JoinSet::new();
            loop {
                sleep(LOOK_EVERY).await;
                for member in look(&at, &told, &seen) {
                    let machines = at.clone();
                    restarts.spawn(async move {
                        sleep(RESTART_AFTER).await;
                        // A fault may have started it already.
                        let _ = machines.process(member).start().await;
                    });
                }
            }
        });
        Watch {
            task,
            machines,
            recorder,
            crashes,
        }
    }

    /// After a last look, for what ends while we end everything is not told apart from that.
    async fn end(self) -> Vec<Crash> {
        self.task.abort();
        // It was told to.
        let _ = self.task.await;
        look(&self.machines, &self.recorder, &self.crashes);
        let mut crashes = self.crashes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut crashes)
    }
}

/// Notes who ended by itself, and tells which they are.
fn look(machines: &Machines, recorder: &Recorder, seen: &Mutex<Vec<Crash>>) -> Vec<usize> {
    let mut ended = Vec::new();
    for (member, process) in machines.processes().iter().enumerate() {
        let Some(status) = process.ended() else {
            continue;
        };
        let crash = Crash {
            member: machines.names(&[member]),
            at_ns: recorder.now_ns(),
            status: status.to_string(),
            last_lines: process.last_lines(LOG_LINES),
        };
        // A history that cannot be written ends the run elsewhere.
        let what = format!("{}: {}", crash.member, crash.status);
        let _ = recorder.nemesis("ended-by-itself", &what);
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(crash);
        ended.push(member);
    }
    ended
}

/// Waits until a process ends; tells which, and its last words.
async fn first_end(machines: &Machines) -> String {
    loop {
        for (member, process) in machines.members().iter().zip(machines.processes()) {
            if let Some(status) = process.ended() {
                let last = process.last_lines(3).join("\n    ");
                return format!("{} ended ({status}):\n    {last}", member.name);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Ran {
    pub fn conclusion(&self, wanted: &[Wanted]) -> Conclusion {
        let violations = self.violations();
        if !violations.is_empty() {
            return Conclusion::Violated(violations);
        }
        let invalid = self.invalid(wanted);
        if !invalid.is_empty() {
            return Conclusion::Invalid(invalid);
        }
        let unknown = self.found.iter().find_map(|found| match &found.verdict {
            Verdict::Unknown(why) => Some(format!("{}: {why}", found.checker)),
            _ => None,
        });
        unknown.map_or(Conclusion::AsPromised, Conclusion::Unknown)
    }

    /// What has to come out, in view of what happened: only a primary that goes on alone for a while surely does what nobody else
    /// hears of; other faults may or may not come at the right moment.
    pub fn promise(&self) -> Promise {
        let alone = |applied: &Applied| {
            applied.kind == nemesis::Kind::Partition(nemesis::Cut::Primary)
                && applied.outcome == Outcome::Installed
        };
        match self.promise.unwrap_or(Promise::Open) {
            Promise::Breaks if !self.faults.iter().any(alone) => Promise::Open,
            promise => promise,
        }
    }

    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        if self.promise() == Promise::Holds {
            for found in &self.found {
                if let Verdict::Violated(findings) = &found.verdict {
                    let findings = findings.iter().take(5);
                    violations.extend(findings.map(|finding| {
                        format!("{}: {}: {}", found.checker, finding.name, finding.text)
                    }));
                }
            }
        }
        for crash in &self.crashes {
            violations.push(format!(
                "{} ended by itself: {}",
                crash.member, crash.status
            ));
        }
        if let Some(Err(waits)) = &self.healed {
            violations.push(waits.clone());
        }
        if let Some(Err(why)) = &self.last {
            violations.push(why.clone());
        }
        violations.extend(self.inspected.iter().cloned());
        violations
    }

    fn invalid(&self, wanted: &[Wanted]) -> Vec<String> {
        let mut invalid = self.broken.clone();
        for wanted in wanted {
            let installed = |applied: &&Applied| {
                applied.wanted == wanted.name && applied.outcome == Outcome::Installed
            };
            if !self.faults.iter().any(|applied| installed(&applied)) {
                let why = self
                    .faults
                    .iter()
                    .find(|applied| applied.wanted == wanted.name);
                let why = why.map_or("there was no time for it", |applied| applied.outcome.why());
                invalid.push(format!("'{}' was never installed: {why}", wanted.name));
            }
        }
        let (ok, ..) = self.counts.sums();
        if ok < OK_LEAST {
            invalid.push(format!("only {ok} operations succeeded"));
        }
        // Where no write, or no read, was ever acknowledged there was nothing to lose.
        for (f, counted) in &self.counts.0 {
            if counted.ok == 0 {
                invalid.push(format!("not one {f} succeeded"));
            }
        }
        let holds = |found: &Found| matches!(found.verdict, Verdict::Holds);
        if self.promise() == Promise::Breaks && self.found.iter().all(holds) {
            invalid.push("a primary was cut off, and nothing is seen of it".to_string());
        }
        invalid
    }
}
