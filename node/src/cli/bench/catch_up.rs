//! `understudy bench catch-up`: a node is told to end, misses many updates of few objects, and comes back: how long until it
//! has everything, and how many bytes that took beside the bytes of the records that it missed.

use super::args::CatchUpArgs;
use super::keys::{key, value};
use super::start;
use crate::cli::bulk;
use crate::cli::cluster_processes::http_get;
use crate::cli::faults;
use crate::cli::local::Local;
use anyhow::Context;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use understudy_client::{Client, Namespace};
use understudy_proto::shard_of_key::shard_index;
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{Pair, ReadLevel, ReadRequest};

const NAMESPACE: &str = "bench";
/// Who is away.
const AWAY: &str = "node-3";
const NODES: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct CaughtUp {
    updates: u64,
    objects: u64,
    value_size: u32,
    updates_per_second: f64,
    /// Of the records that one copy missed, as they were sent to another one.
    record_bytes: u64,
    /// What was sent to bring the node up to date.
    sent_as_deltas: u64,
    sent_as_records: u64,
    sent_as_full_copies: u64,
    /// The records' bytes, divided by all that was sent.
    times_fewer: f64,
    /// From the start of the process, until every shard's last update is read at it.
    seconds: f64,
}

/// Sums over the nodes that stayed.
#[derive(Clone, Copy, Default)]
struct Sent {
    records: u64,
    deltas: u64,
    full_copies: u64,
}

pub async fn run(args: &CatchUpArgs) -> anyhow::Result<()> {
    let (mut local, client) = start(&args.cluster, NAMESPACE).await?;
    let namespace = client.namespace(NAMESPACE);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let rows = (0..args.objects).map(|rank| (key(rank), value(&mut rng, args.value_size)));
    bulk::load(&namespace, rows).await?;
    faults::wait_whole(&client, NODES, PATIENCE).await?;

    let endpoint = local.named(AWAY)?.endpoint();
    local.stop_one(AWAY).await?;
    let before = sent(&local).await?;
    let began = Instant::now();
    update(args, &local).await?;
    let updating = began.elapsed();
    let last = last_of_each_shard(args, &namespace).await?;
    // The copy that stayed has all of them.
    settled(&local).await?;
    let missed = sent(&local).await?;

    let began = Instant::now();
    local.restart(AWAY)?;
    for (key, token) in last {
        until_read(&endpoint, key, token).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    faults::wait_whole(&client, NODES, PATIENCE).await?;
    let after = sent(&local).await?;
    drop(local);
    let record_bytes = missed.records - before.records;
    let (as_records, as_deltas, as_full_copies) = (
        after.records - missed.records,
        after.deltas - missed.deltas,
        after.full_copies - missed.full_copies,
    );
    let all = (as_records + as_deltas + as_full_copies).max(1);
    let caught_up = CaughtUp {
        updates: args.updates,
        objects: args.objects,
        value_size: args.value_size,
        updates_per_second: args.updates as f64 / updating.as_secs_f64(),
        record_bytes,
        sent_as_deltas: as_deltas,
        sent_as_records: as_records,
        sent_as_full_copies: as_full_copies,
        times_fewer: record_bytes as f64 / all as f64,
        seconds,
    };
    print(args, &caught_up)
}

/// Clients with many requests on the way share the updates.
async fn update(args: &CatchUpArgs, local: &Local) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let (updates, objects, size) = (args.updates, args.objects.max(1), args.value_size);
    let mut workers = JoinSet::new();
    for number in 0..args.clients {
        let endpoints = local.endpoints();
        let client = Client::connect(endpoints).await?;
        for lane in 0..args.in_flight {
            let (namespace, next) = (client.namespace(NAMESPACE), next.clone());
            let seed = u64::from(number) << 32 | u64::from(lane);
            workers.spawn(async move {
                let value = value(&mut ChaCha8Rng::seed_from_u64(seed), size);
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    if at >= updates {
                        return Ok(());
                    }
                    let write = namespace.put(key(at % objects), value.clone());
                    write.deadline(DEADLINE).await?;
                }
            });
        }
    }
    while let Some(ended) = workers.join_next().await {
        ended?.map_err(|error: understudy_client::Error| error)?;
    }
    Ok(())
}

/// One more update in each shard that has a key, and where it stands.
async fn last_of_each_shard(
    args: &CatchUpArgs,
    namespace: &Namespace,
) -> anyhow::Result<Vec<(bytes::Bytes, Pair)>> {
    let shards = namespace.route().await?.shard_count();
    let keys = (0..args.objects).map(key);
    let of_shard: BTreeMap<u32, bytes::Bytes> =
        keys.map(|key| (shard_index(&key, shards), key)).collect();
    let mut last = Vec::new();
    for key in of_shard.into_values() {
        let write = namespace.put(key.clone(), "last").deadline(DEADLINE);
        let written = write.await?;
        let token = Pair {
            epoch: written.pair.epoch.0,
            version: written.pair.version.0,
        };
        last.push((key, token));
    }
    Ok(last)
}

/// Until nothing is on its way to the copies any more.
async fn settled(local: &Local) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut known = u64::MAX;
    loop {
        let now = sent(local).await?.records;
        if now == known {
            return Ok(());
        }
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "records are sent without an end"
        );
        known = now;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks the node itself, which waits until its copy is there.
async fn until_read(endpoint: &str, key: bytes::Bytes, token: Pair) -> anyhow::Result<()> {
    let began = Instant::now();
    let question = ReadRequest {
        namespace: NAMESPACE.to_string(),
        keys: vec![key],
        level: ReadLevel::Session.into(),
        token: Some(token),
        deadline_ms: 1_000,
        refuse_forwarding: true,
        ..ReadRequest::default()
    };
    loop {
        let asked = async {
            let mut objects = ObjectsClient::connect(endpoint.to_string()).await?;
            objects.read(question.clone()).await?;
            anyhow::Ok(())
        };
        match asked.await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error).context("the node that was away does not catch up");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn sent(local: &Local) -> anyhow::Result<Sent> {
    let mut sum = Sent::default();
    for member in local.node_members().filter(|member| member.name != AWAY) {
        let (_, text) = http_get(member.ports.admin, "/metrics").await?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        let of = |name: &str| of(name).with_context(|| format!("{} has no {name}", member.name));
        sum.records += of("understudy_sent_record_bytes_total ")?;
        sum.deltas += of("understudy_sent_delta_bytes_total ")?;
        sum.full_copies += of("understudy_sent_full_copy_bytes_total ")?;
    }
    Ok(sum)
}

fn print(args: &CatchUpArgs, caught_up: &CaughtUp) -> anyhow::Result<()> {
    if args.cluster.is_json() {
        println!("{}", serde_json::to_string_pretty(caught_up)?);
        return Ok(());
    }
    println!(
        "{} updates of {} objects of {} B missed, at {:.0}/s",
        caught_up.updates, caught_up.objects, caught_up.value_size, caught_up.updates_per_second
    );
    println!("their records  {:>14} B", caught_up.record_bytes);
    println!("sent as deltas {:>14} B", caught_up.sent_as_deltas);
    println!("   as records  {:>14} B", caught_up.sent_as_records);
    println!("   as copies   {:>14} B", caught_up.sent_as_full_copies);
    println!(
        "{:.1} times fewer bytes; caught up after {:.2} s, the start of the process included",
        caught_up.times_fewer, caught_up.seconds
    );
    Ok(())
}
