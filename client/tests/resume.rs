//! Watches, logs, scans and naming calls across breaks: nothing twice, no silent hole.
#![cfg(feature = "grpc")]

mod fake;

use fake::{Fake, Reply, route};
use futures::StreamExt;
use std::time::Duration;
use tonic::Status;
use understudy_client::proto::failure::{Failure, Reason};
use understudy_client::v1::{self, stream_answer, stream_item};
use understudy_client::{
    BindWhen, Client, Error, Event, Follow, LogEvent, Namespace, Pair, ReadLevel, Settings,
};

async fn client(seeds: &[&Fake]) -> Client {
    let settings = Settings {
        attempt_timeout: Duration::from_millis(500),
        watch_routes: false,
        ..Settings::default()
    };
    let seeds = seeds.iter().map(|seed| seed.address.clone());
    Client::connect_with(seeds, settings)
        .await
        .expect("addresses")
}

async fn shop(server: &Fake, shards: usize) -> Namespace {
    server.route(route(1, &vec![1; shards], &[server], &[]));
    client(&[server]).await.namespace("shop")
}

fn wire(version: u64) -> Option<v1::Pair> {
    Some(v1::Pair { epoch: 1, version })
}

fn change(shard: u32, version: u64) -> v1::WatchResponse {
    let change = v1::watch_response::Change {
        shard,
        pair: wire(version),
        ..Default::default()
    };
    v1::WatchResponse {
        kind: Some(v1::watch_response::Kind::Change(change)),
    }
}

fn told(event: Event) -> String {
    match event {
        Event::Change(change) => format!("{}:{}", change.shard, change.pair),
        Event::Gap { shard, first } => format!("gap {shard} {first:?}"),
        Event::Progress(positions) => format!("{positions:?}"),
    }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke_and_names_what_it_cannot_know() {
    let server = Fake::start().await;
    let shop = shop(&server, 2).await;
    let mut opened = 0;
    server.on_watch(move |_| {
        opened += 1;
        match opened {
            1 => Ok(vec![change(0, 1), change(0, 2)]),
            2 => Ok(vec![change(0, 2), change(0, 3), change(1, 8)]),
            _ => Ok(vec![change(1, 9)]),
        }
    });
    let mut watch = shop.watch("");
    let mut events = Vec::new();
    for _ in 0..6 {
        events.push(told(watch.next().await.expect("an event")));
    }
    let expected = ["0:1.1", "0:1.2", "gap 1 None", "0:1.3", "1:1.8", "1:1.9"];
    assert_eq!(events, expected);
    let after = server.seen(|seen| seen.watches[1].after.clone());
    assert_eq!(
        after.get(&0),
        Some(&v1::Pair {
            epoch: 1,
            version: 2
        })
    );
    assert!(!after.contains_key(&1));
    assert_eq!(watch.positions().get(&1), Some(&Pair::new(1, 9)));
}

#[tokio::test]
async fn a_gap_of_the_servers_is_passed_on_and_again_after_a_break() {
    let server = Fake::start().await;
    let shop = shop(&server, 1).await;
    let mut opened = 0;
    server.on_watch(move |_| {
        opened += 1;
        let gap = v1::watch_response::Gap {
            shard: 0,
            first: wire(50),
        };
        let gap = v1::WatchResponse {
            kind: Some(v1::watch_response::Kind::Gap(gap)),
        };
        Ok(if opened == 1 {
            vec![gap]
        } else {
            vec![change(0, 60)]
        })
    });
    let mut watch = shop.watch("").after(0, Pair::new(1, 3));
    assert_eq!(
        told(watch.next().await.expect("an event")),
        "gap 0 Some(1.50)"
    );
    assert_eq!(told(watch.next().await.expect("an event")), "gap 0 None");
    assert_eq!(told(watch.next().await.expect("an event")), "0:1.60");
}

#[tokio::test]
async fn a_watch_on_a_branch_that_was_cut_off_says_so() {
    let server = Fake::start().await;
    let shop = shop(&server, 1).await;
    server.on_watch(|_| {
        Err(Failure::no(Reason::Forked, "cut off")
            .with("cut", "1.2")
            .into())
    });
    let mut watch = shop.watch("").after(0, Pair::new(1, 3));
    let error = watch.next().await.expect_err("forked");
    assert!(matches!(error, Error::Forked(_)), "{error:?}");
}

fn records(versions: &[u64]) -> v1::FollowResponse {
    let record = |version: &u64| v1::LogRecord {
        pair: wire(*version),
        ..Default::default()
    };
    v1::FollowResponse {
        records: versions.iter().map(record).collect(),
        end: wire(9),
        first_version: 1,
        through: versions.last().and_then(|version| wire(*version)),
    }
}

fn logged(event: Option<LogEvent>) -> u64 {
    match event {
        Some(LogEvent::Record(record)) => record.pair.map_or(0, |pair| pair.version),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_log_is_followed_over_breaks_with_each_record_once() {
    let server = Fake::start().await;
    let shop = shop(&server, 1).await;
    let mut opened = 0;
    server.on_follow(move |_| {
        opened += 1;
        Ok(match opened {
            1 => vec![records(&[1, 2]), records(&[3])],
            2 => vec![records(&[2, 3, 4])],
            _ => vec![records(&[5, 6, 7])],
        })
    });
    let mut log = shop.request_log(0).follow().limit(6);
    for version in 1..=6 {
        assert_eq!(logged(log.next().await.expect("a record")), version);
    }
    assert_eq!(log.next().await.expect("the end"), None, "the limit holds");
    assert_eq!(log.cursor(), Some(Pair::new(1, 6)));
    let asked = server.seen(|seen| seen.follows.clone());
    assert_eq!(asked[1].after, wire(3));
    assert_eq!((asked[1].limit, asked[2].limit), (3, 2));
}

#[tokio::test]
async fn a_filtered_log_goes_on_where_it_was_looked_through() {
    let server = Fake::start().await;
    let shop = shop(&server, 1).await;
    let mut opened = 0;
    server.on_follow(move |_| {
        opened += 1;
        let passed = |through: u64| v1::FollowResponse {
            through: wire(through),
            ..records(&[])
        };
        Ok(match opened {
            1 => vec![passed(4), records(&[6]), passed(8)],
            _ => vec![records(&[11])],
        })
    });
    let client = understudy_client::ClientId::from_slice(&[7; 16]).expect("16 bytes");
    let log = shop.request_log(0).follow().limit(2).client(client);
    let mut log = log
        .key_prefix("orders/")
        .view(v1::follow_request::View::Requests);
    let progress = |version| LogEvent::Progress {
        through: Pair::new(1, version),
    };
    assert_eq!(log.next().await.expect("told"), Some(progress(4)));
    assert_eq!(logged(log.next().await.expect("a record")), 6);
    assert_eq!(log.next().await.expect("told"), Some(progress(8)));
    assert_eq!(log.cursor(), Some(Pair::new(1, 8)));
    assert_eq!(logged(log.next().await.expect("a record")), 11);
    assert_eq!(log.next().await.expect("the end"), None, "two that fit");
    let asked = server.seen(|seen| seen.follows.clone());
    assert_eq!((asked[1].after, asked[1].limit), (wire(8), 1));
    assert_eq!(asked[1].client_id, vec![7; 16]);
    assert_eq!(asked[1].key_prefix, "orders/");
    assert_eq!(asked[1].view(), v1::follow_request::View::Requests);
}

#[tokio::test]
async fn a_log_that_no_longer_reaches_back_is_a_gap_and_a_cut_branch_is_forked() {
    let server = Fake::start().await;
    let shop = shop(&server, 1).await;
    server.on_follow(|request| {
        if request.after.is_none() && request.from_version == 40 {
            return Ok(vec![records(&[40])]);
        }
        let failure = Failure::no(Reason::Compacted, "trimmed").with("first", "40");
        Err(failure.into())
    });
    let mut log = shop.request_log(0).after(Pair::new(1, 3)).follow();
    let gap = log.next().await.expect("told");
    assert_eq!(gap, Some(LogEvent::Gap { first_version: 40 }));
    assert_eq!(logged(log.next().await.expect("a record")), 40);

    server.on_follow(|_| {
        let failure = Failure::no(Reason::Forked, "cut off").with("cut", "1.2");
        Err(failure.into())
    });
    let mut log = shop.request_log(0).after(Pair::new(1, 3));
    let error = log.next().await.expect_err("forked");
    assert!(matches!(error, Error::Forked(_)), "{error:?}");
    assert_eq!(Follow::cut_of(&error), Some(Pair::new(1, 2)));
}

#[tokio::test]
async fn a_scan_asks_for_a_page_again_elsewhere_and_joins_the_pages() {
    let (down, server) = (Fake::start().await, Fake::start().await);
    server.route(route(1, &[1], &[&down, &server], &[]));
    server.on_scan(|request| {
        let keys: &[&str] = if request.page_token.is_empty() {
            &["a", "b"]
        } else {
            &["c"]
        };
        let object = |key: &&str| v1::Object {
            key: (*key).to_string().into(),
            ..Default::default()
        };
        Ok(v1::ScanResponse {
            objects: keys.iter().map(object).collect(),
            page_token: if keys.len() == 2 {
                "more".into()
            } else {
                "".into()
            },
            tokens: Default::default(),
        })
    });
    let shop = client(&[&server]).await.namespace("shop");
    let objects: Vec<_> = shop
        .scan()
        .prefix("")
        .page_size(2)
        .objects()
        .collect()
        .await;
    let keys: Vec<_> = objects
        .into_iter()
        .map(|object| object.expect("read").key)
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert!(server.seen(|seen| seen.scans.len()) >= 2);
}

#[tokio::test]
async fn a_session_scan_asks_for_what_was_seen_and_notes_what_it_saw() {
    let server = Fake::start().await;
    server.route(route(1, &[1], &[&server], &[]));
    server.on_scan(|request| {
        let (epoch, version, page_token) = match (request.level(), request.page_token.is_empty()) {
            (v1::ReadLevel::Session, true) => (2, 8, "more"),
            (v1::ReadLevel::Session, false) => (2, 9, ""),
            _ => (1, 7, "more"),
        };
        Ok(v1::ScanResponse {
            tokens: [(0, v1::Pair { epoch, version })].into(),
            page_token: page_token.into(),
            ..Default::default()
        })
    });
    let shop = client(&[&server]).await.namespace("shop");
    let mut any = shop.scan().level(ReadLevel::Any);
    any.next_page().await.expect("a page");
    let mut scan = shop.scan().level(ReadLevel::Session);
    while scan.next_page().await.expect("a page").is_some() {}
    assert_eq!(shop.token(0), understudy_proto::Pair::new(2, 9));
    let asked = server.seen(|seen| {
        let versions = |saw: &v1::SessionTokens| saw.pairs.iter().map(|p| p.version).collect();
        let saw = |scan: &v1::ScanRequest| scan.tokens.get(&0).map_or(Vec::new(), versions);
        seen.scans.iter().map(saw).collect::<Vec<_>>()
    });
    // The answer that had all of them stands for them.
    assert_eq!(asked, [vec![], vec![7], vec![8]]);
}

#[tokio::test]
async fn a_binding_follows_the_leader_and_keeps_its_id_after_a_lost_answer() {
    let (first, leader) = (Fake::start().await, Fake::start().await);
    let (node, away) = (Fake::start().await, leader.address.clone());
    node.route(route(1, &[1], &[&node], &[&first, &leader]));
    first.on_bind(move |_| {
        Err(Failure::no(Reason::NotLeader, "not here")
            .with("address", &away)
            .into())
    });
    let mut asked = 0;
    leader.on_bind(move |_| {
        asked += 1;
        if asked == 1 {
            Err(Status::unknown("lost"))
        } else {
            Ok(5)
        }
    });
    let naming = client(&[&node]).await.naming();
    let revision = naming
        .bind("svc/a", ["10.0.0.1:80"], None, BindWhen::Absent)
        .await;
    assert_eq!(revision, Ok(5));
    let mut ids: Vec<_> = leader.seen(|seen| {
        seen.binds
            .iter()
            .map(|bind| bind.request_id.clone())
            .collect()
    });
    ids.dedup();
    assert_eq!(ids.len(), 1, "one id for all attempts: {ids:?}");
}

#[tokio::test]
async fn reads_send_their_level_and_the_session_its_token() {
    let server = Fake::start().await;
    let shop = shop(&server, 1).await;
    server.script(|question| match question {
        stream_item::Kind::Execute(_) => Reply::Answer(fake::applied(9)),
        stream_item::Kind::Read(request) => {
            Reply::Answer(stream_answer::Kind::Read(v1::ReadResponse {
                objects: vec![v1::ObjectOrAbsent::default(); request.keys.len()],
                token: wire(12),
                ..Default::default()
            }))
        }
    });
    shop.put("a", "1").await.expect("written");
    assert_eq!(shop.get("a").level(ReadLevel::Session).await, Ok(None));
    shop.get("a").level(ReadLevel::Session).await.expect("read");
    shop.get("a")
        .level(ReadLevel::Bounded(Duration::from_secs(3)))
        .await
        .expect("read");
    let reads = server.seen(|seen| seen.reads.clone());
    assert_eq!(reads[0].token, wire(9), "the session reads its own write");
    assert_eq!(reads[1].token, wire(12), "and never goes back");
    assert_eq!(
        (reads[2].level(), reads[2].staleness_ms),
        (v1::ReadLevel::Bounded, 3_000)
    );
}
