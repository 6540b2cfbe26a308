//! What only Understudy's own tools tell when everything is whole again: whether all copies hold the same objects (I13).

use std::time::Duration;
use tokio::time::{Instant, sleep};
use understudy_client::{Client, Verified};

/// A copy may be a moment behind its primary right after the last write.
const LIMIT: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// `others`: copies of a shard besides its primary's.
pub async fn copies_agree(
    client: &Client,
    namespace: &str,
    shards: u32,
    others: usize,
) -> Vec<String> {
    let namespace = client.namespace(namespace);
    let mut sentences = Vec::new();
    for shard in 0..shards {
        let until = Instant::now() + LIMIT;
        let verdict = loop {
            match namespace.verify(shard).await {
                // Whatever differs is told at once: a copy that differs is rebuilt, and is the same the next time.
                Ok(verified) if verified.differs() || compared(&verified, others) => {
                    break differences(shard, &verified);
                }
                // All was seen to be whole before, so this is no trouble of ours.
                Ok(_) if Instant::now() >= until => {
                    break vec![format!(
                        "shard {shard}: not every copy can be compared with its primary's"
                    )];
                }
                Err(error) if Instant::now() >= until => {
                    break vec![format!(
                        "shard {shard}: its copies are not compared: {error}"
                    )];
                }
                Ok(_) | Err(_) => sleep(ASK_EVERY).await,
            }
        };
        sentences.extend(verdict);
    }
    sentences
}

fn compared(verified: &Verified, others: usize) -> bool {
    let mut copies = verified.copies.iter();
    verified.copies.len() >= others && copies.all(|copy| copy.pages_compared == verified.pages)
}

fn differences(shard: u32, verified: &Verified) -> Vec<String> {
    let copies = verified.copies.iter().filter(|copy| copy.differing > 0);
    let mut sentences: Vec<String> = copies
        .map(|copy| {
            let (differing, node) = (copy.differing, copy.node.0);
            let key = copy.keys.first();
            format!("shard {shard}: {differing} objects differ at node {node} from its primary's, such as {key:?}")
        })
        .collect();
    if let Some(key) = verified.primary_differs.first() {
        sentences.push(format!(
            "shard {shard}: two copies agree against the primary, such as about {key:?}"
        ));
    }
    sentences
}
