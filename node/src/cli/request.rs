//! `understudy request`: what became of one request, wherever it is.

use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::show::{outcome_fields, outcome_text, pair_json};
use serde_json::{Value, json};
use understudy_client::v1::get_outcome_response::found::Where;
use understudy_client::{RequestId, Trace, Traces};

/// Ask what became of one request.
///
/// Exit status 3: nobody has it, and every node was asked. 6: nobody that could be asked has it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The request's id, CLIENT:SEQ
    request_id: RequestId,
    /// Ask only this shard of the namespace (index)
    #[arg(long, value_name = "INDEX")]
    shard: Option<u32>,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    let context = args.client.connect().await?;
    let mut look_up = context.namespace().outcome(args.request_id);
    if let Some(index) = args.shard {
        look_up = look_up.shard(index);
    }
    let traces = look_up
        .await
        .map_err(|error| Trouble::of("asking for the request", &error))?;
    context
        .output
        .print(&document(args.request_id, &traces), || rows(&traces))?;
    for node in &traces.unreachable_nodes {
        eprintln!("node {node} could not be asked; what it holds is unknown");
    }
    for shard in &traces.unserved_shards {
        eprintln!("shard {shard} has no primary at the moment; what its log holds is unknown");
    }
    Ok(match (traces.found.is_empty(), traces.is_complete()) {
        (false, _) => Exit::Done,
        (true, true) => Exit::NotFound,
        (true, false) => Exit::Unknown,
    })
}

fn place(trace: &Trace) -> &'static str {
    match trace.place {
        Where::Unspecified => "unspecified",
        Where::Log => "log",
        Where::Orphan => "orphan",
        Where::Expired => "expired",
    }
}

fn document(id: RequestId, traces: &Traces) -> Value {
    let found = traces.found.iter().map(|trace| {
        let mut map = trace
            .outcome
            .as_ref()
            .map(outcome_fields)
            .unwrap_or_default();
        map.insert("where".to_string(), json!(place(trace)));
        map.insert("shard".to_string(), json!(trace.shard));
        map.insert("pair".to_string(), pair_json(trace.pair));
        map.insert("node".to_string(), json!(trace.node));
        Value::Object(map)
    });
    json!({
        "request_id": id.to_string(),
        "found": found.collect::<Vec<_>>(),
        "unreachable_nodes": traces.unreachable_nodes,
        "unserved_shards": traces.unserved_shards,
    })
}

fn rows(traces: &Traces) -> Rows {
    let mut rows = Rows::new(["WHERE", "OUTCOME", "SHARD", "PAIR", "NODE"]);
    for trace in &traces.found {
        rows.row([
            place(trace).to_string(),
            trace.outcome.as_ref().map_or("-", outcome_text).to_string(),
            trace.shard.to_string(),
            trace.pair.to_string(),
            trace.node.to_string(),
        ]);
    }
    rows
}
