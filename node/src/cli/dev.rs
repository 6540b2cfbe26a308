//! `understudy dev`: a whole cluster on this machine for trying things out, loopback only.

use super::client::OutputFlag;
use super::cluster_processes::{ClusterError, LocalCluster, Member, Shape};
use super::exit::{Ended, Exit, Trouble};
use super::output::{Output, Rows};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use understudy_client::v1::{NamespacePolicy, namespace_policy::Mode};
use understudy_client::{Client, Settings};

/// Run a whole cluster on this machine, loopback only.
///
/// Ctrl-C ends it cleanly. A process that is killed comes back after three seconds, so that a failover can be watched.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Managers: 1, 3, 5 or 7
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    managers: u16,
    /// Data nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: u16,
    /// Sites with how many nodes are there, instead of --nodes: eu=2,us=3
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = site, conflicts_with = "nodes")]
    site: Vec<(String, u16)>,
    /// Keep the data here; without it they are in a temporary folder and go with the cluster
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The first port; each process has the next ten; 0 takes free ones
    #[arg(long, value_name = "PORT", default_value_t = 7420)]
    port_base: u16,
    /// Leave a process down that ended
    #[arg(long)]
    no_restart: bool,
    /// How to print the addresses
    #[arg(long, short = 'o', value_name = "HOW", default_value = "table")]
    output: OutputFlag,
}

/// How long the cluster may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a process that ended stays away.
const RESTART_AFTER: Duration = Duration::from_secs(3);

fn site(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("'{text}': write SITE=NODES");
    let (name, count) = text.split_once('=').ok_or_else(wrong)?;
    match count.parse() {
        Ok(count @ 1..=100) if !name.is_empty() => Ok((name.to_string(), count)),
        _ => Err(wrong()),
    }
}

pub async fn run(args: Args) -> Ended {
    if !matches!(args.managers, 1 | 3 | 5 | 7) {
        return Err(Trouble::usage(
            format!("--managers is {}", args.managers),
            "take 1, 3, 5 or 7",
        ));
    }
    let mut stop = StopSignals::new()?;
    let folder = Folder::open(args.data_dir.as_deref())?;
    let shape = Shape {
        sites: match args.site.is_empty() {
            true => vec![(String::new(), args.nodes)],
            false => args.site.clone(),
        },
        port_base: args.port_base,
        ..Shape::new(args.managers, args.nodes, folder.path())
    };
    let mut cluster = LocalCluster::start(&shape).map_err(not_started)?;
    let started = tokio::select! {
        ready = ready(&mut cluster) => ready,
        () = stop.wait() => Ok(()),
    };
    let ended = match started {
        Ok(()) if !stop.came => {
            tell(&args, &cluster, &folder)?;
            stay(&args, &mut cluster, &mut stop).await
        }
        other => other,
    };
    eprintln!("stopping");
    for unclean in cluster.stop().await {
        eprintln!("{unclean}");
    }
    ended
        .map(|()| Exit::Done)
        .map_err(|trouble| folder.keep_for(trouble))
}

fn not_started(error: ClusterError) -> Trouble {
    let todo = "stop what uses the ports, or take others with --port-base";
    Trouble::new(
        Exit::Failed,
        "the cluster does not start",
        error.to_string(),
        todo,
    )
}

/// Every process is ready, and there is a namespace to begin with.
async fn ready(cluster: &mut LocalCluster) -> Result<(), Trouble> {
    cluster.wait_ready(READY_LIMIT).await.map_err(not_started)?;
    let settings = Settings {
        deadline: Duration::from_secs(30),
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings).await;
    let client = client.map_err(|error| Trouble::of("connecting", &error))?;
    let policy = NamespacePolicy {
        mode: Mode::Lazy.into(),
        ..NamespacePolicy::default()
    };
    let made = client
        .cluster()
        .create_namespace("default", policy, true)
        .await;
    made.map_err(|error| Trouble::of("creating the namespace 'default'", &error))?;
    let until = Instant::now() + READY_LIMIT;
    while let Err(waits) = has_primaries(&client).await {
        if Instant::now() >= until {
            return Err(waits);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The namespace serves when each of its shards has a primary.
async fn has_primaries(client: &Client) -> Result<(), Trouble> {
    let shards = client.cluster().shards(Some("default")).await;
    let shards =
        shards.map_err(|error| Trouble::of("waiting for the namespace 'default'", &error))?;
    match shards
        .shards
        .iter()
        .filter(|shard| shard.primary == 0)
        .count()
    {
        0 => Ok(()),
        without => {
            let why = format!("{without} shards have no primary");
            Err(Trouble::new(
                Exit::Failed,
                "the cluster is not ready",
                why,
                "look at the logs",
            ))
        }
    }
}

fn tell(args: &Args, cluster: &LocalCluster, folder: &Folder) -> Result<(), Trouble> {
    let output = match args.output {
        OutputFlag::Json => Output::Json,
        OutputFlag::Table => Output::Table,
    };
    let members: Vec<Value> = cluster.members().iter().map(member_json).collect();
    let document = json!({
        "endpoints": cluster.endpoints(),
        "data_dir": folder.path(),
        "namespace": "default",
        "members": members,
    });
    output.print(&document, || rows(cluster.members()))?;
    if output == Output::Table {
        let endpoint = cluster.endpoints().into_iter().next().unwrap_or_default();
        let flag = if args.port_base == 7420 {
            String::new()
        } else {
            format!(" --endpoints {endpoint}")
        };
        println!("\nready; data and logs are in {}", folder.path().display());
        println!("try: understudy put apple '3 baskets'{flag}");
        println!("     understudy get apple{flag}");
        println!("Ctrl-C ends it");
    }
    Ok(())
}

fn rows(members: &[Member]) -> Rows {
    let mut rows = Rows::new(["NAME", "SITE", "CLIENTS", "ADMIN", "PID"]);
    for member in members {
        rows.row([
            member.name.clone(),
            super::show::or_dash(member.site.clone()),
            member.endpoint(),
            format!("http://127.0.0.1:{}", member.ports.admin),
            member.pid().map_or("-".to_string(), |pid| pid.to_string()),
        ]);
    }
    rows
}

fn member_json(member: &Member) -> Value {
    json!({
        "name": member.name,
        "site": member.site,
        "endpoint": member.endpoint(),
        "internal": format!("127.0.0.1:{}", member.ports.internal),
        "admin": format!("http://127.0.0.1:{}", member.ports.admin),
        "pid": member.pid(),
        "log": member.log,
    })
}

/// Until the word to stop: tells what ends, and starts it again.
async fn stay(
    args: &Args,
    cluster: &mut LocalCluster,
    stop: &mut StopSignals,
) -> Result<(), Trouble> {
    let mut due: HashMap<String, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = sleep(Duration::from_millis(100)) => {}
        }
        for (name, status) in cluster.ended() {
            eprintln!("{name} ended: {status}");
            match will_restart(args, status) {
                true => drop(due.insert(name, Instant::now() + RESTART_AFTER)),
                false => eprintln!("{name} stays down"),
            }
        }
        let now = Instant::now();
        let ready: Vec<String> = due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in ready {
            due.remove(&name);
            cluster.restart(&name).map_err(not_started)?;
            let pid = cluster
                .member(&name)
                .and_then(Member::pid)
                .unwrap_or_default();
            eprintln!("{name} is started again, process {pid}");
        }
    }
}

/// Wrong settings and an unusable folder are the same the next time.
fn will_restart(args: &Args, status: ExitStatus) -> bool {
    !args.no_restart && !matches!(status.code(), Some(2 | 3))
}

/// SIGTERM and Ctrl-C.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    came: bool,
}

impl StopSignals {
    fn new() -> Result<StopSignals, Trouble> {
        let failed = |error: std::io::Error| {
            Trouble::new(
                Exit::Failed,
                "signals cannot be heard",
                error.to_string(),
                "",
            )
        };
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            came: false,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.came = true;
    }
}

/// Where the data are. A temporary folder goes with the cluster.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn open(chosen: Option<&Path>) -> Result<Folder, Trouble> {
        let failed = |error: std::io::Error| {
            Trouble::new(
                Exit::Failed,
                "the data folder cannot be made",
                error.to_string(),
                "name another with --data-dir",
            )
        };
        match chosen {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(failed)?;
                Ok(Folder::Kept(std::path::absolute(path).map_err(failed)?))
            }
            None => {
                let made = tempfile::Builder::new().prefix("understudy-dev-").tempdir();
                Ok(Folder::Temporary(made.map_err(failed)?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Kept(path) => path,
            Folder::Temporary(folder) => folder.path(),
        }
    }

    /// After trouble the logs are what helps.
    fn keep_for(self, mut trouble: Trouble) -> Trouble {
        let path = match self {
            Folder::Kept(path) => path,
            Folder::Temporary(folder) => folder.keep(),
        };
        trouble.todo = format!("{}; the logs are in {}", trouble.todo, path.display());
        trouble
    }
}
