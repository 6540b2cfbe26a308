//! Primaries go to the site of those who write, and on to the next one, and no write fails on the way.
// capability P30

mod load;

use load::Load;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::{LocalCluster, Shape};
use understudy_node::cli::faults::wait_whole;
use understudy_node::cli::local::patient_client;
use understudy_proto::v1::NamespacePolicy;

const NAMESPACE: &str = "notes";
const SHARDS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn primaries_follow_their_writers_from_site_to_site_without_a_failed_write() {
    let folder = tempfile::tempdir().unwrap();
    let soon = [
        "--near-writers-after-ms=1000",
        "--near-writers-calm-ms=1000",
    ];
    let shape = Shape {
        port_base: 0,
        sites: ["eu", "us", "asia"]
            .map(|site| (site.to_string(), 1))
            .into(),
        manager_flags: soon.map(str::to_string).into(),
        executable: Some(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))),
        ..Shape::new(1, 3, folder.path())
    };
    let mut cluster = LocalCluster::start(&shape).unwrap();
    cluster.wait_ready(PATIENCE).await.unwrap();
    let client = patient_client(cluster.endpoints()).await.unwrap();
    let policy = NamespacePolicy {
        shards: SHARDS,
        copies: 3,
        primary_near_writers: Some(true),
        ..NamespacePolicy::default()
    };
    let managers = client.cluster();
    let made = managers.create_namespace(NAMESPACE, policy, false);
    made.await.unwrap();
    wait_whole(&client, 3, PATIENCE).await.unwrap();
    assert!(primaries(&client).await.len() > 1, "they begin spread");

    for site in ["us", "asia"] {
        let settings = Settings {
            site: site.to_string(),
            ..Settings::default()
        };
        let writer = Client::connect_with(cluster.endpoints(), settings);
        let load = Load::start(&writer.await.unwrap(), NAMESPACE);
        let began = Instant::now();
        loop {
            let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
            let mut told = shards.shards.iter().flat_map(|shard| &shard.writers);
            let shown = told.any(|of| of.site == site);
            if shown && primaries(&client).await == BTreeSet::from([site.to_string()]) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{site}: {shards:?}");
            sleep(Duration::from_millis(100)).await;
        }
        load.some_more(100).await;
        load.end().await;
    }
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

/// The sites of the shards' primaries.
async fn primaries(client: &Client) -> BTreeSet<String> {
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
    let site = |id: u64| nodes.iter().find(|node| node.node == id);
    let sites = shards.shards.iter().filter_map(|shard| site(shard.primary));
    sites.map(|node| node.site.clone()).collect()
}
