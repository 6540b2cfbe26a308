//! Tests of the forced promotion in the tables: what is refused, what it leaves, what it survives.

use super::tests::Desk;
use super::*;
use std::collections::BTreeSet;
use understudy_proto::ids::*;

/// A shard in epoch 1 on three nodes, the first of them primary.
fn placed(policy: Policy) -> (Desk, ShardId, Vec<ProcessId>) {
    let mut desk = Desk::default();
    let nodes = (1..=3).map(|n| desk.register(&format!("n{n}"), n, "a").unwrap());
    let nodes: Vec<ProcessId> = nodes.collect();
    let settings = NamespaceSettings {
        policy,
        ..NamespaceSettings::default()
    };
    let command = Command::CreateNamespace {
        name: "main".to_string(),
        shards: 1,
        settings,
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
    (desk, shard, nodes)
}

fn row(desk: &Desk, shard: ShardId) -> &ShardEntry {
    desk.tables.shard(shard).unwrap()
}

fn set_state(desk: &mut Desk, process: ProcessId, state: NodeState) {
    let node = process.node;
    let revision = desk.tables.node(node).unwrap().revision;
    let command = Command::SetNodeState {
        node,
        revision,
        state,
    };
    desk.run(command).unwrap();
}

fn command(desk: &Desk, shard: ShardId, forced: Forced) -> Command {
    let revision = row(desk, shard).revision;
    Command::ForcePromotion {
        shard,
        revision,
        forced,
    }
}

fn force(desk: &mut Desk, shard: ShardId, forced: Forced) -> Result<Answer, Refusal> {
    let command = command(desk, shard, forced);
    desk.run(command)
}

fn of(process: ProcessId) -> Forced {
    Forced {
        copy: process.copy(),
        least: Pair::new(1, 5),
        stopped: None,
    }
}

fn promote(
    desk: &mut Desk,
    shard: ShardId,
    promoted: ProcessId,
    last: Pair,
    sealed: &[ProcessId],
) -> Result<(), Refusal> {
    let epoch = row(desk, shard).begun.unwrap().epoch;
    let promote = EntryOp::Promote {
        epoch,
        promoted,
        last,
        sealed: sealed.iter().map(|p| p.copy()).collect(),
    };
    desk.change(shard, promote)
}

fn listed(desk: &Desk, shard: ShardId) -> Vec<u64> {
    let cuts = row(desk, shard).open_cuts.iter();
    let stores: BTreeSet<u64> = cuts
        .flat_map(|cut| cut.stores.iter().map(|copy| copy.node.0))
        .collect();
    stores.into_iter().collect()
}

#[test]
fn only_the_chosen_copy_is_promoted_and_every_other_store_is_listed() {
    for policy in [Policy::Lazy, Policy::InSync] {
        let (mut desk, shard, nodes) = placed(policy);
        set_state(&mut desk, nodes[0], NodeState::Down);
        force(&mut desk, shard, of(nodes[2])).unwrap();
        let promotable: Vec<CopyId> = row(&desk, shard).promotable().collect();
        assert_eq!(promotable, vec![nodes[2].copy()]);
        let sealed = [nodes[1], nodes[2]];
        let last = Pair::new(1, 7);
        let other = promote(&mut desk, shard, nodes[1], last, &sealed);
        assert!(other.is_err(), "another copy");
        promote(&mut desk, shard, nodes[2], last, &sealed).unwrap();
        let after = row(&desk, shard);
        assert_eq!((after.epoch, after.forced), (Epoch(2), Some(Epoch(2))));
        assert_eq!((after.primary, after.begun), (Some(nodes[2]), None));
        // The sealed one, too: it may have more than the promoted one.
        assert_eq!(listed(&desk, shard), vec![1, 2]);
        assert_eq!(row(&desk, shard).open_cuts[0].cut, last);
    }
}

#[test]
fn with_less_than_was_shown_nobody_is_promoted() {
    let (mut desk, shard, nodes) = placed(Policy::Lazy);
    set_state(&mut desk, nodes[0], NodeState::Down);
    force(&mut desk, shard, of(nodes[1])).unwrap();
    let less = promote(&mut desk, shard, nodes[1], Pair::new(1, 4), &nodes[1..2]);
    assert!(less.is_err());
    promote(&mut desk, shard, nodes[1], Pair::new(1, 5), &nodes[1..2]).unwrap();
}

#[test]
fn a_row_that_changed_since_or_a_primary_that_is_up_refuses() {
    let (mut desk, shard, nodes) = placed(Policy::InSync);
    let up = force(&mut desk, shard, of(nodes[1]));
    assert!(matches!(up, Err(Refusal::NotAllowed { .. })), "{up:?}");
    set_state(&mut desk, nodes[0], NodeState::Down);
    let shown = command(&desk, shard, of(nodes[1]));
    let epoch = Epoch(2);
    let preferred = None;
    desk.change(shard, EntryOp::BeginFailover { epoch, preferred })
        .unwrap();
    let changed = desk.run(shown);
    assert!(matches!(changed, Err(Refusal::Changed { .. })));
    let joining = EntryOp::MarkJoining {
        copy: nodes[2].copy(),
    };
    desk.change(shard, joining).unwrap();
    let joins = force(&mut desk, shard, of(nodes[2]));
    assert!(
        matches!(joins, Err(Refusal::NotAllowed { .. })),
        "{joins:?}"
    );
    set_state(&mut desk, nodes[1], NodeState::Down);
    let down = force(&mut desk, shard, of(nodes[1]));
    assert!(matches!(down, Err(Refusal::NotAllowed { .. })), "{down:?}");
}

#[test]
fn the_stopped_process_is_exactly_the_primary_and_not_heard() {
    let (mut desk, shard, nodes) = placed(Policy::Lazy);
    let epoch = Epoch(2);
    let preferred = None;
    desk.change(shard, EntryOp::BeginFailover { epoch, preferred })
        .unwrap();
    let stopped = |process: ProcessId| Forced {
        stopped: Some(process),
        ..of(nodes[1])
    };
    assert!(
        force(&mut desk, shard, stopped(nodes[0])).is_err(),
        "it is heard"
    );
    set_state(&mut desk, nodes[0], NodeState::Down);
    let other = ProcessId {
        incarnation: nodes[0].incarnation.next(),
        ..nodes[0]
    };
    assert!(
        force(&mut desk, shard, stopped(other)).is_err(),
        "another start"
    );
    force(&mut desk, shard, stopped(nodes[0])).unwrap();
    assert!(row(&desk, shard).primary_is_stopped());
    // A failover that had begun keeps its epoch: what promised it goes on counting.
    assert_eq!(row(&desk, shard).begun.unwrap().epoch, epoch);
    // A higher promise raises it, and the person's choice stays.
    let epoch = Epoch(5);
    desk.change(shard, EntryOp::BeginFailover { epoch, preferred })
        .unwrap();
    assert_eq!(row(&desk, shard).forcing(), Some(stopped(nodes[0])));
}

#[test]
fn later_failovers_know_that_one_was_forced() {
    let (mut desk, shard, nodes) = placed(Policy::InSync);
    set_state(&mut desk, nodes[0], NodeState::Down);
    force(&mut desk, shard, of(nodes[1])).unwrap();
    let last = Pair::new(1, 9);
    promote(&mut desk, shard, nodes[1], last, &nodes[1..]).unwrap();
    let epoch = Epoch(3);
    let preferred = None;
    desk.change(shard, EntryOp::BeginFailover { epoch, preferred })
        .unwrap();
    promote(&mut desk, shard, nodes[1], Pair::new(2, 10), &nodes[1..]).unwrap();
    let after = row(&desk, shard);
    assert_eq!((after.epoch, after.forced), (Epoch(3), Some(Epoch(2))));
    let assignment = after.assignment(nodes[0].copy());
    assert_eq!(assignment.forced, Some(Epoch(2)));
    assert!(assignment.open_cut_lists_me);
}
