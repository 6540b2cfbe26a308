//! A node that serves and reads back what nobody wrote: it ends, its next start sets the store aside, and it gets its copies
//! again. While it alone has a shard it goes on, and says what cannot be read.

mod damage;
mod real;

use damage::{find, overwrite};
use std::future::IntoFuture;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::LocalCluster;
use understudy_node::cli::faults::wait_whole;
use understudy_node::storage::keys::Family;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{NamespacePolicy, ReadLevel, ReadRequest, ReadResponse};

const LIMIT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";
const KEY: &str = "altered";

/// A cluster whose one shard has an object that lies before what a start compares with the log.
async fn with_an_old_object(nodes: u16) -> (LocalCluster, tempfile::TempDir, Client) {
    let (cluster, folder) = real::cluster(1, nodes).await;
    let settings = Settings {
        deadline: LIMIT,
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings)
        .await
        .unwrap();
    let policy = NamespacePolicy {
        shards: 1,
        copies: u32::from(nodes),
        ..NamespacePolicy::default()
    };
    let made = client
        .cluster()
        .create_namespace(NAMESPACE, policy, false)
        .await;
    made.unwrap();
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

/// What that node itself has.
async fn read_at(cluster: &LocalCluster, name: &str) -> Result<ReadResponse, Failure> {
    let endpoint = cluster.member(name).unwrap().endpoint();
    let mut client = ObjectsClient::connect(endpoint).await.unwrap();
    let request = ReadRequest {
        namespace: NAMESPACE.to_string(),
        keys: vec![KEY.into()],
        level: ReadLevel::Any.into(),
        ..ReadRequest::default()
    };
    let read = client.read(request).await;
    read.map(|response| response.into_inner())
        .map_err(|status| Failure::from_status(&status).unwrap())
}

/// Asks until the copy serves at all.
async fn read_when_it_serves(cluster: &LocalCluster, name: &str) -> Result<ReadResponse, Failure> {
    let began = Instant::now();
    loop {
        match read_at(cluster, name).await {
            Err(failure) if failure.reason != Reason::StorageCorrupt => {
                assert!(began.elapsed() < LIMIT, "{failure}");
                sleep(Duration::from_millis(50)).await;
            }
            read => return read,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_damaged_copy_is_given_up_when_the_others_have_it() {
    let (mut cluster, folder, client) = with_an_old_object(3).await;
    alter(&mut cluster, &folder, "node-2").await;
    wait_whole(&client, 3, LIMIT).await.unwrap();
    let failure = read_when_it_serves(&cluster, "node-2").await.unwrap_err();
    assert_eq!(failure.reason, Reason::StorageCorrupt);

    let began = Instant::now();
    let ended = loop {
        let ended = cluster.ended();
        if let Some((name, status)) = ended.into_iter().next() {
            assert_eq!(name, "node-2");
            break status;
        }
        assert!(began.elapsed() < LIMIT, "node-2 ends by itself");
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(ended.code(), Some(1));
    let log = std::fs::read_to_string(&cluster.member("node-2").unwrap().log).unwrap();
    assert!(
        log.contains("the store is damaged") && log.contains("sets it aside"),
        "{log}"
    );

    cluster.restart("node-2").unwrap();
    cluster.wait_member_ready("node-2", LIMIT).await.unwrap();
    assert!(
        folder
            .path()
            .join("node-2/store.damaged-1/SET-ASIDE")
            .exists()
    );
    wait_whole(&client, 3, LIMIT).await.unwrap();
    let read = read_when_it_serves(&cluster, "node-2").await.unwrap();
    let object = read.objects[0].object.as_ref().unwrap();
    assert_eq!(object.components.len(), 1);
    assert!(cluster.stop().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_node_that_alone_has_a_shard_goes_on() {
    let (mut cluster, folder, client) = with_an_old_object(1).await;
    alter(&mut cluster, &folder, "node-1").await;
    let failure = read_when_it_serves(&cluster, "node-1").await.unwrap_err();
    assert_eq!(failure.reason, Reason::StorageCorrupt);
    let namespace = client.namespace(NAMESPACE);
    namespace.put("k1", "later").await.unwrap();
    assert!(namespace.get("k2").await.unwrap().is_some());
    assert!(cluster.ended().is_empty());
    let log = std::fs::read_to_string(&cluster.member("node-1").unwrap().log).unwrap();
    assert!(log.contains("alone has a complete copy"), "{log}");
    assert!(cluster.stop().await.is_empty());
}
