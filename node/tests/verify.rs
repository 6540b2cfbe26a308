//! Comparing the copies of real processes: what the disk of one of them has otherwise than the log says is found, by the
//! command and in the background, and mended, while writes go on. Protocol, section 5, checksum.

mod asked;
mod damage;
mod real;
mod serving;

use damage::{find, overwrite, raw};
use serde_json::{Value, json};
use std::future::IntoFuture;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::Client;
use understudy_node::cli::cluster_processes::LocalCluster;
use understudy_node::cli::faults::wait_whole;
use understudy_node::storage::keys::Family;

const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";
const NODES: u16 = 3;
/// More than a page of objects, and more than the records that a start compares with the objects.
const OBJECTS: usize = 3_000;

fn key(number: usize) -> String {
    format!("k{number:05}")
}

async fn write_all(client: &Client, value: &'static str) {
    let namespace = client.namespace(NAMESPACE);
    let puts = (0..OBJECTS).map(|n| namespace.put(key(n), value).into_future());
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
}

async fn primary(client: &Client) -> u64 {
    let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
    shards.shards[0].primary
}

async fn node_of(client: &Client, name: &str) -> u64 {
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    nodes.iter().find(|node| node.name == name).unwrap().node
}

fn verify(cluster: &LocalCluster) -> (i32, Value) {
    let ended = asked::ask(
        &cluster.endpoints().join(","),
        &["cluster", "verify", "-n", NAMESPACE, "-o", "json"],
        b"",
    );
    let document = serde_json::from_str(&ended.stdout);
    (
        ended.status,
        document.unwrap_or_else(|_| panic!("{}", ended.stderr)),
    )
}

/// The disk of a node that is down: one object is gone, and another has the contents of a third one.
fn alter(data: &std::path::Path, lost: &str, other: &str, third: &str) {
    let of = |name: &str| find(data, Family::Objects, |key| key.ends_with(name.as_bytes()));
    let (lost, other, third) = (of(lost), of(other), of(third));
    let mut contents = Vec::new();
    raw(data, |db| {
        let family = db.cf_handle(Family::Objects.name()).unwrap();
        db.delete_cf(family, lost).unwrap();
        contents = db.get_cf(family, third).unwrap().unwrap();
    });
    overwrite(data, Family::Objects, &other, &contents);
}

async fn restart_altered(cluster: &mut LocalCluster, folder: &tempfile::TempDir, name: &str) {
    cluster.stop_member(name).await.unwrap();
    alter(&folder.path().join(name), &key(17), &key(1_500), &key(16));
    cluster.restart(name).unwrap();
    cluster.wait_member_ready(name, LIMIT).await.unwrap();
}

/// Compares until that is found: a primary asks those copies that it heard of lately.
async fn until_found(cluster: &LocalCluster, is: impl Fn(&Value) -> bool) -> (i32, Value) {
    let began = Instant::now();
    loop {
        let (status, found) = verify(cluster);
        if is(&found["shards"][0]) {
            return (status, found);
        }
        assert!(began.elapsed() < LIMIT, "{found:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn until_whole(cluster: &LocalCluster) -> Value {
    let began = Instant::now();
    loop {
        let (status, found) = verify(cluster);
        if status == 0 {
            return found;
        }
        if began.elapsed() >= LIMIT {
            let logs = cluster
                .members()
                .iter()
                .map(|member| std::fs::read_to_string(&member.log));
            let logs: Vec<String> = logs.filter_map(Result::ok).collect();
            let rows = asked::ask(
                &cluster.endpoints().join(","),
                &["cluster", "shards", "--all", "-o", "json"],
                b"",
            );
            panic!("{found:#}\n{}\n{}", rows.stdout, logs.join("\n"));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn what_a_copy_has_otherwise_is_found_and_mended() {
    let (mut cluster, folder, client) = serving::cluster(1, NODES, NAMESPACE, 1).await;
    write_all(&client, "as it was").await;
    // A start compares the last 1,000 records; these are not what is altered.
    for n in 2_000..OBJECTS {
        let namespace = client.namespace(NAMESPACE);
        namespace.put(key(n), "later").await.unwrap();
    }
    let found = until_whole(&cluster).await;
    assert_eq!(found["shards"][0]["objects"], json!(OBJECTS));

    // A copy that is not the primary's. The command finds both objects, and the primary has the copy begin anew.
    let names = ["node-1", "node-2", "node-3"];
    let leads = primary(&client).await;
    let mut others = Vec::new();
    for name in names {
        if node_of(&client, name).await != leads {
            others.push(name);
        }
    }
    restart_altered(&mut cluster, &folder, others[0]).await;
    wait_whole(&client, u32::from(NODES), LIMIT).await.unwrap();
    let node = node_of(&client, others[0]).await;
    let (status, found) = until_found(&cluster, |shard| {
        let copies = shard["copies"].as_array().unwrap();
        copies.iter().any(|copy| copy["differing"] != json!(0))
    })
    .await;
    assert_eq!(status, 1, "{found:#}");
    let copies = found["shards"][0]["copies"].as_array().unwrap();
    let altered = copies
        .iter()
        .find(|copy| copy["node"] == json!(node))
        .unwrap();
    // What comes after the first difference is compared when it is whole again.
    assert_eq!(altered["keys"][0], json!(key(17)), "{found:#}");
    let fine = copies
        .iter()
        .find(|copy| copy["node"] != json!(node))
        .unwrap();
    assert_eq!(fine["differing"], json!(0), "{found:#}");
    client
        .namespace(NAMESPACE)
        .put("meanwhile", "written")
        .await
        .unwrap();
    until_whole(&cluster).await;
    assert_eq!(primary(&client).await, leads);

    // The primary itself, against two that agree: it hands over and begins anew.
    let moved = client.cluster().transfer(NAMESPACE, 0, Some(node)).await;
    assert_eq!(moved.unwrap().primary, node);
    restart_altered(&mut cluster, &folder, others[0]).await;
    wait_whole(&client, u32::from(NODES), LIMIT).await.unwrap();
    if primary(&client).await != node {
        let moved = client.cluster().transfer(NAMESPACE, 0, Some(node)).await;
        assert_eq!(moved.unwrap().primary, node);
    }
    let (status, found) =
        until_found(&cluster, |shard| shard["primary_differs"] != json!([])).await;
    assert_eq!(status, 1, "{found:#}");
    assert_eq!(
        found["shards"][0]["primary_differs"],
        json!([key(17), key(1_500)]),
        "{found:#}"
    );
    until_whole(&cluster).await;
    assert_ne!(primary(&client).await, node);
    let read = client.namespace(NAMESPACE).get(key(17)).await.unwrap();
    assert_eq!(read.unwrap().value().unwrap(), "as it was");
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn the_scrub_in_the_background_finds_it_by_itself() {
    let (mut cluster, folder) = real::cluster(1, NODES, &["--scrub-every-ms=1000"]).await;
    let client = serving::namespace(&cluster, NODES, NAMESPACE, 1).await;
    write_all(&client, "as it was").await;
    for n in 2_000..OBJECTS {
        let namespace = client.namespace(NAMESPACE);
        namespace.put(key(n), "later").await.unwrap();
    }
    let mut other = "node-1";
    if node_of(&client, other).await == primary(&client).await {
        other = "node-2";
    }
    restart_altered(&mut cluster, &folder, other).await;
    let log = |cluster: &LocalCluster, name: &str| {
        std::fs::read_to_string(&cluster.member(name).unwrap().log).unwrap()
    };
    let began = Instant::now();
    let told =
        |name: &&str| log(&cluster, name).contains("a copy has other objects than its primary");
    while !["node-1", "node-2", "node-3"].iter().any(told) {
        assert!(began.elapsed() < LIMIT, "nobody found it");
        sleep(Duration::from_millis(100)).await;
    }
    until_whole(&cluster).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
