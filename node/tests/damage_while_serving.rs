//! A primary that reads back what nobody wrote, while it serves: another copy takes over, and no client sees it.

mod damage;
mod real;
mod serving;

use damage::{find, overwrite};
use std::future::IntoFuture;
use std::time::Duration;
use understudy_client::Client;
use understudy_node::cli::cluster_processes::LocalCluster;
use understudy_node::cli::faults::wait_whole;
use understudy_node::storage::keys::Family;

const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";
const KEY: &str = "altered";

/// A cluster whose one shard has an object that lies before what a start compares with the log.
async fn with_an_old_object(nodes: u16) -> (LocalCluster, tempfile::TempDir, Client) {
    let (cluster, folder, client) = serving::cluster(1, nodes, NAMESPACE, 1).await;
    client
        .namespace(NAMESPACE)
        .put(KEY, "as it was")
        .await
        .unwrap();
    // A start compares 1,000 records.
    let namespace = client.namespace(NAMESPACE);
    let puts = (0..1_500).map(|n| namespace.put(format!("k{n}"), "value").into_future());
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    wait_whole(&client, u32::from(nodes), LIMIT).await.unwrap();
    (cluster, folder, client)
}

/// The object's bytes change while the process is down; its start does not see it.
async fn alter(cluster: &mut LocalCluster, folder: &tempfile::TempDir, name: &str) {
    cluster.stop_member(name).await.unwrap();
    let data = folder.path().join(name);
    let key = find(&data, Family::Objects, |key| key.ends_with(KEY.as_bytes()));
    overwrite(&data, Family::Objects, &key, b"?");
    cluster.restart(name).unwrap();
    cluster.wait_member_ready(name, LIMIT).await.unwrap();
}

async fn primary(client: &Client) -> u64 {
    let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
    shards.shards[0].primary
}

async fn make_primary(client: &Client, node: u64) {
    if primary(client).await != node {
        let moved = client.cluster().transfer(NAMESPACE, 0, Some(node)).await;
        assert_eq!(moved.unwrap().primary, node);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_primary_that_cannot_go_on_is_replaced() {
    let (mut cluster, folder, client) = with_an_old_object(3).await;
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let broken = nodes
        .iter()
        .find(|node| node.name == "node-2")
        .unwrap()
        .node;
    // A secondary may lag behind; who has been the primary holds every record.
    make_primary(&client, broken).await;
    alter(&mut cluster, &folder, "node-2").await;
    wait_whole(&client, 3, LIMIT).await.unwrap();
    make_primary(&client, broken).await;

    // The new value depends on the old one, which cannot be read there.
    client.namespace(NAMESPACE).put(KEY, "later").await.unwrap();
    assert_ne!(primary(&client).await, broken);
    let found = client.namespace(NAMESPACE).get(KEY).await.unwrap().unwrap();
    assert_eq!(found.value().unwrap(), "later");
    assert!(
        cluster.ended().is_empty(),
        "the node serves its other shards"
    );
    let log = std::fs::read_to_string(&cluster.member("node-2").unwrap().log).unwrap();
    assert!(log.contains("a copy cannot go on"), "{log}");
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
