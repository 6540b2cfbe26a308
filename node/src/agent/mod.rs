//! The agent of a machine: starts its processes, restarts what ends, tells the managers at once of each end, and takes
//! wishes about them over gRPC.
//!
//! It outlives its processes and they outlive it. A process that it finds after its own restart it takes over only when it
//! identifies it beyond doubt ([`identify`]); about any other it says nothing. It holds no data and decides nothing about
//! shards: what it reports ends a wait, and what is asked of it is a process's start or end.

mod backoff;
mod identify;
mod notify;
mod program;
mod report;
mod saver;
mod server;
mod state;
mod supervisor;

pub use program::Program;
pub use state::Saved;

use crate::admin::{Admin, Readiness};
use crate::channels::Channels;
use crate::config::AgentConfig;
use crate::data_folder::{DataFolder, Role};
use crate::listening::{self, Room, connections};
use crate::manager::dial_plain;
use crate::process::{RoleError, Stop, advertised};
use crate::reflection::add_standard_services;
use identify::Held;
use notify::Notifier;
use report::Reporter;
use serde::{Deserialize, Serialize};
use serde_json::json;
use server::AgentServer;
use state::States;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use supervisor::{Pauses, Supervisor, Wish};
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;
use understudy_proto::limits::PUBLIC_MESSAGE_BYTES_MAX;
use understudy_proto::v1::agent_process::State;
use understudy_proto::v1::agent_server::AgentServer as AgentService;

/// How long an agent that stops waits for its last reports to be taken.
const LAST_REPORTS: Duration = Duration::from_secs(1);

/// Drawn for each start of a process: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Launch(pub String);

impl Launch {
    pub fn draw() -> Launch {
        Launch(format!("{:032x}", rand::random::<u128>()))
    }
}

/// As people and programs are told it.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Waiting => "waiting",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
        State::Unspecified => "unknown",
    }
}

/// What an agent is started with.
#[derive(Debug)]
pub struct Started {
    pub internal: TcpListener,
    pub bound: SocketAddr,
    pub stop: Stop,
    pub room: Room,
    pub admin: Admin,
}

/// Runs the agent until it is told to stop. Its processes go on, unless the config says otherwise.
pub async fn run(config: AgentConfig, started: Started) -> Result<(), RoleError> {
    let folder = DataFolder::open(&config.data_dir, Role::Agent)?;
    let states = States::open(folder.path()).map_err(|error| {
        RoleError::FolderUnusable(format!(
            "cannot make {}/processes: {error}",
            folder.path().display()
        ))
    })?;
    let programs = config.processes.iter().map(|(name, command)| {
        let wrong = |why| RoleError::Config(format!("processes.{name}: {why}"));
        Program::parse(name, command).map_err(wrong)
    });
    let programs: Vec<Program> = programs.collect::<Result<_, _>>()?;
    let Started {
        internal,
        bound,
        stop,
        room,
        admin,
    } = started;
    let address = advertised(&config.advertise.internal, bound);
    let reporter = Reporter::new(Channels::new(dial_plain()), config.managers.clone());
    let pauses = Pauses::of(&config);
    warn_of_unlisted(&states, &config);
    let supervisors: BTreeMap<String, Supervisor> = programs
        .into_iter()
        .map(|program| {
            let name = program.name.clone();
            let (reporter, address) = (reporter.clone(), address.clone());
            let supervisor =
                Supervisor::start(program, states.clone(), pauses.clone(), reporter, address);
            (name, supervisor)
        })
        .collect();
    let supervisors = Arc::new(supervisors);
    let shown = supervisors.clone();
    admin.set_status(move || {
        let all = shown.values().map(Supervisor::status);
        let all = all.map(|p| json!({ "name": p.name, "state": state_word(p.state()), "pid": p.pid, "starts": p.starts, "last_end": p.last_end }));
        json!({ "role": "agent", "processes": all.collect::<Vec<_>>() })
    });
    let (servers, ended) = crate::process::stopper();
    let serving = tokio::spawn(serve(internal, room.internal, supervisors.clone(), ended));
    admin.set_readiness(Readiness::Ready);
    let notifier = Notifier::from_environment();
    notifier.ready();
    tokio::select! {
        () = stop.wait() => {}
        () = notifier.keep_watchdog_quiet() => {}
    }
    notifier.stopping();
    admin.set_readiness(Readiness::NotReady("stopping".to_string()));
    if config.stop_with_agent {
        stop_all(&supervisors).await;
    }
    reporter.all_told(LAST_REPORTS).await;
    servers.stop();
    let _ = tokio::time::timeout(Duration::from_millis(500), serving).await;
    Ok(())
}

/// What an earlier config named runs on, and nobody watches it.
fn warn_of_unlisted(states: &States, config: &AgentConfig) {
    let names = states.names().into_iter();
    for name in names.filter(|name| !config.processes.contains_key(name)) {
        if let Some(process) = Held::find(&states.read(&name)) {
            let pid = process.pid;
            tracing::warn!(
                name,
                pid,
                "runs on, though the config does not name it any more; end it, or name it again"
            );
        }
    }
}

/// All at once: each of them hands over what it can.
async fn stop_all(supervisors: &BTreeMap<String, Supervisor>) {
    let stopping = supervisors.values().map(|supervisor| {
        let wish = Wish::Stop {
            launch: None,
            grace: None,
            remember: false,
        };
        supervisor.ask(wish)
    });
    for ended in futures::future::join_all(stopping).await {
        if let Err(failure) = ended {
            tracing::warn!(%failure, "a process was not stopped");
        }
    }
}

async fn serve(
    listener: TcpListener,
    connections_max: usize,
    supervisors: Arc<BTreeMap<String, Supervisor>>,
    stop: Stop,
) -> Result<(), String> {
    let mut routes = RoutesBuilder::default();
    let health = add_standard_services(&mut routes).await?;
    routes.add_service(
        AgentService::new(AgentServer::new(supervisors))
            .max_decoding_message_size(PUBLIC_MESSAGE_BYTES_MAX),
    );
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    listening::server()
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(connections(listener, connections_max), async move {
            stop.wait().await
        })
        .await
        .map_err(|error| error.to_string())
}
