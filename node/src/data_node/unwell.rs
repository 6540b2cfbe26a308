//! What becomes of a node whose store does not read back what was written, or whose disk fails reads.
//!
//! When every shard here has a complete copy on another node that is up, the process ends: its primaries are handed over
//! first, and a damaged store is marked, so that the next start sets it aside and gets the copies again. A node that alone
//! has a shard goes on, for what can still be read is more than nothing.

use super::Node;
use crate::data_folder::DataFolder;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use understudy_proto::{CopyId, ShardId};
use understudy_protocol::store::StoreError;
use understudy_protocol::tables::NodeState;

/// Between two looks at a store that fails and has to go on.
const PAUSE: Duration = Duration::from_secs(5);

/// Waits until the process has to end, and tells why.
pub(super) async fn wait(
    node: Arc<Node>,
    mut folder: DataFolder,
    mut failures: watch::Receiver<Option<StoreError>>,
) -> String {
    loop {
        if failures.changed().await.is_err() {
            return std::future::pending().await;
        }
        let Some(error) = failures.borrow_and_update().clone() else {
            continue;
        };
        if let Some(shard) = only_here(&node) {
            tracing::error!(%error, %shard, "the store fails, and this node alone has a complete copy of the shard: it goes on");
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        return match error {
            StoreError::Io(why) => {
                format!("the disk fails: {why}; the other nodes have every copy of this one")
            }
            StoreError::Corrupt(why) => {
                let next = match folder.discard_store() {
                    Ok(()) => "the next start sets it aside and gets the copies again".to_string(),
                    Err(error) => format!("it could not be marked as damaged: {error}"),
                };
                format!(
                    "the store is damaged: {why}; the other nodes have every copy of this one; {next}"
                )
            }
        };
    }
}

/// A shard of which no other node that is up has a complete copy.
fn only_here(node: &Node) -> Option<ShardId> {
    let me = node.me.copy();
    let directory = node.directory.read();
    let up = |copy: CopyId| {
        let there = directory.node(copy.node);
        there.is_some_and(|there| there.state == NodeState::Up && there.store == copy.store)
    };
    let mut shards = directory.shards();
    let alone = shards.find(|(_, row)| {
        let mut others = row.candidates().filter(|copy| *copy != me);
        row.candidates().any(|copy| copy == me) && !others.any(up)
    });
    alone.map(|(shard, _)| shard)
}
