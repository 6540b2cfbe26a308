//! `understudy manager` and `understudy node`: settings, ports, signals; the role itself is elsewhere.
//!
//! SIGTERM or Ctrl-C is a clean stop, a second one stops at once. Exit status 3: the data folder is unusable.

use super::client::wrong_settings;
use super::config::show;
use super::exit::{Ended, Exit, Trouble};
use super::output::Output;
use crate::admin::Admin;
use crate::config::{
    Given, Layers, Listen, Loaded, LogSettings, ManagerConfig, NodeConfig, Problem, Section,
    SettingFlags, is_loopback, load,
};
use crate::listening::Room;
use crate::process::{Bound, Listeners, Process, RoleError, Stop, Stopper, stopper};
use crate::{data_node, manager_role, telemetry};
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The flags of a server.
#[derive(Debug, clap::Args)]
pub struct ServerArgs<C: Section + Default> {
    /// A TOML file with settings; `understudy config default` prints one with all of them
    #[arg(
        long,
        value_name = "FILE",
        env = "UNDERSTUDY_CONFIG",
        id = "config-file"
    )]
    config: Option<PathBuf>,
    /// Print what holds, each value with where it comes from, and end
    #[arg(long)]
    print_config: bool,
    /// Listen on this port of 127.0.0.1 and the next two; 0 takes free ones and prints them
    #[arg(long, value_name = "PORT")]
    port_base: Option<u16>,
    /// Stop when standard input ends, as it does when the parent process ends
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    #[command(flatten)]
    settings: SettingFlags<C>,
}

/// What the two roles' settings have in common.
pub(super) trait RoleConfig: Section + Default + DeserializeOwned {
    const ROLE: &'static str;
    fn problems(&self) -> Vec<Problem>;
    fn listen(&self) -> &Listen;
    fn log(&self) -> &LogSettings;
    fn shutdown_timeout_ms(&self) -> u64;
    /// Files that its store may hold open.
    fn store_files(&self) -> u32;
}

macro_rules! role_config {
    ($config:ty, $role:literal, $store_files:expr) => {
        impl RoleConfig for $config {
            const ROLE: &'static str = $role;
            fn problems(&self) -> Vec<Problem> {
                self.validate()
            }
            fn listen(&self) -> &Listen {
                &self.listen
            }
            fn log(&self) -> &LogSettings {
                &self.log
            }
            fn shutdown_timeout_ms(&self) -> u64 {
                self.shutdown_timeout_ms
            }
            fn store_files(&self) -> u32 {
                let store_files: fn(&$config) -> u32 = $store_files;
                store_files(self)
            }
        }
    };
}
// As the log of the managers' group is opened.
role_config!(ManagerConfig, "manager", |_| 64);
role_config!(NodeConfig, "node", |config| config.storage.open_files);

pub async fn manager(args: ServerArgs<ManagerConfig>) -> Ended {
    serve(args, manager_role::run).await
}

pub async fn node(args: ServerArgs<NodeConfig>) -> Ended {
    serve(args, data_node::run).await
}

async fn serve<C, F, R>(args: ServerArgs<C>, role: F) -> Ended
where
    C: RoleConfig,
    F: FnOnce(C, Process) -> R,
    R: Future<Output = Result<(), RoleError>>,
{
    let watch_parent = args.exit_with_parent;
    let print_ports = args.port_base == Some(0);
    let print_config = args.print_config;
    let loaded = args.load()?;
    if print_config {
        show(&loaded, Output::Table)?;
    }
    let problems = loaded.config.problems();
    if !problems.is_empty() {
        return Err(wrong_settings(&problems));
    }
    if print_config {
        return Ok(Exit::Done);
    }
    let config = loaded.config;
    telemetry::start_log(config.log()).map_err(|why| Trouble::usage(why, ""))?;
    warn_if_open(config.listen());
    let (stopper, stop) = stopper();
    // Signals are heard before anything begins that they would have to end.
    let signals = Signals::new(watch_parent)?;
    let limit = Duration::from_millis(config.shutdown_timeout_ms());
    let running = start(config, role, stop, print_ports);
    ended(
        until_the_end(running, signals, stopper, limit).await,
        C::ROLE,
    )
}

impl<C: RoleConfig> ServerArgs<C> {
    fn load(self) -> Result<Loaded<C>, Trouble> {
        let mut flags = self.settings.given;
        flags.extend(self.port_base.into_iter().flat_map(ports));
        let layers = Layers::from_process(self.config, flags);
        load(&layers).map_err(|problems| wrong_settings(&problems))
    }
}

fn ports(base: u16) -> impl Iterator<Item = Given> {
    let keys = ["listen.public", "listen.internal", "listen.admin"];
    keys.into_iter().zip(0..).map(move |(key, step)| {
        let port = if base == 0 {
            0
        } else {
            base.saturating_add(step)
        };
        Given {
            key: key.to_string(),
            text: format!("127.0.0.1:{port}"),
            flag: "--port-base".to_string(),
        }
    })
}

fn warn_if_open(listen: &Listen) {
    warn_of_open([&listen.public, &listen.internal, &listen.admin]);
}

pub(super) fn warn_of_open<'a>(addresses: impl IntoIterator<Item = &'a String>) {
    for address in addresses {
        if !is_loopback(address) {
            tracing::warn!(%address, "insecure: others can connect, in plain text and without authentication");
        }
    }
}

async fn start<C, F, R>(config: C, role: F, stop: Stop, print_ports: bool) -> Result<(), RoleError>
where
    C: RoleConfig,
    F: FnOnce(C, Process) -> R,
    R: Future<Output = Result<(), RoleError>>,
{
    let listeners = Listeners::bind(config.listen()).await?;
    let bound = listeners.bound()?;
    tell_ports(C::ROLE, &bound, print_ports);
    let room = Room::of_process(config.store_files() as usize);
    let admin = Admin::default();
    telemetry::register_process(&admin, C::ROLE);
    let (admin_stopper, admin_stop) = stopper();
    let serving = tokio::spawn(admin.clone().serve(listeners.admin, room.admin, admin_stop));
    let process = Process {
        public: listeners.public,
        internal: listeners.internal,
        bound,
        stop,
        room,
        admin,
    };
    let result = role(config, process).await;
    admin_stopper.stop();
    // An open connection of a scraper is not waited for.
    serving.abort();
    result
}

fn tell_ports(role: &str, bound: &Bound, print: bool) {
    let Bound {
        public,
        internal,
        admin,
    } = bound;
    tracing::info!(role, %public, %internal, %admin, version = env!("CARGO_PKG_VERSION"), "listening");
    if print {
        println!("public {public} internal {internal} admin {admin}");
    }
}

/// The signals that end a server, and the end of its parent.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    parent: Option<oneshot::Receiver<()>>,
}

impl Signals {
    pub(super) fn new(watch_parent: bool) -> Result<Signals, Trouble> {
        let failed = |error: std::io::Error| {
            Trouble::new(
                Exit::Failed,
                "signals cannot be heard",
                error.to_string(),
                "",
            )
        };
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            parent: watch_parent.then(watch_parent_end),
        })
    }

    /// What came first, and whether it was a signal.
    async fn first(&mut self) -> (&'static str, bool) {
        let mut parent = self.parent.take();
        tokio::select! {
            word = self.signal() => (word, true),
            () = parent_ended(&mut parent) => ("the end of the parent process", false),
        }
    }

    async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Somebody insists. A parent that sends a signal and goes away does not.
    async fn second_signal(&mut self, first_was_one: bool) -> &'static str {
        if !first_was_one {
            self.signal().await;
        }
        self.signal().await
    }
}

/// Standard input ends when the last process that holds its other end does. A thread of its own waits for it, because
/// nothing could take back a read that the runtime waits for.
fn watch_parent_end() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // Nothing is ever written there; an error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    });
    receiver
}

async fn parent_ended(parent: &mut Option<oneshot::Receiver<()>>) {
    match parent {
        None => std::future::pending().await,
        Some(end) => drop(end.await),
    }
}

pub(super) async fn until_the_end(
    running: impl Future<Output = Result<(), RoleError>>,
    mut signals: Signals,
    stopper: Stopper,
    limit: Duration,
) -> Result<(), RoleError> {
    tokio::pin!(running);
    let (word, signalled) = tokio::select! {
        result = &mut running => return result,
        first = signals.first() => first,
    };
    tracing::info!(word, "stopping");
    stopper.stop();
    tokio::select! {
        result = &mut running => result,
        word = signals.second_signal(signalled) => {
            tracing::warn!(word, "stopping at once");
            Err(RoleError::Failed("stopped before the clean end".to_string()))
        }
        () = tokio::time::sleep(limit) => {
            let limit_ms = limit.as_millis();
            tracing::warn!(limit_ms, "the clean stop takes too long; stopping at once");
            Err(RoleError::Failed("the clean stop took too long; nothing acknowledged is lost".to_string()))
        }
    }
}

pub(super) fn ended(result: Result<(), RoleError>, role: &str) -> Ended {
    match result {
        Ok(()) => {
            tracing::info!(role, "stopped");
            Ok(Exit::Done)
        }
        Err(error) => {
            let exit = match &error {
                RoleError::Failed(_) => Exit::Failed,
                RoleError::Config(_) => Exit::Usage,
                // Of a server, 3 means this.
                RoleError::FolderUnusable(_) => Exit::NotFound,
            };
            debug_assert_eq!(exit as u8, error.exit_status());
            Err(Trouble::new(
                exit,
                super::exit::one_line(&error.to_string()),
                "",
                "",
            ))
        }
    }
}
