//! One process of the machine through all its starts: a task that waits for its end, for the time to start it again, and for
//! wishes.
//!
//! The end of a process is reported in the moment that it is seen, before anything else is done. Nothing here ends a process
//! but a wish.

use super::Launch;
use super::backoff::Backoff;
use super::identify::{Adopted, start_time_of};
use super::program::Program;
use super::report::Reporter;
use super::state::{Saved, States};
use crate::clock;
use crate::config::AgentConfig;
use crate::process::boot_id;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::AgentProcess;
use understudy_proto::v1::agent_process::State;

/// Wishes that wait; beyond it callers are told `OVERLOADED`.
const WISHES_MAX: usize = 16;
/// After SIGKILL only a disk that hangs keeps a process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What may be asked.
#[derive(Debug)]
pub enum Wish {
    Start,
    Stop {
        /// Between SIGTERM and SIGKILL; `None`: as the config says.
        grace: Option<Duration>,
        /// Also after the agent's restart.
        remember: bool,
    },
    Restart {
        /// Only the process of that launch.
        launch: Option<String>,
        grace: Option<Duration>,
    },
}

type Answer = oneshot::Sender<Result<(), Failure>>;

/// How long things may take, and how long is paused between two starts.
#[derive(Clone, Debug)]
pub struct Pauses {
    backoff: Backoff,
    grace: Duration,
}

impl Pauses {
    pub fn of(config: &AgentConfig) -> Pauses {
        let ms = Duration::from_millis;
        let restart = &config.restart;
        Pauses {
            backoff: Backoff::new(
                ms(restart.first_ms),
                ms(restart.most_ms),
                ms(restart.stable_ms),
            ),
            grace: ms(config.stop_timeout_ms),
        }
    }
}

/// The handle of the task. The task ends with the agent.
#[derive(Debug)]
pub struct Supervisor {
    wishes: mpsc::Sender<(Wish, Answer)>,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Debug)]
struct Shown {
    process: AgentProcess,
    starts_at: Option<Instant>,
}

impl Supervisor {
    pub fn start(
        program: Program,
        states: States,
        pauses: Pauses,
        reporter: Reporter,
        address: String,
    ) -> Supervisor {
        let (wishes, inbox) = mpsc::channel(WISHES_MAX);
        let saved = states.read(&program.name);
        let shown = Arc::new(Mutex::new(Shown {
            process: AgentProcess {
                name: program.name.clone(),
                command: program.command.clone(),
                ..AgentProcess::default()
            },
            starts_at: None,
        }));
        let task = Task {
            program,
            states,
            saved,
            backoff: pauses.backoff,
            grace: pauses.grace,
            reporter,
            address,
            shown: shown.clone(),
        };
        tokio::spawn(task.run(inbox));
        Supervisor { wishes, shown }
    }

    /// Answered when it is done.
    pub async fn ask(&self, wish: Wish) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        self.wishes
            .try_send((wish, answer))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    Failure::no(Reason::Overloaded, "too many wishes wait for this process")
                }
                mpsc::error::TrySendError::Closed(_) => {
                    Failure::no(Reason::Stopping, "the agent is stopping")
                }
            })?;
        let stopping = |_| Failure::unknown(Reason::Stopping, "the agent is stopping");
        answered.await.map_err(stopping)?
    }

    pub fn status(&self) -> AgentProcess {
        let shown = self.shown.lock();
        let left = shown
            .starts_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        AgentProcess {
            starts_in_ms: left.map_or(0, |left| left.as_millis() as u64),
            ..shown.process.clone()
        }
    }
}

struct Task {
    program: Program,
    states: States,
    saved: Saved,
    backoff: Backoff,
    grace: Duration,
    reporter: Reporter,
    address: String,
    shown: Arc<Mutex<Shown>>,
}

/// Where the process is.
enum Now {
    Runs(Running, Instant),
    Waits(Instant),
    Stopped,
}

/// Whose end can be seen: a child of this agent, or one of an earlier agent.
enum Running {
    Ours(Child),
    Adopted(Adopted),
}

impl Running {
    /// How it ended. An error: that cannot be told, and nobody may be told that it did.
    async fn ended(&mut self) -> std::io::Result<String> {
        match self {
            Running::Ours(child) => child.wait().await.map(|status| status.to_string()),
            Running::Adopted(process) => {
                process.ended().await?;
                Ok("ended (started by an earlier agent)".to_string())
            }
        }
    }

    fn signal(&self, signal: Signal) {
        match self {
            // Until its end was waited for, its id is not given to another process.
            Running::Ours(child) => {
                let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                if let Some(pid) = pid {
                    let _ = kill_process(pid, signal);
                }
            }
            Running::Adopted(process) => process.signal(signal),
        }
    }
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<(Wish, Answer)>) {
        let mut now = self.begin();
        loop {
            now = match now {
                Now::Runs(mut running, since) => tokio::select! {
                    end = running.ended() => self.on_end(end, since),
                    asked = inbox.recv() => match asked {
                        Some((wish, answer)) => self.while_running(running, since, wish, answer).await,
                        None => return,
                    },
                },
                Now::Waits(until) => tokio::select! {
                    () = sleep_until(until) => self.launch(),
                    asked = inbox.recv() => match asked {
                        Some((wish, answer)) => self.while_not_running(wish, answer, Some(until)),
                        None => return,
                    },
                },
                Now::Stopped => match inbox.recv().await {
                    Some((wish, answer)) => self.while_not_running(wish, answer, None),
                    None => return,
                },
            };
        }
    }

    /// Takes over what an earlier agent started, or starts it.
    fn begin(&mut self) -> Now {
        if let Some(process) = Adopted::find(&self.saved) {
            let name = &self.program.name;
            tracing::info!(name, pid = process.pid, "runs already, and is taken over");
            self.saved.pid = Some(process.pid);
            self.saved.start_time = Some(process.start_time);
            self.save();
            self.show(State::Running, process.pid);
            return Now::Runs(Running::Adopted(process), Instant::now());
        }
        if self.saved.stopped {
            return self.stopped();
        }
        self.launch()
    }

    fn launch(&mut self) -> Now {
        let launch = Launch::draw();
        self.saved = Saved {
            launch: Some(launch.clone()),
            boot: boot_id(),
            started_at_ms: clock::unix_ms(),
            ..Saved::default()
        };
        // Before the start: otherwise an agent that is killed in between would start it a second time.
        self.save();
        let name = &self.program.name;
        match self.program.spawn(&launch, &self.address) {
            Ok(child) => {
                let pid = child.id().unwrap_or(0);
                tracing::info!(name, pid, "started");
                self.saved.pid = child.id();
                self.saved.start_time = start_time_of(pid);
                self.save();
                self.shown.lock().process.starts += 1;
                self.show(State::Running, pid);
                Now::Runs(Running::Ours(child), Instant::now())
            }
            Err(error) => {
                tracing::error!(name, %error, "cannot be started");
                self.shown.lock().process.last_end = format!("it cannot be started: {error}");
                self.wait(Duration::ZERO)
            }
        }
    }

    fn on_end(&mut self, end: std::io::Result<String>, since: Instant) -> Now {
        let vouched = end.is_ok();
        let end = end.unwrap_or_else(|error| format!("how it ended cannot be told: {error}"));
        if let Some(launch) = self.saved.launch.clone().filter(|_| vouched) {
            self.reporter.ended(launch);
        }
        tracing::warn!(name = self.program.name, end, "ended");
        self.shown.lock().process.last_end = end;
        self.wait(since.elapsed())
    }

    fn wait(&mut self, ran: Duration) -> Now {
        let pause = self.backoff.after(ran);
        let until = Instant::now() + pause;
        let pause_ms = pause.as_millis() as u64;
        tracing::info!(
            name = self.program.name,
            pause_ms,
            "is started again after a pause"
        );
        self.show(State::Waiting, 0);
        self.shown.lock().starts_at = Some(until);
        Now::Waits(until)
    }

    fn stopped(&mut self) -> Now {
        self.show(State::Stopped, 0);
        Now::Stopped
    }

    async fn while_running(
        &mut self,
        running: Running,
        since: Instant,
        wish: Wish,
        answer: Answer,
    ) -> Now {
        let (grace, again, remember) = match wish {
            Wish::Start => {
                let _ = answer.send(Ok(()));
                return Now::Runs(running, since);
            }
            Wish::Restart { launch, .. } if self.is_another(launch.as_deref()) => {
                let _ = answer.send(Ok(()));
                return Now::Runs(running, since);
            }
            Wish::Stop { grace, remember } => (grace, false, remember),
            Wish::Restart { grace, .. } => (grace, true, false),
        };
        let (now, done) = self.end(running, since, grace.unwrap_or(self.grace)).await;
        let now = match (&now, again) {
            (Now::Runs(..), _) => now,
            (_, true) => self.launch(),
            (_, false) => {
                self.saved.stopped = remember;
                self.save();
                self.stopped()
            }
        };
        let _ = answer.send(done);
        now
    }

    fn while_not_running(&mut self, wish: Wish, answer: Answer, until: Option<Instant>) -> Now {
        let (now, done) = match wish {
            Wish::Stop { remember, .. } => {
                self.saved.stopped = remember;
                self.save();
                (self.stopped(), Ok(()))
            }
            // From a manager: what a person stopped stays so.
            Wish::Restart {
                launch: Some(_), ..
            } if until.is_none() => {
                let why = "a person stopped it";
                (Now::Stopped, Err(Failure::no(Reason::NotAllowed, why)))
            }
            Wish::Restart {
                launch: Some(launch),
                ..
            } => match until.filter(|_| self.is_another(Some(&launch))) {
                Some(until) => (Now::Waits(until), Ok(())),
                None => (self.launch(), Ok(())),
            },
            Wish::Start | Wish::Restart { launch: None, .. } => (self.launch_by_person(), Ok(())),
        };
        let _ = answer.send(done);
        now
    }

    /// What was before does not count any more.
    fn launch_by_person(&mut self) -> Now {
        self.backoff.forget();
        self.launch()
    }

    fn is_another(&self, launch: Option<&str>) -> bool {
        let ours = self.saved.launch.as_ref().map(|ours| ours.0.as_str());
        launch.is_some() && launch != ours
    }

    /// SIGTERM, and SIGKILL to whoever does not heed it. `Runs`: not even that ended it.
    async fn end(
        &mut self,
        mut running: Running,
        since: Instant,
        grace: Duration,
    ) -> (Now, Result<(), Failure>) {
        let name = self.program.name.clone();
        tracing::info!(name, grace_ms = grace.as_millis() as u64, "is stopped");
        let pid = self.saved.pid.unwrap_or(0);
        self.show(State::Stopping, pid);
        running.signal(Signal::TERM);
        let mut end = timeout(grace, running.ended()).await;
        if end.is_err() {
            tracing::warn!(name, "does not stop, and is killed");
            running.signal(Signal::KILL);
            end = timeout(KILL_LIMIT, running.ended()).await;
        }
        match end {
            Ok(end) => (self.on_end(end, since), Ok(())),
            Err(_) => {
                self.show(State::Running, pid);
                let why = "it does not end, though it was killed: a disk may hang";
                let failure = Failure::unknown(Reason::DeadlinePassed, why);
                (Now::Runs(running, since), Err(failure))
            }
        }
    }

    fn show(&self, state: State, pid: u32) {
        let mut shown = self.shown.lock();
        shown.starts_at = None;
        shown.process.set_state(state);
        shown.process.pid = pid;
        shown.process.started_at_ms = self.saved.started_at_ms;
        let launch = self.saved.launch.as_ref();
        shown.process.launch_id = launch.map(|launch| launch.0.clone()).unwrap_or_default();
    }

    /// Without the file only an agent's restart goes less well.
    fn save(&self) {
        if let Err(error) = self.states.write(&self.program.name, &self.saved) {
            tracing::error!(name = self.program.name, %error, "its state cannot be written");
        }
    }
}
