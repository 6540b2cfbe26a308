//! What the client does after each failure, told as stories: no network, no clock.

use std::time::Duration;
use understudy_client::proto::failure::{Applied, Failure, Reason};
use understudy_client::proto::{Epoch, NodeId};
use understudy_client::retry::{Backoff, Ledger, Step, Walk, Wanted};
use understudy_client::route::{Redirect, Route, ShardRoute};
use understudy_client::{Class, ClientId, Error, RequestId, Sequence, Trouble, v1};

const LEFT: Duration = Duration::from_secs(5);
const JITTER: u32 = 0;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(10),
    max: Duration::from_millis(500),
};

fn id() -> RequestId {
    RequestId {
        client: ClientId::from_parts(1_000, 7),
        sequence: Sequence(3),
    }
}

/// One shard at epoch 5: primary 1, secondaries 2 and 3.
fn route() -> Route {
    let node = |node: u64| v1::NodeAddress {
        node,
        address: format!("10.0.0.{node}:7420"),
        ..Default::default()
    };
    let shard = v1::ShardRoute {
        index: 0,
        shard: 77,
        epoch: 5,
        primary: 1,
        secondaries: vec![2, 3],
    };
    let wire = v1::RouteResponse {
        namespace_id: 1,
        revision: 10,
        shard_count: 1,
        shards: vec![shard],
        nodes: [1, 2, 3, 4].map(node).to_vec(),
        ..Default::default()
    };
    Route::from_wire(&wire, "").expect("whole")
}

fn shard() -> ShardRoute {
    route().shards[0].clone()
}

fn write() -> Walk {
    Walk::new(
        Ledger::new(Some(id()), true),
        Wanted::Primary,
        BACKOFF,
        true,
    )
}

fn read() -> Walk {
    Walk::new(Ledger::new(None, false), Wanted::Primary, BACKOFF, false)
}

fn ask(node: u64) -> Step {
    Step::Ask {
        node: NodeId(node),
        forward: false,
    }
}

fn lost() -> Trouble {
    Trouble::Lost("the connection broke".to_string())
}

fn no(reason: Reason) -> Trouble {
    Trouble::Failure(Failure::no(reason, "no"))
}

fn not_primary(epoch: u64, primary: u64) -> Trouble {
    let failure = Failure::no(Reason::NotPrimary, "elsewhere")
        .with("epoch", epoch.to_string())
        .with("primary", primary.to_string())
        .with("address", format!("10.0.0.{primary}:7420"));
    Trouble::Failure(failure)
}

/// Gives a trouble to the walk as a driver does: the route learns first.
fn meet(walk: &mut Walk, route: &mut Route, from: u64, trouble: Trouble) -> Step {
    if let Some(redirect) = trouble.failure().and_then(Redirect::of) {
        route.redirect(0, &redirect);
    }
    walk.on_trouble(NodeId(from), trouble, &route.shards[0], LEFT, JITTER)
}

// capabilities A08, A09
#[test]
fn a_walk_asks_the_cached_copies_in_their_order_and_then_the_managers() {
    let (mut walk, mut route) = (write(), route());
    assert_eq!(walk.start(&route.shards[0]), ask(1));
    assert_eq!(meet(&mut walk, &mut route, 1, lost()), ask(2));
    assert_eq!(
        meet(&mut walk, &mut route, 2, no(Reason::NoPrimary)),
        ask(3)
    );
    let end = meet(&mut walk, &mut route, 3, no(Reason::Stopping));
    assert_eq!(end, Step::AskManagers);
}

#[test]
fn the_order_goes_on_after_the_primary_wherever_it_stands() {
    let mut route = route();
    let redirect = Redirect {
        epoch: Epoch(6),
        primary: Some(NodeId(2)),
        address: None,
    };
    assert!(route.redirect(0, &redirect));
    let mut walk = write();
    assert_eq!(walk.start(&route.shards[0]), ask(2));
    assert_eq!(meet(&mut walk, &mut route, 2, lost()), ask(3));
    assert_eq!(meet(&mut walk, &mut route, 3, lost()), ask(1));
}

#[test]
fn a_redirect_is_followed_also_to_a_node_that_no_list_names() {
    let (mut walk, mut route) = (write(), route());
    walk.start(&route.shards[0]);
    assert_eq!(meet(&mut walk, &mut route, 1, not_primary(6, 4)), ask(4));
    assert_eq!(route.shards[0].primary, Some(NodeId(4)));
}

#[test]
fn a_redirect_to_a_node_that_just_failed_is_not_followed() {
    let (mut walk, mut route) = (write(), route());
    walk.start(&route.shards[0]);
    assert_eq!(meet(&mut walk, &mut route, 1, lost()), ask(2));
    // Node 2 still believes in node 1.
    assert_eq!(meet(&mut walk, &mut route, 2, not_primary(5, 1)), ask(3));
    // Node 3 knows that node 1 was made primary again: worth asking.
    assert_eq!(meet(&mut walk, &mut route, 3, not_primary(6, 1)), ask(1));
}

#[test]
fn a_redirect_into_the_past_is_not_followed() {
    let (mut walk, mut route) = (write(), route());
    walk.start(&route.shards[0]);
    assert_eq!(meet(&mut walk, &mut route, 1, not_primary(4, 3)), ask(2));
    assert_eq!(route.shards[0].epoch, Epoch(5));
}

#[test]
fn servers_that_name_each_other_do_not_catch_a_client() {
    let (mut walk, mut route) = (write(), route());
    walk.start(&route.shards[0]);
    let mut from = 1;
    for epoch in 6..100 {
        let to = 3 - from;
        match meet(&mut walk, &mut route, from, not_primary(epoch, to)) {
            Step::Ask { node, .. } => from = node.0,
            step => {
                assert_eq!(step, Step::AskManagers);
                return;
            }
        }
        if from == 3 {
            assert_eq!(
                meet(&mut walk, &mut route, 3, not_primary(epoch, 3)),
                Step::AskManagers
            );
            return;
        }
    }
    panic!("the walk never ended");
}

#[test]
fn a_newer_epoch_from_the_managers_begins_a_walk_at_once() {
    let (mut walk, mut route) = (write(), route());
    walk.start(&route.shards[0]);
    for from in 1..=3 {
        meet(&mut walk, &mut route, from, lost());
    }
    route.shards[0].epoch = Epoch(6);
    route.shards[0].primary = Some(NodeId(3));
    let step = walk.on_managers(Ok(()), &route.shards[0], LEFT, JITTER);
    assert_eq!(step, ask(3));
}

#[test]
fn without_news_it_waits_longer_each_time_and_lets_others_pass_it_on() {
    let (mut walk, mut route) = (write(), route());
    let mut waits = Vec::new();
    for _ in 0..8 {
        walk.start(&route.shards[0]);
        for from in 1..=3 {
            meet(&mut walk, &mut route, from, no(Reason::NoLease));
        }
        match walk.on_managers(Ok(()), &route.shards[0], LEFT, u32::MAX) {
            Step::Wait(pause) => waits.push(pause.as_millis()),
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 500, 500]);
    assert_eq!(walk.start(&route.shards[0]), ask(1));
    let forwarded = Step::Ask {
        node: NodeId(2),
        forward: true,
    };
    assert_eq!(meet(&mut walk, &mut route, 1, lost()), forwarded);
}

#[test]
fn jitter_moves_a_wait_inside_its_upper_half() {
    assert_eq!(BACKOFF.after(2, 0), Duration::from_millis(20));
    assert_eq!(BACKOFF.after(2, u32::MAX), Duration::from_millis(40));
    assert_eq!(BACKOFF.after(u32::MAX, u32::MAX), BACKOFF.max);
}

#[test]
fn an_overloaded_primary_is_given_time_and_nobody_else_is_bothered() {
    let (mut walk, mut route) = (write(), route());
    walk.start(&route.shards[0]);
    let step = meet(&mut walk, &mut route, 1, no(Reason::Overloaded));
    assert_eq!(step, Step::Wait(Duration::from_millis(5)));
    assert_eq!(walk.start(&route.shards[0]), ask(1));
}

#[test]
fn wrong_input_stops_at_once_even_after_a_lost_attempt() {
    for reason in [
        Reason::FieldInvalid,
        Reason::TooLarge,
        Reason::CrossShard,
        Reason::RequestIdReused,
    ] {
        let (mut walk, mut route) = (write(), route());
        walk.start(&route.shards[0]);
        meet(&mut walk, &mut route, 1, lost());
        match meet(&mut walk, &mut route, 2, no(reason)) {
            Step::Stop(error) => assert_eq!(error.class(), Class::Invalid),
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn once_an_attempt_may_have_run_the_end_is_unknown_and_bears_the_id() {
    let (mut walk, shard) = (write(), shard());
    walk.start(&shard);
    walk.on_trouble(NodeId(1), lost(), &shard, LEFT, JITTER);
    let full = no(Reason::StorageFull);
    let step = walk.on_trouble(NodeId(2), full.clone(), &shard, Duration::ZERO, JITTER);
    let Step::Stop(error) = step else {
        panic!("{step:?}");
    };
    let unknown = Error::OutcomeUnknown {
        request_id: Some(id()),
        last: full,
    };
    assert_eq!(error, unknown);
    assert_eq!(error.applied(), Applied::Unknown);
    assert_eq!(error.request_id(), Some(id()));
}

#[test]
fn a_failure_that_says_unknown_counts_like_a_lost_answer() {
    let (mut walk, shard) = (write(), shard());
    walk.start(&shard);
    let begun = Trouble::Failure(Failure::unknown(
        Reason::InSyncTooFew,
        "written, not committed",
    ));
    walk.on_trouble(NodeId(1), begun, &shard, LEFT, JITTER);
    assert!(walk.may_have_run());
    assert_eq!(walk.give_up().class(), Class::Unknown);
}

// capabilities B04, B05, B06
#[test]
fn the_three_classes_stay_apart_when_the_time_is_over() {
    let end = |mut walk: Walk, trouble: Trouble| {
        let shard = shard();
        walk.start(&shard);
        match walk.on_trouble(NodeId(1), trouble, &shard, Duration::ZERO, JITTER) {
            Step::Stop(error) => error.class(),
            step => panic!("{step:?}"),
        }
    };
    let refused = || Trouble::NotSent("connection refused".to_string());
    assert_eq!(end(write(), no(Reason::FieldInvalid)), Class::Invalid);
    assert_eq!(end(write(), refused()), Class::Unavailable);
    assert_eq!(end(write(), no(Reason::NoLease)), Class::Unavailable);
    assert_eq!(end(write(), no(Reason::StorageFailed)), Class::Storage);
    assert_eq!(end(write(), lost()), Class::Unknown);
    assert_eq!(
        end(read(), lost()),
        Class::Unavailable,
        "a read changes nothing"
    );
    assert_eq!(end(read(), no(Reason::Forked)), Class::Forked);
}

#[test]
fn an_expired_request_is_unknown_and_not_asked_for_again() {
    let (mut walk, shard) = (write(), shard());
    walk.start(&shard);
    let expired = Trouble::Failure(Failure::unknown(Reason::RequestExpired, "below the floor"));
    let step = walk.on_trouble(NodeId(1), expired, &shard, LEFT, JITTER);
    let Step::Stop(Error::Expired { request_id, .. }) = step else {
        panic!("{step:?}");
    };
    assert_eq!(request_id, Some(id()));
}

#[test]
fn a_refused_client_id_is_replaced_once_and_only_when_nothing_can_have_run() {
    let refused = || {
        let failure = Failure::no(Reason::ClientIdRefused, "from the future");
        Trouble::Failure(failure.with("table_time_ms", "4711"))
    };
    let shard = shard();
    let mut walk = write();
    walk.start(&shard);
    let step = walk.on_trouble(NodeId(1), refused(), &shard, LEFT, JITTER);
    let table_time_ms = Some(4711);
    assert_eq!(step, Step::NewClientId { table_time_ms });
    assert_eq!(walk.start(&shard), ask(1));
    let again = walk.on_trouble(NodeId(1), refused(), &shard, LEFT, JITTER);
    assert!(matches!(again, Step::Stop(Error::Refused(_))), "{again:?}");

    let mut walk = write();
    walk.start(&shard);
    walk.on_trouble(NodeId(1), lost(), &shard, LEFT, JITTER);
    let step = walk.on_trouble(NodeId(2), refused(), &shard, LEFT, JITTER);
    assert!(
        matches!(step, Step::Stop(Error::Expired { .. })),
        "{step:?}"
    );
}

#[test]
fn a_copy_that_does_not_know_the_namespace_is_no_proof_but_the_managers_are() {
    let (mut walk, shard) = (write(), shard());
    walk.start(&shard);
    let unknown = no(Reason::NamespaceUnknown);
    let step = walk.on_trouble(NodeId(1), unknown.clone(), &shard, LEFT, JITTER);
    assert_eq!(step, Step::AskManagers);
    let step = walk.on_managers(Ok(()), &shard, LEFT, JITTER);
    assert!(matches!(step, Step::Wait(_)), "{step:?}");
    let step = walk.on_managers(Err(unknown), &shard, LEFT, JITTER);
    assert!(matches!(step, Step::Stop(Error::NotFound(_))), "{step:?}");
}

#[test]
fn managers_that_are_away_say_nothing_about_the_request() {
    let (mut walk, shard) = (write(), shard());
    walk.start(&shard);
    for from in 1..=3 {
        walk.on_trouble(NodeId(from), no(Reason::NoPrimary), &shard, LEFT, JITTER);
    }
    let step = walk.on_managers(Err(lost()), &shard, LEFT, JITTER);
    assert!(matches!(step, Step::Wait(_)), "{step:?}");
    assert_eq!(walk.give_up().class(), Class::Unavailable);
}

#[test]
fn no_attempt_begins_at_the_last_moment() {
    let (mut walk, shard) = (write(), shard());
    let mut left = Duration::from_millis(100);
    let mut begun = Vec::new();
    loop {
        walk.start(&shard);
        begun.push(left.as_millis());
        match walk.on_trouble(NodeId(1), no(Reason::Overloaded), &shard, left, u32::MAX) {
            Step::Wait(pause) => left -= pause,
            Step::Stop(error) => {
                assert_eq!(error.class(), Class::Unavailable);
                break;
            }
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(begun, [100, 90, 70, 35, 17]);
}
