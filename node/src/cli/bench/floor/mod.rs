//! `understudy bench floor`: in one run, what the parts below can do on this machine and what the store makes of them.
//!
//! A unary echo and a batched stream echo over tonic with the store's own messages, and a RocksDB writer that syncs once
//! for all that wait. The ratios hold for one machine and one moment, which is why everything is measured in one run.

mod commit;
pub mod echo;
mod echo_client;

use super::args::{FloorArgs, PlanArgs, Way};
use super::measured::{Measured, table};
use super::{load, start};
use echo::EchoProcess;
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Floor {
    measured: Vec<Measured>,
    ratios: Vec<Ratio>,
}

#[derive(Debug, Serialize)]
struct Ratio {
    of: String,
    to: String,
    throughput: f64,
}

pub async fn run(args: &FloorArgs) -> anyhow::Result<()> {
    let plan = PlanArgs {
        puts: 1.0,
        rate: None,
        ..args.plan.clone()
    };
    let mut measured = Vec::new();
    let echo = EchoProcess::start()?;
    measured.push(echo_client::unary(&echo, &plan).await?);
    measured.push(echo_client::stream(&echo, &plan).await?);
    drop(echo);
    let folder = args.cluster.data_dir.clone();
    let committing = plan.clone();
    measured.push(
        tokio::task::spawn_blocking(move || commit::run(folder.as_deref(), &committing)).await??,
    );
    let (local, _) = start(&args.cluster, &plan.namespace).await?;
    for transport in [Way::Unary, Way::Stream] {
        let plan = PlanArgs {
            transport,
            ..plan.clone()
        };
        measured.push(load::run(&local.endpoints(), &local.pids(), &plan).await?);
    }
    drop(local);
    print(args, measured)
}

fn print(args: &FloorArgs, measured: Vec<Measured>) -> anyhow::Result<()> {
    let pairs = [(3, 0), (4, 1), (4, 2)];
    let ratio = |(of, to): (usize, usize)| Ratio {
        of: measured[of].name.clone(),
        to: measured[to].name.clone(),
        throughput: measured[of].per_second / measured[to].per_second.max(1.0),
    };
    let ratios: Vec<Ratio> = pairs.into_iter().map(ratio).collect();
    let floor = Floor { measured, ratios };
    if args.cluster.is_json() {
        println!("{}", serde_json::to_string_pretty(&floor)?);
        return Ok(());
    }
    print!("{}", table(&floor.measured));
    for ratio in &floor.ratios {
        println!("{} / {}: {:.3}", ratio.of, ratio.to, ratio.throughput);
    }
    Ok(())
}
