//! `understudy demo`: the main job on real input, with its worst days in the middle of it.
//!
//! Three managers and three nodes as processes of their own; the world's airports; a service that sells numbered seats
//! with compare-and-set. Under load the primary's process is killed, and later the manager leader's. At the end
//! everything is read back, and every acknowledged request has to be accounted for.

mod agents;
mod airports;
mod args;
mod audit;
mod flights;
mod ledger;
mod page;
mod report;
mod timeline;

pub use args::{DemoArgs, Output};

use super::faults;
use super::local::{Local, START_PATIENCE, Shape};
use super::pulse::Pulse;
use agents::{Agents, settle};
use airports::Airport;
use anyhow::Context;
use audit::Audit;
use flights::Flight;
use report::{Faults, Report};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timeline::Timeline;
use understudy_client::Client;
use understudy_proto::v1::NamespacePolicy;

/// The namespaces of the demo.
const AIRPORTS: &str = "airports";
const FLIGHTS: &str = "flights";

const MANAGERS: u16 = 3;
const NODES: u16 = 3;
/// Managers started again, copies repaired: bounds that a healthy cluster stays far below.
const FAILOVER_PATIENCE: Duration = Duration::from_secs(20);
const REPAIR_PATIENCE: Duration = Duration::from_secs(30);
/// How long clients are watched after the manager leader's end.
const LEADER_WATCH: Duration = Duration::from_secs(3);

/// Runs the demo. `Ok` of a failure when not every acknowledged request is accounted for.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut args = args;
    let seed = *args.seed.get_or_insert_with(rand::random);
    let airports = airports::read(args.data.as_deref())?;
    let flights = flights::draw(seed, &airports, args.flights, args.seats)?;
    let timeline = Timeline::new(args.shows_progress());
    timeline.say(&format!("seed {seed}"));
    let mut local = Local::start(&Shape {
        managers: MANAGERS,
        nodes: NODES,
        port_base: args.port_base,
        data_dir: args.data_dir.clone(),
        keep: args.keep,
    })?;
    let report = tokio::select! {
        report = play(&args, &airports, flights, &mut local, &timeline) => report,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("stopped by Ctrl-C")),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => return Err(error.context(format!("seed {seed}"))),
    };
    if args.keep {
        timeline.say(&format!(
            "the data are kept in {}",
            local.data_dir().display()
        ));
    }
    tokio::task::block_in_place(|| local.stop());
    publish(&args, &report)?;
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn publish(args: &DemoArgs, report: &Report) -> anyhow::Result<()> {
    if let Some(file) = &args.report {
        std::fs::write(file, page::render(report))
            .with_context(|| format!("the report cannot be written to {}", file.display()))?;
    }
    if args.output.is_json() {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

async fn play(
    args: &DemoArgs,
    airports: &[Airport],
    flights: Vec<Flight>,
    local: &mut Local,
    timeline: &Timeline,
) -> anyhow::Result<Report> {
    let client = Client::connect(local.endpoints()).await?;
    let imported = prepare(&client, airports, &flights, timeline).await?;
    let shards = client.namespace(FLIGHTS).route().await?.shard_count();
    let pulse = Arc::new(Pulse::new(shards, args.longest_load()));
    let flights = Arc::new(flights);
    let agents = Agents::start(args, &local.endpoints(), &flights, shards, &pulse).await?;
    timeline.begin(&pulse);
    let faults = faults_under_load(args, &client, local, &pulse, timeline).await;
    let (sessions, mut ledger) = agents.stop().await;
    let series = timeline.end(&pulse);
    let faults = faults?;
    settle(&sessions, &mut ledger, &flights, &pulse).await;
    faults::wait_whole(&client, u32::from(NODES), REPAIR_PATIENCE).await?;
    timeline.say("reading everything back");
    let audit = Audit::run(&client, airports, &flights, &ledger, shards).await?;
    Ok(Report::new(args, imported, &ledger, faults, audit, series))
}

/// Waits for the cluster, makes the namespaces, and loads airports and flights. Gives how many airports there are.
async fn prepare(
    client: &Client,
    airports: &[Airport],
    flights: &[Flight],
    timeline: &Timeline,
) -> anyhow::Result<u64> {
    faults::wait_nodes(client, u32::from(NODES), START_PATIENCE).await?;
    for name in [AIRPORTS, FLIGHTS] {
        let policy = NamespacePolicy {
            copies: u32::from(NODES),
            ..Default::default()
        };
        client
            .cluster()
            .create_namespace(name, policy, true)
            .await
            .with_context(|| format!("the namespace {name}"))?;
    }
    faults::wait_whole(client, u32::from(NODES), START_PATIENCE).await?;
    timeline.say(&format!(
        "{MANAGERS} managers and {NODES} nodes are up, {NODES} copies of every shard"
    ));
    let began = Instant::now();
    let imported = airports::import(&client.namespace(AIRPORTS), airports).await?;
    let seconds = began.elapsed().as_secs_f64();
    flights::import(&client.namespace(FLIGHTS), flights).await?;
    timeline.say(&format!(
        "{imported} airports imported in {seconds:.1} s; {} flights are open for booking",
        flights.len()
    ));
    Ok(imported)
}

/// The middle of the story: a quarter of the time all is well, then the primary dies, comes back, and the manager leader
/// dies.
async fn faults_under_load(
    args: &DemoArgs,
    client: &Client,
    local: &mut Local,
    pulse: &Pulse,
    timeline: &Timeline,
) -> anyhow::Result<Faults> {
    let calm = args.duration() / 4;
    tokio::time::sleep(calm).await;
    timeline.event("kill -9: the process that is the primary of most shards");
    let primary = faults::kill_primary(local, client, FLIGHTS, pulse, FAILOVER_PATIENCE).await?;
    timeline.event(&format!(
        "{} (node {}, pid {}) was the primary of {} shards; all have another after {:.0} ms",
        primary.server,
        primary.node,
        primary.pid,
        primary.shards.len(),
        primary.gap_ms
    ));
    tokio::time::sleep(calm).await;
    let lost = local.by_name(&primary.server)?;
    local.restart(lost)?;
    timeline.event(&format!("{} is started again", primary.server));
    let began = Instant::now();
    faults::wait_whole(client, u32::from(NODES), REPAIR_PATIENCE).await?;
    let repaired = began.elapsed();
    timeline.event(&format!(
        "{} caught up; every copy is complete {:.1} s after its start",
        primary.server,
        repaired.as_secs_f64()
    ));
    timeline.event("kill -9: the manager leader");
    let leader = faults::kill_leader(local, client, pulse, LEADER_WATCH).await?;
    timeline.event(&format!(
        "{} (pid {}) led the managers; {} failed writes, longest pause {:.0} ms",
        leader.server, leader.pid, leader.failed_writes, leader.gap_ms
    ));
    let lost = local.by_name(&leader.server)?;
    local.restart(lost)?;
    timeline.event(&format!("{} is started again", leader.server));
    let rest = args.duration().saturating_sub(pulse.now());
    tokio::time::sleep(rest).await;
    Ok(Faults {
        primary,
        repaired_ms: repaired.as_millis() as u64,
        leader,
    })
}
