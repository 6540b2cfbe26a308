//! Tests of the witness set in the tables: who is in it at first, who enters, who leaves, and that the last one stays.

use super::tests::Desk;
use super::*;
use std::collections::BTreeSet;
use understudy_proto::ids::*;

/// A lazy shard in epoch 1 on four nodes, the first of them primary; the fourth is a joining copy.
fn placed() -> (Desk, ShardId, Vec<ProcessId>) {
    let mut desk = Desk::default();
    let nodes = (1..=4).map(|n| desk.register(&format!("n{n}"), n, "a").unwrap());
    let nodes: Vec<ProcessId> = nodes.collect();
    let command = Command::CreateNamespace {
        name: "main".to_string(),
        shards: 1,
        settings: NamespaceSettings::default(),
    };
    let Ok(Answer::Namespace(namespace)) = desk.run(command) else {
        panic!("no namespace");
    };
    let shard = namespace.first_shard;
    let place = EntryOp::Place {
        primary: nodes[0],
        secondaries: vec![nodes[1].copy(), nodes[2].copy()],
    };
    desk.change(shard, place).unwrap();
    let (copy, leaving) = (nodes[3].copy(), false);
    desk.change(shard, EntryOp::AddJoining { copy, leaving })
        .unwrap();
    (desk, shard, nodes)
}

fn witnesses(desk: &Desk, shard: ShardId) -> Vec<u64> {
    let row = desk.tables.shard(shard).unwrap();
    row.witnesses.iter().map(|copy| copy.node.0).collect()
}

fn ids(nodes: &[ProcessId]) -> Vec<u64> {
    let set: BTreeSet<u64> = nodes.iter().map(|process| process.node.0).collect();
    set.into_iter().collect()
}

#[test]
fn a_placement_begins_with_the_secondaries_and_a_failover_with_the_sealed() {
    let (mut desk, shard, nodes) = placed();
    assert_eq!(witnesses(&desk, shard), ids(&nodes[1..3]));
    let (epoch, preferred) = (Epoch(2), None);
    desk.change(shard, EntryOp::BeginFailover { epoch, preferred })
        .unwrap();
    // A failover that began takes none in.
    let (epoch, copy) = (Epoch(1), nodes[1].copy());
    desk.change(shard, EntryOp::DropWitness { copy }).unwrap();
    assert!(
        desk.change(shard, EntryOp::AddWitness { epoch, copy })
            .is_err()
    );
    let sealed = [nodes[0].copy(), nodes[1].copy()];
    let promote = EntryOp::Promote {
        epoch: Epoch(2),
        promoted: nodes[1],
        last: Pair::new(1, 1),
        sealed: sealed.into_iter().collect(),
    };
    desk.change(shard, promote).unwrap();
    // The promoted one is not its own witness, the old primary that was sealed is.
    assert_eq!(witnesses(&desk, shard), ids(&nodes[..1]));
}

#[test]
fn only_secondaries_of_that_epoch_enter() {
    let (mut desk, shard, nodes) = placed();
    let copy = nodes[2].copy();
    let (now, before) = (Epoch(1), Epoch(0));
    desk.change(shard, EntryOp::DropWitness { copy }).unwrap();
    let wrong = [
        (before, copy),
        (now, nodes[0].copy()),
        (now, nodes[1].copy()),
        (now, nodes[3].copy()),
    ];
    for (epoch, copy) in wrong {
        assert!(
            desk.change(shard, EntryOp::AddWitness { epoch, copy })
                .is_err()
        );
    }
    let epoch = now;
    desk.change(shard, EntryOp::AddWitness { epoch, copy })
        .unwrap();
    assert_eq!(witnesses(&desk, shard), ids(&nodes[1..3]));
}

#[test]
fn the_last_witness_goes_only_at_the_primarys_request_and_keeps_its_place_until_then() {
    let (mut desk, shard, nodes) = placed();
    let (one, other) = (nodes[1].copy(), nodes[2].copy());
    let epoch = Epoch(1);
    let last = |copy| EntryOp::DropLastWitness { epoch, copy };
    assert!(desk.change(shard, EntryOp::Remove { copy: one }).is_err());
    assert!(desk.change(shard, last(one)).is_err());
    desk.change(shard, EntryOp::DropWitness { copy: one })
        .unwrap();
    desk.change(shard, EntryOp::Remove { copy: one }).unwrap();
    assert!(
        desk.change(shard, EntryOp::DropWitness { copy: other })
            .is_err()
    );
    // As a copy that joins anew it still bears witness.
    desk.change(shard, EntryOp::MarkJoining { copy: other })
        .unwrap();
    assert_eq!(witnesses(&desk, shard), ids(&nodes[2..3]));
    assert!(desk.change(shard, EntryOp::Remove { copy: other }).is_err());
    desk.change(shard, last(other)).unwrap();
    desk.change(shard, EntryOp::Remove { copy: other }).unwrap();
    assert!(witnesses(&desk, shard).is_empty());
}

#[test]
fn the_longest_lease_ever_does_not_fall() {
    let mut desk = Desk::default();
    let mut set = |ms: u64| {
        let lease = Some(crate::time::Duration::from_millis(ms));
        let change = SettingsChange {
            lease,
            ..SettingsChange::default()
        };
        desk.run(Command::SetSettings(change)).unwrap();
        desk.tables.settings().lease_ever.as_millis()
    };
    assert_eq!((set(1_000), set(9_000), set(2_000)), (1_000, 9_000, 9_000));
}
