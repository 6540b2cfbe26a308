//! `understudy scan`: objects of a range of keys, in key order. JSON is one object a line.

use super::bytes::{Encoding, to_json, to_text};
use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::output::{Output, Rows, print_raw};
use super::show::{object_json, object_text};
use serde_json::json;
use understudy_client::{Namespace, Object, ReadLevel, Scan};

/// List objects in key order.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only keys that start so
    #[arg(default_value = "")]
    prefix: String,
    /// Only keys from this one on
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// At most so many objects
    #[arg(long, short = 'l', value_name = "NUMBER")]
    limit: Option<u64>,
    /// Only keys, no values
    #[arg(long, short = 'k')]
    keys_only: bool,
    /// Any copy as it is, instead of the primaries
    #[arg(long)]
    any: bool,
    /// Only this shard of the namespace
    #[arg(long, value_name = "INDEX")]
    shard: Option<u32>,
    /// How the keys on the command line are written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    let context = args.client.connect().await?;
    let mut scan = args.scan(&context.namespace())?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut rows = Rows::new(if args.keys_only {
        vec!["KEY"]
    } else {
        vec!["KEY", "VALUE", "PAIR"]
    });
    while left > 0 {
        let page = scan
            .next_page()
            .await
            .map_err(|error| Trouble::of("the scan", &error))?;
        let Some(page) = page else { break };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        for object in page.objects.iter().take(wanted) {
            left -= 1;
            args.tell(context.output, object, &mut rows)?;
        }
    }
    if context.output == Output::Table {
        print_raw(rows.into_text().as_bytes())?;
    }
    Ok(Exit::Done)
}

impl Args {
    fn scan(&self, namespace: &Namespace) -> Result<Scan, Trouble> {
        let mut scan = namespace
            .scan()
            .prefix(self.encoding.decode("the prefix", &self.prefix)?);
        if let Some(start) = &self.start {
            scan = scan.start(self.encoding.decode("--start", start)?);
        }
        if let Some(end) = &self.end {
            scan = scan.end(self.encoding.decode("--end", end)?);
        }
        if let Some(limit) = self.limit {
            scan = scan.page_size(u32::try_from(limit.clamp(1, 10_000)).unwrap_or(10_000));
        }
        if self.keys_only {
            scan = scan.keys_only();
        }
        if self.any {
            scan = scan.level(ReadLevel::Any);
        }
        Ok(match self.shard {
            Some(index) => scan.shard(index),
            None => scan,
        })
    }

    fn tell(&self, output: Output, object: &Object, rows: &mut Rows) -> Result<(), Trouble> {
        match (output, self.keys_only) {
            (Output::Json, true) => {
                output.line(&json!({ "key": to_json(&object.key) }), String::new)
            }
            (Output::Json, false) => output.line(&object_json(object), String::new),
            (Output::Table, true) => {
                rows.row([to_text(&object.key)]);
                Ok(())
            }
            (Output::Table, false) => {
                rows.row([
                    to_text(&object.key),
                    object_text(object),
                    object.pair.to_string(),
                ]);
                Ok(())
            }
        }
    }
}
