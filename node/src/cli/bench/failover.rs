//! `understudy bench failover`: processes killed under load, one after the other, and how long the clients felt each.

use super::args::FailoverArgs;
use super::keys::value;
use super::start_with;
use crate::cli::faults::{self, LeaderLoss, PrimaryLoss};
use crate::cli::local::Local;
use crate::cli::pulse::Pulse;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
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
        let loss = faults::kill_primary(local, victim, &[], pulse, PATIENCE).await?;
        if shown {
            eprintln!("{}: {:.0} ms", loss.server, loss.gap_ms);
        }
        restart(local, &loss.server, client, nodes).await?;
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
        restart(local, &loss.server, client, nodes).await?;
        leaders.push(loss);
    }
    Ok(Failovers {
        first_gap_ms: Spread::of(primaries.iter().map(|loss| loss.first_gap_ms).collect()),
        gap_ms: Spread::of(primaries.iter().map(|loss| loss.gap_ms).collect()),
        primaries,
        leaders,
        acknowledged: pulse.total(),
        failed_writes: pulse.errors(),
    })
}

async fn restart(local: &mut Local, name: &str, client: &Client, nodes: u32) -> anyhow::Result<()> {
    local.restart(name)?;
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
    let rows = [
        (
            "primary killed, its first shard back",
            &failovers.first_gap_ms,
        ),
        ("primary killed, all its shards back", &failovers.gap_ms),
    ];
    for (name, spread) in rows {
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
        "{} writes acknowledged, {} failed, {} primaries killed",
        failovers.acknowledged,
        failovers.failed_writes,
        failovers.primaries.len()
    );
    Ok(())
}
