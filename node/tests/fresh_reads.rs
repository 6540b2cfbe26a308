//! Reads at copies of a real cluster: a session sees its write at each of them, a copy knows how old it is, and one that
//! nobody tells anything any more refuses what it cannot promise. Capabilities P10, P13, P36.

mod real;
mod serving;

use rustix::process::Signal;
use std::time::{Duration, Instant};
use understudy_client::ReadLevel;
use understudy_node::cli::cluster_processes::MemberRole;
use understudy_node::cli::faults::wait_whole;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::namespace_policy::Mode;
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{
    NamespacePolicy, Pair, ReadLevel as Level, ReadRequest, ReadResponse, ScanRequest,
    SessionTokens,
};

const NODES: u16 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";

fn question(level: Level) -> ReadRequest {
    ReadRequest {
        namespace: NAMESPACE.to_string(),
        keys: vec!["k".into()],
        level: level.into(),
        deadline_ms: 300,
        refuse_forwarding: true,
        ..ReadRequest::default()
    }
}

fn session(token: Pair) -> ReadRequest {
    ReadRequest {
        token: Some(token),
        deadline_ms: 10_000,
        ..question(Level::Session)
    }
}

fn session_scan(token: Pair) -> ScanRequest {
    let pairs = vec![token];
    ScanRequest {
        namespace: NAMESPACE.to_string(),
        level: Level::Session.into(),
        deadline_ms: 10_000,
        shard: Some(0),
        tokens: [(0, SessionTokens { pairs })].into(),
        ..ScanRequest::default()
    }
}

fn bounded(staleness_ms: u32) -> ReadRequest {
    ReadRequest {
        staleness_ms,
        ..question(Level::Bounded)
    }
}

async fn read(endpoint: &str, question: ReadRequest) -> Result<ReadResponse, Failure> {
    let mut objects = ObjectsClient::connect(endpoint.to_string()).await.unwrap();
    match objects.read(question).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(Failure::from_status(&status).unwrap_or_else(|| panic!("{status}"))),
    }
}

fn reads(answer: &ReadResponse, value: &str) -> bool {
    let object = answer.objects[0].object.as_ref();
    let component = object.and_then(|object| object.components.first());
    let held = component.and_then(|c| c.value.as_ref()?.kind.clone());
    held == Some(understudy_proto::v1::value::Kind::Data(
        value.to_string().into(),
    ))
}

/// Asks until the copy is as fresh as that.
async fn becomes_fresh(endpoint: &str, staleness_ms: u32) -> ReadResponse {
    let began = Instant::now();
    loop {
        match read(endpoint, bounded(staleness_ms)).await {
            Ok(answer) => return answer,
            Err(failure) => assert!(began.elapsed() < PATIENCE, "{failure}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn scans_of_an_in_sync_shard_are_answered_while_others_write() {
    let (cluster, _folder, client) = serving::cluster(1, NODES, NAMESPACE, 1).await;
    let policy = NamespacePolicy {
        mode: Mode::InSync.into(),
        copies: u32::from(NODES),
        shards: 1,
        ..NamespacePolicy::default()
    };
    let made = client
        .cluster()
        .create_namespace("strict", policy, false)
        .await;
    made.unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    let strict = client.namespace("strict");
    let writing = tokio::spawn({
        let strict = strict.clone();
        async move {
            for round in 0..400 {
                strict.put("k", format!("v{round}")).await.unwrap();
            }
        }
    });
    let endpoints = cluster
        .members()
        .iter()
        .filter(|m| m.role == MemberRole::Node);
    let endpoints: Vec<String> = endpoints.map(|member| member.endpoint()).collect();
    let mut scans = 0;
    while !writing.is_finished() {
        for endpoint in &endpoints {
            let mut objects = ObjectsClient::connect(endpoint.clone()).await.unwrap();
            let answer = objects.scan(ScanRequest {
                namespace: "strict".to_string(),
                level: Level::Bounded.into(),
                staleness_ms: 60_000,
                shard: Some(0),
                ..ScanRequest::default()
            });
            answer.await.unwrap();
            scans += 1;
        }
        let mut own = strict.scan().level(ReadLevel::Session);
        assert!(own.next_page().await.unwrap().is_some());
    }
    writing.await.unwrap();
    assert!(scans > 3, "{scans}");
    let mut hostile = ObjectsClient::connect(endpoints[0].clone()).await.unwrap();
    let refused = hostile.scan(ScanRequest {
        namespace: "strict".to_string(),
        tokens: (0..100).map(|i| (i, SessionTokens::default())).collect(),
        ..ScanRequest::default()
    });
    let refused = Failure::from_status(&refused.await.unwrap_err()).unwrap();
    assert_eq!(refused.reason, Reason::FieldInvalid);
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn copies_answer_what_they_can_promise_and_refuse_the_rest() {
    let (cluster, _folder, client) = serving::cluster(1, NODES, NAMESPACE, 1).await;
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let endpoint = |id: u64| {
        let node = nodes.iter().find(|node| node.node == id).unwrap();
        (
            node.name.clone(),
            cluster.member(&node.name).unwrap().endpoint(),
        )
    };

    // Each copy shows the session its writes, one after the other, itself.
    let shop = client.namespace(NAMESPACE);
    for round in 0..20 {
        let value = format!("v{round}");
        let written = shop.put("k", value.clone()).await.unwrap();
        let token = Pair {
            epoch: written.pair.epoch.0,
            version: written.pair.version.0,
        };
        for node in &nodes {
            let (_, endpoint) = endpoint(node.node);
            let mut objects = ObjectsClient::connect(endpoint.clone()).await.unwrap();
            let page = objects.scan(session_scan(token)).await.unwrap();
            let page = page.into_inner();
            assert_eq!(page.objects[0].pair, Some(token), "{page:?}");
            assert!(page.tokens[&0].version >= token.version, "{page:?}");
            let answer = read(&endpoint, session(token)).await.unwrap();
            assert_eq!(answer.node, node.node);
            assert!(reads(&answer, &value), "{answer:?}");
        }
        let own = shop.scan().level(ReadLevel::Session).next_page().await;
        let own = own.unwrap().unwrap();
        assert_eq!(own.objects[0].value().unwrap(), value.as_str());
        let get = shop.get("k").level(ReadLevel::Session).await.unwrap();
        assert_eq!(get.unwrap().value().unwrap(), value.as_str());
    }

    // And knows that it is about as old as the heartbeats are apart.
    let shard = client
        .cluster()
        .shards(Some(NAMESPACE))
        .await
        .unwrap()
        .shards[0]
        .clone();
    let (primary_name, primary) = endpoint(shard.primary);
    for id in &shard.secondaries {
        let answer = becomes_fresh(&endpoint(*id).1, 2_000).await;
        assert!(answer.age_ms.is_some_and(|age| age <= 2_000), "{answer:?}");
    }
    assert_eq!(becomes_fresh(&primary, 1).await.age_ms, Some(0));
    let refused = read(&primary, bounded(0)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::FieldInvalid);
    let get = shop
        .get("k")
        .level(ReadLevel::Bounded(Duration::from_secs(2)));
    assert!(get.await.unwrap().is_some());

    // The primary and the only manager stand still: the secondaries hear nothing, and nobody takes over.
    cluster.signal("manager-1", Signal::STOP).unwrap();
    cluster.signal(&primary_name, Signal::STOP).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for id in &shard.secondaries {
        let (_, endpoint) = endpoint(*id);
        let refused = read(&endpoint, bounded(1_000)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::CopyBehind);
        let age: u64 = refused.metadata["age_ms"].parse().unwrap();
        assert!(age > 1_000, "{refused}");
        let patient = read(&endpoint, bounded(60_000)).await.unwrap();
        assert!(reads(&patient, "v19"), "{patient:?}");
        let scan = |staleness_ms| ScanRequest {
            namespace: NAMESPACE.to_string(),
            level: Level::Bounded.into(),
            staleness_ms,
            deadline_ms: 300,
            shard: Some(0),
            ..ScanRequest::default()
        };
        let mut objects = ObjectsClient::connect(endpoint.clone()).await.unwrap();
        let refused = objects.scan(scan(1_000)).await.unwrap_err();
        let refused = Failure::from_status(&refused).unwrap();
        assert_eq!(refused.reason, Reason::CopyBehind);
        let page = objects.scan(scan(60_000)).await.unwrap().into_inner();
        assert_eq!(page.objects.len(), 1);
        // What a session saw here before, it sees again.
        let token = patient.token.unwrap();
        assert!(read(&endpoint, session(token)).await.is_ok());
        let ahead = Pair {
            version: token.version + 1,
            ..token
        };
        let refused = read(
            &endpoint,
            ReadRequest {
                deadline_ms: 100,
                ..session(ahead)
            },
        );
        assert_eq!(refused.await.unwrap_err().reason, Reason::CopyBehind);
        let refused = objects.scan(ScanRequest {
            deadline_ms: 100,
            ..session_scan(ahead)
        });
        let refused = Failure::from_status(&refused.await.unwrap_err()).unwrap();
        assert_eq!(refused.reason, Reason::CopyBehind);
    }

    cluster.signal(&primary_name, Signal::CONT).unwrap();
    cluster.signal("manager-1", Signal::CONT).unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    for node in &nodes {
        let answer = becomes_fresh(&endpoint(node.node).1, 1_000).await;
        assert!(reads(&answer, "v19"), "{answer:?}");
    }
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
