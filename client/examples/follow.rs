//! Prints a shard's request log as it grows, and goes on after breaks. Needs a cluster with a namespace `shop`.

use std::collections::BTreeMap;
use understudy_client::{Client, Error, Follow, LogEvent, Pair};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::connect(["http://127.0.0.1:7420"]).await?;
    let mut log = client.namespace("shop").request_log(0).follow();
    // The end of what it has of each epoch: with that it knows where a branch that was cut off parted from the log.
    let mut ends = BTreeMap::new();
    loop {
        if let Some(at) = log.cursor() {
            ends.insert(at.epoch, at);
        }
        match log.next().await {
            Ok(Some(LogEvent::Record(record))) => {
                let pair = record.pair.unwrap_or_default();
                let (ops, objects) = (record.ops.len(), record.changes.len());
                println!(
                    "{}.{}: {ops} operations, {objects} objects",
                    pair.epoch, pair.version
                );
            }
            Ok(Some(LogEvent::Gap { first_version })) => {
                println!("what was before version {first_version} is no longer kept");
            }
            // Only a filtered log has it: what to keep as the cursor while nothing fits.
            Ok(Some(LogEvent::Progress { through })) => println!("looked through up to {through}"),
            Ok(None) => return Ok(()),
            // The reader keeps its cursor: asking again goes on there.
            Err(Error::Unavailable(trouble)) => eprintln!("waiting: {trouble}"),
            // A failover cut off what was read last: whoever copies the log takes that back, and goes on from there.
            Err(error) => match Follow::cut_of(&error) {
                Some(cut) => {
                    ends.retain(|epoch, _| *epoch <= cut.epoch);
                    let shared = ends.values().map(|end: &Pair| (*end).min(cut)).max();
                    let shared = shared.unwrap_or(Pair::ZERO);
                    println!("what came after {shared} does not hold any more");
                    log = log.after(shared);
                }
                None => return Err(error),
            },
        }
    }
}
