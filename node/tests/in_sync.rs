//! An in_sync namespace on real processes under load: its primaries are killed one after the other, and every acknowledged
//! write is read back at the next primary (I6), committed on every member of the set.
// capabilities P21, P22

mod real;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;
use understudy_client::{Client, Level, Settings};
use understudy_node::cli::cluster_processes::MemberRole;
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::NamespacePolicy;
use understudy_proto::v1::namespace_policy::Mode;

const NODES: u16 = 3;
const SHARDS: u32 = 4;
const CLIENTS: u64 = 8;
const NAMESPACE: &str = "bookings";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn every_acknowledged_write_is_at_the_next_primary() {
    let (mut cluster, _folder) = real::cluster(1, NODES, &[]).await;
    let settings = Settings {
        deadline: PATIENCE,
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings)
        .await
        .unwrap();
    let policy = NamespacePolicy {
        shards: SHARDS,
        copies: u32::from(NODES),
        mode: Mode::InSync.into(),
        min_in_sync: 2,
        ..NamespacePolicy::default()
    };
    client
        .cluster()
        .create_namespace(NAMESPACE, policy, false)
        .await
        .unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut load = JoinSet::new();
    for number in 0..CLIENTS {
        let namespace = client.namespace(NAMESPACE);
        let (stop, count) = (stop.clone(), count.clone());
        load.spawn(async move {
            let mut acknowledged = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let key = format!("{number}/{}", acknowledged.len());
                let written = namespace
                    .put(key.clone(), key.clone())
                    .send()
                    .await
                    .unwrap();
                assert_eq!(written.level, Level::InSync);
                acknowledged.push(key);
                count.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        });
    }
    some_more(&count, 200).await;
    let nodes: Vec<String> = cluster
        .members()
        .iter()
        .filter(|member| member.role == MemberRole::Node)
        .map(|member| member.name.clone())
        .collect();
    // Each node was the primary of some shard, or becomes it by the kills before its own.
    for node in &nodes {
        cluster.kill(node).await.unwrap();
        some_more(&count, 300).await;
        cluster.restart(node).unwrap();
        cluster.wait_member_ready(node, PATIENCE).await.unwrap();
        wait_whole(&client, u32::from(NODES), PATIENCE)
            .await
            .unwrap();
        some_more(&count, 300).await;
    }
    stop.store(true, Ordering::Relaxed);
    let namespace = client.namespace(NAMESPACE);
    let (mut told, mut missing) = (0, Vec::new());
    while let Some(acknowledged) = load.join_next().await {
        for key in acknowledged.unwrap() {
            told += 1;
            let found = namespace.get(key.clone()).await.unwrap();
            let value = found.as_ref().and_then(|object| object.value());
            if value.map(|value| &value[..]) != Some(key.as_bytes()) {
                missing.push(key);
            }
        }
    }
    println!("{told} acknowledged writes, {} missing", missing.len());
    assert!(missing.is_empty(), "acknowledged but missing: {missing:?}");
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

async fn some_more(count: &AtomicU64, writes: u64) {
    let wanted = count.load(Ordering::Relaxed) + writes;
    let began = Instant::now();
    while count.load(Ordering::Relaxed) < wanted {
        assert!(began.elapsed() < PATIENCE, "writes are acknowledged");
        sleep(Duration::from_millis(20)).await;
    }
}
