//! One real process: started with its arguments and its log, killed, paused, started again, and watched for its end.
//!
//! It runs in a [`Place`], and dies when that goes. An end that nobody brought about is kept, for it is a finding.

use super::place::Place;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a signal may take to show in the state that the kernel tells of the process.
const SIGNAL_LIMIT: Duration = Duration::from_secs(2);
/// How long a clean end may take before it is a kill.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// How a process is started.
#[derive(Clone, Debug)]
pub struct Start {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// What it says is appended to this file.
    pub log: PathBuf,
}

#[derive(Debug)]
pub struct Process {
    place: Place,
    start: Start,
    state: Arc<Mutex<State>>,
}

#[derive(Default, Debug)]
struct State {
    child: Option<Child>,
    paused: bool,
}

impl Process {
    /// Nothing runs yet.
    pub fn new(place: Place, start: Start) -> Process {
        let state = Arc::default();
        Process {
            place,
            start,
            state,
        }
    }

    pub fn log(&self) -> &std::path::Path {
        &self.start.log
    }

    pub fn runs(&self) -> bool {
        lock(&self.state).child.is_some()
    }

    pub async fn start(&self) -> anyhow::Result<()> {
        let (start, state) = (self.start.clone(), self.state.clone());
        let work = move || {
            let mut state = lock(&state);
            if state.child.is_some() {
                bail!("it runs already");
            }
            state.child = Some(spawn(&start)?);
            state.paused = false;
            Ok(())
        };
        self.place.run(work).await?
    }

    /// Ends it without a word (SIGKILL), and waits until it is gone. `false`: it did not run.
    pub async fn kill(&self) -> anyhow::Result<bool> {
        let state = self.state.clone();
        let work = move || {
            let mut state = lock(&state);
            // One that ended by itself stays where that is noticed: it was not this that ended it.
            let ended = match state.child.as_mut() {
                None => true,
                Some(child) => child.try_wait().context("looking at it")?.is_some(),
            };
            let child = if ended { None } else { state.child.take() };
            drop(state);
            let Some(mut child) = child else {
                return Ok(false);
            };
            child.kill().context("SIGKILL")?;
            child.wait().context("waiting for its end")?;
            Ok(true)
        };
        self.place.run(work).await?
    }

    /// Freezes it (SIGSTOP), and sees that all its threads stand still. `false`: it did not run, or stood still already.
    pub async fn pause(&self) -> anyhow::Result<bool> {
        let state = self.state.clone();
        let work = move || {
            let mut state = lock(&state);
            let Some(child) = state.child.as_ref().filter(|_| !state.paused) else {
                return Ok(false);
            };
            let pid = child.id();
            signal(pid, Signal::STOP)?;
            let until = Instant::now() + SIGNAL_LIMIT;
            while !is_stopped(pid)? {
                if Instant::now() >= until {
                    bail!("it goes on after SIGSTOP");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            state.paused = true;
            Ok(true)
        };
        self.place.run(work).await?
    }

    /// Lets it go on (SIGCONT), if it was paused and still runs.
    pub async fn resume(&self) -> anyhow::Result<bool> {
        let state = self.state.clone();
        let work = move || {
            let mut state = lock(&state);
            let Some(child) = state.child.as_ref().filter(|_| state.paused) else {
                return Ok(false);
            };
            signal(child.id(), Signal::CONT)?;
            state.paused = false;
            Ok(true)
        };
        self.place.run(work).await?
    }

    /// Tells it to end (SIGTERM), and kills it when that takes too long. `true`: it ended well by itself.
    pub async fn stop(&self) -> anyhow::Result<bool> {
        let state = self.state.clone();
        let work = move || {
            let Some(mut child) = lock(&state).child.take() else {
                return Ok(false);
            };
            signal(child.id(), Signal::TERM)?;
            let until = Instant::now() + STOP_LIMIT;
            while Instant::now() < until {
                if let Some(status) = child.try_wait()? {
                    return Ok(status.success());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            child.kill().context("SIGKILL")?;
            child.wait().context("waiting for its end")?;
            Ok(false)
        };
        self.place.run(work).await?
    }

    /// How it ended, when it did so by itself since this was asked last.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut state = lock(&self.state);
        let status = state.child.as_mut()?.try_wait().ok().flatten()?;
        state.child = None;
        Some(status)
    }

    /// The last lines of its log.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes = std::fs::read(&self.start.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(count);
        lines[from..].iter().map(ToString::to_string).collect()
    }
}

fn spawn(start: &Start) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&start.log)
        .with_context(|| start.log.display().to_string())?;
    let mut command = Command::new(&start.program);
    for (name, _) in std::env::vars_os() {
        // What is set for somebody else's client or server must not change these.
        if name.to_string_lossy().starts_with("UNDERSTUDY_") {
            command.env_remove(name);
        }
    }
    command
        .args(&start.arguments)
        .envs(start.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Ctrl-C on the terminal is for us; the children hear of it from us, in order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    super::sys::die_with_this_thread(&mut command);
    let child = command.spawn();
    child.with_context(|| format!("{} cannot be started", start.program.display()))
}

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("a process id is not 0")?;
    kill_process(pid, signal).context("a signal")
}

/// Whether every thread of it stands still: the first one may do so before the others.
fn is_stopped(pid: u32) -> anyhow::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        // The name before it may hold any character.
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        if state != Some('T') {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(seconds: &str, folder: &std::path::Path) -> Process {
        let start = Start {
            program: "sleep".into(),
            arguments: vec![seconds.to_string()],
            environment: Vec::new(),
            log: folder.join("log"),
        };
        Process::new(Place::shared("a test").unwrap(), start)
    }

    #[tokio::test]
    async fn a_process_is_paused_killed_and_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper("60", folder.path());
        assert!(!process.kill().await.unwrap());
        for _ in 0..2 {
            process.start().await.unwrap();
            assert!(process.start().await.is_err());
            assert!(process.pause().await.unwrap());
            assert!(!process.pause().await.unwrap());
            assert!(process.resume().await.unwrap());
            assert!(!process.resume().await.unwrap());
            assert!(process.pause().await.unwrap());
            assert!(process.ended().is_none());
            assert!(process.kill().await.unwrap());
        }
        assert!(process.ended().is_none(), "what we end is no finding");
    }

    #[tokio::test]
    async fn an_end_of_its_own_is_noticed_once_and_a_place_takes_its_process_along() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper("0", folder.path());
        process.start().await.unwrap();
        let status = loop {
            if let Some(status) = process.ended() {
                break status;
            }
            tokio::task::yield_now().await;
        };
        assert!(status.success() && process.ended().is_none() && !process.runs());
        let process = sleeper("60", folder.path());
        process.start().await.unwrap();
        let pid = lock(&process.state).child.as_ref().unwrap().id();
        let child = lock(&process.state).child.take();
        drop(process);
        assert!(!child.unwrap().wait().unwrap().success());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
