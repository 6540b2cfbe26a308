//! `understudy bench memory`: what a node keeps in memory after many objects were loaded.

use super::args::MemoryArgs;
use super::cpu;
use super::keys::{key, value};
use super::start;
use crate::cli::bulk;
use crate::cli::faults;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "bench";
/// The copies follow the primary; then the write buffers and caches are as they will stay.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Memory {
    objects: u64,
    value_size: u32,
    load_seconds: f64,
    objects_per_second: f64,
    /// Before the load, one for each node.
    nodes_empty_bytes: Vec<u64>,
    nodes_loaded_bytes: Vec<u64>,
    /// The largest node's, above its empty start, divided by the objects, of which each node has a copy.
    bytes_per_object: f64,
}

pub async fn run(args: &MemoryArgs) -> anyhow::Result<()> {
    let (local, client) = start(&args.cluster, NAMESPACE).await?;
    let empty = resident(&local.node_pids())?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let rows = (0..args.objects).map(|rank| (key(rank), value(&mut rng, args.value_size)));
    let began = Instant::now();
    bulk::load(&client.namespace(NAMESPACE), rows).await?;
    let load_seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    faults::wait_whole(&client, 3, Duration::from_secs(60)).await?;
    let loaded = resident(&local.node_pids())?;
    drop(local);
    let most = loaded.iter().copied().max().unwrap_or(0);
    let least = empty.iter().copied().min().unwrap_or(0);
    let memory = Memory {
        objects: args.objects,
        value_size: args.value_size,
        load_seconds,
        objects_per_second: args.objects as f64 / load_seconds,
        bytes_per_object: most.saturating_sub(least) as f64 / args.objects.max(1) as f64,
        nodes_empty_bytes: empty,
        nodes_loaded_bytes: loaded,
    };
    if args.cluster.is_json() {
        println!("{}", serde_json::to_string_pretty(&memory)?);
        return Ok(());
    }
    println!(
        "{} objects of {} B loaded in {:.1} s ({:.0}/s)",
        memory.objects, memory.value_size, memory.load_seconds, memory.objects_per_second
    );
    println!("nodes empty    {}", mebibytes(&memory.nodes_empty_bytes));
    println!("nodes loaded   {}", mebibytes(&memory.nodes_loaded_bytes));
    println!("per object     {:.0} B", memory.bytes_per_object);
    Ok(())
}

fn resident(pids: &[u32]) -> anyhow::Result<Vec<u64>> {
    pids.iter().map(|pid| cpu::resident(*pid)).collect()
}

fn mebibytes(bytes: &[u64]) -> String {
    let each = bytes.iter().map(|bytes| format!("{} MiB", bytes >> 20));
    each.collect::<Vec<_>>().join(", ")
}
