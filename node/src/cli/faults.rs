//! Faults on a local cluster under load, and how long clients felt them: a primary's process killed or frozen, a primary handed
//! over, the manager leader's process killed.
//!
//! A gap begins just before the fault and ends when a client holds an acknowledgement of another primary: for the
//! first of the shards that lost theirs, and for the last.

use super::local::Local;
use super::pulse::Pulse;
use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use understudy_client::Client;
use understudy_proto::NodeId;
use understudy_proto::v1::ShardInfo;

/// How often the managers are asked while something is awaited.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A primary's process was killed or frozen, or a primary was handed over.
#[derive(Clone, Debug, Serialize)]
pub struct PrimaryLoss {
    pub server: String,
    pub node: u64,
    pub pid: u32,
    /// Since the start of the load.
    pub at_ms: u64,
    /// Shards of which it was the primary.
    pub shards: Vec<u32>,
    /// Until the first of them was acknowledged again.
    pub first_gap_ms: f64,
    /// Until the last of them was.
    pub gap_ms: f64,
    /// Those that were not, in the time that was given.
    pub not_back: Vec<u32>,
    /// The longest time of one shard between the last acknowledgement of the old primary and the first of the new one.
    pub pause_ms: f64,
}

/// The manager leader's process was killed.
#[derive(Clone, Debug, Serialize)]
pub struct LeaderLoss {
    pub server: String,
    pub manager: u64,
    pub pid: u32,
    pub at_ms: u64,
    /// Until the other managers named another leader.
    pub new_leader_ms: Option<f64>,
    /// The longest time without any acknowledgement, from the fault to the end of the watch.
    pub gap_ms: f64,
    /// Writes that were told an error in that time.
    pub failed_writes: u64,
}

/// A process that is to be killed.
#[derive(Clone, Debug)]
pub struct Victim {
    pub server: String,
    pub pid: u32,
    /// The id of the node or manager.
    pub id: u64,
    /// Shards of which it is the primary.
    pub shards: Vec<u32>,
}

/// The node that is the primary of most shards of the namespace.
pub async fn busiest_primary(
    local: &Local,
    client: &Client,
    namespace: &str,
) -> anyhow::Result<Victim> {
    let shards = client.cluster().shards(Some(namespace)).await?.shards;
    let mut by_primary: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for ShardInfo { index, primary, .. } in shards {
        if primary != 0 {
            by_primary.entry(primary).or_default().push(index);
        }
    }
    // Of equals the last: any choice will do, and this one is the same each time.
    let busiest = by_primary
        .into_iter()
        .max_by_key(|(_, shards)| shards.len());
    let (id, shards) = busiest.context("no shard has a primary")?;
    let nodes = client.cluster().nodes().await?.nodes;
    let info = nodes.into_iter().find(|info| info.node == id);
    let info = info.with_context(|| format!("the managers do not know node {id}"))?;
    victim(local, &info.internal_address, id, shards).await
}

/// The manager that leads.
pub async fn manager_leader(local: &Local, client: &Client) -> anyhow::Result<Victim> {
    let status = client.cluster().status().await?;
    let mut managers = status.managers.into_iter();
    let leader = managers.find(|manager| manager.id == status.leader);
    let leader = leader.context("the managers name no leader")?;
    victim(local, &leader.internal_address, leader.id, Vec::new()).await
}

async fn victim(local: &Local, address: &str, id: u64, shards: Vec<u32>) -> anyhow::Result<Victim> {
    let server = local.at(address)?.name.clone();
    let pid = local.pid_of(&server).await?;
    Ok(Victim {
        pid: pid.with_context(|| format!("{server} does not run"))?,
        server,
        id,
        shards,
    })
}

/// Kills all nodes but that one, and gives their names. It serves alone then: what is lazy is acknowledged and reaches no copy.
/// To stop them would not do: what was sent to them would wait for them in their sockets.
pub async fn kill_all_but(local: &mut Local, victim: &Victim) -> anyhow::Result<Vec<String>> {
    let others: Vec<(String, u32)> = local
        .nodes()
        .filter(|(name, _)| *name != victim.server)
        .collect();
    for (name, pid) in &others {
        local.kill(name, *pid).await?;
    }
    Ok(others.into_iter().map(|(name, _)| name).collect())
}

/// Kills a primary, starts those nodes again, and waits until each of its shards has another one.
pub async fn kill_primary(
    local: &mut Local,
    victim: Victim,
    start: &[String],
    pulse: &Pulse,
    patience: Duration,
) -> anyhow::Result<PrimaryLoss> {
    let at = begin(pulse, &victim);
    local.kill(&victim.server, victim.pid).await?;
    for name in start {
        local.restart(name)?;
    }
    felt(victim, at, pulse, patience).await
}

/// Stops a primary's process (SIGSTOP) without ending it, and waits likewise. It stays so.
pub async fn freeze_primary(
    local: &Local,
    victim: Victim,
    pulse: &Pulse,
    patience: Duration,
) -> anyhow::Result<PrimaryLoss> {
    let at = begin(pulse, &victim);
    local.signal(&victim.server, Signal::STOP)?;
    felt(victim, at, pulse, patience).await
}

/// Hands the first of the victim's shards over to another copy, as a person does.
pub async fn transfer_primary(
    client: &Client,
    namespace: &str,
    mut victim: Victim,
    pulse: &Pulse,
    patience: Duration,
) -> anyhow::Result<PrimaryLoss> {
    victim.shards.truncate(1);
    let shard = *victim.shards.first().context("it is no primary")?;
    let at = begin(pulse, &victim);
    // Some acknowledgements of the old one, for the pause to begin at.
    tokio::time::sleep(ASK_EVERY).await;
    client.cluster().transfer(namespace, shard, None).await?;
    felt(victim, at, pulse, patience).await
}

fn begin(pulse: &Pulse, victim: &Victim) -> Duration {
    pulse.start_timing(NodeId(victim.id), &victim.shards);
    pulse.now()
}

/// Until each of its shards was acknowledged by another one.
async fn felt(
    victim: Victim,
    at: Duration,
    pulse: &Pulse,
    patience: Duration,
) -> anyhow::Result<PrimaryLoss> {
    let began = Instant::now();
    while began.elapsed() < patience && !pulse.timing().is_some_and(|timed| timed.complete()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let timed = pulse.stop_timing().context("the timing was started")?;
    let gaps = timed.back().iter().filter_map(|(_, back)| *back);
    let gaps: Vec<f64> = gaps
        .map(|back| milliseconds(back.saturating_sub(at)))
        .collect();
    let late = timed.back().iter().filter(|(_, back)| back.is_none());
    let not_back: Vec<u32> = late.map(|(shard, _)| *shard).collect();
    let longest = match not_back.as_slice() {
        [] => gaps.iter().copied().fold(0.0, f64::max),
        _ => milliseconds(patience),
    };
    Ok(PrimaryLoss {
        server: victim.server,
        node: victim.id,
        pid: victim.pid,
        at_ms: at.as_millis() as u64,
        shards: victim.shards,
        first_gap_ms: gaps.iter().copied().reduce(f64::min).unwrap_or(longest),
        gap_ms: longest,
        not_back,
        pause_ms: timed.longest_pause().map_or(longest, milliseconds),
    })
}

/// Kills the manager that leads, and watches the clients for so long.
pub async fn kill_leader(
    local: &mut Local,
    client: &Client,
    victim: Victim,
    pulse: &Pulse,
    watch: Duration,
) -> anyhow::Result<LeaderLoss> {
    let errors = pulse.errors();
    pulse.start_watching_pauses();
    let at = pulse.now();
    local.kill(&victim.server, victim.pid).await?;
    let end = tokio::time::Instant::now() + watch;
    let began = Instant::now();
    let found = tokio::time::timeout_at(end, another_leader(client, victim.id)).await;
    let new_leader_ms = found.ok().map(|()| milliseconds(began.elapsed()));
    tokio::time::sleep_until(end).await;
    Ok(LeaderLoss {
        server: victim.server,
        manager: victim.id,
        pid: victim.pid,
        at_ms: at.as_millis() as u64,
        new_leader_ms,
        gap_ms: milliseconds(pulse.longest_pause()),
        failed_writes: pulse.errors() - errors,
    })
}

/// Waits until so many nodes are up and every shard has its primary and all its copies.
pub async fn wait_whole(client: &Client, nodes: u32, patience: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut last = String::new();
    while began.elapsed() < patience {
        match client.cluster().status().await {
            Ok(status) => {
                let whole = status.nodes_up >= nodes
                    && status.shards_total > 0
                    && status.shards_without_primary == 0
                    && status.shards_short_of_copies == 0;
                if whole {
                    return Ok(());
                }
                last = format!(
                    "{} of {nodes} nodes are up; of {} shards {} lack a primary and {} lack copies",
                    status.nodes_up,
                    status.shards_total,
                    status.shards_without_primary,
                    status.shards_short_of_copies
                );
            }
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    bail!("the cluster is not whole after {patience:?}: {last}")
}

async fn another_leader(client: &Client, old: u64) {
    let cluster = client.cluster();
    loop {
        let status = cluster.status().await;
        if status.is_ok_and(|status| status.leader != 0 && status.leader != old) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
