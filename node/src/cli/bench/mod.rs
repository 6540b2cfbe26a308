//! `understudy bench`: a load generator, and measurements that are made of it.
//!
//! Without `--endpoints` it starts a cluster of its own: three managers and three nodes as processes on this machine.
//! Every run is bounded in time; figures without the machine and the command that gave them mean nothing, so the command
//! is part of the result.

mod args;
mod catch_up;
mod cpu;
mod failover;
mod floor;
mod keys;
mod lag;
mod load;
mod measured;
mod memory;
mod reconcile;

pub use args::Args;

use super::exit::{Ended, Exit, Trouble};
use super::faults;
use super::local::{Local, Plan, START_LIMIT, patient_client};
use anyhow::Context;
use args::{ClusterArgs, Kind, LoadArgs};
use understudy_client::Client;
use understudy_proto::failure::Reason;
use understudy_proto::v1::NamespacePolicy;
use understudy_proto::v1::namespace_policy::Mode;

const MANAGERS: u16 = 3;
const NODES: u16 = 3;

pub async fn run(args: Args) -> Ended {
    let measured = async {
        match &args.kind {
            None => load(&args.load).await,
            Some(Kind::Floor(args)) => floor::run(args).await,
            Some(Kind::Failover(args)) => failover::run(args).await,
            Some(Kind::Memory(args)) => memory::run(args).await,
            Some(Kind::CatchUp(args)) => catch_up::run(args).await,
            Some(Kind::Lag(args)) => lag::run(args).await,
            Some(Kind::Reconcile(args)) => reconcile::run(args).await,
            Some(Kind::EchoServer(args)) => floor::echo::serve(args).await,
        }
    };
    // What was started ends with what is dropped here.
    let ended = tokio::select! {
        ended = measured => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("stopped by Ctrl-C")),
    };
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let what = "the bench did not come to its end";
            Err(Trouble::new(Exit::Failed, what, format!("{error:#}"), ""))
        }
    }
}

async fn load(args: &LoadArgs) -> anyhow::Result<()> {
    let (endpoints, pids, local) = match &args.endpoints {
        Some(endpoints) => {
            let client = patient_client(endpoints.clone()).await?;
            make_namespace(&client, &args.cluster, &args.plan.namespace).await?;
            (endpoints.clone(), args.pids.clone(), None)
        }
        None => {
            let (local, _) = start(&args.cluster, &args.plan.namespace).await?;
            (local.endpoints(), local.pids(), Some(local))
        }
    };
    let measured = load::run(&endpoints, &pids, &args.plan).await;
    drop(local);
    measured?.print(args.cluster.is_json())
}

/// Starts a cluster of our own and makes the namespace. Gives it when every shard has all its copies.
async fn start(args: &ClusterArgs, namespace: &str) -> anyhow::Result<(Local, Client)> {
    start_with(args, namespace, false).await
}

/// The same, with an agent that starts the nodes where one is wanted.
async fn start_with(
    args: &ClusterArgs,
    namespace: &str,
    agent: bool,
) -> anyhow::Result<(Local, Client)> {
    let plan = Plan {
        managers: MANAGERS,
        nodes: NODES,
        port_base: args.port_base,
        data_dir: args.data_dir.clone(),
        keep: args.keep,
        agent,
    };
    let local = Local::start(&plan).await?;
    if args.keep {
        eprintln!("the data are kept in {}", local.folder().display());
    }
    let client = patient_client(local.endpoints()).await?;
    make_namespace(&client, args, namespace).await?;
    faults::wait_whole(&client, u32::from(NODES), START_LIMIT).await?;
    Ok((local, client))
}

/// One that exists stays as it is.
async fn make_namespace(client: &Client, args: &ClusterArgs, name: &str) -> anyhow::Result<()> {
    let policy = NamespacePolicy {
        mode: match args.in_sync {
            true => Mode::InSync.into(),
            false => Mode::Lazy.into(),
        },
        copies: u32::from(NODES),
        shards: args.shards,
        ..Default::default()
    };
    match client.cluster().create_namespace(name, policy, true).await {
        Err(error)
            if error.failure().map(|failure| failure.reason) == Some(Reason::AlreadyExists) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("the namespace {name}")),
        Ok(_) => Ok(()),
    }
}
