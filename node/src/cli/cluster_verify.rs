//! `understudy cluster verify`: compares the objects of all copies with their primaries', shard by shard.

use super::bytes::{to_json, to_text};
use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::show::or_dash;
use serde_json::{Value, json};
use understudy_client::{Verified, VerifiedCopy};

/// Exit status 1: copies differ (they are rebuilt now). 5: some were not compared, because they are not complete, or do not
/// answer, or the shard has no primary.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this shard of the namespace (index)
    shard: Option<u32>,
    #[command(flatten)]
    client: ClientFlags,
}

/// A shard, and what it came to.
type Compared = (u32, Result<Verified, Trouble>);

pub async fn run(args: Args) -> Ended {
    let context = args.client.connect().await?;
    let shards = match args.shard {
        Some(shard) => vec![shard],
        None => all_shards(&context).await?,
    };
    let mut compared: Vec<Compared> = Vec::new();
    for shard in shards {
        let found = context.namespace().verify(shard).await;
        let what = || format!("comparing the copies of shard {shard}");
        let found = found.map_err(|error| Trouble::of(what(), &error));
        match found {
            // Wrong input, or nothing that is there.
            Err(trouble) if !matches!(trouble.exit, Exit::Unavailable | Exit::Unknown) => {
                return Err(trouble);
            }
            found => compared.push((shard, found)),
        }
    }
    let document = json!({
        "namespace": context.namespace_name(),
        "shards": compared.iter().map(shard_json).collect::<Vec<_>>(),
    });
    context.output.print(&document, || rows(&compared))?;
    let mut exit = Exit::Done;
    for (shard, found) in &compared {
        match found {
            Ok(found) if found.differs() => exit = Exit::Failed,
            Ok(found) if found.is_whole() => {}
            Ok(_) if exit != Exit::Failed => exit = Exit::Unavailable,
            Ok(_) => {}
            Err(trouble) => {
                eprintln!("shard {shard}: {}: {}", trouble.what, trouble.why);
                if exit != Exit::Failed {
                    exit = Exit::Unavailable;
                }
            }
        }
    }
    Ok(exit)
}

async fn all_shards(context: &Context) -> Result<Vec<u32>, Trouble> {
    let route = context.namespace().route().await;
    let route = route.map_err(|error| Trouble::of("finding the shards", &error))?;
    Ok((0..route.shards.len() as u32).collect())
}

fn shard_json((shard, found): &Compared) -> Value {
    match found {
        Err(trouble) => json!({ "shard": shard, "error": trouble.why }),
        Ok(found) => json!({
            "shard": shard,
            "primary": found.primary.0,
            "objects": found.objects,
            "bytes": found.bytes,
            "whole": found.is_whole(),
            "primary_differs": found.primary_differs.iter().map(|key| to_json(key)).collect::<Vec<_>>(),
            "copies": found.copies.iter().map(|copy| copy_json(copy, found)).collect::<Vec<_>>(),
        }),
    }
}

fn copy_json(copy: &VerifiedCopy, found: &Verified) -> Value {
    json!({
        "node": copy.node.0,
        "store_id": copy.store.to_string(),
        "compared": copy.pages_compared == found.pages,
        "differing": copy.differing,
        "keys": copy.keys.iter().map(|key| to_json(key)).collect::<Vec<_>>(),
    })
}

fn rows(compared: &[Compared]) -> Rows {
    let mut rows = Rows::new([
        "SHARD",
        "NODE",
        "ROLE",
        "OBJECTS",
        "COMPARED",
        "DIFFERING",
        "KEYS",
    ]);
    for (shard, found) in compared {
        let Ok(found) = found else {
            rows.row([shard.to_string(), "-".to_string(), "no primary".to_string()]);
            continue;
        };
        let keys = |keys: &[bytes::Bytes]| {
            let keys: Vec<String> = keys.iter().map(|key| to_text(key)).collect();
            or_dash(keys.join(", "))
        };
        rows.row([
            shard.to_string(),
            found.primary.to_string(),
            "primary".to_string(),
            found.objects.to_string(),
            "-".to_string(),
            match found.primary_differs.is_empty() {
                true => "-".to_string(),
                false => "outvoted".to_string(),
            },
            keys(&found.primary_differs),
        ]);
        for copy in &found.copies {
            let whole = copy.pages_compared == found.pages;
            rows.row([
                shard.to_string(),
                copy.node.to_string(),
                "copy".to_string(),
                "-".to_string(),
                super::show::yes(whole),
                copy.differing.to_string(),
                keys(&copy.keys),
            ]);
        }
    }
    rows
}
