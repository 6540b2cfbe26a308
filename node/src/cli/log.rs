//! `understudy log`: a shard's deduplicated request log, one record a line: each request once, with its outcome.

use super::bytes::Encoding;
use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::show::{record_json, record_text};
use serde_json::json;
use understudy_client::v1::follow_request::View as Side;
use understudy_client::{ClientId, Error, Follow, LogEvent, Pair};
use understudy_proto::shard_of_key::shard_index;

/// Read a shard's request log: each request once, with its outcome.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shard's index inside the namespace
    #[arg(required_unless_present = "key")]
    shard: Option<u32>,
    /// The shard of this key instead
    #[arg(long, value_name = "KEY", conflicts_with = "shard")]
    key: Option<String>,
    /// Begin with this version; without it with the first that is kept
    #[arg(long, value_name = "VERSION")]
    from: Option<u64>,
    /// Begin after this record
    #[arg(long, value_name = "EPOCH.VERSION", conflicts_with = "from")]
    after: Option<Pair>,
    /// Go on as records come
    #[arg(long, short = 'f')]
    follow: bool,
    /// End after so many records
    #[arg(long, short = 'l', value_name = "NUMBER")]
    limit: Option<u64>,
    /// Only requests that named, tested or changed a key with this prefix
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// How the prefix is written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    /// Only requests of this client, and what is forgotten of them
    #[arg(long = "client", value_name = "CLIENT")]
    of_client: Option<ClientId>,
    /// One side of each record: what was asked for, or what was done
    #[arg(long, value_enum)]
    view: Option<View>,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum View {
    /// Operations, conditions and outcome
    Requests,
    /// Old and new values
    Changes,
}

pub async fn run(args: Args) -> Ended {
    let prefix = args.prefix.as_ref();
    let prefix = prefix.map(|text| args.encoding.decode("the prefix", text));
    let prefix = prefix.transpose()?;
    let context = args.client.connect().await?;
    let shard = args.shard(&context).await?;
    let mut log = context.namespace().request_log(shard);
    if let Some(version) = args.from {
        log = log.from_version(version);
    }
    if let Some(position) = args.after {
        log = log.after(position);
    }
    if let Some(limit) = args.limit {
        log = log.limit(limit);
    }
    if args.follow {
        log = log.follow();
    }
    if let Some(prefix) = prefix {
        log = log.key_prefix(prefix);
    }
    if let Some(client) = args.of_client {
        log = log.client(client);
    }
    log = match args.view {
        Some(View::Requests) => log.view(Side::Requests),
        Some(View::Changes) => log.view(Side::Changes),
        None => log,
    };
    let begins = args.from.is_some() || args.after.is_some();
    let mut told = false;
    loop {
        let event = tokio::select! {
            event = log.next() => event.map_err(|error| reading(&error))?,
            _ = tokio::signal::ctrl_c() => break,
        };
        match event {
            None => break,
            Some(LogEvent::Progress { .. }) => told = true,
            Some(LogEvent::Record(record)) => {
                told = true;
                context
                    .output
                    .line(&record_json(&record), || record_text(&record))?;
            }
            // Nothing that was asked for is missing in silence: a start that is gone is an error.
            Some(LogEvent::Gap { first_version }) if !told && begins => {
                return Err(Trouble::new(
                    Exit::Failed,
                    "the log does not reach back so far",
                    format!("the first version that is kept is {first_version}"),
                    format!("begin there (--from {first_version}), or read the objects anew"),
                ));
            }
            Some(LogEvent::Gap { first_version }) => {
                let document = json!({ "kind": "gap", "first_version": first_version });
                let text =
                    || format!("gap  records before version {first_version} are no longer kept");
                context.output.line(&document, text)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Of a position that a failover cut off: where to go on.
fn reading(error: &Error) -> Trouble {
    match Follow::cut_of(error) {
        Some(cut) => Trouble::new(
            Exit::Failed,
            "the log does not have that position any more",
            format!("a failover cut off at least what came after {cut}"),
            format!(
                "take back what was read after the last record that you have up to {cut}, and go on after that one (--after)"
            ),
        ),
        None => Trouble::of("reading the log", error),
    }
}

impl Args {
    async fn shard(&self, context: &Context) -> Result<u32, Trouble> {
        let Some(key) = &self.key else {
            return Ok(self.shard.unwrap_or_default());
        };
        let route = context.namespace().route().await;
        let route = route.map_err(|error| Trouble::of("finding the shard", &error))?;
        Ok(shard_index(key.as_bytes(), route.shard_count().max(1)))
    }
}
