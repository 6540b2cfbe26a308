//! Follows the managers' tables and gives every row that changed to its replica.
//!
//! A stream that breaks is begun again at the next manager, after the last revision that arrived.

use super::Node;
use super::managers::Followed;
use std::sync::Arc;
use std::time::Duration;
use understudy_proto::ShardId;
use understudy_protocol::effect::Assignment;

/// Before another manager is asked.
const PAUSE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn run(node: Arc<Node>) {
    let mut which = 0;
    let mut complete = false;
    loop {
        let after = complete.then(|| node.directory.read().revision);
        match node.managers.follow(which, after, LIMIT).await {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(followed)) => {
                        complete = true;
                        take(&node, followed);
                    }
                    Ok(None) => break,
                    Err(failure) => {
                        tracing::debug!(%failure, "the stream of the tables broke");
                        break;
                    }
                }
            },
            Err(failure) => tracing::debug!(%failure, "a manager does not send the tables"),
        }
        which += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn take(node: &Node, followed: Followed) {
    let mut directory = node.directory.write();
    let changed: Vec<ShardId> = match followed {
        // A manager that is behind has nothing new.
        Followed::Tables(tables) if tables.revision() < directory.revision => return,
        Followed::Tables(tables) => directory.replace(&tables),
        Followed::Changes(revision, changes) => {
            let known = directory.revision;
            let newer = changes.into_iter().filter(|change| change.revision > known);
            let shards = newer
                .filter_map(|change| directory.change(change))
                .collect();
            directory.revision = directory.revision.max(revision);
            shards
        }
    };
    let me = node.me.copy();
    let rows: Vec<_> = changed
        .into_iter()
        .map(|shard| {
            let row = directory.assignment(shard, me);
            let deleted = || Assignment::of_nobody(directory.revision);
            (shard, row.unwrap_or_else(deleted))
        })
        .collect();
    drop(directory);
    for (shard, row) in rows {
        node.host.assign(shard, row);
    }
}
