//! `understudy bench reconcile`: a primary acknowledges many writes that no other node gets, dies, and comes back behind the
//! primaries that took its place: how long until all of it is recorded again, what memory the nodes take for it, and how clients
//! are served meanwhile.

use super::args::ReconcileArgs;
use super::cpu;
use super::keys::{key, value};
use super::start;
use crate::cli::cluster_processes::http_get;
use crate::cli::faults;
use crate::cli::local::Local;
use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use understudy_client::{Client, Namespace};
use understudy_proto::shard_of_key::shard_index;

const NAMESPACE: &str = "bench";
/// Who has what nobody else has.
const ALONE: &str = "node-1";
const OTHERS: [&str; 2] = ["node-2", "node-3"];
const NODES: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(300);
const DEADLINE: Duration = Duration::from_secs(60);
/// Writes on their way at once.
const IN_FLIGHT: usize = 512;
/// Between two writes of the client that is served meanwhile.
const PAUSE: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Reconciled {
    orphans: u64,
    value_size: u32,
    recorded_again: u64,
    conflicts: u64,
    /// Of the objects of the writes that were cut off, at the end.
    missing: u64,
    /// From the start of the process that has the orphans, until no node has any.
    seconds: f64,
    /// The most that a node took before, and while it lasted.
    resident_before_bytes: u64,
    resident_most_bytes: u64,
    /// Of a client that writes meanwhile, 200 times a second.
    served: u64,
    failed: u64,
    longest_ms: f64,
}

/// What the nodes counted.
#[derive(Clone, Copy, Default)]
struct Judged {
    applied: u64,
    conflicts: u64,
}

/// What a client met.
#[derive(Debug, Default)]
struct Served {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
}

pub async fn run(args: &ReconcileArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.cluster.in_sync,
        "what only one copy has is acknowledged in lazy namespaces only: leave --in-sync out"
    );
    let (mut local, client) = start(&args.cluster, NAMESPACE).await?;
    let namespace = client.namespace(NAMESPACE);
    for name in OTHERS {
        kill(&mut local, name).await?;
    }
    until_led_by(&client, &[ALONE]).await?;
    write_all(args, &namespace).await?;
    kill(&mut local, ALONE).await?;
    for name in OTHERS {
        local.restart(name)?;
    }
    until_led_by(&client, &OTHERS).await?;

    let served = Arc::new(Served::default());
    let meanwhile = tokio::spawn(be_served(
        Client::connect(local.endpoints())
            .await?
            .namespace(NAMESPACE),
        args.value_size,
        served.clone(),
    ));
    let resident_before_bytes = resident(&local)?;
    let before = judged(&local).await?;
    let began = Instant::now();
    local.restart(ALONE)?;
    let mut most = resident_before_bytes;
    let after = loop {
        most = most.max(resident(&local)?);
        let now = judged(&local).await?;
        let done = now.applied + now.conflicts - before.applied - before.conflicts;
        if done >= args.orphans && client.cluster().status().await?.orphans == Some(0) {
            break now;
        }
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "only {done} of {} orphans were recorded again",
            args.orphans
        );
        tokio::time::sleep(LOOK).await;
    };
    let seconds = began.elapsed().as_secs_f64();
    meanwhile.abort();
    faults::wait_whole(&client, NODES, PATIENCE).await?;
    let missing = missing(args, &namespace).await?;
    drop(local);
    let reconciled = Reconciled {
        orphans: args.orphans,
        value_size: args.value_size,
        recorded_again: after.applied - before.applied,
        conflicts: after.conflicts - before.conflicts,
        missing,
        seconds,
        resident_before_bytes,
        resident_most_bytes: most,
        served: served.acknowledged.load(Relaxed),
        failed: served.failed.load(Relaxed),
        longest_ms: served.longest_us.load(Relaxed) as f64 / 1_000.0,
    };
    print(args, &reconciled)
}

async fn kill(local: &mut Local, name: &str) -> anyhow::Result<()> {
    let pid = local.pid_of(name).await?;
    local
        .kill(name, pid.with_context(|| format!("{name} does not run"))?)
        .await
}

/// Until each shard has one of these as its primary.
async fn until_led_by(client: &Client, names: &[&str]) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let nodes = client.cluster().nodes().await?.nodes;
        let of = |name: &&str| nodes.iter().find(|n| n.name == **name).map(|n| n.node);
        let wanted: Vec<u64> = names.iter().filter_map(of).collect();
        let shards = client.cluster().shards(Some(NAMESPACE)).await?.shards;
        if shards.iter().all(|shard| wanted.contains(&shard.primary)) {
            break;
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "{names:?} do not take over");
        tokio::time::sleep(LOOK).await;
    }
    // The rows say it; the first write says that they serve.
    let namespace = client.namespace(NAMESPACE);
    let shards = namespace.route().await?.shard_count();
    for shard in 0..shards {
        let mut keys = (0u64..).map(|rank| format!("{names:?}-{rank}"));
        let key = keys.find(|key| shard_index(key.as_bytes(), shards) == shard);
        let write = namespace.put(key.unwrap_or_default(), "x");
        write.deadline(DEADLINE).await?;
    }
    Ok(())
}

async fn write_all(args: &ReconcileArgs, namespace: &Namespace) -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let value = value(&mut rng, args.value_size);
    let writes = (0..args.orphans).map(|rank| {
        let write = namespace.put(key(rank), value.clone()).deadline(DEADLINE);
        async move { write.await.map(drop) }
    });
    let all = futures::stream::iter(writes).buffer_unordered(IN_FLIGHT);
    all.try_collect::<Vec<()>>().await?;
    Ok(())
}

/// A client that goes on: its keys are others than those that come back.
async fn be_served(namespace: Namespace, value_size: u32, served: Arc<Served>) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let value = value(&mut rng, value_size);
    for rank in 0u64.. {
        let began = Instant::now();
        let written = namespace.put(format!("other-{}", rank % 1_000), value.clone());
        match written.deadline(DEADLINE).await {
            Ok(_) => served.acknowledged.fetch_add(1, Relaxed),
            Err(_) => served.failed.fetch_add(1, Relaxed),
        };
        let took = began.elapsed().as_micros() as u64;
        served.longest_us.fetch_max(took, Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

fn resident(local: &Local) -> anyhow::Result<u64> {
    let each = local.node_pids().into_iter().map(cpu::resident);
    let each = each.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(each.into_iter().max().unwrap_or(0))
}

/// Summed over the nodes that took over.
async fn judged(local: &Local) -> anyhow::Result<Judged> {
    let mut sum = Judged::default();
    for name in OTHERS {
        let (_, text) = http_get(local.named(name)?.ports.admin, "/metrics").await?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        let of = |name: &str| of(name).with_context(|| format!("there is no {name}"));
        sum.applied += of("understudy_orphans_applied_total ")?;
        sum.conflicts += of("understudy_orphans_conflicts_total ")?;
    }
    Ok(sum)
}

async fn missing(args: &ReconcileArgs, namespace: &Namespace) -> anyhow::Result<u64> {
    let mut there = 0;
    let scan = namespace.scan().prefix("key-").keys_only();
    let mut objects = pin!(scan.page_size(10_000).objects());
    while objects.try_next().await?.is_some() {
        there += 1;
    }
    Ok(args.orphans.saturating_sub(there))
}

fn print(args: &ReconcileArgs, reconciled: &Reconciled) -> anyhow::Result<()> {
    if args.cluster.is_json() {
        println!("{}", serde_json::to_string_pretty(reconciled)?);
        return Ok(());
    }
    println!(
        "{} writes of {} B cut off: {} recorded again, {} conflicts, {} missing, in {:.1} s from the start of their process",
        reconciled.orphans,
        reconciled.value_size,
        reconciled.recorded_again,
        reconciled.conflicts,
        reconciled.missing,
        reconciled.seconds
    );
    println!(
        "the largest node: {} MiB before, {} MiB at most",
        reconciled.resident_before_bytes >> 20,
        reconciled.resident_most_bytes >> 20
    );
    println!(
        "meanwhile {} writes of another client acknowledged, {} failed, the longest {:.0} ms",
        reconciled.served, reconciled.failed, reconciled.longest_ms
    );
    Ok(())
}
