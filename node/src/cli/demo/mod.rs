//! `understudy demo`: the main job on real input, with its worst days in the middle of it.
//!
//! Three managers and three nodes as processes of their own; the world's airports; a service that sells numbered seats
//! with compare-and-set, `in_sync`; passengers who write notes, lazily. Under load all nodes are killed, the primary of
//! most shards a moment after the others, and later the manager leader. At the end everything is read back: no reservation may be
//! missing, and every acknowledged note has to be accounted for.

mod agents;
mod airports;
mod args;
mod audit;
mod flights;
mod ledger;
mod page;
mod report;
mod timeline;

pub use args::Args;

use super::exit::{Ended, Exit, Trouble};
use super::faults;
use super::local::{Local, Plan, START_LIMIT, patient_client};
use super::pulse::Pulse;
use agents::{Agents, Shards, settle};
use airports::Airport;
use anyhow::Context;
use audit::Audit;
use flights::Flight;
use report::{Faults, Report};
use std::sync::Arc;
use std::time::{Duration, Instant};
use timeline::Timeline;
use understudy_client::Client;
use understudy_proto::v1::NamespacePolicy;
use understudy_proto::v1::namespace_policy::Mode;

/// The namespaces of the demo.
const AIRPORTS: &str = "airports";
const FLIGHTS: &str = "flights";
const NOTES: &str = "notes";

const MANAGERS: u16 = 3;
const NODES: u16 = 3;
/// Managers started again, copies repaired: bounds that a healthy cluster stays far below.
const FAILOVER_PATIENCE: Duration = Duration::from_secs(20);
const REPAIR_PATIENCE: Duration = Duration::from_secs(30);
/// How long before the primary the other nodes are killed: so long its lazy writes reach no copy.
const ALONE: Duration = Duration::from_millis(300);
/// How long clients are watched after the manager leader's end.
const LEADER_WATCH: Duration = Duration::from_secs(3);

/// Exit status 0 only when every acknowledged request is accounted for, and none ran twice.
pub async fn run(args: Args) -> Ended {
    let mut args = args;
    args.seed.get_or_insert_with(rand::random);
    match whole(&args).await {
        Ok(report) if report.passed => Ok(Exit::Done),
        Ok(_) => Ok(Exit::Failed),
        Err(error) => {
            let again = format!(
                "look at what it says, and repeat it with `{}`",
                args.repeat()
            );
            let why = format!("{error:#}");
            Err(Trouble::new(
                Exit::Failed,
                "the demo did not come to its end",
                why,
                again,
            ))
        }
    }
}

async fn whole(args: &Args) -> anyhow::Result<Report> {
    let airports = airports::read(args.data.as_deref())?;
    let seed = args.seed.unwrap_or_default();
    let flights = flights::draw(seed, &airports, args.flights, args.seats)?;
    let timeline = Timeline::new(args.shows_progress());
    timeline.say(&format!("seed {seed}"));
    let plan = Plan {
        managers: MANAGERS,
        nodes: NODES,
        port_base: args.port_base,
        data_dir: args.data_dir.clone(),
        keep: args.keep,
        agent: false,
    };
    let report = tokio::select! {
        report = on_cluster(args, &plan, &airports, flights, &timeline) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped by Ctrl-C"),
    };
    publish(args, &report)?;
    Ok(report)
}

async fn on_cluster(
    args: &Args,
    plan: &Plan,
    airports: &[Airport],
    flights: Vec<Flight>,
    timeline: &Timeline,
) -> anyhow::Result<Report> {
    let mut local = Local::start(plan).await?;
    let report = play(args, airports, flights, &mut local, timeline).await?;
    if args.keep {
        timeline.say(&format!(
            "the data are kept in {}",
            local.folder().display()
        ));
    }
    local.stop().await;
    Ok(report)
}

fn publish(args: &Args, report: &Report) -> anyhow::Result<()> {
    if let Some(file) = &args.report {
        std::fs::write(file, page::render(report))
            .with_context(|| format!("the report cannot be written to {}", file.display()))?;
    }
    if args.is_json() {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

async fn play(
    args: &Args,
    airports: &[Airport],
    flights: Vec<Flight>,
    local: &mut Local,
    timeline: &Timeline,
) -> anyhow::Result<Report> {
    let client = patient_client(local.endpoints()).await?;
    let imported = prepare(&client, airports, &flights, timeline).await?;
    let shards = Shards {
        seats: client.namespace(FLIGHTS).route().await?.shard_count(),
        notes: client.namespace(NOTES).route().await?.shard_count(),
    };
    let pulse = Pulse::new(shards.seats + shards.notes, args.longest_load());
    let pulse = Arc::new(pulse);
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

/// Makes the namespaces, and loads airports and flights. Gives how many airports there are.
async fn prepare(
    client: &Client,
    airports: &[Airport],
    flights: &[Flight],
    timeline: &Timeline,
) -> anyhow::Result<u64> {
    for (name, mode) in [
        (AIRPORTS, Mode::Lazy),
        (FLIGHTS, Mode::InSync),
        (NOTES, Mode::Lazy),
    ] {
        let policy = NamespacePolicy {
            copies: u32::from(NODES),
            mode: mode.into(),
            ..Default::default()
        };
        client
            .cluster()
            .create_namespace(name, policy, true)
            .await
            .with_context(|| format!("the namespace {name}"))?;
    }
    faults::wait_whole(client, u32::from(NODES), START_LIMIT).await?;
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
    args: &Args,
    client: &Client,
    local: &mut Local,
    pulse: &Pulse,
    timeline: &Timeline,
) -> anyhow::Result<Faults> {
    let calm = args.duration() / 4;
    tokio::time::sleep(calm).await;
    let victim = faults::busiest_primary(local, client, FLIGHTS).await?;
    let others = faults::kill_all_but(local, &victim).await?;
    timeline.event(&format!(
        "kill -9 of every node but {}: for {} ms no copy hears of its writes",
        victim.server,
        ALONE.as_millis()
    ));
    tokio::time::sleep(ALONE).await;
    timeline.event(&format!(
        "kill -9 {}: {} (node {}), the primary of {} shards",
        victim.pid,
        victim.server,
        victim.id,
        victim.shards.len()
    ));
    let primary = faults::kill_primary(local, victim, &others, pulse, FAILOVER_PATIENCE).await?;
    timeline.event(&match primary.not_back.len() {
        0 => format!(
            "all of them have another primary, after {:.0} ms",
            primary.gap_ms
        ),
        late => format!("{late} of them have no other primary"),
    });
    tokio::time::sleep(calm).await;
    local.restart(&primary.server)?;
    timeline.event(&format!("{} is started again", primary.server));
    let began = Instant::now();
    faults::wait_whole(client, u32::from(NODES), REPAIR_PATIENCE).await?;
    let repaired = began.elapsed();
    timeline.event(&format!(
        "{} caught up; every copy is complete {:.1} s after its start",
        primary.server,
        repaired.as_secs_f64()
    ));
    let victim = faults::manager_leader(local, client).await?;
    timeline.event(&format!(
        "kill -9 {}: {}, which leads the managers",
        victim.pid, victim.server
    ));
    let leader = faults::kill_leader(local, client, victim, pulse, LEADER_WATCH).await?;
    timeline.event(&format!(
        "since then {} failed writes, longest pause {:.0} ms",
        leader.failed_writes, leader.gap_ms
    ));
    local.restart(&leader.server)?;
    timeline.event(&format!("{} is started again", leader.server));
    let rest = args.duration().saturating_sub(pulse.now());
    tokio::time::sleep(rest).await;
    Ok(Faults {
        primary,
        repaired_ms: repaired.as_millis() as u64,
        leader,
    })
}
