//! What a node's admin port shows: metrics of the store and the shards, and a status page.

use super::{Node, StoreStart};
use crate::admin::Admin;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

pub(super) fn register(admin: &Admin, node: &Arc<Node>) {
    let metrics = StoreMetrics(Arc::downgrade(node));
    admin.register(|registry| registry.register_collector(Box::new(metrics)));
    let shown = Arc::downgrade(node);
    admin.set_status(move || match shown.upgrade() {
        Some(node) => status(&node),
        None => json!({ "state": "stopped" }),
    });
}

fn status(node: &Node) -> serde_json::Value {
    let directory = node.directory.read();
    let copies = directory
        .shards()
        .filter(|(_, entry)| entry.names(node.me.copy()))
        .count();
    let primaries = directory
        .shards()
        .filter(|(_, entry)| entry.primary == Some(node.me))
        .count();
    json!({
        "role": "node",
        "node": node.me.node.0,
        "store": node.me.store.to_string(),
        "incarnation": node.me.incarnation.0,
        "cluster": node.cluster.to_string(),
        "tables_revision": directory.revision.0,
        "copies": copies,
        "primaries": primaries,
        "store_state": format!("{:?}", node.writer.state()),
        "start_check": start_check(&node.start),
    })
}

fn start_check(start: &StoreStart) -> serde_json::Value {
    let repaired = start.repaired();
    let shards = start.repairs.iter().map(|(shard, repairs)| {
        json!({
            "shard": shard.0,
            "objects": repairs.objects,
            "dedup_entries": repairs.dedup_entries,
        })
    });
    let set_aside = start
        .set_aside
        .iter()
        .map(|path| path.display().to_string());
    json!({
        "copies": start.copies,
        "records": start.records,
        "objects_repaired": repaired.objects,
        "dedup_entries_repaired": repaired.dedup_entries,
        "repaired_shards": shards.collect::<Vec<_>>(),
        "store_replaced": start.replaced,
        "damaged_stores": set_aside.collect::<Vec<_>>(),
    })
}

/// Read from the store when somebody asks; nothing is counted twice.
#[derive(Debug)]
struct StoreMetrics(Weak<Node>);

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(node) = self.0.upgrade() else {
            return Ok(());
        };
        let progress = node.writer.progress();
        let sent = node.peers.sent();
        let counters = [
            (
                "store_rounds",
                "Commit rounds with batches",
                &progress.rounds,
            ),
            (
                "store_batches",
                "Batches that were written",
                &progress.batches,
            ),
            (
                "store_records",
                "Records that were appended",
                &progress.records,
            ),
            (
                "store_bytes",
                "About the bytes of the batches",
                &progress.bytes,
            ),
            (
                "store_syncs",
                "Synced writes, probes included",
                &progress.syncs,
            ),
            (
                "store_sync_us",
                "Microseconds spent in synced writes",
                &progress.sync_us,
            ),
            ("store_failures", "Writes that failed", &progress.failures),
            (
                "orphans_applied",
                "Requests that a failover had cut off, recorded again with their changes by primaries here",
                &node.judged.applied,
            ),
            (
                "orphans_outcome_only",
                "Likewise, recorded again as the failed outcomes that they are",
                &node.judged.outcome_only,
            ),
            (
                "orphans_conflicts",
                "Likewise, kept as conflicts for a person",
                &node.judged.conflicts,
            ),
            (
                "orphans_discarded",
                "Likewise, discarded as the namespace's policy says",
                &node.judged.discarded,
            ),
            (
                "reads_primary",
                "Reads of keys answered by primaries here under their lease",
                &node.served.primary,
            ),
            (
                "reads_session",
                "Reads, and parts of scans, answered by copies here for sessions",
                &node.served.session,
            ),
            (
                "reads_bounded",
                "Reads, and parts of scans, answered by copies here within a bound of age",
                &node.served.bounded,
            ),
            (
                "reads_any",
                "Reads of keys answered by copies here as they were",
                &node.served.any,
            ),
            (
                "reads_behind",
                "Session and bounded reads for which a copy here was too old until their deadline",
                &node.served.behind,
            ),
            (
                "reads_forked",
                "Session reads that were told that a failover cut off what they saw",
                &node.served.forked,
            ),
            (
                "forward_mismatches",
                "Operations that came to another record at a copy here, which then got whole records",
                &node.differing.mismatches,
            ),
            (
                "forward_mended",
                "Objects that were other ones at a copy here and were taken from the primary with an update",
                &node.differing.mended,
            ),
            (
                "scrub_objects",
                "Objects of primaries that were compared with the other copies",
                &node.compared.objects,
            ),
            (
                "scrub_bytes",
                "Bytes of those objects",
                &node.compared.bytes,
            ),
            (
                "scrub_differing",
                "Objects that a copy had otherwise than its primary",
                &node.compared.differing,
            ),
            (
                "scrub_passes",
                "Shards that were compared from the first key to the last",
                &node.compared.passes,
            ),
            (
                "sent_record_bytes",
                "Bytes of records that were sent to copies",
                &sent.records,
            ),
            (
                "sent_delta_bytes",
                "Bytes of coalesced deltas that were sent to copies",
                &sent.deltas,
            ),
            (
                "sent_full_copy_bytes",
                "Bytes of full copies that were sent",
                &sent.full_copies,
            ),
        ];
        for (name, help, counter) in counters {
            let metric = ConstCounter::new(counter.load(Relaxed));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let repaired = node.start.repaired();
        let gauges = [
            (
                "store_queued_bytes",
                "Bytes that wait for a commit round",
                progress.queued_bytes.load(Relaxed),
            ),
            (
                "store_memory_bytes",
                "Memory of the store's caches and buffers",
                node.database.memory(),
            ),
            (
                "start_check_records",
                "Records at the ends of logs that were compared with the objects at start",
                node.start.records,
            ),
            (
                "start_check_objects_repaired",
                "Objects that differed from the log at start and were set right",
                repaired.objects,
            ),
            (
                "start_check_dedup_entries_repaired",
                "Dedup entries that differed from the log at start and were set right",
                repaired.dedup_entries,
            ),
            (
                "damaged_stores",
                "Damaged stores that were set aside and are kept in the data folder",
                node.start.set_aside.len() as u64,
            ),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(value as i64);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}
