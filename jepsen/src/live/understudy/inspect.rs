//! What only Understudy's own tools tell when everything is whole again: whether all copies hold the same objects (I13).

use std::time::Duration;
use tokio::time::{Instant, sleep};
use understudy_client::Client;

/// A copy may be a moment behind its primary right after the last write.
const LIMIT: Duration = Duration::from_secs(20);

pub async fn copies_agree(
    client: &Client,
    namespace: &str,
    shards: u32,
) -> anyhow::Result<Vec<String>> {
    let namespace = client.namespace(namespace);
    let mut sentences = Vec::new();
    for shard in 0..shards {
        let until = Instant::now() + LIMIT;
        let verified = loop {
            match namespace.verify(shard).await {
                Ok(verified) => break verified,
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        };
        for copy in &verified.copies {
            if copy.differing > 0 {
                sentences.push(format!(
                    "shard {shard}: {} objects differ at node {} from its primary's, such as {:?}",
                    copy.differing,
                    copy.node.0,
                    copy.keys.first()
                ));
            }
        }
    }
    Ok(sentences)
}
