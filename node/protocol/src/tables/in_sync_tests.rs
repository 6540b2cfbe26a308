//! Tests of the in-sync set in the tables: who is in it, who may be promoted, who is remembered.

use super::tests::Desk;
use super::*;
use std::collections::BTreeSet;
use understudy_proto::ids::*;

/// An `in_sync` shard in epoch 1 on three nodes, the first of them primary.
fn placed(min_in_sync: u32) -> (Desk, ShardId, Vec<ProcessId>) {
    let mut desk = Desk::default();
    let nodes = (1..=3).map(|n| desk.register(&format!("n{n}"), n, "a").unwrap());
    let nodes: Vec<ProcessId> = nodes.collect();
    let settings = NamespaceSettings {
        policy: Policy::InSync,
        min_in_sync,
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

/// The nodes of the set, and those that are eligible.
fn sets(desk: &Desk, shard: ShardId) -> (Vec<u64>, Vec<u64>) {
    let nodes = |set: &BTreeSet<CopyId>| set.iter().map(|c| c.node.0).collect();
    let row = row(desk, shard);
    (nodes(&row.in_sync), nodes(&row.eligible))
}

fn candidates(desk: &Desk, shard: ShardId) -> Vec<u64> {
    let mut nodes: Vec<u64> = row(desk, shard).candidates().map(|c| c.node.0).collect();
    nodes.sort_unstable();
    nodes
}

fn drop_one(desk: &mut Desk, shard: ShardId, process: ProcessId) -> Result<(), Refusal> {
    let epoch = row(desk, shard).epoch;
    let copy = process.copy();
    desk.change(shard, EntryOp::DropInSync { epoch, copy })
}

fn add(desk: &mut Desk, shard: ShardId, process: ProcessId) -> Result<(), Refusal> {
    let epoch = row(desk, shard).epoch;
    let copy = process.copy();
    desk.change(shard, EntryOp::AddInSync { epoch, copy })
}

fn promote(
    desk: &mut Desk,
    shard: ShardId,
    epoch: u64,
    promoted: ProcessId,
    sealed: &[ProcessId],
) -> Result<(), Refusal> {
    let epoch = Epoch(epoch);
    let preferred = None;
    desk.change(shard, EntryOp::BeginFailover { epoch, preferred })?;
    let promote = EntryOp::Promote {
        epoch,
        promoted,
        last: Pair::new(1, 1),
        sealed: sealed.iter().map(|p| p.copy()).collect(),
    };
    desk.change(shard, promote)
}

#[test]
fn a_first_placement_is_in_sync_and_its_primary_stays_a_member() {
    let (mut desk, shard, nodes) = placed(2);
    assert_eq!(sets(&desk, shard), (vec![1, 2, 3], vec![]));
    assert!(drop_one(&mut desk, shard, nodes[0]).is_err());
    assert!(add(&mut desk, shard, nodes[1]).is_err(), "it is a member");
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    assert!(drop_one(&mut desk, shard, nodes[1]).is_err());
    assert_eq!(sets(&desk, shard), (vec![1, 3], vec![]));
    add(&mut desk, shard, nodes[1]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1, 2, 3], vec![]));
}

#[test]
fn only_copies_that_left_when_nothing_committed_any_more_are_eligible() {
    let (mut desk, shard, nodes) = placed(2);
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    assert_eq!(candidates(&desk, shard), [1, 3]);
    drop_one(&mut desk, shard, nodes[2]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1], vec![3]));
    assert_eq!(candidates(&desk, shard), [1, 3]);
    // 2 comes in: from now on there may be commits that 3 lacks.
    add(&mut desk, shard, nodes[1]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1, 2], vec![]));
    assert_eq!(candidates(&desk, shard), [1, 2]);
    assert!(promote(&mut desk, shard, 2, nodes[2], &[nodes[2]]).is_err());
}

#[test]
fn a_new_configuration_is_the_sealed_members_of_the_old_one() {
    let (mut desk, shard, nodes) = placed(2);
    drop_one(&mut desk, shard, nodes[2]).unwrap();
    // The third was sealed too and is no member.
    promote(&mut desk, shard, 2, nodes[1], &[nodes[1], nodes[2]]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![2], vec![1]));
    assert!(
        row(&desk, shard).open_cuts.is_empty(),
        "nothing acknowledged was cut off"
    );
    // The old primary comes back: it has everything, and 2 is lost.
    promote(&mut desk, shard, 3, nodes[0], &[nodes[0]]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1], vec![2]));
}

#[test]
fn a_copy_that_loses_its_store_or_joins_anew_is_not_eligible() {
    let (mut desk, shard, nodes) = placed(3);
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    drop_one(&mut desk, shard, nodes[2]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1], vec![2, 3]));
    let before = row(&desk, shard).revision;
    let (node, incarnation) = (nodes[1].node, nodes[1].incarnation);
    let launch = LaunchId("a".to_string());
    desk.run(Command::ReportExit {
        node,
        incarnation,
        launch,
    })
    .unwrap();
    desk.register("n2", 22, "b").unwrap();
    assert_eq!(sets(&desk, shard), (vec![1], vec![3]));
    assert!(row(&desk, shard).revision > before, "watchers see it");
    let copy = nodes[2].copy();
    desk.change(shard, EntryOp::MarkJoining { copy }).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1], vec![]));
    assert_eq!(candidates(&desk, shard), [1]);
}

#[test]
fn a_member_whose_store_is_gone_leaves_without_being_remembered() {
    let (mut desk, shard, nodes) = placed(3);
    let (node, incarnation) = (nodes[1].node, nodes[1].incarnation);
    let launch = LaunchId("a".to_string());
    desk.run(Command::ReportExit {
        node,
        incarnation,
        launch,
    })
    .unwrap();
    desk.register("n2", 22, "b").unwrap();
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    assert_eq!(sets(&desk, shard), (vec![1, 3], vec![]));
}

#[test]
fn the_minimum_changes_with_the_rows_and_the_mode_never() {
    let (mut desk, shard, nodes) = placed(2);
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    drop_one(&mut desk, shard, nodes[2]).unwrap();
    let before = row(&desk, shard).revision;
    let alter = |policy, min_in_sync| Command::AlterNamespace {
        name: "main".to_string(),
        revision: None,
        settings: NamespaceSettings {
            policy,
            min_in_sync,
            ..NamespaceSettings::default()
        },
    };
    assert!(desk.run(alter(Policy::Lazy, 2)).is_err());
    assert!(desk.run(alter(Policy::InSync, 4)).is_err(), "3 copies");
    desk.run(alter(Policy::InSync, 1)).unwrap();
    assert_eq!(row(&desk, shard).min_in_sync, Some(1));
    assert!(row(&desk, shard).revision > before);
    // The primary alone commits from now on, so nobody else may be promoted.
    assert_eq!(sets(&desk, shard), (vec![1], vec![]));
}

#[test]
fn a_copy_enters_only_at_the_revision_that_the_primary_knew() {
    let (mut desk, shard, nodes) = placed(2);
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    let known = row(&desk, shard).revision;
    drop_one(&mut desk, shard, nodes[2]).unwrap();
    let (epoch, copy) = (Epoch(1), nodes[1].copy());
    let late = EntryOp::AddInSync { epoch, copy };
    assert!(matches!(
        desk.change_at(shard, known, late),
        Err(Refusal::Changed { .. })
    ));
    assert_eq!(sets(&desk, shard), (vec![1], vec![3]));
}

#[test]
fn rows_and_snapshots_bear_the_set() {
    let (mut desk, shard, nodes) = placed(2);
    drop_one(&mut desk, shard, nodes[1]).unwrap();
    drop_one(&mut desk, shard, nodes[2]).unwrap();
    let again = Tables::decode(&desk.tables.encode()).unwrap();
    assert_eq!(again, desk.tables);
    let set = row(&desk, shard)
        .assignment(nodes[0].copy())
        .in_sync
        .unwrap();
    assert_eq!((set.members.len(), set.min), (1, 2));
    assert!(!set.commits());
}
