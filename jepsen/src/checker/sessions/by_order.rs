//! The order into which sessions put the values of a key, where versions do not tell it: a graph of what must be newer than
//! what, in which there must be no cycle. [`sessions`](super::sessions) says which finding a cycle is.

use super::{
    Key, MONOTONIC_READS, MONOTONIC_WRITES, READ_YOUR_WRITES, SESSION_ORDER, WRITES_FOLLOW_READS,
};
use crate::checker::graph::{Edge, Graph, Mask, Paths};
use crate::checker::report::Report;
use crate::history::{Operations, Value};
use rustc_hash::FxHashMap;

/// Why one value is newer than another, as kinds of edges.
const BY_START: Mask = 1;
const BY_VERSION: Mask = 1 << 1;
const BY_WRITES: Mask = 1 << 2;
const BY_READ_AND_WRITE: Mask = 1 << 3;
const BY_WRITE_AND_READ: Mask = 1 << 4;
const BY_READS: Mask = 1 << 5;

const BY_ALL_WRITES: Mask = BY_START | BY_VERSION | BY_WRITES | BY_READ_AND_WRITE;

/// What is found when edges of these kinds contradict each other, and those above it do not.
const BLAMED: [(Mask, &str); 5] = [
    (BY_START | BY_VERSION | BY_WRITES, MONOTONIC_WRITES),
    (BY_ALL_WRITES, WRITES_FOLLOW_READS),
    (BY_ALL_WRITES | BY_WRITE_AND_READ, READ_YOUR_WRITES),
    (BY_ALL_WRITES | BY_READS, MONOTONIC_READS),
    (Mask::MAX, SESSION_ORDER),
];

pub(super) fn judge(name: &Value, key: &Key, operations: &Operations, report: &mut Report) {
    let edges = newer(key);
    let graph = Graph::new(key.values.len(), &edges);
    let mut paths = Paths::default();
    let mut told = vec![false; key.values.len()];
    for (mask, blamed) in BLAMED {
        for cycle in paths.cycles(&graph, mask) {
            if cycle.iter().any(|edge| told[edge.from as usize]) {
                continue;
            }
            let with_sessions = cycle.iter().filter(|edge| edge.about != u32::MAX);
            let by: Vec<u32> = with_sessions.map(|edge| edge.about).collect();
            report.found(blamed, &by, || sentence(name, key, &cycle, operations));
        }
        // What contradicts itself for one reason does so for more reasons, too, and is told once.
        for nodes in graph.components(mask).cyclic() {
            for node in nodes {
                told[node as usize] = true;
            }
        }
    }
}

/// From each value to one that must be newer, with the operation that shows it.
fn newer(key: &Key) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut edge = |from: usize, to: usize, kind, about| {
        edges.push(Edge {
            from: from as u32,
            to: to as u32,
            kind,
            about,
        });
    };
    for value in 1..key.values.len() {
        edge(0, value, BY_START, u32::MAX);
    }
    let mut versioned: Vec<usize> = (0..key.values.len()).collect();
    versioned.retain(|value| key.versions[*value].is_some());
    versioned.sort_by_key(|value| &key.versions[*value]);
    for two in versioned.windows(2) {
        edge(two[0], two[1], BY_VERSION, u32::MAX);
    }
    let mut last: FxHashMap<i64, (Option<usize>, Option<usize>)> = FxHashMap::default();
    for met in &key.met {
        let (written, seen) = last.entry(met.process).or_default();
        let (after_write, after_read) = match met.writes {
            true => (BY_WRITES, BY_READ_AND_WRITE),
            false => (BY_WRITE_AND_READ, BY_READS),
        };
        if let Some(written) = *written {
            edge(written, met.value, after_write, met.index);
        }
        if let Some(seen) = *seen {
            edge(seen, met.value, after_read, met.index);
        }
        match met.writes {
            true => *written = Some(met.value),
            false => *seen = Some(met.value),
        }
    }
    edges
}

fn sentence(name: &Value, key: &Key, cycle: &[Edge], operations: &Operations) -> String {
    let reasons = cycle.iter().map(|edge| {
        let (from, to) = (
            &key.values[edge.from as usize],
            &key.values[edge.to as usize],
        );
        let reason = match edge.kind {
            BY_START => return format!("{to} was written and {from} was there at first"),
            BY_VERSION => return format!("{to} has a later version than {from}"),
            BY_WRITES => "wrote {from} and then {to}",
            BY_READ_AND_WRITE => "saw {from} and then wrote {to}",
            BY_WRITE_AND_READ => "wrote {from} and then saw {to}",
            _ => "saw {from} and then {to}",
        };
        let operation = &operations.all[edge.about as usize];
        let reason = reason.replace("{from}", &from.to_string());
        let reason = reason.replace("{to}", &to.to_string());
        format!(
            "process {} {reason} (line {})",
            operation.process, operation.line
        )
    });
    let reasons: Vec<String> = reasons.collect();
    format!(
        "no order of the values of key {name} goes with this: {}",
        reasons.join("; ")
    )
}
