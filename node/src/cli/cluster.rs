//! `understudy cluster`: members, shards, managers, and moving a primary.

use super::client::{ClientFlags, Context};
use super::cluster_drain;
use super::cluster_verify;
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::promote;
use super::show::{or_dash, pair_json, yes};
use bytes::Bytes;
use clap::Subcommand;
use serde_json::{Value, json};
use understudy_client::object::pair;
use understudy_client::proto::{ClusterId, StoreId};
use understudy_client::{Cluster, Error, v1};

/// Members, shards, managers, transfers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// How the cluster is, on one page
    Status(LookFlags),
    /// List the nodes
    Nodes(LookFlags),
    /// List the shards with their primaries and copies
    Shards {
        /// Of all namespaces, not only of --namespace
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        look: LookFlags,
    },
    /// List, add and remove managers
    Managers {
        #[command(subcommand)]
        verb: Managers,
    },
    /// Move the primary of a shard to another node
    Transfer {
        /// The shard's index inside the namespace
        shard: u32,
        /// The node's id; without it the tables choose
        #[arg(long, value_name = "NODE")]
        to: Option<u64>,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Move all primaries away from a node, and its copies where other nodes may take them
    Drain(cluster_drain::Args),
    /// Remove a node that holds nothing any more, for good
    Remove {
        /// The node's id
        node: u64,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Declare that a node's store will never come back: what it alone held is lost
    DeclareLost(promote::DeclareLostArgs),
    /// Compare the objects of all copies with their primaries', while writes go on
    Verify(cluster_verify::Args),
    /// Make a copy primary though others that are not there may have more: shows what would be lost, then does it
    Promote(promote::PromoteArgs),
}

#[derive(Debug, clap::Args)]
struct LookFlags {
    /// Ask any manager, which may be behind; also without a leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Subcommand)]
enum Managers {
    /// List the managers
    List(ClientFlags),
    /// Let a manager join that was started with an empty folder and no initial_managers
    Add {
        /// Its id, never used before
        id: u64,
        /// host:port of its internal port
        #[arg(long, value_name = "ADDRESS")]
        internal: String,
        /// host:port of its public port
        #[arg(long, value_name = "ADDRESS")]
        public: String,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Remove a manager; its process may be stopped afterwards
    Remove {
        id: u64,
        #[command(flatten)]
        client: ClientFlags,
    },
}

pub async fn run(args: Args) -> Ended {
    match args.verb {
        Verb::Status(look) => status(&look).await,
        Verb::Nodes(look) => nodes(&look).await,
        Verb::Shards { all, look } => shards(&look, all).await,
        Verb::Managers { verb } => managers(verb).await,
        Verb::Transfer { shard, to, client } => transfer(&client.connect().await?, shard, to).await,
        Verb::Drain(args) => cluster_drain::run(args).await,
        Verb::Remove { node, client } => remove(&client.connect().await?, node).await,
        Verb::DeclareLost(args) => promote::declare_lost(&args).await,
        Verb::Verify(args) => cluster_verify::run(args).await,
        Verb::Promote(args) => promote::promote(&args).await,
    }
}

impl LookFlags {
    async fn open(&self) -> Result<(Context, Cluster), Trouble> {
        let context = self.client.connect().await?;
        let cluster = context.client.cluster();
        let cluster = if self.stale { cluster.stale() } else { cluster };
        Ok((context, cluster))
    }
}

async fn status(look: &LookFlags) -> Ended {
    let (context, cluster) = look.open().await?;
    let status = cluster.status().await;
    let status = status.map_err(|error| Trouble::of("asking for the cluster's status", &error))?;
    let id = ClusterId::from_slice(&status.cluster_id).map(|id| id.to_string());
    let document = json!({
        "cluster_id": id,
        "revision": status.revision,
        "leader": status.leader,
        "managers": status.managers.iter().map(manager_json).collect::<Vec<_>>(),
        "nodes_up": status.nodes_up,
        "nodes_total": status.nodes_total,
        "namespaces": status.namespaces,
        "shards_total": status.shards_total,
        "shards_without_primary": status.shards_without_primary,
        "shards_short_of_copies": status.shards_short_of_copies,
        "open_cuts": status.open_cuts,
        "orphans": status.orphans,
    });
    context.output.print(&document, || {
        Rows::facts([
            (
                "cluster",
                id.clone().unwrap_or_else(|| "not founded yet".to_string()),
            ),
            ("managers", managers_text(&status)),
            (
                "nodes",
                format!("{} of {} up", status.nodes_up, status.nodes_total),
            ),
            ("namespaces", status.namespaces.to_string()),
            ("shards", shards_text(&status)),
            ("open cuts", status.open_cuts.to_string()),
            ("orphans", known(status.orphans)),
            ("revision", status.revision.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}

fn managers_text(status: &v1::StatusResponse) -> String {
    let voters = status
        .managers
        .iter()
        .filter(|manager| manager.voter)
        .count();
    match status.leader {
        0 => format!("{voters}, none leads"),
        leader => format!("{voters}, manager {leader} leads"),
    }
}

fn shards_text(status: &v1::StatusResponse) -> String {
    format!(
        "{}, {} without a primary, {} short of copies",
        status.shards_total, status.shards_without_primary, status.shards_short_of_copies
    )
}

async fn nodes(look: &LookFlags) -> Ended {
    let (context, cluster) = look.open().await?;
    let found = cluster
        .nodes()
        .await
        .map_err(|error| Trouble::of("listing the nodes", &error))?;
    let list: Vec<Value> = found.nodes.iter().map(node_json).collect();
    let document = json!({ "nodes": list, "revision": found.revision });
    context.output.print(&document, || {
        let mut rows = Rows::new([
            "ID",
            "NAME",
            "STATE",
            "SITE",
            "ADDRESS",
            "PRIMARIES",
            "SECONDARIES",
            "JOINING",
            "ORPHANS",
        ]);
        for node in &found.nodes {
            let counts = [
                node.primaries.to_string(),
                node.secondaries.to_string(),
                node.joining.to_string(),
                known(node.orphans),
            ];
            let facts = [
                node.node.to_string(),
                node.name.clone(),
                node.state.clone(),
                or_dash(node.site.clone()),
                node.inside_address.clone(),
            ];
            rows.row(facts.into_iter().chain(counts));
        }
        rows
    })?;
    Ok(Exit::Done)
}

/// What only the leading manager knows.
fn known(count: Option<u64>) -> String {
    or_dash(count.map(|count| count.to_string()).unwrap_or_default())
}

fn node_json(node: &v1::NodeInfo) -> Value {
    json!({
        "id": node.node,
        "name": node.name,
        "state": node.state,
        "site": node.site,
        "store_id": StoreId::from_slice(&node.store_id).map(|id| id.to_string()),
        "incarnation": node.incarnation,
        "inside_address": node.inside_address,
        "outside_address": node.outside_address,
        "internal_address": node.internal_address,
        "primaries": node.primaries,
        "secondaries": node.secondaries,
        "joining": node.joining,
        "orphans": node.orphans,
        "labels": node.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

async fn shards(look: &LookFlags, all: bool) -> Ended {
    let (context, cluster) = look.open().await?;
    let namespace = (!all).then(|| context.namespace_name());
    let found = cluster.shards(namespace).await;
    let found = found.map_err(|error| Trouble::of("listing the shards", &error))?;
    let list: Vec<Value> = found.shards.iter().map(shard_json).collect();
    let document = json!({ "shards": list, "revision": found.revision });
    context.output.print(&document, || {
        let mut rows = Rows::new([
            "NAMESPACE",
            "SHARD",
            "ID",
            "EPOCH",
            "PRIMARY",
            "SECONDARIES",
            "JOINING",
            "OPEN CUTS",
            "WRITERS",
        ]);
        for shard in &found.shards {
            let primary = if shard.primary == 0 {
                String::new()
            } else {
                shard.primary.to_string()
            };
            rows.row([
                shard.namespace.clone(),
                shard.index.to_string(),
                shard.shard.to_string(),
                shard.epoch.to_string(),
                or_dash(primary),
                or_dash(list_text(&shard.secondaries)),
                or_dash(list_text(&shard.joining)),
                shard.open_cuts.len().to_string(),
                or_dash(writers_text(&shard.writers)),
            ]);
        }
        rows
    })?;
    Ok(Exit::Done)
}

/// The sites with the most updates first, in per cent.
fn writers_text(writers: &[v1::WriterSite]) -> String {
    let mut writers: Vec<&v1::WriterSite> = writers.iter().collect();
    writers.sort_by_key(|site| std::cmp::Reverse(site.permille));
    let text = |site: &&v1::WriterSite| format!("{} {}%", site.site, site.permille / 10);
    writers.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn list_text(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

fn shard_json(shard: &v1::ShardInfo) -> Value {
    let cuts = shard.open_cuts.iter().map(|open| {
        let store = |id: &Bytes| StoreId::from_slice(id).map(|id| id.to_string());
        let stores: Vec<_> = open.store_ids.iter().map(store).collect();
        json!({
            "old_epoch": open.old_epoch, "cut": pair_json(pair(open.cut)), "nodes": open.nodes, "store_ids": stores,
        })
    });
    json!({
        "namespace": shard.namespace,
        "shard": shard.index,
        "shard_id": shard.shard,
        "revision": shard.revision,
        "epoch": shard.epoch,
        "primary": (shard.primary != 0).then_some(shard.primary),
        "secondaries": shard.secondaries,
        "joining": shard.joining,
        "open_cuts": cuts.collect::<Vec<_>>(),
        "writers": shard.writers.iter().map(|of| (of.site.clone(), json!(of.permille))).collect::<serde_json::Map<_, _>>(),
    })
}

async fn managers(verb: Managers) -> Ended {
    match verb {
        Managers::List(client) => {
            let context = client.connect().await?;
            let managers = context.client.cluster().managers().await;
            told_managers(&context, "listing the managers", managers)
        }
        Managers::Add {
            id,
            internal,
            public,
            client,
        } => {
            for (flag, address) in [("--internal", &internal), ("--public", &public)] {
                let checked = crate::config::split_address(address);
                checked.map_err(|why| {
                    Trouble::usage(format!("{flag}: {why}"), "nothing was changed")
                })?;
            }
            let context = client.connect().await?;
            let managers = context
                .client
                .cluster()
                .add_manager(id, &internal, &public)
                .await;
            told_managers(&context, &format!("adding manager {id}"), managers)
        }
        Managers::Remove { id, client } => {
            let context = client.connect().await?;
            let managers = context.client.cluster().remove_manager(id).await;
            told_managers(&context, &format!("removing manager {id}"), managers)
        }
    }
}

fn told_managers(
    context: &Context,
    what: &str,
    answer: Result<v1::ManagersResponse, Error>,
) -> Ended {
    let managers = answer.map_err(|error| Trouble::of(what, &error))?.managers;
    let list: Vec<Value> = managers.iter().map(manager_json).collect();
    context.output.print(&json!({ "managers": list }), || {
        let mut rows = Rows::new(["ID", "PUBLIC", "INTERNAL", "VOTER", "LEADER", "MATCHED"]);
        for manager in &managers {
            rows.row([
                manager.id.to_string(),
                or_dash(manager.public_address.clone()),
                manager.internal_address.clone(),
                yes(manager.voter),
                yes(manager.leader),
                manager
                    .matched_index
                    .map_or("-".to_string(), |index| index.to_string()),
            ]);
        }
        rows
    })?;
    Ok(Exit::Done)
}

fn manager_json(manager: &v1::ManagerInfo) -> Value {
    json!({
        "id": manager.id,
        "public_address": manager.public_address,
        "internal_address": manager.internal_address,
        "voter": manager.voter,
        "leader": manager.leader,
        "matched_index": manager.matched_index,
    })
}

async fn transfer(context: &Context, shard: u32, to: Option<u64>) -> Ended {
    let namespace = context.namespace_name();
    let moved = context
        .client
        .cluster()
        .transfer(namespace, shard, to)
        .await;
    let what = || format!("the transfer of shard {shard} of '{namespace}'");
    let moved = moved.map_err(|error| Trouble::of(what(), &error))?;
    let document = json!({
        "namespace": namespace, "shard": shard, "epoch": moved.epoch, "primary": moved.primary,
    });
    context.output.print(&document, || {
        let mut rows = Rows::new(["NAMESPACE", "SHARD", "EPOCH", "PRIMARY"]);
        rows.row([
            namespace.to_string(),
            shard.to_string(),
            moved.epoch.to_string(),
            moved.primary.to_string(),
        ]);
        rows
    })?;
    Ok(Exit::Done)
}

async fn remove(context: &Context, node: u64) -> Ended {
    let removed = context.client.cluster().remove_node(node).await;
    let removed = removed.map_err(|error| Trouble::of(format!("removing node {node}"), &error))?;
    let document = json!({ "node": node, "revision": removed.revision });
    context.output.print(&document, || {
        Rows::facts([
            ("removed", node.to_string()),
            ("revision", removed.revision.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}
