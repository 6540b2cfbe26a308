//! The scrub in the background: of every shard whose primary is here the objects are compared with those of the other
//! copies, page by page, no faster than the setting allows, and each shard at most once in the time that it says.
//!
//! What is compared and what follows from a difference is the replica's; here is the pace, and what is told of it.

use super::Node;
use crate::config::ScrubSettings;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use understudy_proto::ShardId;
use understudy_proto::failure::Failure;
use understudy_proto::limits::SCRUB_PAGE_BYTES;
use understudy_protocol::shard::{ScrubbedCopy, ScrubbedPage};

/// How long the copies may take with a page; one that is further behind is not compared.
pub const PAGE_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks for a shard that is due.
const LOOK: Duration = Duration::from_secs(1);

/// What was compared since the process began, by whomever.
#[derive(Debug, Default)]
pub struct Compared {
    /// Objects of primaries here.
    pub objects: AtomicU64,
    pub bytes: AtomicU64,
    /// Objects that a copy had otherwise.
    pub differing: AtomicU64,
    /// Of a whole shard.
    pub passes: AtomicU64,
}

impl Node {
    /// Compares one page of a shard whose primary is here, counts it, and says what is wrong.
    pub async fn compare(
        &self,
        shard: ShardId,
        after: Option<Bytes>,
    ) -> Result<ScrubbedPage, Failure> {
        let page = self
            .host
            .scrub(shard, after, SCRUB_PAGE_BYTES, PAGE_LIMIT)
            .await?;
        self.compared.objects.fetch_add(page.objects, Relaxed);
        self.compared.bytes.fetch_add(page.bytes, Relaxed);
        for (copy, found) in &page.copies {
            if let ScrubbedCopy::Differs { objects, keys } = found {
                self.compared.differing.fetch_add(*objects, Relaxed);
                tracing::error!(%shard, node = %copy.node, store = %copy.store, objects, ?keys, "a copy has other objects than its primary: it is rebuilt");
            }
        }
        if !page.primary_differs.is_empty() {
            tracing::error!(%shard, keys = ?page.primary_differs, "two copies agree against this primary: it hands over, and is rebuilt");
        }
        Ok(page)
    }
}

pub(super) async fn run(node: Arc<Node>, settings: ScrubSettings) {
    if settings.bytes_per_second == 0 {
        return;
    }
    let every = Duration::from_millis(settings.every_ms);
    // When each shard was compared last. Those that this process never compared are due some time within the first span,
    // lest nodes that start together all compare at once.
    let mut last: HashMap<ShardId, Instant> = HashMap::new();
    let began = Instant::now();
    loop {
        sleep(LOOK).await;
        let primaries: Vec<ShardId> = {
            let directory = node.directory.read();
            let ours = directory
                .shards()
                .filter(|(_, entry)| entry.primary == Some(node.me));
            ours.map(|(shard, _)| shard).collect()
        };
        last.retain(|shard, _| primaries.contains(shard));
        let first = |shard: &ShardId| began + every.mul_f64(share(*shard));
        let due_at = |shard: &ShardId| {
            last.get(shard)
                .map_or_else(|| first(shard), |at| *at + every)
        };
        let next = primaries.iter().min_by_key(|shard| due_at(shard)).copied();
        if let Some(shard) = next.filter(|shard| due_at(shard) <= Instant::now()) {
            pass(&node, shard, settings.bytes_per_second).await;
            last.insert(shard, Instant::now());
        }
    }
}

/// Spreads the shards over a span: a number from 0 to 1 for each.
fn share(shard: ShardId) -> f64 {
    let hash = xxhash_rust::xxh3::xxh3_64(&shard.0.to_be_bytes());
    (hash >> 32) as f64 / f64::from(u32::MAX)
}

/// All pages of a shard, at the pace. A page that cannot be compared ends it: the next pass comes.
async fn pass(node: &Node, shard: ShardId, bytes_per_second: u64) {
    let mut after = None;
    loop {
        let page = match node.compare(shard, after).await {
            Ok(page) => page,
            Err(failure) => {
                tracing::debug!(%shard, %failure, "a scrub ends early");
                return;
            }
        };
        // An empty page costs the copies a message too.
        let bytes = page.bytes.max(1_024);
        sleep(Duration::from_secs_f64(
            bytes as f64 / bytes_per_second as f64,
        ))
        .await;
        after = page.next;
        if after.is_none() {
            node.compared.passes.fetch_add(1, Relaxed);
            return;
        }
    }
}
