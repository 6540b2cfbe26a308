//! Whether a process is exactly the one that an agent started, and when such a process ends.
//!
//! A process id alone means nothing: the kernel gives it again. A process is identified by its id together with the
//! kernel's start time, the boot and the launch id in its environment, all of them; it is then held by a pidfd, which
//! never comes to mean another process. What is not identified is not vouched for; but what may be that process is held,
//! so that it is not started a second time.

use super::program::LAUNCH_VARIABLE;
use super::{Launch, Saved};
use crate::process::boot_id;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often a process is looked for that is only held.
const HELD_LOOK: Duration = Duration::from_millis(200);

/// A running process that another agent on this machine started.
#[derive(Debug)]
pub struct Adopted {
    pub pid: u32,
    pub start_time: u64,
    pidfd: AsyncFd<OwnedFd>,
}

/// A running process with the id, the start time and the boot of one that another agent started, of which the rest cannot
/// be told: its environment cannot be read, or the kernel gives no pidfd.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub pid: u32,
    start_time: u64,
}

impl Held {
    pub fn find(saved: &Saved) -> Option<Held> {
        let held = Held {
            pid: saved.pid?,
            start_time: saved.start_time?,
        };
        let now = saved.boot == boot_id() && !saved.boot.is_empty();
        (now && held.runs()).then_some(held)
    }

    /// When in doubt it does.
    fn runs(self) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => {
                let seen = start_time_in(&stat);
                seen == Some(self.start_time) && !has_ended(&stat)
            }
            // ESRCH: it ended while it was read.
            Err(error) => {
                error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(3)
            }
        }
    }

    /// Returns when it runs no more.
    pub async fn ended(self) {
        while self.runs() {
            tokio::time::sleep(HELD_LOOK).await;
        }
    }

    pub fn signal(self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.cast_signed()).filter(|_| self.runs());
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Adopted {
    /// The process of that launch, if it runs and is identified beyond doubt.
    pub fn find(saved: &Saved) -> Option<Adopted> {
        let launch = saved.launch.as_ref()?;
        if saved.boot.is_empty() || saved.boot != boot_id() {
            return None;
        }
        match (saved.pid, saved.start_time) {
            (Some(pid), Some(start_time)) => Adopted::take(pid, Some(start_time), launch),
            // The agent ended between the start of the process and the noting of its id.
            _ => {
                let mut found: Vec<Adopted> = all_processes()
                    .filter_map(|pid| Adopted::take(pid, None, launch))
                    .collect();
                found.sort_by_key(|process| (process.start_time, process.pid));
                found.into_iter().next()
            }
        }
    }

    /// The pidfd comes first: if the process that it means had given way to another one, the start time would tell.
    fn take(pid: u32, start_time: Option<u64>, launch: &Launch) -> Option<Adopted> {
        let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        let seen = start_time_of(pid)?;
        if start_time.is_some_and(|noted| noted != seen) || !bears(pid, launch) {
            return None;
        }
        Some(Adopted {
            pid,
            start_time: seen,
            pidfd: watched(pidfd)?,
        })
    }

    /// Returns when it has ended.
    pub async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|_| ())
    }

    /// It may have ended already.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
    }
}

#[allow(unsafe_code)] // tokio's safe constructor is deprecated, because it takes more than owned descriptors.
fn watched(pidfd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor from its making to its drop, and nobody else closes it.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.ok()
}

/// When the kernel started that process, in its ticks since the boot. `None`: there is none.
pub fn start_time_of(pid: u32) -> Option<u64> {
    start_time_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22; the second one is the name in brackets and may hold anything.
fn start_time_in(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Field 3: a zombie, or dead.
fn has_ended(stat: &str) -> bool {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.trim_start().starts_with(['Z', 'X'])
}

fn bears(pid: u32, launch: &Launch) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let wanted = format!("{LAUNCH_VARIABLE}={}", launch.0);
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable == wanted.as_bytes())
}

fn all_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper(launch: &Launch) -> (Child, Saved) {
        let child = Command::new("sleep")
            .arg("60")
            .env(LAUNCH_VARIABLE, &launch.0)
            .spawn()
            .unwrap();
        let saved = Saved {
            launch: Some(launch.clone()),
            pid: Some(child.id()),
            start_time: start_time_of(child.id()),
            boot: boot_id(),
            ..Saved::default()
        };
        // Until it is itself and not a copy of this process.
        while !bears(child.id(), launch) {
            std::thread::yield_now();
        }
        (child, saved)
    }

    #[tokio::test]
    async fn only_a_process_with_all_four_marks_is_identified_and_its_end_is_seen() {
        let launch = Launch::draw();
        let (mut child, saved) = sleeper(&launch);
        let with = |change: fn(&mut Saved)| {
            let mut other = saved.clone();
            change(&mut other);
            Adopted::find(&other).map(|process| process.pid)
        };
        assert_eq!(with(|_| ()), Some(child.id()));
        assert_eq!(with(|s| s.launch = Some(Launch::draw())), None);
        assert_eq!(with(|s| s.boot = "another".to_string()), None);
        assert_eq!(with(|s| s.start_time = s.start_time.map(|t| t + 1)), None);
        assert_eq!(with(|s| s.pid = Some(std::process::id())), None);
        let by_launch = with(|s| (s.pid, s.start_time) = (None, None));
        assert_eq!(by_launch, Some(child.id()), "found by its launch");

        // Unlike a process with another start time or of another boot, one that does not tell its launch is held.
        let held = |change: fn(&mut Saved)| {
            let mut other = saved.clone();
            change(&mut other);
            Held::find(&other).map(|process| process.pid)
        };
        assert_eq!(held(|s| s.launch = None), Some(child.id()));
        assert_eq!(held(|s| s.boot = "another".to_string()), None);
        assert_eq!(held(|s| s.start_time = s.start_time.map(|t| t + 1)), None);
        let held = Held::find(&saved).unwrap();

        let adopted = Adopted::find(&saved).unwrap();
        adopted.signal(Signal::KILL);
        adopted.ended().await.unwrap();
        held.ended().await;
        assert!(Held::find(&saved).is_none(), "a zombie does not run");
        child.wait().unwrap();
        assert!(Adopted::find(&saved).is_none());
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) b) {}", fields.join(" "));
        assert_eq!(start_time_in(&stat), Some(22));
        assert_eq!(start_time_in("7 (a"), None);
    }
}
