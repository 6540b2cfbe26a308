//! The cached route: what it takes over, what it keeps, and in which order it is asked.

use bytes::Bytes;
use understudy_client::proto::failure::Reason;
use understudy_client::proto::{Epoch, NodeId};
use understudy_client::retry::Wanted;
use understudy_client::route::{Redirect, Route};
use understudy_client::v1;

fn shard(index: u32, epoch: u64, primary: u64, secondaries: &[u64]) -> v1::ShardRoute {
    v1::ShardRoute {
        index,
        shard: 100 + u64::from(index),
        epoch,
        primary,
        secondaries: secondaries.to_vec(),
    }
}

fn wire(revision: u64, shards: Vec<v1::ShardRoute>) -> v1::RouteResponse {
    let node = |node: u64| v1::NodeAddress {
        node,
        name: format!("n{node}"),
        site: if node <= 2 { "eu" } else { "us" }.to_string(),
        address: format!("10.0.0.{node}:7420"),
    };
    v1::RouteResponse {
        namespace_id: 9,
        namespace: "shop".to_string(),
        revision,
        shard_count: 2,
        shards,
        nodes: (1..=4).map(node).collect(),
        managers: vec!["10.0.1.1:7420".to_string()],
    }
}

fn route(site: &str) -> Route {
    let shards = vec![shard(1, 3, 2, &[1, 3]), shard(0, 5, 1, &[2, 3])];
    Route::from_wire(&wire(10, shards), site).expect("whole")
}

fn order(route: &Route, index: usize, wanted: Wanted) -> Vec<u64> {
    route.shards[index]
        .order(wanted)
        .map(|node| node.0)
        .collect()
}

#[test]
fn a_route_without_all_shards_is_none() {
    assert!(Route::from_wire(&wire(10, vec![shard(0, 5, 1, &[])]), "").is_err());
    let twice = vec![shard(0, 5, 1, &[]), shard(0, 5, 1, &[])];
    assert!(Route::from_wire(&wire(10, twice), "").is_err());
    let mut none = wire(10, vec![]);
    none.shard_count = 0;
    assert!(Route::from_wire(&none, "").is_err());
}

#[test]
fn epochs_only_move_forward_whatever_the_revision_says() {
    let mut route = route("");
    assert!(!route.apply(&wire(99, vec![shard(0, 4, 3, &[1])])));
    assert_eq!(route.shards[0].primary, Some(NodeId(1)));
    assert!(
        route.apply(&wire(8, vec![shard(0, 6, 3, &[1])])),
        "late, but a higher epoch"
    );
    assert_eq!(order(&route, 0, Wanted::Primary), [3, 1]);
    assert!(
        !route.apply(&wire(8, vec![shard(0, 6, 3, &[1, 2])])),
        "late, and the same epoch"
    );
    assert!(route.apply(&wire(100, vec![shard(0, 6, 3, &[1, 2])])));
    assert_eq!(order(&route, 0, Wanted::Primary), [3, 1, 2]);
    assert_eq!(
        order(&route, 1, Wanted::Primary),
        [2, 1, 3],
        "the others stay"
    );
}

#[test]
fn a_redirect_moves_the_primary_and_keeps_the_order() {
    let mut route = route("");
    let redirect = |epoch, primary, address: Option<&str>| Redirect {
        epoch: Epoch(epoch),
        primary: Some(NodeId(primary)),
        address: address.map(str::to_string),
    };
    assert!(!route.redirect(0, &redirect(5, 2, None)), "not newer");
    assert!(
        !route.redirect(0, &redirect(6, 77, None)),
        "nobody knows where"
    );
    assert!(!route.redirect(7, &redirect(6, 2, None)), "no such shard");
    assert!(route.redirect(0, &redirect(6, 2, None)));
    assert_eq!(order(&route, 0, Wanted::Primary), [2, 3, 1]);
    assert!(route.redirect(0, &redirect(7, 77, Some("10.0.0.77:7420"))));
    assert_eq!(order(&route, 0, Wanted::Primary), [77, 1, 2, 3]);
    assert_eq!(route.address(NodeId(77)), Some("10.0.0.77:7420"));
}

#[test]
fn a_shard_without_a_primary_is_asked_from_the_first_copy_on() {
    let mut route = route("");
    assert!(route.apply(&wire(11, vec![shard(0, 6, 0, &[3, 2])])));
    assert_eq!(order(&route, 0, Wanted::Primary), [3, 2]);
    let found = Redirect {
        epoch: Epoch(6),
        primary: Some(NodeId(2)),
        address: None,
    };
    assert!(
        route.redirect(0, &found),
        "the epoch's first primary is news"
    );
    assert_eq!(order(&route, 0, Wanted::Primary), [2, 3]);
}

#[test]
fn reads_of_any_copy_take_turns_among_the_near_ones() {
    let route = route("eu");
    assert_eq!(order(&route, 0, Wanted::Any(0)), [1, 2, 3]);
    assert_eq!(order(&route, 0, Wanted::Any(1)), [2, 1, 3]);
    assert_eq!(order(&route, 0, Wanted::Any(2)), [1, 2, 3]);
    let elsewhere = self::route("asia");
    assert_eq!(order(&elsewhere, 0, Wanted::Any(2)), [3, 1, 2]);
}

#[test]
fn a_namespace_that_was_made_again_replaces_the_old_one_and_never_the_other_way_round() {
    let mut route = route("");
    let mut again = wire(50, vec![shard(0, 1, 4, &[])]);
    again.namespace_id = 12;
    again.shard_count = 1;
    assert!(route.apply(&again));
    assert_eq!(route.shard_count(), 1);
    assert!(!route.apply(&wire(99, vec![shard(0, 9, 1, &[]), shard(1, 9, 1, &[])])));
    assert_eq!(route.namespace.0, 12);
}

// capability P34
#[test]
fn keys_of_more_than_one_shard_are_refused_here() {
    let route = route("");
    let keys = ["{a}1", "{a}2"].map(Bytes::from);
    assert!(route.shard_of(keys.iter()).is_ok());
    let keys: Vec<Bytes> = (0..64).map(|i| Bytes::from(format!("key{i}"))).collect();
    let refused = route.shard_of(keys.iter()).expect_err("two shards");
    assert_eq!(refused.reason, Reason::CrossShard);
    assert!(route.shard_of([].iter()).is_err());
}
