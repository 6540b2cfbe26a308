//! A place where a process runs: a thread that starts and ends it, with a network of its own or with the machine's.
//!
//! A child belongs to the thread that started it: it gets that thread's network, and dies when the thread ends. So each
//! process of the system under test has such a thread, which does nothing but what it is sent.

use super::sys;
use anyhow::{Context, bail};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Far larger than on a real link, since every packet costs two calls to the kernel; small enough that a large message is
/// many packets.
const MTU_BYTES: u32 = 16_000;
const DEVICE: &str = "us0";

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub struct Place {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Place {
    /// On the machine's own network.
    pub fn shared(name: &str) -> anyhow::Result<Place> {
        Place::start(name, || Ok(())).map(|(place, ())| place)
    }

    /// With a network of its own, whose packets come and go through the device that is handed out.
    pub fn apart(name: &str, address: Ipv4Addr) -> anyhow::Result<(Place, OwnedFd)> {
        Place::start(name, move || own_network(address))
    }

    fn start<T: Send + 'static>(
        name: &str,
        before: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<(Place, T)> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let work = move || {
            let ready = before();
            let well = ready.is_ok();
            // Nobody listens when the place was given up, and then there are no jobs either.
            let _ = tell.send(ready);
            if well {
                to_do.into_iter().for_each(|job| job());
            }
        };
        let thread = std::thread::Builder::new().name(format!("at {name}"));
        let place = Place {
            jobs: Some(jobs),
            thread: Some(thread.spawn(work)?),
        };
        let ready = told.recv().context("the thread of a place ended")??;
        Ok((place, ready))
    }

    /// Runs it there, and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (tell, told) = oneshot::channel();
        let job = move || {
            let _ = tell.send(job());
        };
        let jobs = self.jobs.as_ref().context("the place is closed")?;
        let sent = jobs.send(Box::new(job));
        sent.map_err(|_| anyhow::anyhow!("the place is gone"))?;
        told.await.context("a job in a place panicked")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It panicked when this fails, and its children died with it.
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread a network of its own with one address, and the device behind it.
pub fn own_network(address: Ipv4Addr) -> anyhow::Result<OwnedFd> {
    sys::own_network().context("no network namespace can be made")?;
    let device = sys::open_tun(DEVICE).context("/dev/net/tun")?;
    let address = format!("{address}/24");
    let mtu = MTU_BYTES.to_string();
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &address, "dev", DEVICE])?;
    ip(&["link", "set", "dev", DEVICE, "mtu", &mtu, "up"])?;
    Ok(device)
}

/// The system's own command, in the network of the calling thread.
fn ip(words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    let output = command.args(words).stdin(Stdio::null()).output();
    let output = output.context("the command `ip` (of iproute2) cannot be run")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", words.join(" "), why.trim());
    }
    Ok(())
}

/// Why processes cannot have networks of their own here; `None`: they can.
pub fn why_not_apart() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_string());
    }
    let tried = Place::apart("a trial", Ipv4Addr::new(10, 0, 0, 1));
    tried.err().map(|error| format!("{error:#}"))
}
