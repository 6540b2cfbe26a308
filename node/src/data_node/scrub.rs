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
/// Until a pass that found something, or could not go on, is tried again, and until the first one of a new primary.
const SOON: Duration = Duration::from_secs(60);

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
                tracing::error!(%shard, node = %copy.node, store = %copy.store, objects, ?keys, "a copy has other objects than its primary: it is rebuilt, if no vote that is missing can make it right");
            }
        }
        if !page.primary_differs.is_empty() {
            tracing::error!(%shard, keys = ?page.primary_differs, "more copies agree against this primary than with it: it hands over, and is rebuilt");
        }
        Ok(page)
    }
}

pub(super) async fn run(node: Arc<Node>, settings: ScrubSettings) {
    if settings.bytes_per_second == 0 {
        return;
    }
    let every = Duration::from_millis(settings.every_ms);
    let soon = SOON.min(every);
    // When each shard's next pass is due, and after which key it goes on.
    let mut due: HashMap<ShardId, (Instant, Option<Bytes>)> = HashMap::new();
    loop {
        sleep(LOOK).await;
        let primaries: Vec<ShardId> = {
            let directory = node.directory.read();
            let ours = directory
                .shards()
                .filter(|(_, entry)| entry.primary == Some(node.me));
            ours.map(|(shard, _)| shard).collect()
        };
        due.retain(|shard, _| primaries.contains(shard));
        for shard in &primaries {
            // A primary that others outvoted hands over, and its successor is to find it soon. Not all at once.
            let first = soon + every.div_f64(24.0).mul_f64(share(*shard));
            due.entry(*shard)
                .or_insert_with(|| (Instant::now() + first, None));
        }
        let next = due.iter().min_by_key(|(_, (at, _))| *at);
        let Some((shard, (at, after))) = next.map(|(shard, due)| (*shard, due.clone())) else {
            continue;
        };
        if at <= Instant::now() {
            let next = match pass(&node, shard, after, settings.bytes_per_second).await {
                Passed::Whole => (Instant::now() + every, None),
                // What differs is looked at again when it may be whole, or who was missing may tell.
                Passed::Different => (Instant::now() + soon, None),
                Passed::Upto(after) => (Instant::now() + soon, after),
            };
            due.insert(shard, next);
        }
    }
}

/// What a pass came to.
enum Passed {
    /// Every page; nothing differed.
    Whole,
    /// Every page; something did.
    Different,
    /// It could not go on after that key.
    Upto(Option<Bytes>),
}

/// Spreads the shards over a span: a number from 0 to 1 for each.
fn share(shard: ShardId) -> f64 {
    let hash = xxhash_rust::xxh3::xxh3_64(&shard.0.to_be_bytes());
    (hash >> 32) as f64 / f64::from(u32::MAX)
}

/// The pages of a shard after a key, at the pace.
async fn pass(
    node: &Node,
    shard: ShardId,
    mut after: Option<Bytes>,
    bytes_per_second: u64,
) -> Passed {
    let mut different = false;
    loop {
        let page = match node.compare(shard, after.clone()).await {
            Ok(page) => page,
            Err(failure) => {
                tracing::debug!(%shard, %failure, "a scrub goes on later");
                return Passed::Upto(after);
            }
        };
        let differs = |found: &ScrubbedCopy| matches!(found, ScrubbedCopy::Differs { .. });
        different |= page.copies.values().any(differs);
        // An empty page costs the copies a message too.
        let bytes = page.bytes.max(1_024);
        sleep(Duration::from_secs_f64(
            bytes as f64 / bytes_per_second as f64,
        ))
        .await;
        after = page.next;
        if after.is_none() {
            node.compared.passes.fetch_add(1, Relaxed);
            return match different {
                true => Passed::Different,
                false => Passed::Whole,
            };
        }
    }
}
