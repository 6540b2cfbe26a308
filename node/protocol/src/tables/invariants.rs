//! What has to hold inside the tables after every command, over all rows: for tests and the simulator.
//!
//! Single rows are asserted on every change in `apply`; this looks at what spans rows. Costs time over all of them.

use super::membership::NodeState;
use super::state::Tables;
use std::collections::BTreeSet;
use understudy_proto::ids::ShardId;

/// One sentence for each thing that is wrong; empty when nothing is.
pub fn faults(tables: &Tables) -> Vec<String> {
    let mut faults = Vec::new();
    settings(tables, &mut faults);
    nodes(tables, &mut faults);
    namespaces(tables, &mut faults);
    shards(tables, &mut faults);
    sessions(tables, &mut faults);
    faults
}

fn settings(tables: &Tables, faults: &mut Vec<String>) {
    let settings = tables.settings();
    if settings.lease_longest < settings.lease() {
        faults.push("a wait is shorter than the lease that is granted".to_string());
    }
    if settings.lease_ever < settings.lease_longest {
        faults.push("a lease was longer than any".to_string());
    }
}

fn nodes(tables: &Tables, faults: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    let mut stores = BTreeSet::new();
    for node in tables.nodes().filter(|n| n.state != NodeState::Removed) {
        if !names.insert(&node.name) {
            faults.push(format!("two nodes bear the name {}", node.name));
        }
        if !stores.insert(node.store) {
            faults.push(format!("two nodes have the store {}", node.store));
        }
        if node.ended > node.incarnation {
            faults.push(format!("node {} ended before it started", node.id));
        }
    }
}

fn namespaces(tables: &Tables, faults: &mut Vec<String>) {
    let mut seen: BTreeSet<ShardId> = BTreeSet::new();
    for namespace in tables.namespaces() {
        for shard in namespace.shard_ids() {
            let row = tables.shard(shard);
            if row.is_none_or(|r| r.namespace != namespace.id) || !seen.insert(shard) {
                faults.push(format!("shard {shard} of {} is astray", namespace.name));
            }
        }
    }
    if seen.len() != tables.shards().len() {
        faults.push("a shard belongs to no namespace".to_string());
    }
}

fn shards(tables: &Tables, faults: &mut Vec<String>) {
    for (shard, row) in tables.shards() {
        faults.extend(row.faults().iter().map(|f| format!("shard {shard}: {f}")));
        if row.revision > tables.revision() {
            faults.push(format!("shard {shard} has a revision of the future"));
        }
        for copy in row.copies().filter(|c| tables.node(c.node).is_none()) {
            faults.push(format!("shard {shard} names {copy} of an unknown node"));
        }
        if let Some(p) = row.primary
            && tables
                .node(p.node)
                .is_some_and(|n| n.incarnation < p.incarnation)
        {
            faults.push(format!("shard {shard} names the unknown process {p}"));
        }
    }
}

fn sessions(tables: &Tables, faults: &mut Vec<String>) {
    if tables.registration_floor_ms() > tables.clock_ms() {
        faults.push("the registration floor is above the clock".to_string());
    }
}
