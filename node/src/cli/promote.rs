//! What a person decides with loss: `cluster promote --force` and `cluster declare-lost`. Each first shows what it would lose,
//! and does it only with the flag that the first look named.

use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::show::{or_dash, pair_from_json, pair_json, request_id, request_id_json};
use serde_json::{Value, json};
use understudy_client::object::pair;
use understudy_client::proto::StoreId;
use understudy_client::{Cluster, Error, v1};

/// `cluster promote`
#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// The shard's index inside the namespace
    shard: u32,
    /// The id of the node whose copy becomes primary
    #[arg(long, value_name = "NODE")]
    to: u64,
    /// Whatever others have: `cluster transfer` moves a primary without loss
    #[arg(long, required = true)]
    force: bool,
    /// Do it, if everything is still as it was shown
    #[arg(long, value_name = "STATE")]
    lose_from: Option<String>,
    /// You stopped this process of the old primary, and it cannot run on anywhere: no lease is waited for
    #[arg(long, value_name = "NODE@INCARNATION", requires = "lose_from", value_parser = process)]
    old_primary_stopped: Option<(u64, u64)>,
    /// How many lost requests to list
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    first: u32,
    /// List those after this pair
    #[arg(long, value_name = "EPOCH.VERSION", value_parser = parse_pair)]
    after: Option<v1::Pair>,
    #[command(flatten)]
    client: ClientFlags,
}

/// `cluster declare-lost`
#[derive(Debug, clap::Args)]
pub struct DeclareLostArgs {
    /// The node's id
    node: u64,
    /// The store's id, as `cluster nodes -o json` and `cluster shards -o json` show it
    store: StoreId,
    /// Do it; without this flag only what would be given up is shown
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientFlags,
}

fn process(text: &str) -> Result<(u64, u64), String> {
    let parsed = text
        .split_once('@')
        .and_then(|(node, incarnation)| Some((node.parse().ok()?, incarnation.parse().ok()?)));
    parsed.ok_or_else(|| "a process is written NODE@INCARNATION, as 3@2".to_string())
}

fn parse_pair(text: &str) -> Result<v1::Pair, String> {
    pair_from_json(&json!(text))
}

pub async fn promote(args: &PromoteArgs) -> Ended {
    let context = args.client.connect().await?;
    match &args.lose_from {
        None => show(&context, args).await,
        Some(state) => force(&context, args, state).await,
    }
}

async fn show(context: &Context, args: &PromoteArgs) -> Ended {
    let namespace = context.namespace_name();
    let cluster = context.client.cluster();
    let shown = cluster.show_promotion(namespace, args.shard, args.to, args.after, args.first);
    let shown = shown.await;
    let what = || format!("looking at shard {} of '{namespace}'", args.shard);
    let shown = shown.map_err(|error| Trouble::of(what(), &error))?;
    let unknown: Vec<&v1::PromotionCopy> = shown.copies.iter().filter(|c| !c.answered).collect();
    let document = json!({
        "namespace": namespace,
        "shard": args.shard,
        "to": args.to,
        "state": shown.state,
        "epoch": shown.epoch,
        "revision": shown.revision,
        "primary": (shown.primary != 0)
            .then(|| json!({ "node": shown.primary, "incarnation": shown.primary_incarnation })),
        "failover_begun": shown.begun,
        "forced_to": (shown.forced_node != 0).then_some(shown.forced_node),
        "waits_for": shown.waits_for,
        "copies": shown.copies.iter().map(copy_json).collect::<Vec<_>>(),
        "unknown": unknown.iter().map(|copy| copy.node).collect::<Vec<_>>(),
        "records_beyond": shown.records_beyond,
        "lacking": shown.lacking.iter().map(lacking_json).collect::<Vec<_>>(),
        "more": shown.more,
    });
    if context.output.is_json() {
        context.output.print(&document, || Rows::new([]))?;
        return Ok(Exit::Done);
    }
    context.output.print(&document, || copies_table(&shown))?;
    context
        .output
        .line(&Value::Null, || in_words(args, &shown))?;
    Ok(Exit::Done)
}

fn copies_table(shown: &v1::ShowPromotionResponse) -> Rows {
    let mut rows = Rows::new([
        "NODE",
        "ROLE",
        "CANDIDATE",
        "ENDS AT",
        "SHARES UP TO",
        "BEYOND",
        "ORPHANS",
    ]);
    for copy in &shown.copies {
        let at =
            |p: Option<v1::Pair>| or_dash(p.map(|p| pair(Some(p)).to_string()).unwrap_or_default());
        let (ends, beyond, orphans) = match copy.answered {
            true => (
                at(copy.last),
                copy.records_beyond.to_string(),
                copy.orphans.to_string(),
            ),
            false => (
                format!("unknown: {}", copy.why),
                "?".to_string(),
                "?".to_string(),
            ),
        };
        rows.row([
            copy.node.to_string(),
            copy.role.clone(),
            super::show::yes(copy.candidate),
            ends,
            at(copy.cut),
            beyond,
            orphans,
        ]);
    }
    rows
}

fn in_words(args: &PromoteArgs, shown: &v1::ShowPromotionResponse) -> String {
    let mut lines = Vec::new();
    for lacking in &shown.lacking {
        let id = lacking.request_id.as_ref().and_then(request_id);
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        let at = pair(lacking.pair);
        let nodes: Vec<String> = lacking.nodes.iter().map(u64::to_string).collect();
        lines.push(format!("lacks {id} at {at} (has it: {})", nodes.join(", ")));
    }
    if shown.more
        && let Some(last) = shown.lacking.last()
    {
        lines.push(format!(
            "and more: look again with --after {}",
            pair(last.pair)
        ));
    }
    lines.push(format!(
        "node {} lacks {} records of copies that answered.",
        args.to, shown.records_beyond
    ));
    if shown.copies.iter().any(|copy| copy.trimmed) {
        lines.push("Not all of them are listed: logs were trimmed beyond what it has.".to_string());
    }
    let unknown: Vec<String> = shown
        .copies
        .iter()
        .filter(|copy| !copy.answered)
        .map(|copy| copy.node.to_string())
        .collect();
    if !unknown.is_empty() {
        lines.push(format!(
            "What the stores of nodes {} have beyond it nobody can know now. It is kept for them: whatever comes back is given back, \
             or becomes a conflict.",
            unknown.join(", ")
        ));
    }
    let better =
        |copy: &&v1::PromotionCopy| copy.candidate && copy.answered && copy.node != args.to;
    if let Some(copy) = shown.copies.iter().find(better) {
        lines.push(format!(
            "Node {} answers and may be promoted without being forced: perhaps only a lease is waited for.",
            copy.node
        ));
    }
    for awaited in &shown.waits_for {
        lines.push(format!("The failover waits until {awaited}."));
    }
    if shown.state.is_empty() {
        lines.push(format!(
            "Node {} does not answer: it cannot be promoted.",
            args.to
        ));
    } else {
        lines.push(format!("To do it, add: --lose-from {}", shown.state));
        lines.push(format!(
            "If you stopped the old primary's process and it runs on nowhere, add also: --old-primary-stopped {}@{}",
            shown.primary, shown.primary_incarnation
        ));
    }
    lines.join("\n")
}

fn copy_json(copy: &v1::PromotionCopy) -> Value {
    let told = |value: Value| if copy.answered { value } else { Value::Null };
    let at = |p: Option<v1::Pair>| p.map_or(Value::Null, |p| pair_json(pair(Some(p))));
    json!({
        "node": copy.node,
        "store_id": StoreId::from_slice(&copy.store_id).map(|id| id.to_string()),
        "role": copy.role,
        "candidate": copy.candidate,
        "answered": copy.answered,
        "why": (!copy.answered).then_some(&copy.why),
        "last": at(copy.last),
        "cut": at(copy.cut),
        "records_beyond": told(json!(copy.records_beyond)),
        "trimmed": told(json!(copy.trimmed)),
        "orphans": told(json!(copy.orphans)),
        "complete": told(json!(copy.complete)),
    })
}

fn lacking_json(lacking: &v1::LackingRequest) -> Value {
    json!({
        "request_id": request_id_json(lacking.request_id.as_ref()),
        "pair": pair_json(pair(lacking.pair)),
        "nodes": lacking.nodes,
    })
}

async fn force(context: &Context, args: &PromoteArgs, state: &str) -> Ended {
    let namespace = context.namespace_name();
    let stopped = args.old_primary_stopped;
    let cluster = context.client.cluster();
    let answer = cluster
        .force_promotion(namespace, args.shard, args.to, state, stopped)
        .await;
    let what = || {
        format!(
            "the forced promotion of shard {} of '{namespace}'",
            args.shard
        )
    };
    let answer = answer.map_err(|error| Trouble::of(what(), &error))?;
    let document = json!({
        "namespace": namespace,
        "shard": args.shard,
        "promoted": answer.promoted,
        "epoch": answer.epoch,
        "primary": answer.primary,
        "waits_for": answer.waits_for,
    });
    context.output.print(&document, || {
        let mut rows = Rows::new(["NAMESPACE", "SHARD", "PROMOTED", "EPOCH", "PRIMARY"]);
        rows.row([
            namespace.to_string(),
            args.shard.to_string(),
            super::show::yes(answer.promoted),
            answer.epoch.to_string(),
            answer.primary.to_string(),
        ]);
        for awaited in &answer.waits_for {
            rows.row([format!("it waits until {awaited}")]);
        }
        rows
    })?;
    Ok(Exit::Done)
}

pub async fn declare_lost(args: &DeclareLostArgs) -> Ended {
    let context = args.client.connect().await?;
    let cluster = context.client.cluster();
    let named = named(&cluster, args).await;
    let what = || format!("declaring store {} of node {} lost", args.store, args.node);
    let named = named.map_err(|error| Trouble::of(what(), &error))?;
    let mut revision = None;
    if args.yes {
        let declared = cluster.declare_store_lost(args.node, args.store).await;
        let declared = declared.map_err(|error| Trouble::of(what(), &error))?;
        revision = Some(declared.revision);
    }
    let document = json!({
        "node": args.node,
        "store_id": args.store.to_string(),
        "declared": args.yes,
        "revision": revision,
        "open_cuts": named.iter().map(|(shard, cut)| json!({
            "namespace": shard.namespace,
            "shard": shard.index,
            "old_epoch": cut.old_epoch,
            "cut": pair_json(pair(cut.cut)),
        })).collect::<Vec<_>>(),
    });
    if context.output.is_json() {
        context.output.print(&document, || Rows::new([]))?;
        return Ok(Exit::Done);
    }
    context.output.print(&document, || {
        let mut rows = Rows::new(["NAMESPACE", "SHARD", "OPEN CUT OF EPOCH", "AFTER"]);
        for (shard, cut) in &named {
            rows.row([
                shard.namespace.clone(),
                shard.index.to_string(),
                cut.old_epoch.to_string(),
                pair(cut.cut).to_string(),
            ]);
        }
        rows
    })?;
    context.output.line(&Value::Null, || match revision {
        Some(revision) => format!("declared lost {}, revision {revision}", args.store),
        None => "What this store alone holds after these pairs is given up with it. To do it, add: --yes".to_string(),
    })?;
    Ok(Exit::Done)
}

/// The open cuts, of all namespaces, that list the store.
async fn named(
    cluster: &Cluster,
    args: &DeclareLostArgs,
) -> Result<Vec<(v1::ShardInfo, v1::OpenCut)>, Error> {
    let found = cluster.shards(None).await?;
    let store = args.store.to_bytes();
    let mut named = Vec::new();
    for shard in found.shards {
        for cut in &shard.open_cuts {
            let mut stores = cut.nodes.iter().zip(&cut.store_ids);
            if stores.any(|(node, id)| *node == args.node && id[..] == store[..]) {
                named.push((shard.clone(), cut.clone()));
            }
        }
    }
    Ok(named)
}
