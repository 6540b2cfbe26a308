//! A node that was away while few objects were written often comes back by a coalesced delta: by its bytes, not by those of
//! the records, while clients go on writing, and with the last value of everything. Capabilities W16, W77.

mod real;
mod serving;

use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use understudy_client::{Client, Namespace};
use understudy_node::cli::cluster_processes::{LocalCluster, http_get};
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{Pair, ReadLevel, ReadRequest, ReadResponse};

const NODES: u16 = 3;
const NAMESPACE: &str = "default";
const AWAY: &str = "node-3";
const PATIENCE: Duration = Duration::from_secs(120);
/// Above the bound from which a delta is thought of (`DELTA_RECORDS_MIN`).
const UPDATES: u64 = 14_000;
const OBJECTS: u64 = 20;
const LANES: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn who_missed_many_updates_of_few_objects_gets_a_delta() {
    let (mut cluster, _folder, client) = serving::cluster(1, NODES, NAMESPACE, 1).await;
    let shop = client.namespace(NAMESPACE);
    let endpoint = cluster.member(AWAY).unwrap().endpoint();
    shop.put("goes", "x").await.unwrap();
    write_all(&shop, OBJECTS).await;
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();

    assert!(cluster.stop_member(AWAY).await.unwrap());
    let before = sent(&cluster).await;
    write_all(&shop, UPDATES).await;
    shop.delete("goes").await.unwrap();
    let missed = sent(&cluster).await;
    let records = missed.0 - before.0;
    assert!(records > UPDATES * 200, "{records} bytes of records");

    cluster.restart(AWAY).unwrap();
    cluster.wait_member_ready(AWAY, PATIENCE).await.unwrap();
    let written = shop.put("last", "one").await.unwrap();
    let token = Pair {
        epoch: written.pair.epoch.0,
        version: written.pair.version.0,
    };
    let mut keys: Vec<String> = (0..OBJECTS).map(|n| format!("key-{n}")).collect();
    keys.extend(["goes".to_string(), "last".to_string()]);
    let here = read(&endpoint, &keys, token).await;
    let after = sent(&cluster).await;
    let (as_records, as_deltas, as_copies) =
        (after.0 - missed.0, after.1 - missed.1, after.2 - missed.2);
    println!(
        "{records} bytes of records missed; sent {as_deltas} as deltas, {as_records} as records, {as_copies} as copies"
    );
    assert!(as_deltas > 0, "it came back by a delta");
    assert_eq!(as_copies, 0, "and by no full copy");
    assert!(
        (as_deltas + as_records) * 5 < records,
        "{as_deltas} + {as_records} bytes were sent for {records}"
    );

    // It has what the others have, and may be promoted again.
    let primary = primary_endpoint(&client, &cluster).await;
    let there = read(&primary, &keys, token).await;
    assert_eq!(here.objects, there.objects);
    assert!(here.objects[OBJECTS as usize].object.is_none());
    wait_secondary(&client).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

/// Many at once, each key in turn; large values, as both old and new ones stand in the records.
async fn write_all(shop: &Namespace, updates: u64) {
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let shop = shop.clone();
        lanes.spawn(async move {
            for at in (lane..updates).step_by(LANES as usize) {
                let key = format!("key-{}", at % OBJECTS);
                let value = format!("{at:0>200}");
                shop.put(key, value).deadline(PATIENCE).await.unwrap();
            }
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended.unwrap();
    }
}

/// Bytes of records, deltas and full copies that the nodes which stay have sent.
async fn sent(cluster: &LocalCluster) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    for name in ["node-1", "node-2"] {
        let admin = cluster.member(name).unwrap().ports.admin;
        let (_, text) = http_get(admin, "/metrics").await.unwrap();
        let of = |name: &str| {
            let name = format!("understudy_{name}_total ");
            let mut found = text.lines().filter_map(|line| line.strip_prefix(&name));
            let value = found.next().unwrap_or_else(|| panic!("{name} in {text}"));
            value.trim().parse::<u64>().unwrap()
        };
        sum.0 += of("sent_record_bytes");
        sum.1 += of("sent_delta_bytes");
        sum.2 += of("sent_full_copy_bytes");
    }
    sum
}

/// At that node itself, once it is there.
async fn read(endpoint: &str, keys: &[String], token: Pair) -> ReadResponse {
    let question = ReadRequest {
        namespace: NAMESPACE.to_string(),
        keys: keys.iter().map(|key| key.clone().into()).collect(),
        level: ReadLevel::Session.into(),
        token: Some(token),
        deadline_ms: 1_000,
        refuse_forwarding: true,
        ..ReadRequest::default()
    };
    let began = Instant::now();
    loop {
        let mut objects = ObjectsClient::connect(endpoint.to_string()).await.unwrap();
        match objects.read(question.clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => assert!(began.elapsed() < PATIENCE, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn primary_endpoint(client: &Client, cluster: &LocalCluster) -> String {
    let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
    let primary = shards.shards[0].primary;
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let node = nodes.into_iter().find(|node| node.node == primary).unwrap();
    cluster.member(&node.name).unwrap().endpoint()
}

async fn wait_secondary(client: &Client) {
    let began = Instant::now();
    loop {
        let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
        if shards.shards[0].joining.is_empty() && shards.shards[0].secondaries.len() == 2 {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", shards.shards[0]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
