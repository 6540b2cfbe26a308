//! A cluster of real processes that serves one namespace with a copy on every node, and a client that is patient with it.

use super::real;
use tempfile::TempDir;
use understudy_client::Client;
use understudy_node::cli::cluster_processes::LocalCluster;
use understudy_node::cli::faults::wait_whole;
use understudy_node::cli::local::{START_LIMIT, patient_client};
use understudy_proto::v1::NamespacePolicy;

pub async fn cluster(
    managers_count: u16,
    nodes: u16,
    namespace: &str,
    shards: u32,
) -> (LocalCluster, TempDir, Client) {
    let (cluster, folder) = real::cluster(managers_count, nodes, &[]).await;
    let client = self::namespace(&cluster, nodes, namespace, shards).await;
    (cluster, folder, client)
}

/// Makes the namespace, and waits for its copies.
pub async fn namespace(cluster: &LocalCluster, nodes: u16, namespace: &str, shards: u32) -> Client {
    let client = patient_client(cluster.endpoints()).await.unwrap();
    let copies = u32::from(nodes);
    let policy = NamespacePolicy {
        shards,
        copies,
        ..NamespacePolicy::default()
    };
    let managers = client.cluster();
    let made = managers.create_namespace(namespace, policy, false);
    made.await.unwrap();
    wait_whole(&client, copies, START_LIMIT).await.unwrap();
    client
}
