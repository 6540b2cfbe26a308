//! Writes against scripted servers: what is asked where, under which id, and what the caller is told.
#![cfg(feature = "grpc")]

mod fake;

use fake::{Fake, Reply, applied, route};
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use understudy_client::proto::failure::{Failure, Reason};
use understudy_client::retry::Backoff;
use understudy_client::{Class, Client, Error, Settings, Transport, Trouble};

/// An attempt waits long enough for a loaded machine; no background watch, so that every question is a request's.
fn quick() -> Settings {
    Settings {
        attempt_timeout: Duration::from_secs(5),
        deadline: Duration::from_secs(20),
        watch_routes: false,
        ..Settings::default()
    }
}

/// For servers that stay silent: an attempt costs little.
fn impatient() -> Settings {
    Settings {
        attempt_timeout: Duration::from_millis(50),
        ..quick()
    }
}

async fn connect(seed: &Fake, settings: Settings) -> Client {
    Client::connect_with([format!("http://{}", seed.address)], settings)
        .await
        .expect("an address")
}

fn sequences(fake: &Fake) -> Vec<u64> {
    let sequence = |request: &understudy_client::v1::ExecuteRequest| {
        request.request_id.as_ref().map_or(0, |id| id.sequence)
    };
    fake.seen(|seen| seen.executes.iter().map(sequence).collect())
}

fn not_primary(epoch: u64, node: u64, at: &Fake) -> Reply {
    let failure = Failure::no(Reason::NotPrimary, "elsewhere")
        .with("epoch", epoch.to_string())
        .with("primary", node.to_string())
        .with("address", &at.address);
    Reply::Fail(failure)
}

// capability P38
#[tokio::test]
async fn a_redirect_is_followed_once_and_remembered() {
    let (old, new) = (Fake::start().await, Fake::start().await);
    old.route(route(1, &[1], &[&old, &new], &[]));
    let target = new.clone();
    old.on_execute(move |_| not_primary(2, 2, &target));
    new.on_execute(|_| Reply::Answer(applied(1)));
    let shop = connect(&old, quick()).await.namespace("shop");
    shop.put("a", "1").await.expect("written");
    shop.put("a", "2").await.expect("written");
    assert_eq!(sequences(&old), [1], "asked once");
    assert_eq!(
        sequences(&new),
        [1, 2],
        "the redirected request kept its id"
    );
    assert_eq!(
        old.seen(|seen| seen.routes),
        1,
        "nobody was asked for the route again"
    );
}

// capabilities A08, B18
#[tokio::test]
async fn a_server_that_dies_mid_stream_is_replaced_by_the_next_copy_under_the_same_id() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.route(route(1, &[1], &[&first, &second], &[]));
    first.on_execute(|_| Reply::Break);
    second.on_execute(|_| Reply::Answer(applied(7)));
    let shop = connect(&first, quick()).await.namespace("shop");
    let writes = (0..20).map(|i| shop.put(format!("k{i}"), "v").send());
    for written in join_all(writes).await {
        assert_eq!(written.expect("written").pair.version.0, 7);
    }
    let (mut lost, mut kept) = (sequences(&first), sequences(&second));
    lost.sort_unstable();
    kept.sort_unstable();
    assert!(!lost.is_empty(), "the first server had some of them");
    assert_eq!(
        kept,
        (1..=20).collect::<Vec<_>>(),
        "each id once, at the second"
    );
    assert_eq!(shop.session().answered_upto(), 20);
}

#[tokio::test]
async fn a_server_that_never_answers_ends_as_unknown_with_the_id_to_ask_again() {
    let silent = Fake::start().await;
    silent.route(route(1, &[1], &[&silent], &[]));
    let shop = connect(&silent, impatient()).await.namespace("shop");
    let error = shop
        .put("a", "1")
        .deadline(Duration::from_millis(200))
        .await
        .expect_err("no answer");
    let Error::OutcomeUnknown { request_id, .. } = &error else {
        panic!("{error}");
    };
    let id = request_id.expect("a write has an id");
    assert_eq!(error.class(), Class::Unknown);
    let asked = sequences(&silent);
    assert!(
        asked.len() > 1 && asked.iter().all(|s| *s == id.sequence.0),
        "{asked:?}"
    );
    assert_eq!(shop.session().answered_upto(), 0, "the request stays open");

    silent.on_execute(|_| Reply::Answer(applied(3)));
    let written = shop.put("a", "1").request_id(id).await.expect("settled");
    assert_eq!(written.request_id, id);
    assert_eq!(shop.session().answered_upto(), id.sequence.0);
}

// capability B05
#[tokio::test]
async fn when_nobody_listens_the_request_certainly_did_not_run() {
    let seed = Fake::start().await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = gone.local_addr().expect("bound").to_string();
    drop(gone);
    let mut nowhere = route(1, &[1], &[&seed], &[]);
    nowhere.nodes[0].address = address;
    seed.route(nowhere);
    let shop = connect(&seed, quick()).await.namespace("shop");
    for transport in [Transport::Stream, Transport::Unary] {
        let settings = Settings {
            transport,
            ..quick()
        };
        let shop = connect(&seed, settings).await.namespace("shop");
        let write = shop.put("a", "1").deadline(Duration::from_millis(100));
        let error = write.await.expect_err("nobody there");
        assert!(
            matches!(error, Error::Unavailable(Trouble::NotSent(_))),
            "{error:?}"
        );
        assert_eq!(shop.session().answered_upto(), 1, "nothing to ask again");
    }
    drop(shop);
}

// capability A09
#[tokio::test]
async fn exhausted_copies_lead_to_the_managers_and_their_list_is_used() {
    let (node, new, manager) = (
        Fake::start().await,
        Fake::start().await,
        Fake::start().await,
    );
    node.route(route(1, &[1], &[&node], &[&manager]));
    let mut fresh = route(2, &[2], &[&node, &new], &[&manager]);
    fresh.shards[0].secondaries.clear();
    manager.route(fresh);
    node.on_execute(|_| Reply::Fail(Failure::no(Reason::NoLease, "none at the moment")));
    new.on_execute(|_| Reply::Answer(applied(1)));
    let shop = connect(&node, quick()).await.namespace("shop");
    let writes = (0..50).map(|i| shop.put(format!("k{i}"), "v").send());
    for written in join_all(writes).await {
        written.expect("written");
    }
    assert_eq!(
        manager.seen(|seen| seen.routes),
        1,
        "fifty requests asked once"
    );
    assert_eq!(new.seen(|seen| seen.executes.len()), 50);
    shop.put("later", "v").await.expect("written");
    assert_eq!(
        manager.seen(|seen| seen.routes),
        1,
        "the fresh list is kept"
    );
}

#[tokio::test]
async fn a_change_of_the_route_ends_the_wait_of_a_request() {
    let (old, new) = (Fake::start().await, Fake::start().await);
    old.route(route(1, &[1], &[&old], &[]));
    let (told, after) = (old.clone(), route(2, &[2], &[&old, &new], &[]));
    old.on_execute(move |_| {
        told.push_route(after.clone());
        Reply::Fail(Failure::no(Reason::NoLease, "none at the moment"))
    });
    new.on_execute(|_| Reply::Answer(applied(1)));
    let minute = Duration::from_secs(60);
    let settings = Settings {
        watch_routes: true,
        deadline: Duration::from_secs(600),
        backoff: Backoff {
            first: minute,
            max: minute,
        },
        ..quick()
    };
    let shop = connect(&old, settings).await.namespace("shop");
    let written = tokio::time::timeout(Duration::from_secs(20), shop.put("a", "1").send()).await;
    written
        .expect("long before the wait is over")
        .expect("written");
    assert_eq!(sequences(&new), [1]);
}

// capability B04
#[tokio::test]
async fn invalid_is_told_at_once_and_never_sent_twice() {
    let server = Fake::start().await;
    server.route(route(1, &[1], &[&server], &[]));
    server.on_execute(|_| Reply::Fail(Failure::no(Reason::RequestIdReused, "other content")));
    let shop = connect(&server, quick()).await.namespace("shop");
    let error = shop.put("a", "1").await.expect_err("refused");
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(server.seen(|seen| seen.executes.len()), 1);

    let long = vec![b'k'; 5000];
    let error = shop.put(long, "1").await.expect_err("too long");
    assert_eq!(
        error.failure().map(|failure| failure.reason),
        Some(Reason::TooLarge)
    );
    let error = shop.transaction().await.expect_err("empty");
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(
        server.seen(|seen| seen.executes.len()),
        1,
        "found here, never sent"
    );
}

#[tokio::test]
async fn what_waits_goes_out_as_one_message() {
    let server = Fake::start().await;
    server.route(route(1, &[1], &[&server], &[]));
    server.on_execute(|_| Reply::Answer(applied(1)));
    let shop = connect(&server, quick()).await.namespace("shop");
    let writes = (0..500).map(|i| shop.put(format!("k{i}"), "v").send());
    for written in join_all(writes).await {
        written.expect("written");
    }
    let batches = server.seen(|seen| seen.batches.clone());
    assert_eq!(batches.iter().sum::<usize>(), 500);
    // How the runtime takes turns decides the number; one by one it would be 500.
    assert!(batches.len() <= 50, "gathered: {batches:?}");
}

#[tokio::test]
async fn a_message_stays_inside_its_bounds() {
    let settings = Settings {
        batch_max: 10,
        batch_bytes_max: 4_000,
        ..quick()
    };
    for (bytes, most) in [(1, 10), (1_500, 2), (100_000, 1)] {
        let server = Fake::start().await;
        server.route(route(1, &[1], &[&server], &[]));
        server.on_execute(|_| Reply::Answer(applied(1)));
        let shop = connect(&server, settings.clone()).await.namespace("shop");
        let writes = (0..40).map(|i| shop.put(format!("k{i}"), vec![0; bytes]).send());
        for written in join_all(writes).await {
            written.expect("written");
        }
        let batches = server.seen(|seen| seen.batches.clone());
        assert_eq!(batches.iter().sum::<usize>(), 40);
        assert_eq!(
            batches.iter().max(),
            Some(&most),
            "{bytes} bytes each: {batches:?}"
        );
    }
}

#[tokio::test]
async fn no_more_than_the_bound_is_in_flight() {
    let server = Fake::start().await;
    server.route(route(1, &[1], &[&server], &[]));
    server.on_execute(|_| Reply::HoldUntil(4, applied(1)));
    let settings = Settings {
        in_flight_max: 4,
        ..quick()
    };
    let shop = connect(&server, settings).await.namespace("shop");
    let writes = (0..40).map(|i| shop.put(format!("k{i}"), "v").send());
    for written in join_all(writes).await {
        written.expect("written");
    }
    assert_eq!(server.seen(|seen| seen.most_open), 4);
    assert_eq!(
        server.seen(|seen| seen.executes.len()),
        40,
        "none was sent twice"
    );
}

#[tokio::test]
async fn a_client_id_from_the_future_is_made_again_from_the_tables_time() {
    let server = Fake::start().await;
    server.route(route(1, &[1], &[&server], &[]));
    let table_time_ms = 1_600_000_000_000_u64;
    server.on_execute(move |request| {
        let id = request.request_id.clone().unwrap_or_default();
        let client = understudy_client::ClientId::from_slice(&id.client_id).expect("16 bytes");
        if client.unix_ms() == table_time_ms {
            return Reply::Answer(applied(1));
        }
        let failure = Failure::no(Reason::ClientIdRefused, "dated in the future");
        Reply::Fail(failure.with("table_time_ms", table_time_ms.to_string()))
    });
    let shop = connect(&server, quick()).await.namespace("shop");
    let writes = (0..10).map(|i| shop.put(format!("k{i}"), "v").send());
    let mut ids = Vec::new();
    for written in join_all(writes).await {
        ids.push(written.expect("written").request_id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    assert!(
        ids.iter().all(|id| id.client == shop.session().client_id()),
        "one new id for all"
    );
    assert_eq!(shop.session().answered_upto(), 10);

    let chosen = understudy_client::ClientId::from_parts(1_700_000_000_000, 1);
    let session = connect(&server, quick()).await.resume_session(chosen, 5);
    let error = session
        .namespace("shop")
        .put("a", "1")
        .await
        .expect_err("refused");
    assert!(
        matches!(error, Error::Refused(_)),
        "a resumed id is the caller's: {error:?}"
    );
}

#[tokio::test]
async fn a_dropped_call_leaves_no_open_request_behind() {
    let server = Fake::start().await;
    server.route(route(1, &[1], &[&server], &[]));
    let answer = Arc::new(AtomicBool::new(false));
    let gate = answer.clone();
    server.on_execute(move |_| match gate.load(Ordering::SeqCst) {
        true => Reply::Answer(applied(1)),
        false => Reply::Silence,
    });
    let shop = connect(&server, quick()).await.namespace("shop");
    let abandoned =
        tokio::time::timeout(Duration::from_millis(20), shop.put("a", "1").send()).await;
    assert!(abandoned.is_err());
    answer.store(true, Ordering::SeqCst);
    shop.put("a", "2").await.expect("written");
    assert_eq!(shop.session().answered_upto(), 2);
}

#[tokio::test]
async fn unary_calls_fail_over_the_same_way() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.route(route(1, &[1], &[&first, &second], &[]));
    second.on_execute(|_| Reply::Answer(applied(7)));
    let settings = Settings {
        transport: Transport::Unary,
        ..impatient()
    };
    let shop = connect(&first, settings).await.namespace("shop");
    shop.put("a", "1").await.expect("written");
    let asked = [sequences(&first), sequences(&second)].concat();
    assert!(
        asked.len() >= 2 && asked.iter().all(|s| *s == 1),
        "{asked:?}"
    );
}
