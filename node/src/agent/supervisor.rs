//! One process of the machine through all its starts: a task that waits for its end, for the time to start it again, and for
//! wishes.
//!
//! The end of a process is reported in the moment that it is seen, before anything else is done: what is written is written
//! by another task, so that a disk that hangs delays no report. Nothing here ends a process but a wish.

use super::Launch;
use super::backoff::Backoff;
use super::identify::{Adopted, Held, start_time_of};
use super::program::Program;
use super::report::Reporter;
use super::saver::Saver;
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
    Start {
        /// Only if that was its last launch.
        launch: Option<String>,
    },
    Stop {
        /// Only the process of that launch.
        launch: Option<String>,
        /// Between SIGTERM and SIGKILL; `None`: as the config says.
        grace: Option<Duration>,
        /// A person wants it: until a person starts it, also after the agent's restart.
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
    /// Whoever knows it can report its end: it is told to nobody who asks.
    launch: Option<Launch>,
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
            launch: saved.launch.clone(),
            starts_at: None,
        }));
        let task = Task {
            saver: Saver::start(states, program.name.clone()),
            program,
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

    /// Whether its last start had that launch id.
    pub fn is_launch(&self, launch: &str) -> bool {
        let shown = self.shown.lock();
        shown.launch.as_ref().is_some_and(|ours| ours.0 == launch)
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
    saver: Saver,
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

/// Whose end can be seen: a child of this agent, or one of an earlier agent. The end of what is only held is seen too, but
/// vouched for it is not.
enum Running {
    Ours(Child),
    Adopted(Adopted),
    Held(Held),
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
            Running::Held(process) => {
                process.ended().await;
                let why = "an earlier agent started it, and it was not identified beyond doubt";
                Err(std::io::Error::other(why))
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
            Running::Held(process) => process.signal(signal),
        }
    }
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<(Wish, Answer)>) {
        let mut now = self.begin().await;
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
                    () = sleep_until(until) => self.launch().await.0,
                    asked = inbox.recv() => match asked {
                        Some((wish, answer)) => self.while_not_running(wish, answer, Some(until)).await,
                        None => return,
                    },
                },
                Now::Stopped => match inbox.recv().await {
                    Some((wish, answer)) => self.while_not_running(wish, answer, None).await,
                    None => return,
                },
            };
        }
    }

    /// Takes over what an earlier agent started, or starts it.
    async fn begin(&mut self) -> Now {
        let name = self.program.name.clone();
        let running = if let Some(process) = Adopted::find(&self.saved) {
            tracing::info!(name, pid = process.pid, "runs already, and is taken over");
            self.saved.pid = Some(process.pid);
            self.saved.start_time = Some(process.start_time);
            self.note();
            Some((process.pid, Running::Adopted(process)))
        } else {
            Held::find(&self.saved).map(|process| {
                let pid = process.pid;
                tracing::warn!(name, pid, "seems to run already, and is not started a second time; its end is not reported");
                (pid, Running::Held(process))
            })
        };
        match running {
            // The agent ended while it stopped it.
            Some((_, running)) if self.saved.stopped => {
                match self.end(running, Instant::now(), self.grace).await {
                    Ok(()) => self.stopped(),
                    Err((now, _)) => now,
                }
            }
            Some((pid, running)) => {
                self.show(State::Running, pid);
                Now::Runs(running, Instant::now())
            }
            None if self.saved.stopped => self.stopped(),
            None => self.launch().await.0,
        }
    }

    /// The error: it does not run, and is tried again after a pause.
    async fn launch(&mut self) -> (Now, Result<(), Failure>) {
        let launch = Launch::draw();
        self.saved = Saved {
            launch: Some(launch.clone()),
            boot: boot_id(),
            started_at_ms: clock::unix_ms(),
            ..Saved::default()
        };
        // Before the start: otherwise an agent that is killed in between would start it a second time. Without the file only
        // an agent's restart goes less well.
        let _ = self.save().await;
        let name = &self.program.name;
        match self.program.spawn(&launch, &self.address) {
            Ok(child) => {
                let pid = child.id().unwrap_or(0);
                tracing::info!(name, pid, "started");
                self.saved.pid = child.id();
                self.saved.start_time = start_time_of(pid);
                self.note();
                self.shown.lock().process.starts += 1;
                self.show(State::Running, pid);
                (Now::Runs(Running::Ours(child), Instant::now()), Ok(()))
            }
            Err(error) => {
                tracing::error!(name, %error, "cannot be started");
                let why = format!("it cannot be started: {error}");
                self.shown.lock().process.last_end = why.clone();
                (
                    self.wait(Duration::ZERO),
                    Err(Failure::no(Reason::NotAllowed, why)),
                )
            }
        }
    }

    /// By itself.
    fn on_end(&mut self, end: std::io::Result<String>, since: Instant) -> Now {
        self.tell_end(end);
        // It was killed at a person's wish, and took long to end.
        match self.saved.stopped {
            true => self.stopped(),
            false => self.wait(since.elapsed()),
        }
    }

    fn tell_end(&mut self, end: std::io::Result<String>) {
        let vouched = end.is_ok();
        let end = end.unwrap_or_else(|error| format!("how it ended cannot be told: {error}"));
        if let Some(launch) = self.saved.launch.clone().filter(|_| vouched) {
            self.reporter.ended(launch);
        }
        tracing::warn!(name = self.program.name, end, "ended");
        self.shown.lock().process.last_end = end;
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
        let done = match wish {
            Wish::Start { launch } | Wish::Stop { launch, .. }
                if self.is_another(launch.as_deref()) =>
            {
                Err(another_launch())
            }
            Wish::Start { .. } => self.want(false).await,
            Wish::Restart { launch, .. } if self.is_another(launch.as_deref()) => Ok(()),
            // It was killed, and has not ended yet.
            Wish::Restart {
                launch: Some(_), ..
            } if self.saved.stopped => Err(by_person()),
            Wish::Stop {
                grace, remember, ..
            } => {
                // First: an agent that is killed meanwhile would start it again.
                let saved = match remember {
                    true => self.want(true).await,
                    false => Ok(()),
                };
                let (now, ended) = match self.end(running, since, self.grace_of(grace)).await {
                    Ok(()) => (self.stopped(), Ok(())),
                    Err((now, failure)) => (now, Err(failure)),
                };
                let _ = answer.send(ended.and(saved));
                return now;
            }
            Wish::Restart { grace, .. } => {
                self.saved.stopped = false;
                let (now, done) = match self.end(running, since, self.grace_of(grace)).await {
                    Ok(()) => self.launch().await,
                    Err((now, failure)) => {
                        self.note();
                        (now, Err(failure))
                    }
                };
                let _ = answer.send(done);
                return now;
            }
        };
        let _ = answer.send(done);
        Now::Runs(running, since)
    }

    async fn while_not_running(
        &mut self,
        wish: Wish,
        answer: Answer,
        until: Option<Instant>,
    ) -> Now {
        let as_it_is = match until {
            Some(until) => Now::Waits(until),
            None => Now::Stopped,
        };
        let (now, done) = match wish {
            Wish::Start { launch } | Wish::Stop { launch, .. }
                if self.is_another(launch.as_deref()) =>
            {
                (as_it_is, Err(another_launch()))
            }
            Wish::Stop { remember, .. } => {
                let saved = match remember {
                    true => self.want(true).await,
                    false => Ok(()),
                };
                (self.stopped(), saved)
            }
            // From a manager: what a person stopped stays so.
            Wish::Restart {
                launch: Some(_), ..
            } if until.is_none() => (as_it_is, Err(by_person())),
            // It is started again when its pause is over: a manager that asks often does not shorten it.
            Wish::Restart {
                launch: Some(_), ..
            } => (as_it_is, Ok(())),
            // What was before does not count any more.
            Wish::Start { .. } | Wish::Restart { launch: None, .. } => {
                self.backoff.forget();
                self.launch().await
            }
        };
        let _ = answer.send(done);
        now
    }

    /// A person wants it stopped, or not any more. The error: that holds only as long as this agent runs.
    async fn want(&mut self, stopped: bool) -> Result<(), Failure> {
        if self.saved.stopped == stopped && !stopped {
            return Ok(());
        }
        self.saved.stopped = stopped;
        self.save().await.map_err(|why| {
            let why = format!("that is done, but cannot be written down, and another agent will not know it: {why}");
            Failure::unknown(Reason::Internal, why)
        })
    }

    fn grace_of(&self, wished: Option<Duration>) -> Duration {
        wished.unwrap_or(self.grace)
    }

    fn is_another(&self, launch: Option<&str>) -> bool {
        let ours = self.saved.launch.as_ref().map(|ours| ours.0.as_str());
        launch.is_some() && launch != ours
    }

    /// SIGTERM, and SIGKILL to whoever does not heed it. The error: not even that ended it.
    async fn end(
        &mut self,
        mut running: Running,
        since: Instant,
        grace: Duration,
    ) -> Result<(), (Now, Failure)> {
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
            Ok(end) => {
                self.tell_end(end);
                Ok(())
            }
            Err(_) => {
                self.show(State::Running, pid);
                let why = "it does not end, though it was killed: a disk may hang";
                let failure = Failure::unknown(Reason::DeadlinePassed, why);
                Err((Now::Runs(running, since), failure))
            }
        }
    }

    fn show(&self, state: State, pid: u32) {
        let mut shown = self.shown.lock();
        shown.starts_at = None;
        shown.process.set_state(state);
        shown.process.pid = pid;
        shown.process.started_at_ms = self.saved.started_at_ms;
        shown.launch = self.saved.launch.clone();
    }

    async fn save(&self) -> Result<(), String> {
        self.saver.save(self.saved.clone()).await
    }

    /// Written at some time, and not waited for.
    fn note(&self) {
        drop(self.saver.note(self.saved.clone()));
    }
}

fn another_launch() -> Failure {
    let why = "the last start of that process has another launch id";
    Failure::no(Reason::NotFound, why)
}

fn by_person() -> Failure {
    Failure::no(Reason::NotAllowed, "a person stopped it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::Channels;
    use crate::manager::dial_plain;

    fn supervise(command: &str, states: &States) -> Supervisor {
        let config = AgentConfig {
            stop_timeout_ms: 400,
            ..AgentConfig::default()
        };
        let program = Program::parse("p", command).unwrap();
        let reporter = Reporter::new(Channels::new(dial_plain()), Vec::new());
        let pauses = Pauses::of(&config);
        Supervisor::start(program, states.clone(), pauses, reporter, String::new())
    }

    fn stop(remember: bool) -> Wish {
        Wish::Stop {
            launch: None,
            grace: None,
            remember,
        }
    }

    async fn until(supervisor: &Supervisor, state: State) {
        while supervisor.status().state() != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_persons_stop_is_on_the_disk_before_the_end_and_stays_there() {
        let folder = tempfile::tempdir().unwrap();
        let states = States::open(folder.path()).unwrap();
        let supervisor = supervise("sh -c 'trap \"\" TERM; exec sleep 60'", &states);
        until(&supervisor, State::Running).await;
        let other = Wish::Stop {
            launch: Some("another".to_string()),
            grace: None,
            remember: true,
        };
        let failure = supervisor.ask(other).await.unwrap_err();
        assert_eq!(failure.reason, Reason::NotFound);
        let watching = async {
            until(&supervisor, State::Stopping).await;
            assert!(states.read("p").stopped);
        };
        let (stopped, ()) = tokio::join!(supervisor.ask(stop(true)), watching);
        stopped.unwrap();
        until(&supervisor, State::Stopped).await;
        supervisor.ask(stop(false)).await.unwrap();
        assert!(
            states.read("p").stopped,
            "the agent's own stop changes nothing"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_started_or_written_down_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let states = States::open(folder.path()).unwrap();
        let supervisor = supervise("/nowhere/there", &states);
        let failed = supervisor.ask(Wish::Start { launch: None }).await;
        assert!(failed.unwrap_err().message.contains("cannot be started"));
        std::fs::remove_dir_all(folder.path().join("processes")).unwrap();
        let failed = supervisor.ask(stop(true)).await.unwrap_err();
        assert!(failed.message.contains("written down"), "{failed}");
        assert_eq!(supervisor.status().state(), State::Stopped);
    }
}
