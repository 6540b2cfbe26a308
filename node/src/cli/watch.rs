//! `understudy watch`: the changes of keys as they come, one a line, also across failovers. A hole is always told.

use super::bytes::Encoding;
use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::output::Output;
use super::show::{change_json, change_text, pair_json};
use serde_json::{Map, Value, json};
use std::str::FromStr;
use understudy_client::{Change, Event, Pair};

/// Follow the changes of keys.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only keys that start so
    #[arg(default_value = "")]
    prefix: String,
    /// Begin after this record of a shard; others begin with what comes
    #[arg(long, value_name = "SHARD=EPOCH.VERSION")]
    after: Vec<After>,
    /// End after so many changes
    #[arg(long, short = 'l', value_name = "NUMBER")]
    limit: Option<u64>,
    /// Also tell how far each shard was looked through, while nothing changes
    #[arg(long)]
    progress: bool,
    /// How the prefix is written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Clone, Copy, Debug)]
struct After {
    shard: u32,
    position: Pair,
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<After, String> {
        let wrong = || format!("'{text}': write SHARD=EPOCH.VERSION");
        let (shard, position) = text.split_once('=').ok_or_else(wrong)?;
        Ok(After {
            shard: shard.parse().map_err(|_| wrong())?,
            position: position.parse().map_err(|_| wrong())?,
        })
    }
}

pub async fn run(args: Args) -> Ended {
    let prefix = args.encoding.decode("the prefix", &args.prefix)?;
    let context = args.client.connect().await?;
    let mut watch = context.namespace().watch(prefix);
    for after in &args.after {
        watch = watch.after(after.shard, after.position);
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = watch.next() => event.map_err(|error| Trouble::of("the watch", &error))?,
            _ = tokio::signal::ctrl_c() => break,
        };
        left -= u64::from(matches!(event, Event::Change(_)));
        tell(context.output, &event, args.progress)?;
    }
    Ok(Exit::Done)
}

fn tell(output: Output, event: &Event, progress: bool) -> Result<(), Trouble> {
    match event {
        Event::Change(change) => output.line(&change_document(change), || change_line(change)),
        Event::Gap { shard, first } => {
            let document = json!({ "event": "gap", "shard": shard, "first": first.map(pair_json) });
            output.line(&document, || {
                let first = first.map_or_else(String::new, |first| format!(" up to {first}"));
                format!(
                    "gap  shard {shard}: read its keys again, changes{first} may be missing here"
                )
            })
        }
        Event::Progress(positions) if progress => {
            let pairs = positions
                .iter()
                .map(|(shard, pair)| (shard.to_string(), pair_json(*pair)));
            let document =
                json!({ "event": "progress", "positions": pairs.collect::<Map<String, Value>>() });
            output.line(&document, || {
                let shown = positions
                    .iter()
                    .map(|(shard, pair)| format!("{shard}={pair}"));
                format!("progress  {}", shown.collect::<Vec<_>>().join(" "))
            })
        }
        Event::Progress(_) => Ok(()),
    }
}

fn change_document(change: &Change) -> Value {
    json!({
        "event": "change",
        "shard": change.shard,
        "pair": pair_json(change.pair),
        "request_id": change.request_id.map(|id| id.to_string()),
        "primary_time_ms": change.primary_time_ms,
        "changes": change.changes.iter().map(change_json).collect::<Vec<_>>(),
    })
}

fn change_line(change: &Change) -> String {
    let changes: Vec<String> = change
        .changes
        .iter()
        .map(change_text)
        .filter(|text| !text.is_empty())
        .collect();
    format!("{}={}  {}", change.shard, change.pair, changes.join(", "))
}
