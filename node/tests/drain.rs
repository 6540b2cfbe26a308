//! A node is emptied and taken out of a cluster under load: no write fails, and its process ends by itself.

mod asked;
mod load;
mod real;

use asked::ask;
use load::Load;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_node::cli::faults::wait_whole;
use understudy_node::cli::local::patient_client;
use understudy_proto::v1::NamespacePolicy;

const NODES: u16 = 4;
const COPIES: u32 = 3;
const NAMESPACE: &str = "notes";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_node_is_emptied_and_leaves_without_a_failed_write() {
    let (mut cluster, _folder) = real::cluster(1, NODES, &[]).await;
    let endpoints = cluster.endpoints().join(",");
    let client = patient_client(cluster.endpoints()).await.unwrap();
    let policy = NamespacePolicy {
        shards: 6,
        copies: COPIES,
        ..NamespacePolicy::default()
    };
    let managers = client.cluster();
    let made = managers.create_namespace(NAMESPACE, policy, false);
    made.await.unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let busiest = nodes.iter().max_by_key(|node| node.primaries).unwrap();
    assert!(busiest.primaries > 0, "{nodes:?}");
    let (id, name) = (busiest.node.to_string(), busiest.name.clone());
    let asking = |args: Vec<String>| {
        let endpoints = endpoints.clone();
        async move {
            let verb = move || {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                ask(&endpoints, &args, b"")
            };
            tokio::task::spawn_blocking(verb).await.unwrap()
        }
    };
    let args = |args: &[&str]| args.iter().map(ToString::to_string).collect::<Vec<_>>();

    let load = Load::start(&client, NAMESPACE);
    load.some_more(200).await;
    let early = asking(args(&["cluster", "remove", &id])).await;
    assert_eq!(early.status, 1, "{}", early.stderr);
    assert!(early.stderr.contains("drain it first"), "{}", early.stderr);
    let drained = asking(args(&["cluster", "drain", &id, "--empty", "-o", "json"])).await;
    assert_eq!(drained.status, 0, "{} {}", drained.stdout, drained.stderr);
    let left: serde_json::Value = serde_json::from_str(&drained.stdout).unwrap();
    let counts = ["primaries", "secondaries", "joining"].map(|of| left[of].as_u64());
    assert_eq!(counts, [Some(0); 3], "{left}");
    load.some_more(200).await;
    let removed = asking(args(&["cluster", "remove", &id])).await;
    assert_eq!(removed.status, 0, "{}", removed.stderr);
    let began = Instant::now();
    while cluster.ended().iter().all(|(ended, _)| *ended != name) {
        assert!(began.elapsed() < PATIENCE, "the removed process goes on");
        sleep(Duration::from_millis(50)).await;
    }
    load.some_more(200).await;
    let written = load.end().await;
    let mut there = 0;
    let mut scan = client.namespace(NAMESPACE).scan().page_size(10_000);
    while let Some(page) = scan.next_page().await.unwrap() {
        there += page.objects.len() as u64;
    }
    assert_eq!(there, written, "every acknowledged write is there");
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
