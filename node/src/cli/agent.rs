//! `understudy agent`: runs the agent of a machine, or asks a running one what it runs and to start and stop it.

use super::client::{OutputFlag, wrong_settings};
use super::config::show;
use super::exit::{Ended, Exit, Trouble, one_line};
use super::output::{Output, Rows};
use super::server::{Signals, ended, until_the_end, warn_of_open};
use crate::admin::Admin;
use crate::agent::{self, Started, state_word};
use crate::config::{AgentConfig, Layers, SettingFlags, load, split_address};
use crate::listening::Room;
use crate::process::{RoleError, Stop, bind, stopper};
use crate::telemetry;
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::Endpoint;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::agent_client::AgentClient;
use understudy_proto::v1::{AgentProcess, ListProcessesRequest, ProcessRequest};

/// Beyond the time that the processes have to stop, if they are to.
const STOP_MARGIN: Duration = Duration::from_secs(10);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Run the agent of a machine; with a verb, ask a running one.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<AgentVerb>,
    #[command(flatten)]
    role: RoleArgs,
}

#[derive(Debug, clap::Args)]
struct RoleArgs {
    /// A TOML file with settings; `understudy config default agent` prints one with all of them
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
    /// Stop when standard input ends, as it does when the parent process ends
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    #[command(flatten)]
    settings: SettingFlags<AgentConfig>,
}

#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// List the processes and how they are
    List(AskArgs),
    /// Start a process, and keep it running
    Start(ProcessArgs),
    /// Stop a process cleanly; it stays stopped until it is started
    Stop(ProcessArgs),
    /// Stop a process and start it
    Restart(ProcessArgs),
}

#[derive(Debug, clap::Args)]
struct AskArgs {
    /// Where the agent listens, host:port
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "UNDERSTUDY_AGENT_ADDRESS",
        default_value = "127.0.0.1:7423"
    )]
    agent: String,
    /// How to print
    #[arg(long, short = 'o', value_name = "HOW", default_value = "table")]
    output: OutputFlag,
}

#[derive(Debug, clap::Args)]
struct ProcessArgs {
    /// As the agent's config names it
    name: String,
    /// Between SIGTERM and SIGKILL, in milliseconds. 0: the agent's stop_timeout_ms
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    grace_ms: u64,
    #[command(flatten)]
    ask: AskArgs,
}

pub async fn run(args: Args) -> Ended {
    match args.verb {
        None => serve(args.role).await,
        Some(AgentVerb::List(ask)) => list(&ask).await,
        Some(AgentVerb::Start(process)) => wish(process, Wished::Start).await,
        Some(AgentVerb::Stop(process)) => wish(process, Wished::Stop).await,
        Some(AgentVerb::Restart(process)) => wish(process, Wished::Restart).await,
    }
}

async fn serve(args: RoleArgs) -> Ended {
    let layers = Layers::from_process(args.config, args.settings.given);
    let loaded = load::<AgentConfig>(&layers).map_err(|problems| wrong_settings(&problems))?;
    if args.print_config {
        show(&loaded, Output::Table)?;
    }
    let problems = loaded.config.validate();
    if !problems.is_empty() {
        return Err(wrong_settings(&problems));
    }
    if args.print_config {
        return Ok(Exit::Done);
    }
    let config = loaded.config;
    telemetry::start_log(&config.log).map_err(|why| Trouble::usage(why, ""))?;
    warn_of_open([&config.listen.internal, &config.listen.admin]);
    let (stopper, stop) = stopper();
    let signals = Signals::new(args.exit_with_parent)?;
    let limit = Duration::from_millis(config.stop_timeout_ms) + STOP_MARGIN;
    let running = start(config, stop);
    ended(
        until_the_end(running, signals, stopper, limit).await,
        "agent",
    )
}

async fn start(config: AgentConfig, stop: Stop) -> Result<(), RoleError> {
    let internal = bind("listen.internal", &config.listen.internal).await?;
    let admin_port = bind("listen.admin", &config.listen.admin).await?;
    let address = |listener: &tokio::net::TcpListener| {
        let address = listener.local_addr();
        address.map_err(|error| RoleError::Failed(format!("a bound port has no address: {error}")))
    };
    let bound = address(&internal)?;
    let admin_bound = address(&admin_port)?;
    tracing::info!(role = "agent", internal = %bound, admin = %admin_bound, version = env!("CARGO_PKG_VERSION"), "listening");
    let room = Room::of_process(0);
    let admin = Admin::default();
    telemetry::register_process(&admin, "agent");
    let (admin_stopper, admin_stop) = stopper();
    let serving = tokio::spawn(admin.clone().serve(admin_port, room.admin, admin_stop));
    let started = Started {
        internal,
        bound,
        stop,
        room,
        admin,
    };
    let result = agent::run(config, started).await;
    admin_stopper.stop();
    serving.abort();
    result
}

async fn list(args: &AskArgs) -> Ended {
    let mut client = connect(args).await?;
    let asked = tokio::time::timeout(ASK_LIMIT, client.list(ListProcessesRequest {})).await;
    let processes = answered(args, asked)?.processes;
    print(args, &processes)?;
    Ok(Exit::Done)
}

enum Wished {
    Start,
    Stop,
    Restart,
}

async fn wish(args: ProcessArgs, wished: Wished) -> Ended {
    let mut client = connect(&args.ask).await?;
    let request = ProcessRequest {
        name: args.name,
        launch_id: String::new(),
        grace_ms: args.grace_ms,
    };
    let asking = async {
        match wished {
            Wished::Start => client.start(request).await,
            Wished::Stop => client.stop(request).await,
            Wished::Restart => client.restart(request).await,
        }
    };
    // The agent bounds how long a process may take to end.
    let limit = Duration::from_secs(700);
    let response = answered(&args.ask, tokio::time::timeout(limit, asking).await)?;
    print(&args.ask, response.process.as_slice())?;
    Ok(Exit::Done)
}

async fn connect(args: &AskArgs) -> Result<AgentClient<tonic::transport::Channel>, Trouble> {
    let wrong = |why| Trouble::usage(format!("--agent: {why}"), "");
    split_address(&args.agent).map_err(wrong)?;
    let endpoint = Endpoint::from_shared(format!("http://{}", args.agent));
    let endpoint = endpoint.map_err(|error| wrong(error.to_string()))?;
    match endpoint.connect_timeout(ASK_LIMIT).connect().await {
        Ok(channel) => Ok(AgentClient::new(channel)),
        Err(_) => Err(Trouble::new(
            Exit::Unavailable,
            format!("no agent answers at {}", args.agent),
            "the connection was not made",
            "start it with `understudy agent --config FILE`, or name its address with --agent",
        )),
    }
}

type Timed<T> = Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>;

fn answered<T>(args: &AskArgs, asked: Timed<T>) -> Result<T, Trouble> {
    let what = format!("the agent at {}", args.agent);
    let status = match asked {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => {
            let todo = "look with `understudy agent list`";
            return Err(Trouble::new(
                Exit::Unknown,
                what,
                "did not answer in time",
                todo,
            ));
        }
    };
    let failure = Failure::from_status(&status);
    let exit = match failure.as_ref().map(|failure| failure.reason) {
        Some(Reason::NotFound) => Exit::NotFound,
        Some(Reason::FieldInvalid) => Exit::Usage,
        Some(Reason::Overloaded | Reason::Stopping) => Exit::Unavailable,
        Some(Reason::DeadlinePassed) => Exit::Unknown,
        _ => Exit::Failed,
    };
    let why = failure.map_or_else(|| status.message().to_string(), |failure| failure.message);
    Err(Trouble::new(exit, what, one_line(&why), ""))
}

fn print(args: &AskArgs, processes: &[AgentProcess]) -> Result<(), Trouble> {
    let output = match args.output {
        OutputFlag::Json => Output::Json,
        OutputFlag::Table => Output::Table,
    };
    let document: Vec<Value> = processes.iter().map(document).collect();
    output.print(&json!({ "processes": document }), || {
        let mut rows = Rows::new(["NAME", "STATE", "PID", "STARTS", "LAST END"]);
        for process in processes {
            rows.row([
                process.name.clone(),
                state_word(process.state()).to_string(),
                if process.pid == 0 {
                    "-".to_string()
                } else {
                    process.pid.to_string()
                },
                process.starts.to_string(),
                if process.last_end.is_empty() {
                    "-".to_string()
                } else {
                    process.last_end.clone()
                },
            ]);
        }
        rows
    })
}

fn document(process: &AgentProcess) -> Value {
    json!({
        "name": process.name,
        "state": state_word(process.state()),
        "pid": process.pid,
        "started_at_ms": process.started_at_ms,
        "starts": process.starts,
        "starts_in_ms": process.starts_in_ms,
        "last_end": process.last_end,
        "command": process.command,
    })
}
