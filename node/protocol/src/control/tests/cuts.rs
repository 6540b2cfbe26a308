//! Open cuts and orphans as the leader sees them: what stays listed, what is counted, and what a change of leader forgets.

use super::rules::{Bench, S1, S2};
use crate::tables::*;
use std::collections::BTreeMap;
use understudy_proto::ids::*;

/// Longer than `replace_after`, and than anything else that a leader waits for.
const VERY_LONG_MS: u64 = 40_000;

/// The shard's primary is gone with a tail of its own; the epoch after it, and the two that are left.
fn with_an_open_cut() -> (Bench, CopyId, Vec<u64>) {
    let mut bench = Bench::new();
    let gone = bench.process(bench.primary(S1)).copy();
    let others = bench.others(S1);
    bench.pass(4_000, &others);
    for n in &others {
        bench.seal(*n, S1, Pair::new(1, 5));
    }
    assert_eq!(bench.entry(S1).epoch, Epoch(2));
    (bench, gone, others)
}

#[test]
fn the_store_of_a_node_that_never_comes_back_stays_listed_until_a_person_gives_it_up() {
    let (mut bench, gone, others) = with_an_open_cut();
    bench.pass(VERY_LONG_MS, &others);
    bench.lead();
    bench.pass(VERY_LONG_MS, &others);
    let listed = |bench: &Bench| bench.entry(S1).cut_lists(gone);
    assert!(listed(&bench), "also after another leader");
    let declared = bench.apply(Command::DeclareStoreLost { copy: gone });
    assert!(declared.answer.is_ok());
    assert!(!listed(&bench) && bench.entry(S1).open_cuts.is_empty());
}

#[test]
fn orphans_are_counted_as_their_nodes_report_them() {
    let (mut bench, gone, others) = with_an_open_cut();
    let n = gone.node.0;
    bench.report(n, S1, Epoch(1), Epoch(2), 7);
    bench.report(n, S2, Epoch(1), Epoch(1), 2);
    bench.report(others[0], S1, Epoch(2), Epoch(2), 1);
    let counted = |bench: &Bench| bench.controller.orphans().expect("it leads");
    let nodes = |list: &[(u64, u64)]| -> BTreeMap<NodeId, u64> {
        let each = list.iter();
        each.map(|(node, count)| (NodeId(*node), *count)).collect()
    };
    let mut all = nodes(&[(n, 9), (others[0], 1)]);
    let told = counted(&bench);
    all.retain(|node, count| told.get(node) != Some(count));
    assert!(all.is_empty(), "{all:?} of {told:?}");
    // One is given back; the cut stays open for the rest.
    bench.report(n, S1, Epoch(2), Epoch(2), 3);
    assert_eq!(counted(&bench)[&NodeId(n)], 5);
    assert!(bench.entry(S1).cut_lists(gone));
    bench.report(n, S1, Epoch(2), Epoch(2), 0);
    assert_eq!(counted(&bench)[&NodeId(n)], 2);
    assert!(!bench.entry(S1).cut_lists(gone));
    // A later leader knows of nobody before it is told.
    bench.lead();
    assert!(!counted(&bench).contains_key(&NodeId(n)));
}
