//! `understudy bench failover`: processes killed or frozen under load, or primaries handed over, one after the other, and how long
//! the clients felt each.

use super::args::{FailoverArgs, Fault};
use super::keys::value;
use super::start_with;
use crate::cli::faults::{self, LeaderLoss, PrimaryLoss};
use crate::cli::local::Local;
use crate::cli::pulse::Pulse;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde::Serialize;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use understudy_client::{Client, Namespace};
use understudy_proto::shard_of_key::shard_index;

const NAMESPACE: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two faults, so that each meets a cluster at rest.
const CALM: Duration = Duration::from_secs(2);
const WATCH: Duration = Duration::from_secs(3);
const VALUE_SIZE: u32 = 256;
/// Longer than any gap, so that a client waits for its request instead of giving it up.
const DEADLINE: Duration = Duration::from_secs(40);

#[derive(Debug, Serialize)]
struct Failovers {
    primaries: Vec<PrimaryLoss>,
    leaders: Vec<LeaderLoss>,
    acknowledged: u64,
    /// Writes that were told an error, in the whole run.
    failed_writes: u64,
    /// Over the primaries: until the first of the lost shards was acknowledged again, and until the last was.
    first_gap_ms: Spread,
    gap_ms: Spread,
    /// Between the last acknowledgement of the old primary and the first of the new one.
    pause_ms: Spread,
}

#[derive(Debug, Default, Serialize)]
struct Spread {
    least: f64,
    median: f64,
    /// 90 of 100 are at most this.
    p90: f64,
    /// 99 of 100 are at most this.
    p99: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else {
            return Spread::default();
        };
        Spread {
            least: *least,
            median: values[values.len() / 2],
            p90: at_most(&values, 90),
            p99: at_most(&values, 99),
            most: *most,
        }
    }
}

/// The least value that so many of a hundred do not exceed.
fn at_most(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

pub async fn run(args: &FailoverArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        !(args.agent && args.fault == Fault::Freeze),
        "an agent's processes cannot be frozen from here: leave --agent out"
    );
    let (mut local, client) = start_with(&args.cluster, NAMESPACE, args.agent).await?;
    let shards = client.namespace(NAMESPACE).route().await?.shard_count();
    // The timeline is not looked at.
    let pulse = Arc::new(Pulse::new(shards, Duration::ZERO));
    let mut writers = JoinSet::new();
    for number in 0..args.clients {
        let own = Client::connect(local.endpoints()).await?;
        let every = Duration::from_secs(1) * args.clients / args.rate;
        let namespace = own.namespace(NAMESPACE);
        writers.spawn(write(namespace, number, shards, every, pulse.clone()));
    }
    tokio::time::sleep(CALM).await;
    let failovers = kill_and_restart(args, &mut local, &client, &pulse).await;
    writers.shutdown().await;
    match args.agent {
        // The agent ends its nodes; their folders go when they have ended.
        true => local.stop().await,
        false => drop(local),
    }
    print(args, &failovers?)
}

/// One writer of keys of one shard, with one request on the way.
async fn write(namespace: Namespace, number: u32, shards: u32, every: Duration, pulse: Arc<Pulse>) {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(number));
    let shard = number % shards;
    let value = value(&mut rng, VALUE_SIZE);
    let mut next = Instant::now() + every.mul_f64(rng.random_range(0.0..1.0));
    loop {
        tokio::time::sleep_until(next).await;
        next = Instant::now().max(next) + every;
        let key = key_in_shard(&mut rng, shard, shards);
        match namespace.put(key, value.clone()).deadline(DEADLINE).await {
            Ok(written) => pulse.acknowledged(shard, written.primary),
            Err(_) => pulse.went_wrong(),
        }
    }
}

fn key_in_shard(rng: &mut ChaCha8Rng, shard: u32, shards: u32) -> String {
    loop {
        let key = format!("key-{}", rng.random_range(0..1_000_000));
        if shard_index(key.as_bytes(), shards) == shard {
            return key;
        }
    }
}

async fn kill_and_restart(
    args: &FailoverArgs,
    local: &mut Local,
    client: &Client,
    pulse: &Pulse,
) -> anyhow::Result<Failovers> {
    let shown = !args.cluster.is_json() && std::io::stderr().is_terminal();
    let nodes = client.cluster().status().await?.nodes_up;
    let mut primaries = Vec::new();
    for _ in 0..args.faults {
        let victim = faults::busiest_primary(local, client, NAMESPACE).await?;
        let loss = match args.fault {
            Fault::Kill => faults::kill_primary(local, victim, &[], pulse, PATIENCE).await?,
            Fault::Freeze => faults::freeze_primary(local, victim, pulse, PATIENCE).await?,
            Fault::Transfer => {
                faults::transfer_primary(client, NAMESPACE, victim, pulse, PATIENCE).await?
            }
        };
        if shown {
            eprintln!("{}: {:.0} ms", loss.server, loss.gap_ms);
        }
        match args.fault {
            Fault::Kill => local.restart(&loss.server)?,
            Fault::Freeze => local.signal(&loss.server, Signal::CONT)?,
            Fault::Transfer => {}
        }
        rest(client, nodes).await?;
        primaries.push(loss);
    }
    let mut leaders = Vec::new();
    for _ in 0..args.leader_faults {
        let victim = faults::manager_leader(local, client).await?;
        let loss = faults::kill_leader(local, client, victim, pulse, WATCH).await?;
        if shown {
            eprintln!(
                "{}: {:.0} ms without an acknowledgement",
                loss.server, loss.gap_ms
            );
        }
        local.restart(&loss.server)?;
        rest(client, nodes).await?;
        leaders.push(loss);
    }
    Ok(Failovers {
        first_gap_ms: Spread::of(primaries.iter().map(|loss| loss.first_gap_ms).collect()),
        gap_ms: Spread::of(primaries.iter().map(|loss| loss.gap_ms).collect()),
        pause_ms: Spread::of(primaries.iter().map(|loss| loss.pause_ms).collect()),
        primaries,
        leaders,
        acknowledged: pulse.total(),
        failed_writes: pulse.errors(),
    })
}

async fn rest(client: &Client, nodes: u32) -> anyhow::Result<()> {
    faults::wait_whole(client, nodes, PATIENCE).await?;
    tokio::time::sleep(CALM).await;
    Ok(())
}

fn print(args: &FailoverArgs, failovers: &Failovers) -> anyhow::Result<()> {
    if args.cluster.is_json() {
        println!("{}", serde_json::to_string_pretty(failovers)?);
        return Ok(());
    }
    println!(
        "{:<42} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "least ms", "median ms", "p90 ms", "p99 ms", "most ms"
    );
    let what = match args.fault {
        Fault::Kill => "primary killed",
        Fault::Freeze => "primary frozen",
        Fault::Transfer => "primary handed over",
    };
    let rows = [
        ("its first shard back", &failovers.first_gap_ms),
        ("all its shards back", &failovers.gap_ms),
        ("longest pause of one", &failovers.pause_ms),
    ];
    for (felt, spread) in rows {
        let name = format!("{what}, {felt}");
        let Spread {
            least,
            median,
            p90,
            p99,
            most,
        } = spread;
        println!("{name:<42} {least:>9.0} {median:>9.0} {p90:>9.0} {p99:>9.0} {most:>9.0}");
    }
    for loss in &failovers.leaders {
        println!(
            "manager leader {} killed: {:.0} ms without an acknowledgement, {} failed writes",
            loss.server, loss.gap_ms, loss.failed_writes
        );
    }
    println!(
        "{} writes acknowledged, {} failed, {} times",
        failovers.acknowledged,
        failovers.failed_writes,
        failovers.primaries.len()
    );
    Ok(())
}
