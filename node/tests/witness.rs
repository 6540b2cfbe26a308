//! Both leases on real processes under load: with all managers stopped no write fails while the copies see each other, and
//! with a dead secondary none fails while a manager is there.

mod load;
mod real;

use load::Load;
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::{LocalCluster, MemberRole};
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::NamespacePolicy;

const NODES: u16 = 3;
const SHARDS: u32 = 4;
const NAMESPACE: &str = "notes";
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than the fault lasts: a write that had to wait for its end would fail.
const DEADLINE: Duration = Duration::from_secs(3);
/// Five times the lease.
const FAULT: Duration = Duration::from_secs(5);

async fn connected(cluster: &LocalCluster) -> Client {
    let settings = Settings {
        deadline: DEADLINE,
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings)
        .await
        .unwrap();
    let policy = NamespacePolicy {
        shards: SHARDS,
        copies: u32::from(NODES),
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
    client
}

fn managers(cluster: &LocalCluster) -> Vec<String> {
    let members = cluster.members().iter();
    let managers = members.filter(|member| member.role == MemberRole::Manager);
    managers.map(|member| member.name.clone()).collect()
}

// trap G3
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn no_write_fails_while_all_managers_are_away() {
    let (mut cluster, _folder) = real::cluster(3, NODES, &[]).await;
    let client = connected(&cluster).await;
    let load = Load::start(&client, NAMESPACE);
    load.some_more(200).await;

    // First they do not run, then they are dead.
    for killed in [false, true] {
        let before = load.count();
        for manager in managers(&cluster) {
            match killed {
                true => cluster.kill(&manager).await.unwrap(),
                false => cluster.signal(&manager, Signal::STOP).unwrap(),
            }
        }
        sleep(FAULT).await;
        println!("{} writes without managers", load.count() - before);
        assert!(load.count() > before + 100, "the data path went on");
        for manager in managers(&cluster) {
            match killed {
                true => cluster.restart(&manager).unwrap(),
                false => cluster.signal(&manager, Signal::CONT).unwrap(),
            }
        }
        for manager in managers(&cluster) {
            cluster.wait_member_ready(&manager, PATIENCE).await.unwrap();
        }
        load.some_more(200).await;
    }
    println!("{} writes", load.end().await);
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn no_write_fails_while_a_secondary_is_dead() {
    let (mut cluster, _folder) = real::cluster(1, NODES, &[]).await;
    let client = connected(&cluster).await;
    // Its primaries fail over, and everything else it was a witness of; writes wait for that within their deadline.
    cluster.kill("node-3").await.unwrap();
    sleep(Duration::from_secs(4)).await;
    let load = Load::start(&client, NAMESPACE);
    load.some_more(200).await;
    let before = load.count();
    sleep(FAULT).await;
    assert!(load.count() > before + 100, "the data path went on");
    cluster.restart("node-3").unwrap();
    cluster.wait_member_ready("node-3", PATIENCE).await.unwrap();
    load.some_more(200).await;
    println!("{} writes", load.end().await);
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}
