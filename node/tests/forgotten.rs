//! The lifetime of outcomes on real processes: what a client needs no more is forgotten, its numbers never run again, at no later
//! primary; what is kept gets its first answer.
//!
//! Capabilities A19, B12, B18.

mod real;

use std::time::{Duration, Instant};

use tokio::time::sleep;
use understudy_client::{Client, Error, Namespace, RequestId, Settings};
use understudy_node::cli::cluster_processes::MemberRole;
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::NamespacePolicy;
use understudy_proto::v1::get_outcome_response::found::Where;

const NODES: u16 = 2;
const WRITES: u64 = 400;
const KEPT: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_forgotten_number_never_runs_again() {
    let (mut cluster, _folder) = real::cluster(1, NODES, &[]).await;
    let settings = Settings {
        deadline: PATIENCE,
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings)
        .await
        .unwrap();
    let policy = NamespacePolicy {
        shards: 1,
        copies: u32::from(NODES),
        dedup_entries: KEPT,
        ..NamespacePolicy::default()
    };
    let clusters = client.cluster();
    clusters
        .create_namespace("orders", policy, false)
        .await
        .unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    let orders = client.namespace("orders");
    let mut ids = Vec::new();
    for _ in 0..WRITES {
        let id = orders.session().next_request_id();
        add(&orders, id).await.unwrap();
        ids.push(id);
    }
    let (first, last) = (ids[0], ids[ids.len() - 1]);
    wait_until_forgotten(&orders, first).await;
    check(&orders, first, last).await;
    let nodes: Vec<String> = cluster
        .members()
        .iter()
        .filter(|member| member.role == MemberRole::Node)
        .map(|member| member.name.clone())
        .collect();
    for node in &nodes {
        cluster.kill(node).await.unwrap();
        check(&orders, first, last).await;
        cluster.restart(node).unwrap();
        cluster.wait_member_ready(node, PATIENCE).await.unwrap();
        wait_whole(&client, u32::from(NODES), PATIENCE)
            .await
            .unwrap();
    }
    check(&orders, first, last).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

async fn add(orders: &Namespace, id: RequestId) -> Result<bool, Error> {
    let written = orders.add("count", "", 1).request_id(id).send().await?;
    Ok(written.duplicate)
}

async fn wait_until_forgotten(orders: &Namespace, id: RequestId) {
    let began = Instant::now();
    while found(orders, id).await != [Where::Expired] {
        assert!(began.elapsed() < PATIENCE, "the primary forgets {id}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn found(orders: &Namespace, id: RequestId) -> Vec<Where> {
    let found = orders.outcome(id).send().await.unwrap().found;
    found.iter().map(|trace| trace.place).collect()
}

/// The first number is refused and the last one known; neither runs.
async fn check(orders: &Namespace, first: RequestId, last: RequestId) {
    let refused = add(orders, first).await;
    assert!(
        matches!(&refused, Err(Error::Expired { .. })),
        "{first}: {refused:?}"
    );
    assert!(add(orders, last).await.unwrap(), "{last} is a duplicate");
    assert_eq!(found(orders, first).await, [Where::Expired]);
    assert_eq!(found(orders, last).await, [Where::Log]);
    let count = orders.get("count").await.unwrap().unwrap();
    assert_eq!(count.counter(""), Some(WRITES as i64));
}
