//! `understudy orphans`: what failovers cut off and the nodes still hold. Acknowledged writes of a lazy namespace can be
//! among them, so nothing here is thrown away without a word.

use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::show::{change_text, pair_json, record_json, request_id};
use serde_json::{Value, json};
use understudy_client::object::pair;
use understudy_client::v1::{ListOrphansResponse, list_orphans_response::Orphan};

/// List what failovers cut off.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do with them; there is only one thing yet
    #[arg(value_parser = ["list"], default_value = "list", hide_default_value = true)]
    verb: String,
    /// At most so many
    #[arg(long, short = 'l', value_name = "NUMBER", default_value_t = 1_000)]
    limit: u32,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    debug_assert_eq!(args.verb, "list");
    let context = args.client.connect().await?;
    let orphans = context.namespace().orphans().limit(args.limit).await;
    let orphans = orphans.map_err(|error| Trouble::of("listing the orphans", &error))?;
    context
        .output
        .print(&document(&orphans), || rows(&orphans))?;
    for node in &orphans.unreachable_nodes {
        eprintln!("node {node} could not be asked; what it holds is unknown");
    }
    if orphans.more {
        eprintln!("there are more; raise --limit");
    }
    Ok(Exit::Done)
}

fn document(orphans: &ListOrphansResponse) -> Value {
    let list = orphans.orphans.iter().map(|orphan| {
        json!({
            "node": orphan.node,
            "cut": pair_json(pair(orphan.cut)),
            "record": orphan.record.as_ref().map(record_json),
        })
    });
    json!({
        "orphans": list.collect::<Vec<_>>(),
        "more": orphans.more,
        "unreachable_nodes": orphans.unreachable_nodes,
    })
}

fn rows(orphans: &ListOrphansResponse) -> Rows {
    let mut rows = Rows::new(["NODE", "SHARD ID", "PAIR", "CUT", "REQUEST ID", "CHANGES"]);
    for orphan in &orphans.orphans {
        rows.row(row(orphan));
    }
    rows
}

fn row(orphan: &Orphan) -> [String; 6] {
    let record = orphan.record.clone().unwrap_or_default();
    let changes: Vec<String> = record
        .changes
        .iter()
        .map(change_text)
        .filter(|text| !text.is_empty())
        .collect();
    let id = record.request_id.as_ref().and_then(request_id);
    [
        orphan.node.to_string(),
        record.shard.to_string(),
        pair(record.pair).to_string(),
        pair(orphan.cut).to_string(),
        id.map_or("-".to_string(), |id| id.to_string()),
        changes.join(", "),
    ]
}
